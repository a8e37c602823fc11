//! The queue on a real Redis.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod isolation;
mod poison;
mod suite;
mod wake;
mod world;
