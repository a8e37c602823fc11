//! The operator's side of the queue in SQLite, by the suite that every backend passes, and what only a file can show.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;
mod control_suite;

use std::sync::Arc;
use std::time::Duration;

use common::{World, ctx, lease, lease_one, task, tenant};
use control_suite::Sides;
use forge_core::Clock;
use forge_core::fake::SkippingClock;
use forge_core::queue::{Broker, TaskQueue};
use forge_queue::limits::{QueueControl, QueueLimits};
use forge_sqlite::rusqlite::Connection;
use serde_json::json;

async fn sides() -> Sides {
    let World { dir, clock, store } = World::new().await;
    let store = Arc::new(store);
    Sides { control: store.clone(), queue: store.clone(), broker: store, clock, _keep: Box::new(dir) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_keeps_its_contract() {
    control_suite::all(sides).await;
}

#[test]
fn no_order_of_events_passes_a_cap_or_loses_a_task() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    control_suite::in_any_order(&runtime, sides);
}

/// Who of a thousand would be looked at by a lease.
fn in_line(w: &World) -> i64 {
    let file = Connection::open(w.dir.path().join("queue.db")).unwrap();
    file.query_row("SELECT count(*) FROM queues WHERE wakes = 0", [], |r| r.get(0)).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_tenants_that_may_not_be_served_are_looked_at_once() {
    let w = World::new().await;
    let all: Vec<String> = (0..1000).map(|t| format!("t{t}")).collect();
    let prepare = all.iter().enumerate().map(|(n, name)| {
        let (store, id) = (w.store.clone(), tenant(name));
        async move {
            let set = QueueLimits::default();
            match n % 3 {
                0 => store.pause(&id).await.unwrap(),
                1 => store.set_limits(&id, set.with_running(1)).await.unwrap(),
                _ => store.set_limits(&id, set.with_rate(0.01).with_burst(1)).await.unwrap(),
            }
            for n in 0..2 {
                store.enqueue(&ctx(name), task("index", json!(n))).await.unwrap();
            }
        }
    });
    futures::future::join_all(prepare).await;
    assert_eq!(lease(&w.store, 2000).await.len(), 666, "one each of those that are not paused");
    assert!(lease(&w.store, 10).await.is_empty());
    assert_eq!(in_line(&w), 0, "nobody is looked at again");
    for name in &all {
        w.store.enqueue(&ctx(name), task("index", json!(2))).await.unwrap();
    }
    assert_eq!(in_line(&w), 0, "nor because more is queued");
    w.store.enqueue(&ctx("free"), task("index", json!(0))).await.unwrap();
    assert_eq!(lease_one(&w.store).await.tenant, "free");
}

#[tokio::test]
async fn limits_outlive_the_store_and_a_purge_of_the_tenant() {
    let w = World::new().await;
    let id = tenant("acme");
    let set = QueueLimits::default().with_running(1);
    w.store.set_limits(&id, set.clone()).await.unwrap();
    w.store.pause(&tenant("globex")).await.unwrap();
    w.store.enqueue(&ctx("initech"), task("index", json!(1))).await.unwrap();
    for name in ["acme", "globex", "initech"] {
        w.store.purge(&ctx(name)).await.unwrap();
    }
    let kept = w.other().await.tenants().await.unwrap();
    let kept: Vec<_> = kept.iter().map(|t| (t.tenant.as_str(), t.paused, &t.limits)).collect();
    let none = QueueLimits::default();
    assert_eq!(kept, [("acme", false, &set), ("globex", true, &none)]);
}

#[tokio::test]
async fn counts_are_right_whatever_ended_a_task() {
    let w = World::new().await;
    let (acme, id) = (ctx("acme"), tenant("acme"));
    w.store.set_limits(&id, QueueLimits::default().with_running(2)).await.unwrap();
    for n in 0..4 {
        w.store.enqueue(&acme, task("index", json!(n))).await.unwrap();
    }
    assert_eq!(lease(&w.store, 4).await.len(), 2);
    assert_eq!(w.store.purge(&acme).await.unwrap(), 4);
    assert_eq!(w.store.depth(&acme).await.unwrap(), Default::default());
    w.store.enqueue(&acme, task("index", json!(4))).await.unwrap();
    lease_one(&w.store).await;
}

#[tokio::test]
async fn a_worker_sleeps_until_a_token_is_there_and_no_longer() {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SkippingClock::default());
    let store = common::open(dir.path(), clock.clone()).await;
    store.set_limits(&tenant("acme"), QueueLimits::default().with_rate(50.0).with_burst(1)).await.unwrap();
    for n in 0..3 {
        store.enqueue(&ctx("acme"), task("index", json!(n))).await.unwrap();
    }
    // the word of the last enqueue
    store.wait(Duration::ZERO).await;
    let begun = clock.monotonic();
    for _ in 0..3 {
        while lease(&store, 9).await.is_empty() {
            store.wait(Duration::from_secs(60)).await;
        }
    }
    assert_eq!(clock.monotonic() - begun, Duration::from_millis(40), "two tokens later");
}

#[tokio::test]
async fn a_free_slot_is_told_to_who_waits_for_it() {
    let w = World::new().await;
    w.store.set_limits(&tenant("acme"), QueueLimits::default().with_running(1)).await.unwrap();
    for n in 0..2 {
        w.store.enqueue(&ctx("acme"), task("index", json!(n))).await.unwrap();
    }
    let one = lease_one(&w.store).await;
    assert!(lease(&w.store, 2).await.is_empty());
    // the words of the calls before; the clock stands still, so only a word can end a wait
    w.store.wait(Duration::ZERO).await;
    w.store.ack(&one, json!(null)).await.unwrap();
    let told = w.store.wait(Duration::from_secs(60));
    tokio::time::timeout(Duration::from_secs(60), told).await.expect("somebody tells of the free slot");
    lease_one(&w.store).await;
}
