//! Text to vectors.

use async_trait::async_trait;

use crate::{Adapter, ExecutionContext, Result};

/// What an embedder can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct EmbedderCapability {
    /// Length of every vector.
    pub dimensions: usize,
    /// Most texts a call.
    pub max_batch: usize,
    /// Text leaves this process.
    pub remote: bool,
    /// Vectors carry meaning; false where they only count words.
    pub semantic: bool,
}

impl EmbedderCapability {
    /// The abilities, named.
    pub const fn new(dimensions: usize, max_batch: usize, remote: bool, semantic: bool) -> Self {
        Self { dimensions, max_batch, remote, semantic }
    }
}

/// Turns texts into vectors of one length.
///
/// # Contract
/// One vector a text, in order, of `dimensions` finite numbers and length 1 (zero for a text without words). The same text
/// gives the same vector. More than `max_batch` texts are `InvalidInput`.
#[async_trait]
pub trait Embedder: Adapter {
    /// Embeds.
    ///
    /// # Errors
    /// `InvalidInput`, `Unavailable`.
    async fn embed(&self, ctx: &ExecutionContext, texts: Vec<String>) -> Result<Vec<Vec<f32>>>;

    /// The model's name; a store refuses vectors of another.
    fn model(&self) -> &str;

    /// What it can do.
    fn capability(&self) -> EmbedderCapability;
}
