//! A slot that moves under running calls, and a cluster that is down.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{code, open, until, writes};
use forge_core::{ErrorKind, Result, Retryability};
use forge_redis::redis::{Pipeline, Script, cmd};
use forge_redis::{Redis, RedisConfig};
use forge_testkit::servers::{Cluster, RedisServer};

fn config(cluster: &Cluster) -> RedisConfig {
    let mut config = cluster.url().parse::<RedisConfig>().unwrap().with_prefix("{forge}:");
    (config.timeout, config.connect_timeout) = (Duration::from_millis(500), Duration::from_secs(2));
    config
}

/// Writes two keys: as commands in a transaction, or by a script.
async fn write(redis: &Redis, n: usize) -> Result<()> {
    let (a, b) = (redis.key(format!("a{n}")), redis.key(format!("b{n}")));
    if n.is_multiple_of(2) {
        let mut both = Pipeline::new();
        both.atomic().cmd("SET").arg(a).arg(n).ignore().cmd("SET").arg(b).arg(n).ignore();
        redis.pipeline("test.both", &both).await
    } else {
        let script = Script::new("redis.call('SET', KEYS[1], ARGV[1]) return redis.call('SET', KEYS[2], ARGV[1])");
        redis.script("test.script", script.prepare_invoke().key(a).key(b).arg(n)).await
    }
}

fn connections(server: &RedisServer) -> usize {
    let stats = server.cli(&["INFO", "stats"]);
    let line = stats.lines().find_map(|l| l.strip_prefix("total_connections_received:"));
    line.unwrap().trim().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_answered_ok_is_there_after_the_slot_moved_twice() {
    let cluster = Arc::new(Cluster::start());
    let redis = open(config(&cluster).with_connections(2), "");
    let slot = cluster.slot("{forge}:");
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..4_usize)
        .map(|task| {
            let (redis, stop) = (redis.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut done, mut failed) = (Vec::new(), BTreeMap::<String, usize>::new());
                for n in (task..).step_by(4) {
                    if stop.load(Ordering::Relaxed) {
                        break;
                    }
                    match write(&redis, n).await {
                        Ok(()) => done.push(n),
                        Err(e) => {
                            assert_eq!((e.kind(), e.retry()), (ErrorKind::Unavailable, Retryability::Transient), "{e}");
                            // while it rests, it is not the server that says so
                            let word = if code(&e).is_empty() { e.operation() } else { code(&e) };
                            *failed.entry(word.to_owned()).or_default() += 1;
                            tokio::time::sleep(Duration::from_millis(1)).await;
                        }
                    }
                }
                (done, failed)
            })
        })
        .collect();
    for _ in 0..2 {
        grows(&cluster, slot).await;
        let cluster = cluster.clone();
        tokio::task::spawn_blocking(move || cluster.move_slot(slot)).await.unwrap();
    }
    grows(&cluster, slot).await;
    stop.store(true, Ordering::Relaxed);
    let (mut done, mut failed) = (Vec::new(), BTreeMap::<String, usize>::new());
    for task in tasks {
        let (ok, errors) = task.await.unwrap();
        done.extend(ok);
        for (code, n) in errors {
            *failed.entry(code).or_default() += n;
        }
    }
    let mut lost = 0;
    for n in &done {
        let keys = [redis.key(format!("a{n}")), redis.key(format!("b{n}"))];
        let both: (Option<usize>, Option<usize>) = redis.query("test.get", cmd("MGET").arg(&keys)).await.unwrap();
        lost += usize::from(both != (Some(*n), Some(*n)));
    }
    println!("ledger: {} answered ok, {lost} lost, refused {failed:?}", done.len());
    assert_eq!(lost, 0);
    assert!(!failed.contains_key("CROSSSLOT"), "{failed:?}");
    assert!(failed.contains_key("MOVED"), "the calls met the move: {failed:?}");
}

/// Waits until 500 keys more are in the slot.
async fn grows(cluster: &Cluster, slot: u16) {
    let size = || -> usize { cluster.nodes()[cluster.owner(slot)].cli(&["DBSIZE"]).trim().parse().unwrap() };
    let more = size() + 500;
    until("the slot grows", async || size() >= more).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn half_way_what_is_there_is_answered_and_the_connection_stays() {
    let cluster = Cluster::start();
    let redis = open(config(&cluster), "");
    let slot = cluster.slot("{forge}:");
    write(&redis, 0).await.unwrap();
    write(&redis, 1).await.unwrap();
    let from = cluster.owner(slot);
    let before: Vec<usize> = cluster.nodes().iter().map(connections).collect();
    let moving = cluster.begin_move(slot);
    let get = |key: String| {
        let redis = redis.clone();
        async move { redis.query::<Option<usize>>("test.get", cmd("GET").arg(redis.key(key))).await }
    };
    assert_eq!(get("a0".into()).await.unwrap(), Some(0));
    for n in 0..50 {
        let e = get(format!("new{n}")).await.unwrap_err();
        assert_eq!((code(&e), e.kind(), e.retry()), ("ASK", ErrorKind::Unavailable, Retryability::Transient), "{e}");
    }
    assert_eq!(moving.migrate(1), 1);
    let keys: Vec<String> = ["a0", "b0", "a1", "b1"].map(|key| redis.key(key)).to_vec();
    let e = redis.query::<Vec<usize>>("test.get", cmd("MGET").arg(&keys)).await.unwrap_err();
    assert_eq!((code(&e), e.kind(), e.retry()), ("TRYAGAIN", ErrorKind::Unavailable, Retryability::Transient), "{e}");
    let asked: Vec<usize> = cluster.nodes().iter().map(connections).collect();
    // beside the commands of this test itself
    let made: usize = asked.iter().zip(&before).map(|(now, then)| now - then).sum();
    assert!(made < 30, "{made} connections");
    moving.finish();
    // a transaction is told MOVED when it is made, and aborts for it
    until("it goes on", async || write(&redis, 2).await.is_ok()).await;
    assert_eq!(redis.query::<Vec<usize>>("test.get", cmd("MGET").arg(&keys)).await.unwrap(), [0, 0, 1, 1]);
    assert_ne!(cluster.owner(slot), from);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_is_down_is_waited_for() {
    let mut cluster = Cluster::start();
    let slot = cluster.slot("{forge}:");
    let owner = cluster.owner(slot);
    let redis = open(config(&cluster), "");
    writes(&redis).await;
    // a master of other slots, and the first that is asked where that is not the owner
    let other = usize::from(owner == 0);
    cluster.node(other).kill9();
    let mut last = None;
    until("the cluster is down", async || {
        last = write(&redis, 0).await.err();
        last.as_ref().is_some_and(|e| code(e) == "CLUSTERDOWN")
    })
    .await;
    let e = last.unwrap();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Unavailable, Retryability::Transient), "{e}");
    cluster.node(other).restart();
    cluster.wait_until_well();
    writes(&redis).await;
    // the owner itself, and it comes back
    cluster.node(owner).restart();
    writes(&redis).await;
}
