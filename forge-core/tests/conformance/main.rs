//! The fakes keep the contracts of the real backends: every suite runs on them, and each suite finds one that does not.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod keyring;
mod kv;
mod redact;
