#![cfg_attr(feature = "embedded", doc = include_str!("../README.md"))]
#![cfg_attr(not(feature = "embedded"), doc = "What agents remember, found again by meaning and by words.")]
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "embedded")]
mod embedded;
mod extractive;
mod hash;
mod memory;
pub mod openai;
mod passages;
mod router;
mod sentences;
mod words;

#[cfg(feature = "embedded")]
pub use embedded::EmbeddedVectors;
pub use extractive::ExtractiveModel;
pub use hash::HashEmbedder;
pub use memory::{Memory, Passage};
pub use passages::passages;
pub use router::StandardRouter;
