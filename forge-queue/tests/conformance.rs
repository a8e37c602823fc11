//! The shared suites on the SQLite store.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

mod common;

use std::sync::Arc;

use common::World;
use forge_core::approvals::Approvals;
use forge_core::blob::BlobStore;
use forge_core::fake::FakeKeyring;
use forge_core::journal::Journal;
use forge_core::kv::KeyValue;
use forge_core::testing::{Fixture, WholeQueue, approvals, blob_store, journal, key_value, task_queue};
use forge_queue::blob::FileBlobs;

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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_approvals_keep_their_contract() {
    approvals(|| async {
        let World { dir, clock, store } = World::new().await;
        let (path, time) = (dir.path().to_owned(), clock.clone());
        let store: Arc<dyn Approvals> = Arc::new(store);
        let again = move |old| async move {
            drop(old);
            let store: Arc<dyn Approvals> = Arc::new(common::open(&path, time).await);
            store
        };
        Fixture::new(store).with_clock(clock).reopening(again).keeping(dir)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_blobs_keep_their_contract() {
    blob_store(|| async {
        let World { dir, clock, .. } = World::new().await;
        let open = {
            let (path, clock) = (dir.path().join("blobs"), clock.clone());
            async move || FileBlobs::open(&path, Arc::new(FakeKeyring), clock.clone()).await.unwrap()
        };
        let store: Arc<dyn BlobStore> = Arc::new(open().await);
        let again = move |old| async move {
            drop(old);
            let store: Arc<dyn BlobStore> = Arc::new(open().await);
            store
        };
        Fixture::new(store).with_clock(clock).reopening(again).keeping(dir)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_keeps_its_contract() {
    journal(|| async {
        let World { dir, clock, store } = World::new().await;
        let (path, time) = (dir.path().to_owned(), clock.clone());
        let store: Arc<dyn Journal> = Arc::new(store);
        let again = move |old| async move {
            drop(old);
            let store: Arc<dyn Journal> = Arc::new(common::open(&path, time).await);
            store
        };
        Fixture::new(store).with_clock(clock).reopening(again).keeping(dir)
    })
    .await;
}
