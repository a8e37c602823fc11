//! A document becomes passages that are recalled.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use forge::core::embed::{Embedder, EmbedderCapability};
use forge::core::queue::TaskState;
use forge::core::{Depth, Health, HealthCheck, Namespace, Owner};
use forge::prelude::*;
use forge::tasks::EmbedDocument;
use serde_json::{Value, json};

use crate::{ana, ended, result, slug, under};

async fn host(dir: &Path) -> Forge {
    let grants = json!({ "grants": { "analyst":
        ["task.enqueue:*", "task.run:*", "task.read:*", "memory.write:documents", "memory.read:*"] } });
    let host = Forge::builder().config(Config::in_dir(dir)).tenant("acme", grants.clone()).tenant("globex", grants);
    host.build().await.unwrap()
}

/// Sections, each of which is a passage.
fn text(sections: &[&str]) -> String {
    let section =
        |s: &&str| format!("The {s} clause says what {s} means. {}\n\n", format!("It is about {s}. ").repeat(60));
    sections.iter().map(section).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_is_recalled_by_its_tenant_and_delivered_again_adds_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let forge = host(dir.path()).await;
    let ctx = ana(&forge);
    let whole = format!("{}Write to bob@example.com.", text(&["indemnity", "warranty"]));
    let blob = forge.blobs().put(&ctx, whole.into()).await.unwrap();
    let shared = Namespace::shared(&ctx, slug("firm"), slug("documents"));
    let first = EmbedDocument::blob("nda-7", slug("documents"), blob).with_title("NDA").with_tag("public");
    let first = first.with_owner(&Owner::Shared(slug("firm")));
    let embed = async |of: &EmbedDocument| result(ended(&forge, &ctx, of.task().unwrap(), || ()).await);
    let answer = embed(&first).await;
    let n = answer["passages"].as_u64().unwrap();
    assert!(n >= 3, "{answer}");
    assert_eq!(answer, json!({ "document_id": "nda-7", "passages": n, "added": n, "removed": 0 }));
    assert_eq!(embed(&first).await["added"], 0, "again is no second time");

    let recall = async |query: &str| forge.scope(&ctx).recall(&shared, query, 100).await.unwrap();
    let hits = recall("indemnity").await;
    assert_eq!(hits.len(), usize::try_from(n).unwrap());
    assert!(hits.iter().any(|h| h.text.contains("bob@example.com")), "the values of its tokens come back");
    assert!(hits.iter().all(|h| h.title == "NDA" && h.tags.contains("public") && !h.id.contains("nda")));

    // a new version leaves what stayed as it was, and nothing of the old one
    let mut second =
        EmbedDocument::text("nda-7", slug("documents"), text(&["indemnity", "survival"])).with_title("NDA");
    (second.tags, second.owner) = (first.tags.clone(), first.owner.clone());
    let answer = embed(&second).await;
    assert!(answer["removed"].as_u64() > Some(0) && answer["added"].as_u64() < answer["passages"].as_u64(), "{answer}");
    let hits = recall("warranty").await;
    assert_eq!(Some(u64::try_from(hits.len()).unwrap()), answer["passages"].as_u64());
    assert!(hits.iter().all(|h| !h.text.contains("warranty") && !h.text.contains("bob")));

    let gil = forge.context(Principal::employee("globex", "gil", "analyst").unwrap());
    let theirs = Namespace::shared(&gil, slug("firm"), slug("documents"));
    assert!(forge.scope(&gil).recall(&theirs, "indemnity", 100).await.unwrap().is_empty(), "isolation");
    let foreign = forge.scope(&gil).enqueue(first.task().unwrap()).await.unwrap();
    let state = crate::status(&forge, &gil, foreign, || ()).await.state;
    assert!(matches!(&state, TaskState::Dead { report } if report.kind == ErrorKind::NotFound), "isolation: {state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_document_is_a_dead_letter_that_repeats_nothing_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let forge = host(dir.path()).await;
    let ctx = ana(&forge);
    let good = EmbedDocument::text("nda-7", slug("documents"), "Bob pays.").task().unwrap();
    let bad = |key: &str, value: Value| {
        let mut task = good.clone();
        task.payload[key] = value;
        task.unique = None;
        task
    };
    let twice = json!({ "digest": "0".repeat(64), "size": 1 });
    for (task, kind) in [
        (bad("text", json!(null)), ErrorKind::InvalidInput),
        (bad("blob", twice), ErrorKind::InvalidInput),
        (bad("owner", json!("../x")), ErrorKind::InvalidInput),
        (bad("document_id", json!("")), ErrorKind::InvalidInput),
        (bad("unknown", json!("Bob")), ErrorKind::InvalidInput),
        (bad("memory_type", json!("secrets")), ErrorKind::PolicyDenied),
    ] {
        match ended(&forge, &ctx, task, || ()).await.state {
            TaskState::Dead { report } => {
                assert_eq!(report.kind, kind, "{report:?}");
                assert!(!format!("{report:?}").contains("Bob"), "{report:?}");
            }
            other => panic!("{other:?}"),
        }
    }
}

/// Is never there.
#[derive(Debug, Default, Clone)]
struct Away(Arc<AtomicU32>);

#[async_trait]
impl Embedder for Away {
    async fn embed(&self, _: &ExecutionContext, _: Vec<String>) -> Result<Vec<Vec<f32>>> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Err(Error::new(ErrorKind::Unavailable, "embed", "the embedder is away"))
    }

    fn model(&self) -> &str {
        "away-1"
    }

    fn capability(&self) -> EmbedderCapability {
        EmbedderCapability::new(4, 8, false, false)
    }
}

#[async_trait]
impl HealthCheck for Away {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_always_fails_is_tried_four_times() {
    let away = Away::default();
    let forge = Forge::for_tests().with(|host| host.embedder(Arc::new(away.clone()))).build().await.unwrap();
    let ctx = ana(&forge);
    let task = EmbedDocument::text("nda-7", slug("documents"), "Bob pays.").task().unwrap();
    let status = ended(&forge, &ctx, task, under(&forge)).await;
    assert!(matches!(&status.state, TaskState::Dead { report } if report.kind == ErrorKind::Unavailable), "{status:?}");
    assert_eq!((status.attempts, away.0.load(Ordering::SeqCst)), (4, 4), "3 retries after the first try");
}
