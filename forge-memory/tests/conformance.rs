//! The shared suites on the embedded store.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use forge_core::embed::Embedder;
use forge_core::fake::{FakeKeyValue, ManualClock};
use forge_core::model::LanguageModel;
use forge_core::route::ModelRouter;
use forge_core::testing::{Fixture, embedder, language_model, model_router, vector_store};
use forge_core::vector::VectorStore;
use forge_memory::{EmbeddedVectors, ExtractiveModel, HashEmbedder, StandardRouter};

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

#[tokio::test]
async fn the_embedder_keeps_its_contract() {
    embedder(|| async { Fixture::new(Arc::new(HashEmbedder) as Arc<dyn Embedder>) }).await;
}

#[tokio::test]
async fn the_model_keeps_its_contract() {
    language_model(|| async { Fixture::new(Arc::new(ExtractiveModel) as Arc<dyn LanguageModel>) }).await;
}

#[tokio::test]
async fn the_router_keeps_its_contract() {
    model_router(|| async {
        let preferences = FakeKeyValue::new(Arc::new(ManualClock::default()));
        Fixture::new(Arc::new(StandardRouter::new(Arc::new(preferences))) as Arc<dyn ModelRouter>)
    })
    .await;
}
