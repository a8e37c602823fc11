//! What a worker does with its tasks, whatever happens to them.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod bench;
mod drain;
mod holding;
mod limits;
mod refusals;
mod retries;
mod shares;
