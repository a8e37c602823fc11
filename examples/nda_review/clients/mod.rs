//! The outside world of the review: Google Drive and Slack. The clients are the ones to run against the real services; the base
//! URLs are settings.

mod drive;
mod google_auth;
mod slack;
#[cfg(test)]
mod tests;

pub use drive::{DriveAccount, DriveFetch, Fetched};
pub use slack::{SlackPost, SlackWorkspace};
