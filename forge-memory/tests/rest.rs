//! What rests in the files: tokens, one tenant's texts each, all that was acknowledged and nothing that was deleted.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{PLANTED, PlantedRedactor, holds, near, playbook, raw_bytes, record};
use forge_core::testing::context;
use forge_core::vector::{Record, SearchRequest, VectorStore};
use forge_core::{ExecutionContext, Namespace, Slug};
use forge_memory::{EmbeddedVectors, HashEmbedder, Memory, Passage};
use forge_sqlite::rusqlite::Connection;

fn canary() -> String {
    format!("Ask {} to pay {} by card {}, in confidence.", PLANTED[0], PLANTED[1], PLANTED[2])
}

fn found_nowhere(dir: &Path) {
    let raw = raw_bytes(dir);
    assert!(holds(&raw, "in confidence"), "the rest of the text is there, so the grep can find");
    for value in PLANTED {
        assert!(!holds(&raw, value), "{value} rests in clear");
    }
    assert!(!holds(&raw, "canary") && !holds(&raw, "370400440532"), "nor does a part of one, as a word of the index");
}

#[tokio::test]
async fn whoever_writes_to_the_store_clear_values_rest_nowhere() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = context("acme", "ana", "analyst");
    let store = EmbeddedVectors::new(dir.path()).with_redactor(Arc::new(PlantedRedactor));
    let clear = Record { title: format!("About {}", PLANTED[0]), ..record("a", &canary(), near(1.0)) };
    store.upsert(&ctx, &playbook(&ctx), vec![clear.clone(), record("b", "nothing of it", near(1.0))]).await.unwrap();
    found_nowhere(dir.path());

    // asked for in clear, found as a token, given back in clear
    let hits = store.search(&ctx, &playbook(&ctx), SearchRequest::words(PLANTED[0])).await.unwrap();
    assert_eq!((hits.len(), &hits[0].text, &hits[0].title), (1, &clear.text, &clear.title));
    let exported = store.export(&ctx).await.unwrap();
    assert_eq!(exported[0], ("~firm:playbook".to_owned(), clear));
    found_nowhere(dir.path());
}

#[tokio::test]
async fn memory_tokenises_for_a_store_that_does_not_and_for_one_that_does() {
    for twice in [false, true] {
        let dir = tempfile::tempdir().unwrap();
        let ctx = context("acme", "ana", "analyst");
        let mut store = EmbeddedVectors::new(dir.path());
        if twice {
            store = store.with_redactor(Arc::new(PlantedRedactor));
        }
        let memory = Memory::new(Arc::new(store), Arc::new(HashEmbedder), Arc::new(PlantedRedactor));
        let passages = vec![Passage::new("a", PLANTED[2], canary()), Passage::new("b", "Other", "something else")];
        memory.remember(&ctx, &playbook(&ctx), passages).await.unwrap();
        found_nowhere(dir.path());
        let hit = memory.recall(&ctx, &playbook(&ctx), PLANTED[1], 1).await.unwrap().remove(0);
        assert_eq!((hit.title, hit.text), (PLANTED[2].to_owned(), canary()));
    }
}

#[tokio::test]
async fn a_tenants_token_is_nobody_elses_value() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedVectors::new(dir.path()).with_redactor(Arc::new(PlantedRedactor));
    let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "ana", "analyst"));
    // a token that leaked to another tenant
    store.upsert(&globex, &playbook(&globex), vec![record("a", "see [tok_acme_0]", near(1.0))]).await.unwrap();
    let hits = store.search(&globex, &playbook(&globex), SearchRequest::words("see")).await.unwrap();
    assert_eq!(hits[0].text, "see [tok_acme_0]");
    store.upsert(&acme, &playbook(&acme), vec![record("a", "see [tok_acme_0]", near(1.0))]).await.unwrap();
    let hits = store.search(&acme, &playbook(&acme), SearchRequest::words("see")).await.unwrap();
    assert_eq!(hits[0].text, format!("see {}", PLANTED[0]));
}

fn checkpoint(dir: &Path, tenant: &str) {
    let file = Connection::open(dir.join(tenant).join("vectors.db")).unwrap();
    let busy = || file.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |r| r.get::<_, i64>(0)).unwrap() != 0;
    // a purged file's writer is on its way out and does the same
    for _ in 0..1_000_000 {
        if !busy() {
            return;
        }
        std::thread::yield_now();
    }
    panic!("somebody else keeps the log");
}

