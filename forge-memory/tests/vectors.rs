//! What is remembered is found again, by its tenant alone, and rests as tokens.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::path::Path;
use std::sync::Arc;

use forge_core::embed::Embedder;
use forge_core::fake::FakeRedactor;
use forge_core::testing::context;
use forge_core::vector::{Record, SearchRequest, VectorStore};
use forge_core::{ErrorKind, ExecutionContext, Namespace, Slug};
use forge_memory::{EmbeddedVectors, HashEmbedder, Memory, Passage};
use proptest::prelude::*;

fn playbook(ctx: &ExecutionContext) -> Namespace {
    Namespace::shared(ctx, Slug::parse("firm").unwrap(), Slug::parse("playbook").unwrap())
}

fn memory(dir: &Path) -> Memory {
    Memory::new(Arc::new(EmbeddedVectors::new(dir)), Arc::new(HashEmbedder), Arc::new(FakeRedactor))
}

fn passages() -> Vec<Passage> {
    vec![
        Passage::new("term", "Term", "Confidentiality ends three years after disclosure. Ask bob@example.com first."),
        Passage::new("law", "Governing law", "We accept the laws of Oregon or of Delaware.").with_tag("law"),
        Passage::new("return", "Return", "Documents are returned or destroyed on request."),
    ]
}

fn raw_bytes(dir: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        all.extend(if entry.is_dir() { raw_bytes(&entry) } else { std::fs::read(entry).unwrap() });
    }
    all
}

fn holds(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|w| w == needle.as_bytes())
}

#[tokio::test]
async fn the_obvious_passage_comes_first_and_clear_values_never_rest() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = context("acme", "ana", "analyst");
    {
        memory(dir.path()).remember(&ctx, &playbook(&ctx), passages()).await.unwrap();
    }
    // another process opens the files
    let memory = memory(dir.path());
    for (query, id) in
        [("how long does confidentiality last", "term"), ("which laws govern", "law"), ("returned documents", "return")]
    {
        assert_eq!(memory.recall(&ctx, &playbook(&ctx), query, 3).await.unwrap()[0].id, id, "{query}");
    }
    let hit = memory.recall(&ctx, &playbook(&ctx), "bob@example.com", 1).await.unwrap().remove(0);
    assert!(hit.text.contains("bob@example.com"), "its own tenant gets the value back: {}", hit.text);
    let raw = raw_bytes(dir.path());
    assert!(holds(&raw, "Confidentiality ends") && !holds(&raw, "bob@example.com"));
}

#[tokio::test]
async fn tenants_have_files_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let memory = memory(dir.path());
    let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "ana", "analyst"));
    memory.remember(&acme, &playbook(&acme), passages()).await.unwrap();
    memory
        .remember(&globex, &playbook(&globex), vec![Passage::new("term", "Term", "Globex keeps secrets for ever.")])
        .await
        .unwrap();
    let foreign = memory.recall(&globex, &playbook(&acme), "term", 1).await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::TenantMismatch);
    let seen = memory.recall(&globex, &playbook(&globex), "oregon delaware term", 10).await.unwrap();
    assert!(seen.iter().all(|h| h.text.contains("Globex")), "{seen:?}");
    let own = Namespace::of(&acme, Slug::parse("playbook").unwrap());
    assert!(
        memory.recall(&acme, &own, "term", 10).await.unwrap().is_empty(),
        "nor do an employee's and the tenant's namespaces mix"
    );
    assert!(!holds(&raw_bytes(&dir.path().join("acme")), "Globex"));
}

#[tokio::test]
async fn tags_are_applied_before_the_best_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedVectors::new(dir.path());
    let ctx = context("acme", "ana", "analyst");
    let vector = |x: f32| vec![x, (1.0 - x * x).sqrt()];
    let mut records: Vec<Record> = (0..50_u8)
        .map(|n| Record {
            id: format!("near-{n}"),
            title: String::new(),
            text: "x".into(),
            vector: vector(1.0),
            tags: Default::default(),
        })
        .collect();
    records.extend((0..3_u8).map(|n| Record {
        id: format!("far-{n}"),
        title: String::new(),
        text: "x".into(),
        vector: vector(0.1),
        tags: ["law".to_owned()].into(),
    }));
    store.upsert(&ctx, &playbook(&ctx), records).await.unwrap();
    let hits = store
        .search(&ctx, &playbook(&ctx), SearchRequest::nearest(vector(1.0)).with_limit(3).with_tag("law"))
        .await
        .unwrap();
    assert_eq!(hits.iter().map(|h| h.id.as_str()).collect::<Vec<_>>(), ["far-0", "far-1", "far-2"]);
}

#[tokio::test]
async fn hostile_queries_and_wrong_records_are_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedVectors::new(dir.path());
    let ctx = context("acme", "ana", "analyst");
    let space = playbook(&ctx);
    let record = |id: &str, vector: Vec<f32>| Record {
        id: id.into(),
        title: "t".into(),
        text: "\" OR 1=1 --".into(),
        vector,
        tags: Default::default(),
    };
    store.upsert(&ctx, &space, vec![record("'; DROP TABLE records; --", vec![1.0])]).await.unwrap();
    for query in ["\"", "a AND", "NEAR(", "*", "body:x", "'; DROP TABLE records; --", "\u{0}"] {
        store.search(&ctx, &space, SearchRequest::words(query)).await.unwrap();
    }
    let long = "x".repeat(129);
    for bad in [
        record("", vec![1.0]),
        record(&long, vec![1.0]),
        record("a", vec![]),
        record("a", vec![f32::NAN]),
        record("a", vec![1.0, 2.0]),
    ] {
        let batch = vec![record("good", vec![1.0]), bad];
        assert_eq!(store.upsert(&ctx, &space, batch).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(store.count(&ctx, &space).await.unwrap(), 1, "all of a batch or none of it");
    assert_eq!(store.delete(&ctx, &space, vec!["'; DROP TABLE records; --".into(), "none".into()]).await.unwrap(), 1);
    store.upsert(&ctx, &space, vec![record("a", vec![1.0])]).await.unwrap();
    store.purge(&ctx).await.unwrap();
    assert!(store.export(&ctx).await.unwrap().is_empty());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn nearest_is_exact(texts in prop::collection::vec("[a-e ]{1,20}", 1..30), query in "[a-e ]{1,20}") {
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ctx = context("acme", "ana", "analyst");
        let (found, expected) = rt.block_on(async {
            let store = EmbeddedVectors::new(dir.path());
            let vectors = HashEmbedder.embed(&ctx, texts.clone()).await.unwrap();
            let q = HashEmbedder.embed(&ctx, vec![query]).await.unwrap().remove(0);
            let records: Vec<Record> = texts.iter().zip(vectors).enumerate()
                .map(|(n, (t, vector))| Record { id: format!("{n:03}"), title: String::new(), text: t.clone(), vector, tags: Default::default() }).collect();
            let mut expected: Vec<(f32, String)> = records.iter().map(|r| (q.iter().zip(&r.vector).map(|(a, b)| a * b).sum(), r.id.clone())).collect();
            expected.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
            store.upsert(&ctx, &playbook(&ctx), records).await.unwrap();
            let hits = store.search(&ctx, &playbook(&ctx), SearchRequest::nearest(q).with_limit(5)).await.unwrap();
            (hits.into_iter().map(|h| h.id).collect::<Vec<_>>(), expected.into_iter().take(5).map(|(_, id)| id).collect::<Vec<_>>())
        });
        prop_assert_eq!(found, expected);
    }
}
