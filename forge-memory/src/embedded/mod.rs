//! The embedded store: one SQLite file a tenant, exact nearest neighbours, BM25 by SQLite's own FTS5.
//!
//! A tenant's texts and vectors are in `<dir>/<tenant>/vectors.db` and nowhere else, so that no statement can reach another's.
//! Inside it each namespace has its own index of words and its own table of vectors: a search sees nothing else.

mod core;
mod files;
mod search;

use std::borrow::Cow;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use forge_core::kv::same_tenant;
use forge_core::redact::{RedactOptions, Redactor};
use forge_core::vector::{Hit, Record, SearchRequest, VectorCapability, VectorStore};
use forge_core::{Depth, Error, ExecutionContext, Health, HealthCheck, Namespace, Result, Status, TenantId};

use self::core::Inside;
use self::files::Files;

const MAX_DIMENSIONS: usize = 4096;
const MAX_TEXT: usize = 1024 * 1024;
const MAX_HITS: usize = 1000;

/// Vectors, words and texts in files. Cheap to clone.
///
/// An id has 1 to 128 bytes, a title and a text at most 1 MiB, a vector 1 to 4096 finite numbers, a search 1 to 1000 hits; of a
/// query's words the first 256 different ones count. What both rankings find first comes first (reciprocal rank fusion, k = 60,
/// over the first 1000 of each); equal scores go by id. Tags choose the records before the best are taken. An upsert that
/// returned is on the disk; dropping its future does not undo it.
#[derive(Clone)]
pub struct EmbeddedVectors {
    files: Arc<Files>,
    redactor: Option<Arc<dyn Redactor>>,
}

impl EmbeddedVectors {
    /// Files under `dir`, opened when their tenant is first served. Titles and texts rest as they are given: for a caller that
    /// tokenises all of them itself, as [`Memory`](crate::Memory) does. Where others hold the store too, as tools do, add
    /// [`with_redactor`](Self::with_redactor).
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { files: Arc::new(Files::new(dir.into())), redactor: None }
    }

    /// Titles and texts rest as the tenant's tokens, whoever writes them; queries are tokenised before they are looked up, and
    /// hits come back with this tenant's values. Ids, tags and vectors stay as given: a vector of a clear text still tells of
    /// it, which [`Memory`](crate::Memory) avoids. Without the tenant's key every call is `Redaction`.
    #[must_use]
    pub fn with_redactor(mut self, redactor: Arc<dyn Redactor>) -> Self {
        self.redactor = Some(redactor);
        self
    }

    /// Every record of the context's tenant with its namespace, `owner:memory_type`, in the order of both; values are put back
    /// as in a search.
    ///
    /// # Errors
    /// `Unavailable`, `Redaction`, `Corrupt`.
    pub async fn export(&self, ctx: &ExecutionContext) -> Result<Vec<(String, Record)>> {
        let all = self.files.of(ctx.tenant()).await?.read("vector.export", core::export).await?;
        let clear = |((owner, memory_type), mut record): (Inside, Record)| {
            self.reveal(ctx.tenant(), &mut record.title)?;
            self.reveal(ctx.tenant(), &mut record.text)?;
            Ok((format!("{owner}:{memory_type}"), record))
        };
        all.into_iter().map(clear).collect()
    }

    /// Deletes everything that the context's tenant has here. Freed pages are overwritten; the log is emptied when the last
    /// call that still uses the file ends.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn purge(&self, ctx: &ExecutionContext) -> Result<()> {
        self.files.of(ctx.tenant()).await?.write("vector.purge", core::purge).await?;
        self.files.close(ctx.tenant());
        Ok(())
    }

    fn tokenise(&self, tenant: &TenantId, text: &mut String) -> Result<()> {
        if let Some(redactor) = &self.redactor
            && let Cow::Owned(tokens) = redactor.redact(tenant, text.as_str().into(), &RedactOptions::tokenize_all())?
        {
            *text = tokens;
        }
        Ok(())
    }

    fn reveal(&self, tenant: &TenantId, text: &mut String) -> Result<()> {
        if let Some(redactor) = &self.redactor
            && let Cow::Owned(clear) = redactor.reveal(tenant, text)?
        {
            *text = clear;
        }
        Ok(())
    }
}

