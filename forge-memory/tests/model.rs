//! The store against a model in memory: whatever happens in whatever order, it answers as plain maps and brute force would.
#![cfg(feature = "embedded")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

mod common;

use std::collections::BTreeMap;

use common::record;
use forge_core::embed::Embedder;
use forge_core::testing::context;
use forge_core::vector::{Record, SearchRequest, VectorStore};
use forge_core::{ExecutionContext, Namespace, Slug};
use forge_memory::{EmbeddedVectors, HashEmbedder};
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    Put { place: usize, ids: Vec<u8>, text: u8 },
    Delete { place: usize, ids: Vec<u8> },
    Purge { place: usize },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let (place, ids) = (0..6_usize, prop::collection::vec(0..5_u8, 0..4));
    let step = prop_oneof![
        6 => (place.clone(), ids.clone(), any::<u8>()).prop_map(|(place, ids, text)| Step::Put { place, ids, text }),
        3 => (place.clone(), ids).prop_map(|(place, ids)| Step::Delete { place, ids }),
        1 => place.prop_map(|place| Step::Purge { place }),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..20)
}

/// Two tenants with the same employees and the same words: one namespace of each employee and a shared one.
fn places() -> Vec<(ExecutionContext, Namespace)> {
    let notes = || Slug::parse("notes").unwrap();
    let own = ["acme", "globex"].map(|tenant| {
        let (ana, bob) = (context(tenant, "ana", "analyst"), context(tenant, "bob", "analyst"));
        let shared = Namespace::shared(&ana, Slug::parse("ana").unwrap(), notes());
        [(ana.clone(), Namespace::of(&ana, notes())), (bob.clone(), Namespace::of(&bob, notes())), (bob, shared)]
    });
    own.concat()
}

/// A length of its own for each place, so that no vector fits another's.
fn vector(place: usize, text: u8) -> Vec<f32> {
    (0..=place).map(|n| if n == 0 { f32::from(text) } else { 1.0 }).collect()
}

type Model = BTreeMap<(usize, String), Record>;

async fn agrees(store: &EmbeddedVectors, model: &Model) {
    for (place, (ctx, space)) in places().iter().enumerate() {
        let mut mine: Vec<&Record> = model.iter().filter(|((p, _), _)| *p == place).map(|(_, r)| r).collect();
        assert_eq!(store.count(ctx, space).await.unwrap(), u64::try_from(mine.len()).unwrap());
        let found = |request: SearchRequest| async {
            let hits = store.search(ctx, space, request.with_limit(100)).await.unwrap();
            hits.into_iter().map(|h| (h.id, h.text)).collect::<Vec<_>>()
        };
        mine.sort_by(|a, b| b.vector[0].total_cmp(&a.vector[0]).then_with(|| a.id.cmp(&b.id)));
        let expected: Vec<_> = mine.iter().map(|r| (r.id.clone(), r.text.clone())).collect();
        assert_eq!(found(SearchRequest::nearest(vector(place, 1))).await, expected);
        let mut by_words = found(SearchRequest::words("common")).await;
        by_words.sort();
        mine.sort_by(|a, b| a.id.cmp(&b.id));
        assert_eq!(by_words, mine.iter().map(|r| (r.id.clone(), r.text.clone())).collect::<Vec<_>>());
        let exported: Vec<Record> = store.export(ctx).await.unwrap().into_iter().map(|(_, r)| r).collect();
        assert!(mine.iter().all(|r| exported.contains(r)));
        assert_eq!(exported.len(), model.keys().filter(|(p, _)| p / 3 == place / 3).count(), "its tenant's alone");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn every_interleaving_answers_as_the_model(steps in steps()) {
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        rt.block_on(async {
            let mut store = EmbeddedVectors::new(dir.path());
            let mut model = Model::new();
            for step in steps {
                match step {
                    Step::Put { place, ids, text } => {
                        let (ctx, space) = &places()[place];
                        let texts = format!("common {text} in {place}");
                        let records: Vec<Record> =
                            ids.iter().map(|id| record(&id.to_string(), &texts, vector(place, text))).collect();
                        store.upsert(ctx, space, records.clone()).await.unwrap();
                        model.extend(records.into_iter().map(|r| ((place, r.id.clone()), r)));
                    }
                    Step::Delete { place, ids } => {
                        let (ctx, space) = &places()[place];
                        let before = model.len();
                        let ids: Vec<String> = ids.iter().map(u8::to_string).collect();
                        model.retain(|(p, id), _| *p != place || !ids.contains(id));
                        let deleted = store.delete(ctx, space, ids).await.unwrap();
                        assert_eq!(deleted, u64::try_from(before - model.len()).unwrap());
                    }
                    Step::Purge { place } => {
                        store.purge(&places()[place].0).await.unwrap();
                        model.retain(|(p, _), _| p / 3 != place / 3);
                    }
                    Step::Reopen => store = EmbeddedVectors::new(dir.path()),
                }
            }
            agrees(&store, &model).await;
        });
    }

    #[test]
    fn nearest_is_exact(texts in prop::collection::vec("[a-e ]{1,20}", 1..30), query in "[a-e ]{1,20}", limit in 1..12_usize) {
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ctx = context("acme", "ana", "analyst");
        rt.block_on(async {
            let store = EmbeddedVectors::new(dir.path());
            let vectors = HashEmbedder.embed(&ctx, texts.clone()).await.unwrap();
            let query = HashEmbedder.embed(&ctx, vec![query]).await.unwrap().remove(0);
            let score = |v: &[f32]| v.iter().zip(&query).map(|(x, y)| f64::from(*x) * f64::from(*y)).sum::<f64>();
            let mut expected: Vec<f64> = vectors.iter().map(|v| score(v)).collect();
            expected.sort_by(|a, b| b.total_cmp(a));
            let records = texts.iter().zip(&vectors).enumerate();
            let records = records.map(|(n, (t, v))| record(&format!("{n:03}"), t, v.clone())).collect();
            let space = common::playbook(&ctx);
            store.upsert(&ctx, &space, records).await.unwrap();
            let hits = store.search(&ctx, &space, SearchRequest::nearest(query.clone()).with_limit(limit)).await.unwrap();
            assert_eq!(hits.len(), limit.min(texts.len()));
            for (hit, expected) in hits.iter().zip(expected) {
                let of_its_vector = score(&vectors[hit.id.parse::<usize>().unwrap()]);
                assert!((f64::from(hit.score) - expected).abs() < 1e-5 && (of_its_vector - expected).abs() < 1e-5);
            }
            assert!(hits.is_sorted_by(|a, b| a.score > b.score || (a.score == b.score && a.id < b.id)), "equals go by id");
        });
    }
}
