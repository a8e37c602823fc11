//! Remember and recall: tokenise first, then embed, then store, so that no index ever saw a clear value.

use std::collections::BTreeSet;
use std::sync::Arc;

use forge_core::embed::Embedder;
use forge_core::redact::{RedactOptions, Redactor};
use forge_core::vector::{Hit, Record, SearchRequest, VectorStore};
use forge_core::{Error, ExecutionContext, Namespace, Result};

/// A text to remember.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Passage {
    /// Remembering it again replaces it.
    pub id: String,
    /// For people.
    pub title: String,
    /// What is found and returned.
    pub text: String,
    /// What policies may know of it.
    pub tags: BTreeSet<String>,
}

impl Passage {
    /// A passage without tags.
    pub fn new(id: impl Into<String>, title: impl Into<String>, text: impl Into<String>) -> Self {
        Self { id: id.into(), title: title.into(), text: text.into(), tags: BTreeSet::new() }
    }

    /// Adds a tag.
    #[must_use]
    pub fn with_tag(mut self, tag: impl Into<String>) -> Self {
        self.tags.insert(tag.into());
        self
    }
}

/// A store, an embedder and a redactor that belong together. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Memory {
    vectors: Arc<dyn VectorStore>,
    embedder: Arc<dyn Embedder>,
    redactor: Arc<dyn Redactor>,
}

impl Memory {
    /// Puts them together. One store, one embedder: vectors of two models do not compare.
    pub fn new(vectors: Arc<dyn VectorStore>, embedder: Arc<dyn Embedder>, redactor: Arc<dyn Redactor>) -> Self {
        Self { vectors, embedder, redactor }
    }

    /// Remembers passages, all or none. Vectors are those of the tokenised title and text: what only a clear value tells is not
    /// in them. Ids and tags are kept as they are, so they must not hold personal data.
    ///
    /// # Errors
    /// `TenantMismatch`, `InvalidInput`, `Redaction`, `Unavailable`.
    pub async fn remember(&self, ctx: &ExecutionContext, namespace: &Namespace, passages: Vec<Passage>) -> Result<()> {
        let mut records = Vec::with_capacity(passages.len());
        for batch in passages.chunks(self.embedder.capability().max_batch.max(1)) {
            let tokens = |text: &str| {
                self.redactor.redact(ctx.tenant(), text.into(), &RedactOptions::tokenize_all()).map(|t| t.into_owned())
            };
            let titles = batch.iter().map(|p| tokens(&p.title)).collect::<Result<Vec<_>>>()?;
            let texts = batch.iter().map(|p| tokens(&p.text)).collect::<Result<Vec<_>>>()?;
            let indexed = titles.iter().zip(&texts).map(|(title, text)| format!("{title}\n{text}")).collect();
            let vectors = self.embedder.embed(ctx, indexed).await?;
            if vectors.len() != batch.len() {
                return Err(Error::unexpected(
                    "memory.remember",
                    "the embedder gave another number of vectors than texts",
                ));
            }
            for (((p, title), text), vector) in batch.iter().zip(titles).zip(texts).zip(vectors) {
                records.push(Record { id: p.id.clone(), title, text, vector, tags: p.tags.clone() });
            }
        }
        self.vectors.upsert(ctx, namespace, records).await
    }

    /// Forgets passages by their ids; returns how many were there.
    ///
    /// # Errors
    /// `TenantMismatch`, `Unavailable`.
    pub async fn forget(&self, ctx: &ExecutionContext, namespace: &Namespace, ids: Vec<String>) -> Result<u64> {
        self.vectors.delete(ctx, namespace, ids).await
    }

    /// Recalls by meaning and by words, best first, with the values of this tenant's tokens put back.
    ///
    /// # Errors
    /// `TenantMismatch`, `InvalidInput`, `Redaction`, `Unavailable`.
    pub async fn recall(
        &self,
        ctx: &ExecutionContext,
        namespace: &Namespace,
        query: &str,
        limit: usize,
    ) -> Result<Vec<Hit>> {
        let query = self.redactor.redact(ctx.tenant(), query.into(), &RedactOptions::tokenize_all())?.into_owned();
        let vector = self.embedder.embed(ctx, vec![query.clone()]).await?.pop();
        let vector = vector.ok_or_else(|| Error::unexpected("memory.recall", "the embedder gave no vector"))?;
        let request = SearchRequest::hybrid(query, vector).with_limit(limit);
        let mut hits = self.vectors.search(ctx, namespace, request).await?;
        for hit in &mut hits {
            hit.title = self.redactor.reveal(ctx.tenant(), &hit.title)?.into_owned();
            hit.text = self.redactor.reveal(ctx.tenant(), &hit.text)?.into_owned();
        }
        Ok(hits)
    }
}
