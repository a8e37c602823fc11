//! What is let out of a call: cached answers, and documents by their tags.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use forge_core::audit::AuditEvent;
use forge_core::fake::{FakePolicy, FakeVectors, ManualClock};
use forge_core::guard::{CacheFor, CallOptions, Guarded, ToolSet, Tools};
use forge_core::policy::{Obligations, Verdict};
use forge_core::redact::EntityKind;
use forge_core::testing::{FakeGuard, context, fake_guard, tool_env};
use forge_core::tool::{Effect, Tool, ToolCall, ToolOutput, ToolSpec};
use forge_core::usage::{Quantity, UsageStatus};
use forge_core::vector::{Record, SearchRequest, VectorStore};
use forge_core::{ErrorKind, ExecutionContext, Namespace, Result, Slug};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Answers with a number that rises with every execution, out of a confidential document.
#[derive(Debug, Default)]
struct Parse {
    made: Arc<AtomicU32>,
    tags: &'static [&'static str],
}

#[async_trait]
impl Tool for Parse {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("parse", "reads").input::<Value>().effect(Effect::Read).cached(DAY, CacheFor::Tenant)
    }

    async fn call(&self, _: &ExecutionContext, _: ToolCall) -> Result<ToolOutput> {
        let n = self.made.fetch_add(1, Ordering::SeqCst);
        Ok(ToolOutput::new(json!({ "n": n, "by": "ana@example.com" })).with_documents(self.tags.iter().copied()))
    }
}

/// Roles whose name begins with `guest` may not read what is confidential; a clerk sees no addresses in any document.
fn policy() -> FakePolicy {
    FakePolicy::by(|input| {
        let closed = input.action == "document.read"
            && input.doc_tags.contains("confidential")
            && input.role.as_str().starts_with("guest");
        let masked = input.action == "document.read" && input.role == "clerk";
        let redact_output = masked.then_some(EntityKind::Email).into_iter().collect();
        let verdict = if closed { Verdict::Deny } else { Verdict::Allow };
        (verdict, Obligations { redact_output, ..Obligations::default() })
    })
}

fn bench(tags: &'static [&'static str]) -> (FakeGuard, Tools, Arc<AtomicU32>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::default());
    let fake = fake_guard(policy(), clock.clone());
    let made = Arc::new(AtomicU32::new(0));
    let tool = Parse { made: made.clone(), tags };
    let tools = Tools::seal(fake.guard.clone(), tool_env(), ToolSet::new().tool(tool)).unwrap();
    (fake, tools, made, clock)
}

async fn ask(tools: &Tools, ctx: &ExecutionContext, text: &str) -> Result<Value> {
    let out = tools.call(ctx, "parse", json!({ "text": text }), CallOptions::default()).await?;
    Ok(out.content().clone())
}

