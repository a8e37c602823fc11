//! `Guarded<dyn Trait>`: the guard around the stores, one line a method, and around models in [`super::work`].

use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use tracing::Instrument;

use super::Guard;
use crate::blob::{BlobCapability, BlobRef, BlobStore};
use crate::context::span;
use crate::embed::{Embedder, EmbedderCapability};
use crate::kv::{Entry, KeyValue, KeyValueCapability, PutOptions, same_tenant};
use crate::vector::{Hit, Record, SearchRequest, VectorCapability, VectorStore};
use crate::{Depth, ExecutionContext, Health, HealthCheck, Namespace, Result};

/// So many times as many hits as were asked for are looked at, where the policy withholds some.
const MORE: usize = 8;
/// The most hits that a store gives.
const MOST: usize = 1000;

/// An adapter behind the guard. It implements the same trait, so nothing else needs to know.
pub struct Guarded<T: ?Sized> {
    pub(super) inner: Arc<T>,
    pub(super) guard: Guard,
}

impl<T: ?Sized> Guarded<T> {
    /// Wraps a backend.
    pub fn new(inner: Arc<T>, guard: Guard) -> Self {
        Self { inner, guard }
    }

    /// Span, context and tenant for work inside a call that was decided: the row `Store` of the table.
    pub(super) async fn store<R, F, Fut>(&self, ctx: &ExecutionContext, name: &'static str, call: F) -> Result<R>
    where
        R: Send,
        T: Send + Sync,
        F: FnOnce(ExecutionContext) -> Fut + Send,
        Fut: Future<Output = Result<R>> + Send,
    {
        let parts = self.guard.parts();
        let (ctx, call_span) = span(ctx, name);
        let outcome = ctx
            .within(name, parts.clock.as_ref(), async {
                parts.keyring.load(ctx.tenant()).await?;
                call(ctx.clone()).await
            })
            .instrument(call_span.clone())
            .await;
        if let Err(e) = &outcome {
            call_span.record("error", e.kind().as_str());
        }
        outcome
    }
}

impl<T: ?Sized + fmt::Debug> fmt::Debug for Guarded<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Guarded({:?})", self.inner)
    }
}

impl<T: ?Sized> Clone for Guarded<T> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), guard: self.guard.clone() }
    }
}

#[async_trait]
impl<T: HealthCheck + ?Sized> HealthCheck for Guarded<T> {
    async fn check(&self, depth: Depth) -> Health {
        self.inner.check(depth).await
    }
}

#[async_trait]
impl KeyValue for Guarded<dyn KeyValue> {
    async fn get(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<Option<Entry>> {
        same_tenant("kv.get", ctx, namespace)?;
        self.store(ctx, "kv.get", |ctx| async move { self.inner.get(&ctx, namespace, key).await }).await
    }

    async fn put(
        &self,
        ctx: &ExecutionContext,
        namespace: &Namespace,
        key: &str,
        value: Bytes,
        options: PutOptions,
    ) -> Result<u64> {
        same_tenant("kv.put", ctx, namespace)?;
        self.store(ctx, "kv.put", |ctx| async move { self.inner.put(&ctx, namespace, key, value, options).await }).await
    }

    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<bool> {
        same_tenant("kv.delete", ctx, namespace)?;
        self.store(ctx, "kv.delete", |ctx| async move { self.inner.delete(&ctx, namespace, key).await }).await
    }

    fn capability(&self) -> KeyValueCapability {
        self.inner.capability()
    }
}

#[async_trait]
impl VectorStore for Guarded<dyn VectorStore> {
    async fn upsert(&self, ctx: &ExecutionContext, namespace: &Namespace, records: Vec<Record>) -> Result<()> {
        same_tenant("vector.upsert", ctx, namespace)?;
        self.store(ctx, "vector.upsert", |ctx| async move { self.inner.upsert(&ctx, namespace, records).await }).await
    }

    async fn search(&self, ctx: &ExecutionContext, namespace: &Namespace, request: SearchRequest) -> Result<Vec<Hit>> {
        same_tenant("vector.search", ctx, namespace)?;
        let wanted = request.limit;
        let most = wanted.saturating_mul(MORE).min(MOST);
        let (mut limit, mut decided) = (wanted, BTreeMap::new());
        loop {
            let request = SearchRequest { limit, ..request.clone() };
            let search = |ctx| async move { self.inner.search(&ctx, namespace, request).await };
            let hits = self.store(ctx, "vector.search", search).await?;
            let exhausted = hits.len() < limit || limit >= most;
            let mut open = self.guard.readable(ctx, namespace.memory_type().as_str(), hits, &mut decided).await?;
            if open.len() >= wanted || exhausted {
                open.truncate(wanted);
                return Ok(open);
            }
            // the tags are the documents', not the question's: where hits are withheld, more are looked at
            limit = limit.saturating_mul(2).min(most);
        }
    }

    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, ids: Vec<String>) -> Result<u64> {
        same_tenant("vector.delete", ctx, namespace)?;
        self.store(ctx, "vector.delete", |ctx| async move { self.inner.delete(&ctx, namespace, ids).await }).await
    }

    async fn count(&self, ctx: &ExecutionContext, namespace: &Namespace) -> Result<u64> {
        same_tenant("vector.count", ctx, namespace)?;
        self.store(ctx, "vector.count", |ctx| async move { self.inner.count(&ctx, namespace).await }).await
    }

    fn capability(&self) -> VectorCapability {
        self.inner.capability()
    }
}

#[async_trait]
impl Embedder for Guarded<dyn Embedder> {
    async fn embed(&self, ctx: &ExecutionContext, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        self.store(ctx, "embed", |ctx| async move { self.inner.embed(&ctx, texts).await }).await
    }

    fn model(&self) -> &str {
        self.inner.model()
    }

    fn capability(&self) -> EmbedderCapability {
        self.inner.capability()
    }
}

#[async_trait]
impl BlobStore for Guarded<dyn BlobStore> {
    async fn put(&self, ctx: &ExecutionContext, contents: Bytes) -> Result<BlobRef> {
        self.store(ctx, "blob.put", |ctx| async move { self.inner.put(&ctx, contents).await }).await
    }

    async fn get(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<Bytes> {
        self.store(ctx, "blob.get", |ctx| async move { self.inner.get(&ctx, blob).await }).await
    }

    async fn delete(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<bool> {
        self.store(ctx, "blob.delete", |ctx| async move { self.inner.delete(&ctx, blob).await }).await
    }

    fn capability(&self) -> BlobCapability {
        self.inner.capability()
    }
}
