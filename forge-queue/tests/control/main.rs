//! A worker of Forge's beside Celery's programs: what they see of it, and what it lets them do.
#![cfg(feature = "redis")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests"
)]

mod asker;
mod cancel;
mod events;
mod flower;
mod hostile;
mod inspect;
mod revoke;
mod world;