#[tokio::test]
async fn what_is_deleted_replaced_or_purged_leaves_no_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let store = EmbeddedVectors::new(dir.path());
    let ctx = context("acme", "ana", "analyst");
    let space = playbook(&ctx);
    let put = |id: &'static str, text: &'static str| store.upsert(&ctx, &space, vec![record(id, text, near(1.0))]);
    put("keep", "quixotic").await.unwrap();
    put("gone", "zyzzyva one").await.unwrap();
    put("other", "syzygy two").await.unwrap();
    checkpoint(dir.path(), "acme");
    assert!(holds(&raw_bytes(dir.path()), "zyzzyva") && holds(&raw_bytes(dir.path()), "syzygy"));

    store.delete(&ctx, &space, vec!["gone".into()]).await.unwrap();
    put("other", "replaced").await.unwrap();
    checkpoint(dir.path(), "acme");
    let raw = raw_bytes(dir.path());
    assert!(!holds(&raw, "zyzzyva") && !holds(&raw, "syzygy") && holds(&raw, "quixotic"));

    store.purge(&ctx).await.unwrap();
    checkpoint(dir.path(), "acme");
    assert!(!holds(&raw_bytes(dir.path()), "quixotic") && store.export(&ctx).await.unwrap().is_empty());
    // and a purged tenant starts anew, with vectors of any length
    store.upsert(&ctx, &space, vec![record("new", "quixotic", vec![1.0; 3])]).await.unwrap();
    assert_eq!(store.search(&ctx, &space, SearchRequest::words("quixotic")).await.unwrap().len(), 1);
}

/// The files as a power cut leaves them: the log cut at `at` permille of its length, no shared memory.
fn power_cut(from: &Path, to: &Path, at: usize) {
    std::fs::create_dir_all(to).unwrap();
    std::fs::copy(from.join("vectors.db"), to.join("vectors.db")).unwrap();
    let log = std::fs::read(from.join("vectors.db-wal")).unwrap();
    std::fs::write(to.join("vectors.db-wal"), &log[..log.len() * at / 1000]).unwrap();
}

#[tokio::test]
async fn after_a_power_cut_whole_batches_are_there_by_id_vector_and_word() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = context("acme", "ana", "analyst");
    let store = EmbeddedVectors::new(dir.path());
    for batch in 0..20 {
        let records = (0..5).map(|n| record(&format!("{batch}-{n}"), "a word of it", near(0.5))).collect();
        store.upsert(&ctx, &playbook(&ctx), records).await.unwrap();
    }
    let mut counts = Vec::new();
    for at in [0, 1, 130, 333, 500, 617, 850, 999, 1000] {
        let after = dir.path().join(format!("after-{at}"));
        power_cut(&dir.path().join("acme"), &after.join("acme"), at);
        counts.push(whole(&ctx, &EmbeddedVectors::new(after)).await);
    }
    assert!(counts.is_sorted() && counts.iter().all(|n| n % 5 == 0), "{counts:?}");
    assert!(counts[4] > 0 && counts[4] < 100, "some cuts fall between batches: {counts:?}");
    assert_eq!(counts.last(), Some(&100), "what was acknowledged is in the log");
}

async fn whole(ctx: &ExecutionContext, store: &EmbeddedVectors) -> usize {
    let space = playbook(ctx);
    let by_words = store.search(ctx, &space, SearchRequest::words("word").with_limit(1000)).await.unwrap();
    let by_vector = store.search(ctx, &space, SearchRequest::nearest(near(1.0)).with_limit(1000)).await.unwrap();
    let count = usize::try_from(store.count(ctx, &space).await.unwrap()).unwrap();
    assert_eq!((by_words.len(), by_vector.len(), store.export(ctx).await.unwrap().len()), (count, count, count));
    store.upsert(ctx, &space, vec![record("later", "another word", near(0.1))]).await.unwrap();
    assert_eq!(store.delete(ctx, &space, vec!["later".into()]).await.unwrap(), 1);
    count
}

#[tokio::test]
async fn a_damaged_file_is_named_and_others_keep_working() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(dir.path().join("acme")).unwrap();
    std::fs::write(dir.path().join("acme/vectors.db"), "this is no database, whatever its name".repeat(200)).unwrap();
    let store = EmbeddedVectors::new(dir.path());
    let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "ana", "analyst"));
    let error = store.count(&acme, &playbook(&acme)).await.unwrap_err();
    assert_eq!(error.kind(), forge_core::ErrorKind::Corrupt);
    assert_eq!(store.count(&globex, &playbook(&globex)).await.unwrap(), 0);
    let own = Namespace::of(&globex, Slug::parse("notes").unwrap());
    store.upsert(&globex, &own, vec![record("a", "text", near(1.0))]).await.unwrap();
}
