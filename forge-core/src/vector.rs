//! What is remembered and found again by meaning and by words.

use std::collections::BTreeSet;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Adapter, ExecutionContext, Namespace, Result};

/// One remembered text.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// Chosen by the writer; writing it again replaces the record.
    pub id: String,
    /// For people.
    pub title: String,
    /// What is found and returned.
    pub text: String,
    /// Of the text, by the embedder of the store.
    pub vector: Vec<f32>,
    /// What policies may know of it.
    pub tags: BTreeSet<String>,
}

/// A search: by vector, by words, or by both, fused by reciprocal rank.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SearchRequest {
    /// By meaning.
    pub vector: Option<Vec<f32>>,
    /// By words (BM25).
    pub text: Option<String>,
    /// The most hits; 10 by default, at most 1,000.
    pub limit: usize,
    /// Only records that carry all of these.
    pub tags: BTreeSet<String>,
}

impl SearchRequest {
    /// By meaning and by words, 10 hits.
    pub fn hybrid(text: impl Into<String>, vector: Vec<f32>) -> Self {
        Self { vector: Some(vector), text: Some(text.into()), limit: 10, tags: BTreeSet::new() }
    }

    /// By words alone, 10 hits.
    pub fn words(text: impl Into<String>) -> Self {
        Self { vector: None, text: Some(text.into()), limit: 10, tags: BTreeSet::new() }
    }

    /// By meaning alone, 10 hits.
    pub fn nearest(vector: Vec<f32>) -> Self {
        Self { vector: Some(vector), text: None, limit: 10, tags: BTreeSet::new() }
    }

    /// The most hits.
    #[must_use]
    pub fn with_limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// Only records that carry this tag too.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.insert(tag.into());
        self
    }
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Hit {
    /// The record's id.
    pub id: String,
    /// For people.
    pub title: String,
    /// The text.
    pub text: String,
    /// What policies may know of it.
    pub tags: BTreeSet<String>,
    /// Higher is better; comparable within one search only.
    pub score: f32,
}

/// What a store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct VectorCapability {
    /// Searches by words.
    pub words: bool,
    /// Finds the true nearest, not an approximation.
    pub exact: bool,
    /// Longest vector.
    pub max_dimensions: usize,
}

impl VectorCapability {
    /// The abilities, named.
    pub const fn new(words: bool, exact: bool, max_dimensions: usize) -> Self {
        Self { words, exact, max_dimensions }
    }
}

/// Remembers and finds, each tenant apart by the store's own means (a file, an index, a native tenant), never by a filter
/// after the search.
///
/// # Contract
/// A namespace of another tenant than the context's is `TenantMismatch`. `search` sees one namespace. What was put is found
/// by the next search. Vectors of one namespace have one length (`InvalidInput`).
#[async_trait]
pub trait VectorStore: Adapter {
    /// Writes records, all or none; the same id replaces.
    ///
    /// # Errors
    /// `TenantMismatch`, `InvalidInput`, `Unavailable`.
    async fn upsert(&self, ctx: &ExecutionContext, namespace: &Namespace, records: Vec<Record>) -> Result<()>;

    /// Finds, best first.
    ///
    /// # Errors
    /// `TenantMismatch`, `InvalidInput`, `Unavailable`.
    async fn search(&self, ctx: &ExecutionContext, namespace: &Namespace, request: SearchRequest) -> Result<Vec<Hit>>;

    /// Deletes by id; returns how many were there.
    ///
    /// # Errors
    /// `TenantMismatch`, `Unavailable`.
    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, ids: Vec<String>) -> Result<u64>;

    /// How many records a namespace has.
    ///
    /// # Errors
    /// `TenantMismatch`, `Unavailable`.
    async fn count(&self, ctx: &ExecutionContext, namespace: &Namespace) -> Result<u64>;

    /// What it can do.
    fn capability(&self) -> VectorCapability;
}
