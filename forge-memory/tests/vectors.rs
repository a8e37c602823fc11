//! What is remembered is found again, best first, and only by its tenant.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{holds, near, playbook, raw_bytes, record};
use forge_core::fake::FakeRedactor;
use forge_core::testing::context;
use forge_core::vector::{Record, SearchRequest, VectorStore};
use forge_core::{ErrorKind, Namespace, Slug};
use forge_memory::{EmbeddedVectors, HashEmbedder, Memory, Passage};

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

fn ids(hits: &[forge_core::vector::Hit]) -> Vec<&str> {
    hits.iter().map(|h| h.id.as_str()).collect()
}

#[tokio::test]
async fn a_foreign_namespace_is_refused_by_every_operation() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedVectors::new(dir.path());
    let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "ana", "analyst"));
    let foreign = playbook(&acme);
    let refused = [
        store.upsert(&globex, &foreign, vec![]).await.unwrap_err(),
        store.search(&globex, &foreign, SearchRequest::words("x")).await.unwrap_err(),
        store.delete(&globex, &foreign, vec![]).await.unwrap_err(),
        store.count(&globex, &foreign).await.unwrap_err(),
    ];
    assert!(refused.iter().all(|e| e.kind() == ErrorKind::TenantMismatch), "{refused:?}");
    assert!(std::fs::read_dir(dir.path()).unwrap().next().is_none(), "not even a file is opened");
}

#[tokio::test]
async fn tags_are_applied_before_the_best_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedVectors::new(dir.path());
    let ctx = context("acme", "ana", "analyst");
    let mut records: Vec<Record> = (0..50).map(|n| record(&format!("near-{n}"), "x x x", near(1.0))).collect();
    let tags = || ["law".to_owned(), "us".to_owned()].into();
    records
        .extend((2..9).map(|n| Record { tags: tags(), ..record(&format!("far-{n}"), "x and more words", near(0.1)) }));
    store.upsert(&ctx, &playbook(&ctx), records).await.unwrap();
    for request in [SearchRequest::nearest(near(1.0)), SearchRequest::words("x"), SearchRequest::hybrid("x", near(1.0))]
    {
        let request = request.with_limit(3).with_tag("law");
        let hits = store.search(&ctx, &playbook(&ctx), request.clone().with_tag("us")).await.unwrap();
        assert_eq!(ids(&hits), ["far-2", "far-3", "far-4"], "of equals those whose ids come first");
        assert!(hits[0].tags.contains("law"));
        assert!(store.search(&ctx, &playbook(&ctx), request.with_tag("eu")).await.unwrap().is_empty(), "all of them");
    }
}

#[tokio::test]
async fn words_and_meaning_together_put_first_what_both_find() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedVectors::new(dir.path());
    let ctx = context("acme", "ana", "analyst");
    let mut records = vec![
        record("words", "indemnity indemnity indemnity", near(-1.0)),
        record("both", "an indemnity, of a kind, with many other words around it", near(0.99)),
        record("near", "nothing alike", near(1.0)),
    ];
    records.extend((0..20).map(|n| record(&format!("other-{n}"), "a clause", near(0.0))));
    store.upsert(&ctx, &playbook(&ctx), records).await.unwrap();
    let space = playbook(&ctx);
    let search = |request| store.search(&ctx, &space, request);
    assert_eq!(ids(&search(SearchRequest::words("indemnity")).await.unwrap()), ["words", "both"]);
    assert_eq!(ids(&search(SearchRequest::nearest(near(1.0))).await.unwrap())[..2], ["near", "both"]);
    let hybrid = search(SearchRequest::hybrid("indemnity", near(1.0))).await.unwrap();
    assert_eq!(hybrid[0].id, "both");
    assert!((hybrid[0].score - 2.0 / 62.0).abs() < 1e-6, "reciprocal ranks with k = 60: {}", hybrid[0].score);
}

