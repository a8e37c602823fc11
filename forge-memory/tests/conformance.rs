//! The shared suites on the embedded store.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use forge_core::testing::{Fixture, vector_store};
use forge_core::vector::VectorStore;
use forge_memory::EmbeddedVectors;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_vectors_keep_their_contract() {
    vector_store(|| async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let store: Arc<dyn VectorStore> = Arc::new(EmbeddedVectors::new(&path));
        let again = move |old| async move {
            drop(old);
            let store: Arc<dyn VectorStore> = Arc::new(EmbeddedVectors::new(&path));
            store
        };
        Fixture::new(store).reopening(again).keeping(dir)
    })
    .await;
}
