//! What the tests of the SQLite store share.
#![allow(dead_code, unreachable_pub, reason = "each test binary uses a part of it")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forge_core::approvals::{Approval, ApprovalState};
use forge_core::fake::{FakeKeyring, ManualClock};
use forge_core::journal::{Claim, Journal, NewRun};
use forge_core::queue::{Broker, Lease, LeaseRequest, NewTask};
use forge_core::testing::context;
use forge_core::{
    ApprovalId, Clock, Digest, EmployeeId, ErrorKind, ExecutionContext, OperationKey, Result, Role, RunId,
    SealedContext, SealedFor, Slug, TenantId, Timestamp,
};
use forge_queue::sqlite::SqliteStore;
use serde_json::Value;

pub const VISIBILITY: Duration = Duration::from_secs(30);

/// A store in a directory of its own, and the clock that moves it.
pub struct World {
    pub dir: tempfile::TempDir,
    pub clock: Arc<ManualClock>,
    pub store: SqliteStore,
}

impl World {
    pub async fn new() -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::default()));
        let store = open(dir.path(), clock.clone()).await;
        Self { dir, clock, store }
    }

    /// Another store on the same file, as another process has it.
    pub async fn other(&self) -> SqliteStore {
        open(self.dir.path(), self.clock.clone()).await
    }

    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

pub async fn open(dir: &Path, clock: Arc<dyn Clock>) -> SqliteStore {
    SqliteStore::open(dir.join("queue.db"), clock, Arc::new(FakeKeyring)).await.unwrap()
}

pub fn ctx(tenant: &str) -> ExecutionContext {
    context(tenant, "ana", "analyst")
}

pub fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

pub fn slug(name: &str) -> Slug {
    Slug::parse(name).unwrap()
}

pub fn task(name: &str, payload: Value) -> NewTask {
    NewTask::new(slug(name), payload)
}

pub async fn lease(broker: &SqliteStore, max: usize) -> Vec<Lease> {
    broker.lease(&LeaseRequest::new(vec![slug("index")], max, VISIBILITY)).await.unwrap()
}

pub async fn lease_one(broker: &SqliteStore) -> Lease {
    let mut leases = lease(broker, 1).await;
    assert_eq!(leases.len(), 1, "one task must be due");
    leases.remove(0)
}

#[track_caller]
pub fn refused<T: std::fmt::Debug>(outcome: Result<T>, kind: ErrorKind) {
    assert_eq!(outcome.unwrap_err().kind(), kind);
}

pub fn new_run(owner: &str, id: RunId, at: Timestamp) -> NewRun {
    let bound =
        SealedFor { id: id.to_string(), name: "review".into(), queue: "journal".into(), body: Digest::of(b"input") };
    NewRun {
        tenant: tenant(owner),
        id,
        workflow: slug("review"),
        version: 1,
        definition: Digest::of(b"definition"),
        context: SealedContext::seal(&ctx(owner), bound, &FakeKeyring, at, at.after(Duration::from_secs(3600)))
            .unwrap(),
        input: b"input".to_vec(),
        created: at,
    }
}

pub async fn claimed(store: &SqliteStore, owner: &str, id: RunId, at: Timestamp) -> Claim {
    store.create(new_run(owner, id, at)).await.unwrap();
    store.claim(&tenant(owner), id, "host-1", at, at.after(Duration::from_secs(60))).await.unwrap()
}

pub fn question(n: u8) -> Approval {
    Approval {
        id: ApprovalId::fixed(n.into()),
        operation: OperationKey::derived(&[&[n]]),
        resource: "send".into(),
        digest: Digest::of(&[n]),
        asker: EmployeeId::parse("ana").unwrap(),
        approver_roles: vec![Role::parse("partner").unwrap()],
        asked: Timestamp::from_nanos(i64::from(100 - n)),
        state: ApprovalState::Pending,
        decided: None,
    }
}

/// Every byte of every file below the directory.
pub fn raw(dir: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        bytes.extend(if path.is_dir() { raw(&path) } else { std::fs::read(&path).unwrap() });
    }
    bytes
}

pub fn holds(haystack: &[u8], needle: &str) -> bool {
    haystack.windows(needle.len()).any(|w| w == needle.as_bytes())
}
