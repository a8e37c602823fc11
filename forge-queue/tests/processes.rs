//! Workers of one process, of a second store and of a child process on one file: a ledger of who did what shows each task once.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use common::{World, ctx, open, slug, task, tenant};
use forge_core::queue::{Broker, LeaseRequest, NewTask, Priority, TaskQueue, TaskState};
use forge_core::{Clock, ErrorKind, SystemClock, TaskId};
use forge_queue::limits::{QueueControl, QueueLimits};
use forge_queue::sqlite::SqliteStore;
use serde_json::json;

const DIR: &str = "FORGE_TEST_PROCESSES_DIR";
const TENANTS: [&str; 4] = ["a", "b", "c", "d"];
const TASKS: usize = 600;
/// How many of a's may run at a time, in all processes together.
const CAP: u32 = 5;

/// The child: works until its file says that it is over, and says what it acknowledged. Without its directory it is no child.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    #[expect(clippy::disallowed_methods, reason = "how the parent tells the child where to work")]
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = open(Path::new(&dir), Arc::new(SystemClock)).await;
    let workers: Vec<_> = (0..3).map(|n| tokio::spawn(work(store.clone(), 1 + 3 * n))).collect();
    for worker in workers {
        for id in worker.await.unwrap() {
            println!("acked {id}");
        }
    }
}

/// Leases and acknowledges until somebody queues the last task; what it acknowledged.
async fn work(store: SqliteStore, max: usize) -> Vec<TaskId> {
    let request = LeaseRequest::new(vec![slug("index")], max, Duration::from_secs(60));
    let mut mine = Vec::new();
    loop {
        let leases = store.lease(&request).await.unwrap();
        for lease in &leases {
            store.ack(lease, json!(null)).await.unwrap();
            mine.push(lease.id);
        }
        if leases.is_empty() {
            if over(&store).await {
                return mine;
            }
            store.wait(Duration::from_secs(1)).await;
        }
    }
}

/// Whether all was queued, and nothing of it is open.
async fn over(store: &SqliteStore) -> bool {
    let mut open = 0;
    for name in TENANTS {
        let depth = store.depth(&ctx(name)).await.unwrap();
        open += depth.ready + depth.leased;
    }
    open == 0 && store.depth(&ctx("over")).await.unwrap().ready == 1
}

fn new_child(dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a child said.
fn acked(child: &mut Child) -> Vec<TaskId> {
    let out = BufReader::new(child.stdout.take().unwrap());
    let said = out.lines().filter_map(|line| {
        let line = line.unwrap();
        // the first line may stand behind the test's own name
        line.split_once("acked ").map(|(_, id)| TaskId::parse(id).unwrap())
    });
    let said = said.collect();
    assert!(child.wait().unwrap().success(), "the child ends by itself");
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_workers_of_many_processes_do_each_task_once() {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (here, there) = (open(dir.path(), clock.clone()).await, open(dir.path(), clock).await);
    here.set_limits(&tenant("a"), QueueLimits::default().with_running(CAP)).await.unwrap();
    let mut children = [new_child(dir.path()), new_child(dir.path())];
    let mut workers: Vec<_> = [&here, &here, &there, &there].map(|s| tokio::spawn(work(s.clone(), 4))).into();

    let mut queued = BTreeMap::new();
    for first in (0..TASKS).step_by(20) {
        let some = (first..first + 20).map(|n| {
            let name = TENANTS.get(n % TENANTS.len()).copied().unwrap();
            let store = if n % 3 == 0 { &here } else { &there };
            async move { (store.enqueue(&ctx(name), numbered(n)).await.unwrap(), name) }
        });
        queued.extend(futures::future::join_all(some).await);
        assert!(here.depth(&ctx("a")).await.unwrap().leased <= u64::from(CAP), "the cap holds across processes");
    }
    // nobody has a handler for it
    here.enqueue(&ctx("over"), NewTask::new(slug("over"), json!(null))).await.unwrap();

    let mut ledger: BTreeMap<TaskId, u32> = BTreeMap::new();
    let mut shares = Vec::new();
    let theirs = tokio::task::spawn_blocking(move || children.each_mut().map(acked));
    for worker in workers.drain(..) {
        let done = worker.await.unwrap();
        shares.push(done.len());
        done.into_iter().for_each(|id| *ledger.entry(id).or_default() += 1);
    }
    for done in theirs.await.unwrap() {
        shares.push(done.len());
        done.into_iter().for_each(|id| *ledger.entry(id).or_default() += 1);
    }
    println!("tasks: queued {}, done {}, by workers and children {shares:?}", queued.len(), ledger.len());
    assert!(ledger.keys().eq(queued.keys()), "every task was done, and no other");
    assert!(ledger.values().all(|n| *n == 1), "none was done twice");
    for (id, name) in queued {
        let status = here.status(&ctx(name), id).await.unwrap();
        assert!(matches!(status.state, TaskState::Succeeded { .. }) && status.attempts == 1, "{status:?}");
    }
}

fn numbered(n: usize) -> NewTask {
    task("index", json!(n)).with_priority(Priority::ALL.into_iter().cycle().nth(n).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unique_key_names_one_task_whoever_queues_it() {
    let w = World::new().await;
    let stores = [w.store.clone(), w.other().await];
    let key = forge_core::OperationKey::derived(&[b"nightly"]);
    w.store.set_limits(&tenant("acme"), QueueLimits::default().with_length(3)).await.unwrap();
    let acme = ctx("acme");
    let calls = stores.iter().cycle().take(16).enumerate().map(|(n, store)| {
        let (key, acme) = (key.clone(), &acme);
        async move { store.enqueue(acme, task("index", json!(n)).with_unique(key)).await.unwrap() }
    });
    let mut ids = futures::future::join_all(calls).await;
    ids.dedup();
    assert_eq!(ids.len(), 1);
    let calls = stores.iter().cycle().take(8).map(|store| store.enqueue(&acme, task("index", json!(0))));
    let outcomes = futures::future::join_all(calls).await;
    let refused = outcomes.iter().filter(|o| o.as_ref().is_err_and(|e| e.kind() == ErrorKind::QuotaExceeded)).count();
    assert_eq!(refused, 6, "two more fit, whichever process they come from: {outcomes:?}");
}
