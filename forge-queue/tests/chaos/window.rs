//! What is lost where less is asked for: figures, and the one thing that must hold.
//!
//! A server that is killed has given its writes to the kernel, so `appendfsync everysec` loses nothing then; a machine that loses its power
//! loses up to a second of them, which cannot be tried here. A failover loses what the replica did not have: next to nothing while it keeps
//! up, all that was queued since where it was cut off.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use forge_core::queue::{NewTask, TaskQueue};
use forge_core::{ErrorKind, TaskId};
use forge_queue::redis::RedisBroker;
use forge_testkit::servers::{RedisServer, Sentinels};
use futures::StreamExt;
use serde_json::json;
use tokio::task::JoinSet;

use crate::place::{Place, ctx, name, until};
use crate::rounds::of_environment;

const AT_ONCE: usize = 16;

#[derive(Default)]
struct Figures {
    kills: u64,
    accepted: usize,
    seconds: f64,
    lost: usize,
    most: usize,
}

impl Figures {
    fn add(&mut self, (accepted, lost, seconds): (usize, usize, f64)) {
        self.kills += 1;
        self.accepted += accepted;
        self.lost += lost;
        self.most = self.most.max(lost);
        self.seconds += seconds;
    }

    fn print(&self, what: &str) {
        #[expect(clippy::cast_precision_loss, reason = "a figure to read")]
        let rate = self.accepted as f64 / self.seconds;
        let Self { kills, accepted, lost, most, .. } = self;
        println!(
            "{what}: {kills} kills under load, {accepted} accepted at {rate:.0}/s, lost {lost}, at most {most} by one kill"
        );
    }
}

/// A kill for each twenty rounds.
fn kills() -> u64 {
    of_environment("FORGE_SOAK_ROUNDS", 20).div_ceil(20)
}

/// Queues as fast as it goes while `kill` waits for its moment and strikes; what was accepted and is not there afterwards.
async fn loss(broker: &RedisBroker, kill: impl FnOnce() + Send + 'static) -> (usize, usize, f64) {
    let over = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let mut producers = JoinSet::new();
    for _ in 0..AT_ONCE {
        producers.spawn(flood(broker.clone(), over.clone()));
    }
    let struck = tokio::task::spawn_blocking(kill);
    let accepted: Vec<TaskId> = producers.join_all().await.into_iter().flatten().collect();
    let seconds = began.elapsed().as_secs_f64();
    struck.await.unwrap();
    let found = futures::stream::iter(accepted.iter()).map(|id| is_there(broker, *id)).buffer_unordered(256);
    let lost = found.filter(|there| std::future::ready(!there)).count().await;
    (accepted.len(), lost, seconds)
}

/// Until the first error: that is the kill.
async fn flood(broker: RedisBroker, over: Arc<AtomicBool>) -> Vec<TaskId> {
    let mut accepted = Vec::new();
    while !over.load(Ordering::Relaxed) {
        match broker.enqueue(&ctx("acme"), NewTask::new(name(), json!(accepted.len()))).await {
            Ok(id) => accepted.push(id),
            Err(_) => over.store(true, Ordering::Relaxed),
        }
    }
    accepted
}

async fn is_there(broker: &RedisBroker, id: TaskId) -> bool {
    let mut there = None;
    until("an answer", Duration::from_secs(30), async || {
        there = match broker.status(&ctx("acme"), id).await {
            Ok(_) => Some(true),
            Err(e) if e.kind() == ErrorKind::NotFound => Some(false),
            Err(_) => None,
        };
        there.is_some()
    })
    .await;
    there.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_server_that_syncs_every_second() {
    let mut figures = Figures::default();
    for n in 0..kills() {
        let mut server = RedisServer::builder().arg("appendonly", "yes").arg("appendfsync", "everysec").start();
        let broker = Place::at(server.url()).broker();
        let kill = move || {
            std::thread::sleep(Duration::from_millis(700 + n * 37 % 600));
            server.kill9();
            server.restart();
            server
        };
        let server = Arc::new(std::sync::Mutex::new(None));
        let keep = server.clone();
        figures.add(loss(&broker, move || *keep.lock().unwrap() = Some(kill())).await);
        drop(server);
    }
    figures.print("appendfsync everysec");
    assert!(figures.accepted > 0);
}

/// How long the replica hears nothing before the master dies.
const CUT_OFF: Duration = Duration::from_millis(300);

async fn failovers(replicas: Option<(usize, u64)>, cut_off: bool) -> Figures {
    let mut figures = Figures::default();
    for n in 0..kills() {
        let mut sentinels = tokio::task::spawn_blocking(Sentinels::start).await.unwrap();
        let broker = Place { replicas, ..Place::at(sentinels.url()) }.broker();
        let after = Arc::new(std::sync::Mutex::new(None));
        let keep = after.clone();
        let kill = move || {
            std::thread::sleep(Duration::from_millis(700 + n * 37 % 600));
            if cut_off {
                sentinels.servers()[1].process().unwrap().pause();
                sentinels.servers()[0].cli(&["CLIENT", "KILL", "TYPE", "replica"]);
                std::thread::sleep(CUT_OFF);
            }
            let old = sentinels.kill_master();
            sentinels.servers()[1].process().unwrap().resume();
            sentinels.wait_for_failover(old);
            *keep.lock().unwrap() = Some(sentinels);
        };
        figures.add(loss(&broker, kill).await);
        drop(after);
    }
    figures
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_loses_nothing_that_was_waited_for() {
    failovers(None, false).await.print("failover, nobody waited for");
    failovers(None, true).await.print("failover, nobody waited for, the replica cut off for 300 ms before");
    for cut_off in [false, true] {
        let waited = failovers(Some((1, 600)), cut_off).await;
        waited.print(if cut_off {
            "failover, a replica waited for, cut off before"
        } else {
            "failover, a replica waited for"
        });
        assert!(waited.accepted > 0);
        assert_eq!(waited.lost, 0);
    }
}
