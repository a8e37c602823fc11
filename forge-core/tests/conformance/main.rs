//! The fakes keep the contracts of the real backends: every suite runs on them, and each suite finds one that does not.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod clock;
mod health;
mod keyring;
mod kv;
mod metrics;
mod redact;
mod resolver;
mod secret;