impl fmt::Debug for EmbeddedVectors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedVectors").field("dir", &self.files.dir()).finish_non_exhaustive()
    }
}

fn inside(namespace: &Namespace) -> Inside {
    (namespace.owner().to_string(), namespace.memory_type().to_string())
}

fn check(records: &[Record]) -> Result<()> {
    let wrong = |what: &'static str| Err(Error::invalid("vector.upsert", what));
    for r in records {
        if !(1..=128).contains(&r.id.len()) {
            return wrong("an id has 1 to 128 bytes");
        }
        if r.title.len() > MAX_TEXT || r.text.len() > MAX_TEXT {
            return wrong("a title and a text have at most 1 MiB; split it into passages");
        }
        if !sound(&r.vector) {
            return wrong("a vector has 1 to 4096 finite numbers, its length finite too");
        }
    }
    Ok(())
}

/// A finite length keeps every score finite (Cauchy and Schwarz).
fn sound(vector: &[f32]) -> bool {
    (1..=MAX_DIMENSIONS).contains(&vector.len()) && vector.iter().map(|x| x * x).sum::<f32>().is_finite()
}

#[async_trait]
impl HealthCheck for EmbeddedVectors {
    async fn check(&self, depth: Depth) -> Health {
        for db in self.files.all() {
            let health = db.check(depth).await;
            if health.status != Status::Up {
                return health;
            }
        }
        Health::up()
    }
}

#[async_trait]
impl VectorStore for EmbeddedVectors {
    async fn upsert(&self, ctx: &ExecutionContext, namespace: &Namespace, mut records: Vec<Record>) -> Result<()> {
        same_tenant("vector.upsert", ctx, namespace)?;
        check(&records)?;
        for record in &mut records {
            self.tokenise(ctx.tenant(), &mut record.title)?;
            self.tokenise(ctx.tenant(), &mut record.text)?;
        }
        let inside = inside(namespace);
        self.files.of(ctx.tenant()).await?.write("vector.upsert", move |tx| core::upsert(tx, &inside, &records)).await
    }

    async fn search(
        &self,
        ctx: &ExecutionContext,
        namespace: &Namespace,
        mut request: SearchRequest,
    ) -> Result<Vec<Hit>> {
        same_tenant("vector.search", ctx, namespace)?;
        if !(1..=MAX_HITS).contains(&request.limit) {
            return Err(Error::invalid("vector.search", "the limit is 1 to 1000 hits"));
        }
        if request.vector.is_none() && request.text.is_none() {
            return Err(Error::invalid("vector.search", "give a vector, a text, or both"));
        }
        if request.vector.as_ref().is_some_and(|v| !sound(v)) {
            return Err(Error::invalid(
                "vector.search",
                "a vector has 1 to 4096 finite numbers, its length finite too",
            ));
        }
        if let Some(text) = &mut request.text {
            if text.len() > MAX_TEXT {
                return Err(Error::invalid("vector.search", "a query has at most 1 MiB"));
            }
            self.tokenise(ctx.tenant(), text)?;
        }
        let inside = inside(namespace);
        let db = self.files.of(ctx.tenant()).await?;
        let mut hits = db.read("vector.search", move |c| search::search(c, &inside, &request)).await?;
        for hit in &mut hits {
            self.reveal(ctx.tenant(), &mut hit.title)?;
            self.reveal(ctx.tenant(), &mut hit.text)?;
        }
        Ok(hits)
    }

    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, ids: Vec<String>) -> Result<u64> {
        same_tenant("vector.delete", ctx, namespace)?;
        let inside = inside(namespace);
        self.files.of(ctx.tenant()).await?.write("vector.delete", move |tx| core::delete(tx, &inside, &ids)).await
    }

    async fn count(&self, ctx: &ExecutionContext, namespace: &Namespace) -> Result<u64> {
        same_tenant("vector.count", ctx, namespace)?;
        let inside = inside(namespace);
        self.files.of(ctx.tenant()).await?.read("vector.count", move |c| core::count(c, &inside)).await
    }

    fn capability(&self) -> VectorCapability {
        VectorCapability::new(true, true, MAX_DIMENSIONS)
    }
}
