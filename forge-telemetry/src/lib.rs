//! What happened, for people and for their tools: metrics, traces and logs that hold no personal datum.
//!
//! [`PrometheusMetrics`] exposes the closed catalogue of forge-core; [`SpanRecorder`] keeps every span of Forge in a file, from which
//! [`otlp_json`] makes a trace; [`RedactingWriter`] masks log lines before they reach the disk. Nothing here is global: the host
//! composes a `tracing` subscriber and hands the metrics over.
//!
//! ```
//! use std::sync::Arc;
//! use forge_core::{SystemClock, fake::FakeRedactor};
//! use forge_telemetry::{RedactingWriter, SpanRecorder};
//! use tracing_subscriber::prelude::*;
//! # let dir = tempfile::tempdir().unwrap();
//! let redactor = Arc::new(FakeRedactor);
//! let spans = SpanRecorder::to_file(dir.path().join("spans.jsonl"), Arc::new(SystemClock), redactor.clone())?;
//! let log = RedactingWriter::to_file(dir.path().join("host.log"), redactor)?;
//! let subscriber = tracing_subscriber::registry()
//!     .with(spans.clone())
//!     .with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(log));
//! tracing::subscriber::with_default(subscriber, || tracing::info!("mail to ana@example.com was sent"));
//! spans.flush();
//! assert!(std::fs::read_to_string(dir.path().join("host.log")).unwrap().contains("mail to [EMAIL] was sent"));
//! # Ok::<(), forge_core::Error>(())
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

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
