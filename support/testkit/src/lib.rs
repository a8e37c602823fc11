#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc = include_str!("../README.md")]
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "for development only: JSON is read by index, which gives null"
)]

mod fault;
mod google;
mod openai;
mod record;
mod serve;
#[cfg(unix)]
pub mod servers;
mod slack;

pub use fault::{Fault, Play};
pub use google::{DOCX, GOOGLE_DOC, GoogleStandIn, PDF, TEXT};
pub use openai::OpenAiStandIn;
pub use record::Recorded;
pub use slack::SlackStandIn;
