//! The codec against what a real Celery wrote (`record.py`, `golden/`), and against bytes that nobody should write.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod golden;
mod hostile;
