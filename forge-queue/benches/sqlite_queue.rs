//! What the queue in SQLite costs: tasks a second from enqueue over lease to acknowledgement, every step durable, beside the bare
//! inserts and updates of the same rows in transactions as large as the calls that are in flight.
//!
//! ```sh
//! cargo bench -p forge-queue --bench sqlite_queue -- 20000 256
//! ```

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program that prints a table"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forge_core::fake::FakeKeyring;
use forge_core::queue::{Broker, LeaseRequest, NewTask, TaskQueue};
use forge_core::testing::context;
use forge_core::{Clock, Slug, SystemClock, TaskId};
use forge_queue::sqlite::SqliteStore;
use forge_sqlite::rusqlite::{Connection, params};
use futures::StreamExt as _;
use serde_json::json;

const ROUNDS: usize = 3;
const BATCH: usize = 64;
const TENANTS: usize = 8;

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let (n, in_flight) = (args.first().copied().unwrap_or(20_000), args.get(1).copied().unwrap_or(256));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (mut ours, mut bare) = (Vec::new(), Vec::new());
    // in turn, so that whatever else the machine does falls on both
    for round in 1..=ROUNDS {
        let dir = tempfile::tempdir().unwrap();
        let queue = timed(|| runtime.block_on(queue(dir.path(), n, in_flight)));
        let rows = timed(|| rows(dir.path(), n, in_flight));
        for (what, (seconds, cpu)) in [("queue", queue), ("rows", rows)] {
            println!(
                "round {round}: {what:>5} {:>8.0} tasks/s, cpu {:>5.1} us a task",
                n as f64 / seconds,
                cpu * 1e6 / n as f64
            );
        }
        ours.push(n as f64 / queue.0);
        bare.push(n as f64 / rows.0);
    }
    let best = |all: &[f64]| all.iter().copied().fold(0.0, f64::max);
    println!(
        "best: queue {:.0} tasks/s, rows {:.0} tasks/s, ratio {:.2}",
        best(&ours),
        best(&bare),
        best(&bare) / best(&ours)
    );
}

/// Seconds on the clock and of the processors.
fn timed(work: impl FnOnce()) -> (f64, f64) {
    let (cpu, began) = (cpu_seconds(), SystemClock.monotonic());
    work();
    ((SystemClock.monotonic() - began).as_secs_f64(), cpu_seconds() - cpu)
}

/// Producers and workers at the same time, until all is done.
async fn queue(dir: &Path, n: usize, in_flight: usize) {
    let store = SqliteStore::open(dir.join("queue.db"), Arc::new(SystemClock), Arc::new(FakeKeyring)).await.unwrap();
    let done = Arc::new(AtomicUsize::new(0));
    let producer = tokio::spawn({
        let store = store.clone();
        async move {
            let contexts: Vec<_> = (0..TENANTS).map(|t| context(&format!("tenant-{t}"), "ana", "analyst")).collect();
            let call = |i: usize| {
                let (store, ctx) = (store.clone(), contexts.get(i % TENANTS).unwrap().clone());
                async move { tokio::spawn(async move { store.enqueue(&ctx, task(i)).await.unwrap() }).await.unwrap() }
            };
            futures::stream::iter(0..n).map(call).buffer_unordered(in_flight).for_each(|_| async {}).await;
        }
    });
    let worker = || {
        let (store, done) = (store.clone(), done.clone());
        tokio::spawn(async move {
            let request = LeaseRequest::new(vec![name()], BATCH, Duration::from_secs(30));
            while done.load(Ordering::Relaxed) < n {
                let leases = store.lease(&request).await.unwrap();
                if leases.is_empty() {
                    store.wait(Duration::from_millis(50)).await;
                    continue;
                }
                let acks = leases.iter().map(|lease| store.ack(lease, json!({ "pages": 3 })));
                futures::future::try_join_all(acks).await.unwrap();
                done.fetch_add(leases.len(), Ordering::Relaxed);
            }
        })
    };
    let workers: Vec<_> = (0..in_flight.div_ceil(BATCH)).map(|_| worker()).collect();
    producer.await.unwrap();
    for worker in workers {
        worker.await.unwrap();
    }
}

fn name() -> Slug {
    Slug::parse("index").unwrap()
}

fn task(n: usize) -> NewTask {
    NewTask::new(name(), json!({ "n": n, "text": "a short line of text for the task" }))
}

/// The same rows without a queue: a key, no turn, no fence, no seal.
fn rows(dir: &Path, n: usize, in_flight: usize) {
    let mut file = Connection::open(dir.join("rows.db")).unwrap();
    file.pragma_update(None, "journal_mode", "WAL").unwrap();
    file.pragma_update(None, "synchronous", "FULL").unwrap();
    file.execute_batch(
        "CREATE TABLE tasks (tenant TEXT NOT NULL, id TEXT NOT NULL, state INTEGER NOT NULL, due INTEGER NOT NULL,
         fence INTEGER NOT NULL DEFAULT 0, payload TEXT NOT NULL, context TEXT NOT NULL, outcome BLOB,
         updated INTEGER NOT NULL, PRIMARY KEY (tenant, id)) STRICT",
    )
    .unwrap();
    // as long as a sealed context is
    let (payload, context) = (task(0).payload.to_string(), "x".repeat(900));
    for first in (0..n).step_by(in_flight) {
        let last = n.min(first + in_flight);
        let ids: Vec<_> = (first..last)
            .map(|i| (format!("tenant-{}", i % TENANTS), TaskId::random(SystemClock.now()).to_string()))
            .collect();
        let mut each = |sql: &str, outcome: Option<&[u8]>| {
            let tx = file.transaction().unwrap();
            for (tenant, id) in &ids {
                let now = SystemClock.now().as_nanos();
                let mut statement = tx.prepare_cached(sql).unwrap();
                match outcome {
                    Some(outcome) => statement.execute(params![tenant, id, now, outcome]).unwrap(),
                    None if sql.starts_with("INSERT") => {
                        statement.execute(params![tenant, id, now, payload, context]).unwrap()
                    }
                    None => statement.execute(params![tenant, id, now]).unwrap(),
                };
            }
            tx.commit().unwrap();
        };
        each(
            "INSERT INTO tasks (tenant, id, state, due, updated, payload, context) VALUES (?1, ?2, 0, ?3, ?3, ?4, ?5)",
            None,
        );
        each(
            "UPDATE tasks SET state = 1, due = ?3, fence = fence + 1, updated = ?3 WHERE tenant = ?1 AND id = ?2",
            None,
        );
        each(
            "UPDATE tasks SET state = 2, outcome = ?4, updated = ?3 WHERE tenant = ?1 AND id = ?2",
            Some(b"an answer, encrypted"),
        );
    }
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: Vec<f64> = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    ticks.iter().sum::<f64>() / 100.0
}
