//! Queue, journal, approvals and key-values in one SQLite file, which several processes may share.
//!
//! One file, because a host that has one of them needs all: a backup is one copy and a crash has one story. Writes are
//! `BEGIN IMMEDIATE` with group commit, durable when a call returns; what two processes could both take is fenced. Bodies
//! that may hold personal data rest encrypted under the tenant's key (results, errors, values), arrive encrypted (the
//! journal's) or tokenised (payloads: the guard did that); names, ids, times and states rest in clear, keys of
//! key-values too.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! # use std::sync::Arc;
//! # let dir = tempfile::tempdir().unwrap();
//! use forge_core::queue::{NewTask, TaskQueue, TaskState};
//! use forge_core::{Slug, SystemClock, fake::FakeKeyring, testing::context};
//! use forge_queue::sqlite::SqliteStore;
//!
//! let store = SqliteStore::open(dir.path().join("queue.db"), Arc::new(SystemClock), Arc::new(FakeKeyring)).await?;
//! let ctx = context("acme", "ana", "analyst");
//! let id = store.enqueue(&ctx, NewTask::new(Slug::parse("index")?, serde_json::json!({ "document": 7 }))).await?;
//! assert_eq!(store.status(&ctx, id).await?.state, TaskState::Ready);
//! # Ok::<(), forge_core::Error>(()) }).unwrap();
//! ```

mod admin;
mod approvals;
mod broker;
mod control;
mod journal;
mod kv;
mod letters;
mod line;
mod queue;
mod row;
mod schedule;
mod schema;
mod serve;
mod transition;

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use async_trait::async_trait;
use forge_core::keyring::Keyring;
use forge_core::{Clock, Depth, Digest, Health, HealthCheck, Result, TenantId};
use forge_sqlite::{Database, Options};
use tokio::sync::Notify;

pub use admin::Export;

/// The store: `TaskQueue`, `Broker`, `QueueControl`, `DeadLetters`, `Journal`, `KeyValue` and `Approvals`. Cheap to clone; clones share the connection.
#[derive(Clone)]
pub struct SqliteStore {
    db: Database,
    clock: Arc<dyn Clock>,
    keyring: Arc<dyn Keyring>,
    /// Something was queued by this process; other processes are noticed by looking.
    queued: Arc<Notify>,
}

impl SqliteStore {
    /// Opens the file, or makes it, and brings it up to date.
    ///
    /// # Errors
    /// `Config` if a newer Forge wrote it; `Corrupt`; `Unavailable`.
    pub async fn open(path: impl Into<PathBuf>, clock: Arc<dyn Clock>, keyring: Arc<dyn Keyring>) -> Result<Self> {
        let db = Database::open(Options::new(path).migration(schema::V1)).await?;
        Ok(Self { db, clock, keyring, queued: Arc::default() })
    }

    /// Encrypts a body, bound to its place.
    async fn encrypt(&self, tenant: &TenantId, place: &[&[u8]], plain: &[u8]) -> Result<Vec<u8>> {
        self.keyring.load(tenant).await?;
        self.keyring.encrypt(tenant, Digest::of_parts(place).as_bytes(), plain)
    }

    /// Decrypts a body of this place.
    async fn decrypt(&self, tenant: &TenantId, place: &[&[u8]], blob: &[u8]) -> Result<Vec<u8>> {
        self.keyring.load(tenant).await?;
        self.keyring.decrypt(tenant, Digest::of_parts(place).as_bytes(), blob)
    }
}

#[async_trait]
impl HealthCheck for SqliteStore {
    async fn check(&self, depth: Depth) -> Health {
        self.db.check(depth).await
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("db", &self.db).finish_non_exhaustive()
    }
}
