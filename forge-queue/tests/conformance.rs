//! The shared suites on the SQLite store.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use common::World;
use forge_core::kv::KeyValue;
use forge_core::testing::{Fixture, WholeQueue, key_value, task_queue};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_values_keep_their_contract() {
    key_value(|| async {
        let World { dir, clock, store } = World::new().await;
        let (path, time) = (dir.path().to_owned(), clock.clone());
        let store: Arc<dyn KeyValue> = Arc::new(store);
        let again = move |old| async move {
            drop(old);
            let store: Arc<dyn KeyValue> = Arc::new(common::open(&path, time).await);
            store
        };
        Fixture::new(store).with_clock(clock).reopening(again).keeping(dir)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_keeps_its_contract() {
    task_queue(|| async {
        let World { dir, clock, store } = World::new().await;
        let (path, time) = (dir.path().to_owned(), clock.clone());
        let store: Arc<dyn WholeQueue> = Arc::new(store);
        let again = move |old| async move {
            drop(old);
            let store: Arc<dyn WholeQueue> = Arc::new(common::open(&path, time).await);
            store
        };
        Fixture::new(store).with_clock(clock).reopening(again).keeping(dir)
    })
    .await;
}
