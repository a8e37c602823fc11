//! Celery itself against the queue on Redis: the same server, tasks and results crossing in both directions.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod canvas;
mod crash;
mod crossing;
mod poison;
mod seal;
mod whose;
mod world;
