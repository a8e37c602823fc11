//! Somebody with the disk changes, copies and mixes what is queued: no handler sees it, and the dead letter says why.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use common::{World, ctx, slug, task};
use forge_core::error::ErrorReport;
use forge_core::fake::{FakeKeyring, FakePolicy, FakeRedactor};
use forge_core::metrics::NoMetrics;
use forge_core::queue::{Lease, TaskHandler, TaskQueue, TaskState};
use forge_core::testing::{context, fake_guard};
use forge_core::{ErrorKind, ExecutionContext, Result, TaskId};
use forge_queue::sqlite::SqliteStore;
use forge_queue::worker::{Worker, WorkerParts};
use forge_sqlite::rusqlite::Connection;
use serde_json::{Value, json};

#[derive(Debug, Clone, Default)]
struct Count(Arc<AtomicUsize>);

#[async_trait]
impl TaskHandler for Count {
    async fn handle(&self, _: &ExecutionContext, _: &Lease) -> Result<Value> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(json!("done"))
    }
}

/// Serves what is due, and stops.
async fn served(w: &World, handled: &Count) {
    let worker = Worker::new(WorkerParts {
        broker: Arc::new(w.store.clone()),
        guard: fake_guard(FakePolicy::allow_all(), w.clock.clone()).guard,
        redactor: Arc::new(FakeRedactor),
        keyring: Arc::new(FakeKeyring),
        metrics: Arc::new(NoMetrics),
        clock: w.clock.clone(),
        concurrency: 2,
        visibility: Duration::from_secs(30),
    })
    .handler(&slug("index"), Arc::new(handled.clone()))
    .handler(&slug("payout"), Arc::new(handled.clone()));
    let serving = tokio::spawn({
        let worker = worker.clone();
        async move { worker.run().await }
    });
    while open(&w.store).await > 0 {
        tokio::task::yield_now().await;
    }
    worker.shutdown(Duration::from_secs(1)).await;
    serving.await.unwrap();
}

async fn open(store: &SqliteStore) -> u64 {
    let mut n = 0;
    for tenant in ["acme", "globex"] {
        let depth = store.depth(&ctx(tenant)).await.unwrap();
        n += depth.ready + depth.leased;
    }
    n
}

async fn dead(store: &SqliteStore, tenant: &str, id: TaskId) -> ErrorReport {
    match store.status(&ctx(tenant), id).await.unwrap().state {
        TaskState::Dead { report } => report,
        other => panic!("it should be a dead letter: {other:?}"),
    }
}

fn tamper(w: &World, sql: &str) {
    let c = Connection::open(w.dir.path().join("queue.db")).unwrap();
    c.busy_timeout(Duration::from_secs(5)).unwrap();
    let changed = c.execute(sql, []).unwrap();
    assert!(changed > 0, "nothing was changed by {sql}");
}

#[tokio::test]
async fn what_somebody_changed_on_the_disk_is_a_dead_letter() {
    let cases = [
        ("another body", "UPDATE tasks SET payload = replace(payload, 'hello', 'HELLO')"),
        ("another handler", "UPDATE tasks SET name = 'payout'"),
        ("another employee in the header", "UPDATE tasks SET context = replace(context, 'ana', 'eve')"),
        ("another role in the header", "UPDATE tasks SET context = replace(context, 'analyst', 'partner')"),
        ("no header at all", "UPDATE tasks SET context = replace(context, 'header', 'HEADER')"),
    ];
    for (what, sql) in cases {
        let (w, handled) = (World::new().await, Count::default());
        let id = w.store.enqueue(&ctx("acme"), task("index", json!({ "text": "hello" }))).await.unwrap();
        tamper(&w, sql);
        served(&w, &handled).await;
        let report = dead(&w.store, "acme", id).await;
        assert!(matches!(report.kind, ErrorKind::Unauthenticated | ErrorKind::Corrupt), "{what}: {report:?}");
        assert_eq!(handled.0.load(Ordering::SeqCst), 0, "{what}: a handler saw it");
    }
}

#[tokio::test]
async fn a_finished_task_under_a_new_id_is_a_replay_and_refused() {
    let (w, handled) = (World::new().await, Count::default());
    let first = w.store.enqueue(&ctx("acme"), task("index", json!({ "text": "hello" }))).await.unwrap();
    served(&w, &handled).await;
    assert_eq!(handled.0.load(Ordering::SeqCst), 1);
    let second = w.store.enqueue(&ctx("acme"), task("index", json!({ "text": "other" }))).await.unwrap();
    let from = |column: &str| format!("{column} = (SELECT {column} FROM tasks WHERE id = '{first}')");
    tamper(&w, &format!("UPDATE tasks SET {}, {} WHERE id = '{second}'", from("payload"), from("context")));
    served(&w, &handled).await;
    assert_eq!(dead(&w.store, "acme", second).await.kind, ErrorKind::Unauthenticated);
    assert_eq!(handled.0.load(Ordering::SeqCst), 1, "done once is done once");
}

#[tokio::test]
async fn a_task_moved_to_another_tenant_is_refused() {
    let (w, handled) = (World::new().await, Count::default());
    let mine = w.store.enqueue(&ctx("acme"), task("index", json!({ "text": "hello" }))).await.unwrap();
    let theirs = w.store.enqueue(&ctx("globex"), task("index", json!({ "text": "other" }))).await.unwrap();
    tamper(&w, &format!("DELETE FROM tasks WHERE id = '{theirs}'"));
    tamper(&w, &format!("UPDATE tasks SET tenant = 'globex' WHERE id = '{mine}'"));
    served(&w, &handled).await;
    let report = dead(&w.store, "globex", mine).await;
    assert!(matches!(report.kind, ErrorKind::Unauthenticated | ErrorKind::TenantMismatch), "{report:?}");
    assert_eq!(handled.0.load(Ordering::SeqCst), 0);
    let shown = format!("{report:?}");
    assert!(!shown.contains("acme"), "isolation: the other tenant learns whose it was: {shown}");
    assert!(w.store.status(&context("acme", "ana", "analyst"), mine).await.is_err(), "and its owner has it no more");
}
