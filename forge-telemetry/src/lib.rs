//! Metrics, traces and the evidence of a run.
