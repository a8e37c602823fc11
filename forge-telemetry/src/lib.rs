#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(feature = "prometheus", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "prometheus"),
    doc = "What happened, for people and for their tools: traces and logs without a personal datum."
)]

mod log;
#[cfg(feature = "prometheus")]
mod prometheus;
mod record;

pub use log::RedactingWriter;
#[cfg(feature = "axum")]
pub use prometheus::router;
#[cfg(feature = "prometheus")]
pub use prometheus::{CONTENT_TYPE, PrometheusMetrics};
pub use record::{RecordedSpan, SpanRecorder, TraceReport, check_trace, otlp_json, read_spans};
