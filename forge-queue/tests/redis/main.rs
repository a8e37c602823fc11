//! The queue on a real Redis.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

#[path = "../control_suite/mod.rs"]
mod control_suite;
mod isolation;
mod limits;
mod poison;
mod suite;
mod wake;
mod world;
