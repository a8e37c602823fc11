//! Stores in memory: key-values, blobs and vectors.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use bytes::Bytes;

use super::ManualClock;
use crate::blob::{BlobCapability, BlobRef, BlobStore};
use crate::embed::{Embedder, EmbedderCapability};
use crate::kv::{Entry, KeyValue, KeyValueCapability, PutMode, PutOptions, same_tenant};
use crate::time::{Clock, Timestamp};
use crate::vector::{Hit, Record, SearchRequest, VectorCapability, VectorStore};
use crate::{Depth, Digest, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Namespace, Result, TenantId};

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

macro_rules! healthy {
    ($($name:ty),*) => {$(
        #[async_trait]
        impl HealthCheck for $name {
            async fn check(&self, _: Depth) -> Health {
                Health::up()
            }
        }
    )*};
}
healthy!(FakeKeyValue, FakeBlobs, FakeVectors, FakeEmbedder);

type Row = (Entry, Option<Timestamp>);

/// Key-values in memory.
#[derive(Debug, Default)]
pub struct FakeKeyValue {
    rows: Mutex<BTreeMap<(Namespace, String), Row>>,
    /// Writes so far: a version is never used twice, not after a delete either.
    written: AtomicU64,
    clock: Arc<ManualClock>,
}

impl FakeKeyValue {
    /// With a clock that the test moves.
    pub fn new(clock: Arc<ManualClock>) -> Self {
        Self { clock, ..Self::default() }
    }

    fn live(&self, row: Option<&Row>) -> Option<Entry> {
        row.filter(|(_, until)| until.is_none_or(|u| u > self.clock.now())).map(|(e, _)| e.clone())
    }
}

fn check_key(operation: &'static str, key: &str) -> Result<()> {
    if (1..=512).contains(&key.len()) {
        return Ok(());
    }
    Err(Error::invalid(operation, "a key has 1 to 512 bytes"))
}

#[async_trait]
impl KeyValue for FakeKeyValue {
    async fn get(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<Option<Entry>> {
        same_tenant("kv.get", ctx, namespace)?;
        check_key("kv.get", key)?;
        Ok(self.live(lock(&self.rows).get(&(namespace.clone(), key.to_owned()))))
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
        check_key("kv.put", key)?;
        let mut rows = lock(&self.rows);
        let at = (namespace.clone(), key.to_owned());
        let old = self.live(rows.get(&at));
        let fits = match options.mode {
            PutMode::Overwrite => true,
            PutMode::Create => old.is_none(),
            PutMode::Match(v) => old.as_ref().is_some_and(|e| e.version == v),
        };
        if !fits {
            return Err(Error::new(ErrorKind::Conflict, "kv.put", "the stored version is another"));
        }
        let version = self.written.fetch_add(1, Ordering::Relaxed) + 1;
        rows.insert(at, (Entry { value, version }, options.ttl.map(|t| self.clock.now().after(t))));
        Ok(version)
    }

    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<bool> {
        same_tenant("kv.delete", ctx, namespace)?;
        check_key("kv.delete", key)?;
        let old = lock(&self.rows).remove(&(namespace.clone(), key.to_owned()));
        Ok(self.live(old.as_ref()).is_some())
    }

    fn capability(&self) -> KeyValueCapability {
        KeyValueCapability::new(false, usize::MAX)
    }
}

/// Blobs in memory.
#[derive(Debug, Default)]
pub struct FakeBlobs(Mutex<BTreeMap<(TenantId, Digest), Bytes>>);

#[async_trait]
impl BlobStore for FakeBlobs {
    async fn put(&self, ctx: &ExecutionContext, contents: Bytes) -> Result<BlobRef> {
        let digest = Digest::of_parts(&[ctx.tenant().as_str().as_bytes(), &contents]);
        let size = u64::try_from(contents.len()).unwrap_or(u64::MAX);
        lock(&self.0).insert((ctx.tenant().clone(), digest), contents);
        Ok(BlobRef { digest, size })
    }

