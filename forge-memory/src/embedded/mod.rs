//! The embedded store: one SQLite file a tenant, exact nearest neighbours, BM25 by SQLite's own FTS5.
//!
//! A tenant's texts and vectors are in `<dir>/<tenant>/vectors.db` and nowhere else, so that no statement can reach another's.
//! Inside it, words are indexed in one FTS5 table for each namespace: ranking sees only the namespace that is searched.

mod core;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use forge_core::kv::same_tenant;
use forge_core::vector::{Hit, Record, SearchRequest, VectorCapability, VectorStore};
use forge_core::{Depth, Error, ExecutionContext, Health, HealthCheck, Namespace, Result, TenantId};
use forge_sqlite::Database;

const MAX_DIMENSIONS: usize = 4096;
const MAX_TEXT: usize = 1024 * 1024;
const MAX_HITS: usize = 1000;
/// Tenants whose files are open at a time; the one that was used longest ago is closed.
const OPEN: usize = 64;

/// Vectors, words and texts in files. Cheap to clone.
#[derive(Debug, Clone)]
pub struct EmbeddedVectors {
    dir: PathBuf,
    open: Arc<Mutex<Open>>,
}

#[derive(Debug, Default)]
struct Open {
    tenants: BTreeMap<TenantId, (u64, Database)>,
    clock: u64,
}

impl EmbeddedVectors {
    /// Files under `dir`, opened when their tenant is first served.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), open: Arc::default() }
    }

    /// Every record of the context's tenant, by namespace: for export and for erasure's proof.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn export(&self, ctx: &ExecutionContext) -> Result<Vec<(String, Record)>> {
        self.db(ctx.tenant()).await?.read("vector.export", core::export).await
    }

    /// Deletes everything that the context's tenant has here.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn purge(&self, ctx: &ExecutionContext) -> Result<()> {
        self.db(ctx.tenant()).await?.write("vector.purge", core::purge).await
    }

    fn cached(&self, tenant: &TenantId) -> Option<Database> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.clock += 1;
        let now = open.clock;
        open.tenants.get_mut(tenant).map(|(used, db)| {
            *used = now;
            db.clone()
        })
    }

    async fn db(&self, tenant: &TenantId) -> Result<Database> {
        if let Some(db) = self.cached(tenant) {
            return Ok(db);
        }
        let db = core::open(&self.dir.join(tenant.as_str()).join("vectors.db")).await?;
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let now = open.clock;
        let oldest = open.tenants.iter().min_by_key(|(_, (used, _))| *used).map(|(t, _)| t.clone());
        if open.tenants.len() >= OPEN
            && let Some(oldest) = oldest
        {
            open.tenants.remove(&oldest);
        }
        Ok(open.tenants.entry(tenant.clone()).or_insert((now, db)).1.clone())
    }
}

/// A namespace inside its tenant's file.
fn inside(namespace: &Namespace) -> String {
    format!("{}:{}", namespace.owner(), namespace.memory_type())
}

fn check(records: &[Record]) -> Result<()> {
    let wrong = |what: &'static str, id: &str| {
        Err(Error::invalid("vector.upsert", what).with("id_length", id.len().to_string()))
    };
    for r in records {
        if !(1..=128).contains(&r.id.len()) {
            return wrong("an id has 1 to 128 bytes", &r.id);
        }
        if r.text.len() > MAX_TEXT {
            return wrong("a text has at most 1 MiB; split it into passages", &r.id);
        }
        if r.vector.is_empty() || r.vector.len() > MAX_DIMENSIONS || r.vector.iter().any(|x| !x.is_finite()) {
            return wrong("a vector has 1 to 4096 finite numbers", &r.id);
        }
    }
    Ok(())
}

#[async_trait]
impl HealthCheck for EmbeddedVectors {
    async fn check(&self, depth: Depth) -> Health {
        let open: Vec<Database> = self
            .open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tenants
            .values()
            .map(|(_, db)| db.clone())
            .collect();
        for db in open {
            let health = db.check(depth).await;
            if health.status != forge_core::Status::Up {
                return health;
            }
        }
        Health::up()
    }
}

#[async_trait]
impl VectorStore for EmbeddedVectors {
    async fn upsert(&self, ctx: &ExecutionContext, namespace: &Namespace, records: Vec<Record>) -> Result<()> {
        same_tenant("vector.upsert", ctx, namespace)?;
        check(&records)?;
        let inside = inside(namespace);
        self.db(ctx.tenant()).await?.write("vector.upsert", move |tx| core::upsert(tx, &inside, &records)).await
    }

    async fn search(&self, ctx: &ExecutionContext, namespace: &Namespace, request: SearchRequest) -> Result<Vec<Hit>> {
        same_tenant("vector.search", ctx, namespace)?;
        if !(1..=MAX_HITS).contains(&request.limit) {
            return Err(Error::invalid("vector.search", "the limit is 1 to 1000 hits"));
        }
        let inside = inside(namespace);
        self.db(ctx.tenant()).await?.read("vector.search", move |c| core::search(c, &inside, &request)).await
    }

    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, ids: Vec<String>) -> Result<u64> {
        same_tenant("vector.delete", ctx, namespace)?;
        let inside = inside(namespace);
        self.db(ctx.tenant()).await?.write("vector.delete", move |tx| core::delete(tx, &inside, &ids)).await
    }

    async fn count(&self, ctx: &ExecutionContext, namespace: &Namespace) -> Result<u64> {
        same_tenant("vector.count", ctx, namespace)?;
        let inside = inside(namespace);
        self.db(ctx.tenant()).await?.read("vector.count", move |c| core::count(c, &inside)).await
    }

    fn capability(&self) -> VectorCapability {
        VectorCapability::new(true, true, MAX_DIMENSIONS)
    }
}
