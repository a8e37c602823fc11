//! What agents remember: vector stores, embedders and language-model providers.
//!
//! [`EmbeddedVectors`] keeps each tenant in a file of its own and finds by meaning and by words; [`HashEmbedder`] turns text into
//! vectors without a model; [`ExtractiveModel`] answers with the document's own sentences and says that it is no language model;
//! [`Memory`] puts the three together so that personal data rests as tokens.
//!
//! ```
//! use forge_core::{Namespace, Slug, testing};
//! use forge_core::fake::{FakeEmbedder, FakeRedactor, FakeVectors};
//! use forge_memory::{Memory, Passage};
//! use std::sync::Arc;
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! let memory = Memory::new(Arc::new(FakeVectors::default()), Arc::new(FakeEmbedder), Arc::new(FakeRedactor));
//! let ctx = testing::context("acme", "ana", "analyst");
//! let playbook = Namespace::shared(&ctx, Slug::parse("firm")?, Slug::parse("playbook")?);
//! memory.remember(&ctx, &playbook, vec![Passage::new("term", "Term", "three years at most")]).await?;
//! assert_eq!(memory.recall(&ctx, &playbook, "years", 1).await?[0].id, "term");
//! # Ok::<(), forge_core::Error>(()) }).unwrap();
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "embedded")]
mod embedded;
mod extractive;
mod hash;
mod memory;
mod sentences;
mod words;

#[cfg(feature = "embedded")]
pub use embedded::EmbeddedVectors;
pub use extractive::ExtractiveModel;
pub use hash::HashEmbedder;
pub use memory::{Memory, Passage};
