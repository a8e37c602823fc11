//! A worker that is a process of its own: this binary, run again.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use forge_core::queue::{Broker, Lease, LeaseRequest, Nack};
use forge_core::{Error, ErrorKind, Result};
use forge_queue::redis::RedisBroker;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::place::{Place, TENANTS, name_of};

const CHILD: &str = "FORGE_TEST_CHAOS_WORKER";
pub(crate) const VISIBILITY: Duration = Duration::from_millis(1200);
/// Tasks of one worker at a time.
const AT_ONCE: usize = 4;

/// What a task says of itself.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Work {
    pub(crate) number: u64,
    pub(crate) tenant: String,
    pub(crate) kind: Kind,
    pub(crate) ms: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Kind {
    Good,
    /// Fails the first time.
    Flaky,
    /// Fails each time.
    Doomed,
}

#[derive(Serialize, Deserialize)]
struct Orders {
    place: Place,
    ledger: PathBuf,
}

/// A running worker. Dropped, it is killed.
pub(crate) struct Worker {
    child: Child,
}

impl Worker {
    pub(crate) fn start(place: &Place, ledger: &Path) -> Self {
        let orders = Orders { place: place.clone(), ledger: ledger.to_owned() };
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "worker::child", "--nocapture", "--test-threads=1"])
            .env(CHILD, serde_json::to_string(&orders).unwrap())
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        Self { child }
    }

    pub(crate) fn kill9(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success(), "the worker is there");
    }

    /// Lets it finish what it has.
    pub(crate) fn end(mut self) {
        drop(self.child.stdin.take());
        let began = std::time::Instant::now();
        while began.elapsed() < Duration::from_secs(20) {
            if let Some(status) = self.child.try_wait().unwrap() {
                assert!(status.success(), "a worker panicked");
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!("a worker does not end");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // already gone is as good
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Without orders it is no worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let Ok(orders) = std::env::var(CHILD) else { return };
    let Orders { place, ledger } = serde_json::from_str(&orders).unwrap();
    let stop = CancellationToken::new();
    // also when the parent dies
    std::thread::spawn({
        let stop = stop.clone();
        move || {
            let _ = std::io::stdin().read_to_end(&mut Vec::new());
            stop.cancel();
        }
    });
    let ledger = Arc::new(File::options().create(true).append(true).open(ledger).unwrap());
    serve(place.broker(), ledger, stop).await;
}

async fn serve(broker: RedisBroker, ledger: Arc<File>, stop: CancellationToken) {
    let mut running = JoinSet::new();
    while !stop.is_cancelled() {
        while let Some(ended) = running.try_join_next() {
            ended.unwrap();
        }
        if running.len() == AT_ONCE {
            running.join_next().await.unwrap().unwrap();
        }
        let request = LeaseRequest::new(TENANTS.map(name_of).into(), AT_ONCE - running.len(), VISIBILITY);
        match broker.lease(&request).await {
            Ok(leases) if leases.is_empty() => tokio::select! {
                () = broker.wait(Duration::from_millis(300)) => {}
                () = stop.cancelled() => {}
            },
            Ok(leases) => {
                for lease in leases {
                    running.spawn(run(broker.clone(), ledger.clone(), lease));
                }
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    while let Some(ended) = running.join_next().await {
        ended.unwrap();
    }
}

/// One line of the ledger, outside of the queue; it is there once this returns.
fn note(ledger: &File, what: &str, work: &Work, lease: &Lease) {
    let taken = lease.until.as_millis() - i64::try_from(VISIBILITY.as_millis()).unwrap();
    let line = format!("{what} {} {} {} {} {taken}\n", work.number, lease.id, lease.attempt, lease.fence);
    let mut ledger = ledger;
    ledger.write_all(line.as_bytes()).unwrap();
    if what == "effect" {
        ledger.sync_data().unwrap();
    }
}

async fn run(broker: RedisBroker, ledger: Arc<File>, lease: Lease) {
    let work: Work = serde_json::from_value(lease.payload.clone()).unwrap();
    assert_eq!(work.tenant, lease.tenant.as_str());
    note(&ledger, "begun", &work, &lease);
    let ended = CancellationToken::new();
    let done = ended.clone().drop_guard();
    let renewing = tokio::spawn(renew(broker.clone(), lease.clone(), ended));
    tokio::select! {
        () = tokio::time::sleep(Duration::from_millis(work.ms)) => {}
        () = lease.lost.cancelled() => {}
    }
    drop(done);
    renewing.await.unwrap();
    if lease.lost.is_cancelled() {
        return note(&ledger, "lost", &work, &lease);
    }
    let good = match work.kind {
        Kind::Good => true,
        Kind::Flaky => lease.attempt > 1,
        Kind::Doomed => false,
    };
    if good {
        note(&ledger, "effect", &work, &lease);
        // so that many die between the effect and its acknowledgement
        tokio::time::sleep(Duration::from_millis(work.ms.min(50))).await;
    }
    let mut said = "";
    // as a worker does: what may not have been done is said again
    for _ in 0..3 {
        let told = settle(&broker, &lease, &work, good).await;
        match told {
            Ok(()) => {
                said = if good { "acked" } else { "nacked" };
                break;
            }
            Err(e) if e.kind() == ErrorKind::LeaseLost => {
                if said.is_empty() {
                    said = "lost";
                }
                break;
            }
            Err(_) => said = "unknown",
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    note(&ledger, said, &work, &lease);
}

async fn renew(broker: RedisBroker, lease: Lease, ended: CancellationToken) {
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            () = tokio::time::sleep(VISIBILITY / 4) => {}
        }
        // what it says of a lost lease it says to the lease
        let _ = broker.renew(&lease, VISIBILITY).await;
    }
}

async fn settle(broker: &RedisBroker, lease: &Lease, work: &Work, good: bool) -> Result<()> {
    if good {
        return broker.ack(lease, json!(lease.fence)).await;
    }
    let report = Error::new(ErrorKind::Unavailable, "test.work", "no luck").report();
    let after = Duration::from_millis(work.number % 3 * 60);
    broker.nack(lease, Nack::Retry { after, report }).await
}
