//! Stand-in servers that really speak their protocol, for examples and tests of what cannot be had locally.
//!
//! Each binds a free port of the loopback, appends what it receives to a file before it answers (and reads that file when it starts
//! again, so that a crash of the process loses nothing of the proof), and plays [`Fault`]s by the number of the request. The clients
//! that talk to them are the ones that a host runs against the real thing.
//!
//! For development only: the keys that it makes protect nothing.

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "for development only: JSON is read by index, which gives null"
)]

mod fault;
mod google;
mod record;
mod serve;
mod slack;

pub use fault::{Fault, Play};
pub use google::{DOCX, GoogleStandIn, PDF, TEXT};
pub use record::Recorded;
pub use slack::SlackStandIn;