    async fn get(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<Bytes> {
        let found = lock(&self.0).get(&(ctx.tenant().clone(), blob.digest)).cloned();
        let whole = found.filter(|b| u64::try_from(b.len()).is_ok_and(|n| n == blob.size));
        whole.ok_or_else(|| Error::not_found("blob.get", "no such blob"))
    }

    async fn delete(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<bool> {
        Ok(lock(&self.0).remove(&(ctx.tenant().clone(), blob.digest)).is_some())
    }

    fn capability(&self) -> BlobCapability {
        BlobCapability::new(false, false, u64::MAX)
    }
}

/// Vectors in memory, searched by brute force; words by counting matches.
#[derive(Debug, Default)]
pub struct FakeVectors(Mutex<BTreeMap<Namespace, BTreeMap<String, Record>>>);

#[async_trait]
impl VectorStore for FakeVectors {
    async fn upsert(&self, ctx: &ExecutionContext, namespace: &Namespace, records: Vec<Record>) -> Result<()> {
        same_tenant("vector.upsert", ctx, namespace)?;
        let mut all = lock(&self.0);
        let rows = all.entry(namespace.clone()).or_default();
        let length = rows.values().next().or(records.first()).map_or(0, |r| r.vector.len());
        records.iter().try_for_each(|r| check_vector("vector.upsert", &r.vector, length))?;
        rows.extend(records.into_iter().map(|r| (r.id.clone(), r)));
        Ok(())
    }

    async fn search(&self, ctx: &ExecutionContext, namespace: &Namespace, request: SearchRequest) -> Result<Vec<Hit>> {
        same_tenant("vector.search", ctx, namespace)?;
        let all = lock(&self.0);
        let rows = || all.get(namespace).into_iter().flat_map(|m| m.values());
        if let (Some(v), Some(first)) = (&request.vector, rows().next()) {
            check_vector("vector.search", v, first.vector.len())?;
        }
        let tagged = rows().filter(|r| request.tags.is_subset(&r.tags)).map(|r| hit(r, &request));
        let mut hits: Vec<Hit> = tagged.filter(|h| request.vector.is_some() || h.score > 0.0).collect();
        hits.sort_by(|a, b| b.score.total_cmp(&a.score).then_with(|| a.id.cmp(&b.id)));
        hits.truncate(request.limit);
        Ok(hits)
    }

    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, ids: Vec<String>) -> Result<u64> {
        same_tenant("vector.delete", ctx, namespace)?;
        let mut all = lock(&self.0);
        let rows = all.entry(namespace.clone()).or_default();
        let before = rows.len();
        rows.retain(|id, _| !ids.contains(id));
        Ok(u64::try_from(before - rows.len()).unwrap_or(u64::MAX))
    }

    async fn count(&self, ctx: &ExecutionContext, namespace: &Namespace) -> Result<u64> {
        same_tenant("vector.count", ctx, namespace)?;
        Ok(lock(&self.0).get(namespace).map_or(0, |m| u64::try_from(m.len()).unwrap_or(u64::MAX)))
    }

    fn capability(&self) -> VectorCapability {
        VectorCapability::new(true, true, usize::MAX)
    }
}

fn check_vector(operation: &'static str, vector: &[f32], length: usize) -> Result<()> {
    if vector.is_empty() || vector.len() != length || vector.iter().any(|x| !x.is_finite()) {
        return Err(Error::invalid(operation, "vectors of a namespace have one length and finite numbers"));
    }
    Ok(())
}

fn hit(r: &Record, request: &SearchRequest) -> Hit {
    let near: f32 = request.vector.as_ref().map_or(0.0, |v| v.iter().zip(&r.vector).map(|(a, b)| a * b).sum());
    let matches = request.text.as_ref().map_or(0, |t| t.split_whitespace().filter(|w| r.text.contains(*w)).count());
    let score = near + f32::from(u16::try_from(matches).unwrap_or(u16::MAX));
    Hit { id: r.id.clone(), title: r.title.clone(), text: r.text.clone(), tags: r.tags.clone(), score }
}

/// Counts letters: 26 dimensions.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeEmbedder;

#[async_trait]
impl Embedder for FakeEmbedder {
    async fn embed(&self, _: &ExecutionContext, texts: Vec<String>) -> Result<Vec<Vec<f32>>> {
        let one = |text: &String| {
            let counts = ('a'..='z').map(|letter| text.chars().filter(|c| c.to_ascii_lowercase() == letter).count());
            let v: Vec<f32> = counts.map(|n| f32::from(u16::try_from(n).unwrap_or(u16::MAX))).collect();
            let norm = v.iter().map(|x| x * x).sum::<f32>().sqrt();
            if norm == 0.0 { v } else { v.into_iter().map(|x| x / norm).collect() }
        };
        Ok(texts.iter().map(one).collect())
    }

    fn model(&self) -> &str {
        "fake/letters"
    }

    fn capability(&self) -> EmbedderCapability {
        EmbedderCapability::new(26, usize::MAX, false, false)
    }
}
