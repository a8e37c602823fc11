//! Rego decisions in process and the tamper-evident audit log.