#[tokio::test]
async fn a_cached_answer_is_decided_audited_and_metered_and_not_executed() {
    let (fake, tools, made, clock) = bench(&[]);
    let (ana, bo, globex) =
        (context("acme", "ana", "analyst"), context("acme", "bo", "lawyer"), context("globex", "ana", "analyst"));
    assert_eq!(ask(&tools, &ana, "a").await.unwrap()["n"], 0);
    assert_eq!(ask(&tools, &ana, "a").await.unwrap()["n"], 0, "the same question");
    assert_eq!(ask(&tools, &bo, "a").await.unwrap()["n"], 0, "a colleague's, where the tool says so");
    assert_eq!(ask(&tools, &ana, "b").await.unwrap()["n"], 1, "another question");
    assert_eq!(ask(&tools, &globex, "a").await.unwrap()["n"], 2, "another tenant's answer is never given");
    let results = |tenant: &str| -> Vec<String> {
        let records = fake.audit.records().into_iter().filter(|r| r.tenant == tenant);
        let outcome = |e| if let AuditEvent::Outcome { result, .. } = e { Some(result) } else { None };
        records.filter_map(|r| outcome(r.event)).collect()
    };
    assert_eq!(results("acme"), ["ok", "cached", "cached", "ok"]);
    assert_eq!(results("globex"), ["ok"]);
    let cached: Vec<_> = fake.ledger.all().into_iter().filter(|e| e.status == UsageStatus::Cached).collect();
    assert_eq!(cached.len(), 2);
    assert!(cached.iter().all(|e| e.quantity == Quantity::default()), "nothing was used");
    let decisions = fake.audit.records().iter().filter(|r| r.event.name() == "decision").count();
    assert_eq!(decisions, 5, "each was decided");
    clock.advance(DAY);
    assert_eq!(ask(&tools, &ana, "a").await.unwrap()["n"], 3, "a day later it is read again");
    assert_eq!(made.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn content_of_a_document_is_handed_on_to_those_who_may_read_it_also_from_the_cache() {
    let (fake, tools, made, _) = bench(&["confidential"]);
    let (ana, guest) = (context("acme", "ana", "analyst"), context("acme", "gil", "guest"));
    assert!(ask(&tools, &ana, "a").await.is_ok());
    for text in ["a", "fresh"] {
        let refused = ask(&tools, &guest, text).await.unwrap_err();
        assert_eq!((refused.kind(), refused.operation()), (ErrorKind::PolicyDenied, "guard.document"), "{text}");
    }
    assert_eq!(made.load(Ordering::SeqCst), 2, "the cached one was not read again");
    let documents = fake.audit.records().into_iter().filter(|r| r.action == "document.read");
    let verdicts: Vec<Verdict> = documents
        .filter_map(|r| if let AuditEvent::Decision { verdict, .. } = r.event { Some(verdict) } else { None })
        .collect();
    assert_eq!(verdicts, [Verdict::Allow, Verdict::Deny, Verdict::Deny], "each has its row");
}

#[tokio::test]
async fn a_cached_answer_is_masked_for_who_reads_it_now() {
    let (_, tools, made, _) = bench(&["open"]);
    let (ana, clerk) = (context("acme", "ana", "analyst"), context("acme", "cy", "clerk"));
    assert_eq!(ask(&tools, &ana, "a").await.unwrap()["by"], "ana@example.com");
    assert_eq!(ask(&tools, &clerk, "a").await.unwrap()["by"], "[EMAIL]");
    assert_eq!(made.load(Ordering::SeqCst), 1, "both from one reading");
}

#[tokio::test]
async fn a_search_withholds_what_may_not_be_read_and_still_finds_enough() {
    let fake = fake_guard(policy(), Arc::new(ManualClock::default()));
    let store: Arc<dyn VectorStore> = Arc::new(FakeVectors::default());
    let store = Guarded::new(store, fake.guard.clone());
    let (ana, guest) = (context("acme", "ana", "analyst"), context("acme", "ana", "guest"));
    let notes = Namespace::of(&ana, Slug::parse("notes").unwrap());
    let record = |n: u8| Record {
        id: n.to_string(),
        title: String::new(),
        text: format!("note {n}"),
        vector: vec![f32::from(n), 1.0],
        // the nearest ones are closed
        tags: if n >= 4 { ["confidential".to_owned()].into() } else { ["open".to_owned()].into() },
    };
    store.upsert(&ana, &notes, (0..12).map(record).collect()).await.unwrap();
    let search = |ctx| {
        let request = SearchRequest::nearest(vec![1.0, 0.0]).with_limit(3);
        store.search(ctx, &notes, request)
    };
    assert!(search(&ana).await.unwrap().iter().all(|h| h.tags.contains("confidential")));
    let open = search(&guest).await.unwrap();
    assert_eq!(open.len(), 3, "withheld hits do not shorten the answer");
    assert!(open.iter().all(|h| h.tags.contains("open")));
}

#[tokio::test]
async fn a_policy_that_does_not_answer_is_a_denial_and_a_deadline_ends_every_wait() {
    #[derive(Debug)]
    struct Silent;
    #[async_trait]
    impl forge_core::HealthCheck for Silent {
        async fn check(&self, _: forge_core::Depth) -> forge_core::Health {
            forge_core::Health::up()
        }
    }
    #[async_trait]
    impl forge_core::policy::PolicyEngine for Silent {
        async fn decide(
            &self,
            _: &ExecutionContext,
            _: &forge_core::policy::PolicyInput,
        ) -> Result<forge_core::policy::Decision> {
            std::future::pending().await
        }
        fn capability(&self) -> forge_core::policy::PolicyCapability {
            forge_core::policy::PolicyCapability::new(false, false)
        }
    }
    let fake = fake_guard(policy(), Arc::new(forge_core::fake::SkippingClock::default()));
    let parts = forge_core::guard::GuardParts { policy: Arc::new(Silent), ..fake.parts };
    let made = Arc::new(AtomicU32::new(0));
    let tool = Parse { made: made.clone(), tags: &[] };
    let guard = forge_core::guard::Guard::new(parts);
    let tools = Tools::seal(guard, tool_env(), ToolSet::new().tool(tool)).unwrap();
    let refused = ask(&tools, &context("acme", "ana", "analyst"), "a").await.unwrap_err();
    assert_eq!((refused.kind(), refused.operation()), (ErrorKind::Timeout, "guard.policy"));
    assert_eq!((made.load(Ordering::SeqCst), fake.audit.records().len()), (0, 1), "refused, and in the books");
}
