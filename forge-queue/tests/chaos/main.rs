//! The queue on Redis is broken on purpose, and a ledger says what became of every task.
//!
//! A round has a server, three workers that are processes of their own, and a producer. Faults come by a seed; when they are over and the
//! queue is empty, every task that was accepted must have ended, once. `scripts/soak.sh queue ROUNDS SEED` runs more of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "helpers of tests, and the real time of other processes"
)]

mod fence;
mod full;
mod ground;
mod ledger;
mod long;
mod place;
mod replicas;
mod round;
mod rounds;
mod window;
mod worker;