#[tokio::test]
async fn ten_thousand_vectors_are_searched_and_the_nearest_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedVectors::new(dir.path());
    let ctx = context("acme", "ana", "analyst");
    let mut rng = 1_u64;
    let mut random = || {
        rng = rng.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        f32::from(i16::from_le_bytes([rng.to_le_bytes()[6], rng.to_le_bytes()[7]])) / 32768.0
    };
    let query: Vec<f32> = (0..100).map(|_| random()).collect();
    let records: Vec<Record> = (0..10_000)
        .map(|n| record(&format!("{n:05}"), &format!("passage {n}"), (0..100).map(|_| random()).collect()))
        .collect();
    let mut expected: Vec<(f32, String)> =
        records.iter().map(|r| (r.vector.iter().zip(&query).map(|(x, y)| x * y).sum(), r.id.clone())).collect();
    expected.sort_by(|a, b| b.0.total_cmp(&a.0));
    for batch in records.chunks(2_500) {
        store.upsert(&ctx, &playbook(&ctx), batch.to_vec()).await.unwrap();
    }
    let hits = store.search(&ctx, &playbook(&ctx), SearchRequest::nearest(query.clone())).await.unwrap();
    assert_eq!(ids(&hits), expected.iter().take(10).map(|(_, id)| id.as_str()).collect::<Vec<_>>());
    let one = store.search(&ctx, &playbook(&ctx), SearchRequest::hybrid("7311", query).with_limit(1000)).await.unwrap();
    assert!(one.len() == 1000 && one.iter().any(|h| h.text == "passage 7311"));
}

/// A ranked record that a writer deletes before it is fetched was once reported as a damaged file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn searches_beside_a_writer_see_one_moment() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedVectors::new(dir.path());
    let ctx = context("acme", "ana", "analyst");
    let batch = |round: usize| (0..40).map(|n| record(&format!("{n}"), &format!("word {round}"), near(0.5))).collect();
    store.upsert(&ctx, &playbook(&ctx), batch(0)).await.unwrap();
    let writer = tokio::spawn({
        let (store, ctx) = (store.clone(), ctx.clone());
        async move {
            for round in 1..60 {
                store.upsert(&ctx, &playbook(&ctx), batch(round)).await.unwrap();
            }
        }
    });
    while !writer.is_finished() {
        let request = SearchRequest::hybrid("word", near(1.0)).with_limit(100);
        let hits = store.search(&ctx, &playbook(&ctx), request).await.unwrap();
        assert!(hits.len() == 40 && hits.iter().all(|h| h.text == hits[0].text), "one batch, whole");
    }
    writer.await.unwrap();
}

#[tokio::test]
async fn a_file_that_was_closed_for_others_is_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedVectors::new(dir.path());
    let contexts: Vec<_> = (0..70).map(|n| context(&format!("t{n}"), "ana", "analyst")).collect();
    for ctx in &contexts {
        store.upsert(ctx, &playbook(ctx), vec![record("a", ctx.tenant().as_str(), near(1.0))]).await.unwrap();
    }
    for ctx in &contexts {
        let hits = store.search(ctx, &playbook(ctx), SearchRequest::nearest(near(1.0))).await.unwrap();
        assert_eq!((hits.len(), hits[0].text.as_str()), (1, ctx.tenant().as_str()));
    }
}

#[tokio::test]
async fn hostile_queries_and_wrong_records_are_refused_or_harmless() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedVectors::new(dir.path());
    let ctx = context("acme", "ana", "analyst");
    let space = playbook(&ctx);
    let record = |id: &str, vector: Vec<f32>| record(id, "\" OR 1=1 --", vector);
    store.upsert(&ctx, &space, vec![record("'; DROP TABLE records; --", vec![1.0])]).await.unwrap();
    for query in ["\"", "a AND", "NEAR(", "*", "body:x", "'; DROP TABLE records; --", "\u{0}"] {
        store.search(&ctx, &space, SearchRequest::words(query)).await.unwrap();
    }
    // a whole document as the query
    let document: String = (0..20_000).map(|n| format!("word{n} ")).collect();
    store.search(&ctx, &space, SearchRequest::words(document)).await.unwrap();
    for request in [
        SearchRequest::words("x".repeat(1024 * 1024 + 1)),
        SearchRequest::words("x").with_limit(0),
        SearchRequest::words("x").with_limit(1001),
        SearchRequest::nearest(vec![]),
        SearchRequest::nearest(vec![f32::INFINITY]),
        SearchRequest::nearest(vec![f32::MAX]),
        SearchRequest::nearest(vec![1.0, 0.0]),
        SearchRequest::default().with_limit(1),
    ] {
        assert_eq!(store.search(&ctx, &space, request).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    let long = "x".repeat(129);
    for bad in [
        record("", vec![1.0]),
        record(&long, vec![1.0]),
        record("a", vec![]),
        record("a", vec![f32::NAN]),
        record("a", vec![1.0, 2.0]),
        record("a", vec![1.0; 4097]),
        Record { text: "x".repeat(1024 * 1024 + 1), ..record("a", vec![1.0]) },
        Record { title: "x".repeat(1024 * 1024 + 1), ..record("a", vec![1.0]) },
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
