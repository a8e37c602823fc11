//! A host as it is assembled: every problem at once, one owner of a directory, tasks whose payload rests as tokens, an orderly end.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forge::core::model::{Completion, CompletionRequest, LanguageModel, Message, ModelCapability};
use forge::core::queue::{Lease, NewTask, TaskHandler, TaskState};
use forge::core::usage::{Quantity, UsageQuery};
use forge::core::{Depth, Health, HealthCheck, Namespace, Slug, TaskId};
use forge::memory::Passage;
use forge::prelude::*;
use serde_json::{Value, json};

#[derive(Debug)]
struct Named(&'static str);

#[async_trait]
impl Tool for Named {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new(self.0, "does nothing").effect(Effect::Read)
    }

    async fn call(&self, _: &ExecutionContext, _: ToolCall) -> Result<ToolOutput> {
        Ok(json!(null).into())
    }
}

/// Keeps what it is given.
#[derive(Debug, Clone, Default)]
struct Keep(Arc<Mutex<Vec<Value>>>);

#[async_trait]
impl TaskHandler for Keep {
    async fn handle(&self, _: &ExecutionContext, task: &Lease) -> Result<Value> {
        self.0.lock().unwrap().push(task.payload.clone());
        Ok(json!({ "kept": true }))
    }
}

fn grants() -> Value {
    json!({ "grants": { "analyst": ["tool.call:*", "task.enqueue:*", "task.run:*", "task.read:*", "memory.write:*", "memory.read:*", "usage.read:*", "audit.read:*"] } })
}

fn builder(dir: &Path) -> forge::ForgeBuilder {
    Forge::builder().config(Config::in_dir(dir)).tenant("acme", grants()).tenant("globex", grants()).tool(Named("noop"))
}

fn ana(forge: &Forge) -> ExecutionContext {
    forge.context(Principal::employee("acme", "ana", "analyst").unwrap())
}

fn holds(dir: &Path, needle: &str) -> bool {
    std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).any(|path| {
        if path.is_dir() {
            return holds(&path, needle);
        }
        std::fs::read(&path).unwrap().windows(needle.len()).any(|w| w == needle.as_bytes())
    })
}

#[tokio::test]
async fn every_problem_of_a_host_is_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::in_dir(dir.path());
    config.queue.concurrency = 0;
    let e = Forge::builder()
        .config(config)
        .tenant("Not A Tenant", json!({}))
        .policies(Policies::new().with_policy("bad.rego", "package forge.tool_access\ndefault decision := \"allow\""))
        .tool(Named("UPPER"))
        .tool(Named("twice"))
        .tool(Named("twice"))
        .task("no such: name", Keep::default())
        .build()
        .await
        .unwrap_err();
    let text = e.to_string();
    for part in ["queue.concurrency", "TenantId", "bad.rego", "Slug", "tool=UPPER", "tool=twice"] {
        assert!(text.contains(part), "{part} is not named in:\n{text}");
    }
    let e =
        builder(dir.path()).tool(Named("UPPER")).tool(Named("twice")).tool(Named("twice")).build().await.unwrap_err();
    assert_eq!(e.problems().len(), 2, "{e}");
    let wrong = Workflow::new("Bad Name", 1).stage(stage("s").steps([tool("missing"), tool("noop"), tool("noop")]));
    let e = builder(&dir.path().join("2")).workflow(wrong).build().await.unwrap_err();
    assert_eq!(e.problems().len(), 3, "{e}");
}

#[tokio::test]
async fn a_directory_has_one_owner_and_outlives_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = builder(dir.path()).build().await.unwrap();
    let e = builder(dir.path()).build().await.unwrap_err();
    assert!(e.to_string().contains("another process owns"), "{e}");
    first.scope(&ana(&first)).call("noop", json!({})).await.unwrap();
    assert!(first.health(Depth::Deep).await.is_ready());
    first.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(first);
    let again = loop {
        // the stores close in threads of their own
        match builder(dir.path()).build().await {
            Ok(forge) => break forge,
            Err(e) => assert!(e.to_string().contains("another process owns"), "{e}"),
        }
    };
    let ctx = ana(&again);
    let totals = again.scope(&ctx).usage_totals(ctx.tenant(), &UsageQuery::default()).await.unwrap();
    assert_eq!(totals.quantity.tool_calls, 1, "what was used before is still in the ledger");
    assert_eq!(again.scope(&ctx).verify_audit(ctx.tenant()).await.unwrap().broken, None);
}

async fn settled(forge: &Forge, ctx: &ExecutionContext, id: TaskId) -> TaskState {
    loop {
        match forge.scope(ctx).task(ctx.tenant(), id).await.unwrap().state {
            TaskState::Ready | TaskState::Leased => tokio::task::yield_now().await,
            end => return end,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_payload_rests_as_tokens_and_its_handler_gets_the_values() {
    let dir = tempfile::tempdir().unwrap();
    let keep = Keep::default();
    let forge = builder(dir.path()).task("keep", keep.clone()).build().await.unwrap();
    let ctx = ana(&forge);
    let payload =
        json!({ "mail": "bob@example.com", "card": "4111 1111 1111 1111", "portal_password": "Blue-Heron-42" });
    let id = forge.scope(&ctx).enqueue(NewTask::new(Slug::parse("keep").unwrap(), payload.clone())).await.unwrap();
    assert!(matches!(settled(&forge, &ctx, id).await, TaskState::Succeeded { .. }));
    assert_eq!(keep.0.lock().unwrap().as_slice(), [payload]);
    let space = Namespace::of(&ctx, Slug::parse("notes").unwrap());
    forge.scope(&ctx).remember(&space, vec![Passage::new("1", "Bob", "write to bob@example.com")]).await.unwrap();
    assert_eq!(forge.scope(&ctx).recall(&space, "write", 1).await.unwrap()[0].text, "write to bob@example.com");
    forge.shutdown(Duration::from_secs(5)).await.unwrap();
    for planted in ["bob@example.com", "4111 1111 1111 1111", "Blue-Heron-42"] {
        assert!(!holds(dir.path(), planted), "{planted} rests in clear");
    }
}

/// Answers with what it was given.
#[derive(Debug)]
struct Echo;

#[async_trait]
impl TaskHandler for Echo {
    async fn handle(&self, _: &ExecutionContext, task: &Lease) -> Result<Value> {
        Ok(task.payload.clone())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_rests_as_tokens_and_its_reader_gets_what_the_policy_lets_out() {
    let dir = tempfile::tempdir().unwrap();
    let forge = builder(dir.path()).task("echo", Echo).build().await.unwrap();
    let ctx = ana(&forge);
    let payload = json!({ "mail": "bob@example.com", "card": "4111 1111 1111 1111" });
    let id = forge.scope(&ctx).enqueue(NewTask::new(Slug::parse("echo").unwrap(), payload.clone())).await.unwrap();
    assert_eq!(settled(&forge, &ctx, id).await, TaskState::Succeeded { result: payload });
    let flagged = Principal::employee("acme", "ana", "analyst").unwrap();
    let flagged = forge.context(flagged.with_compliance_flag(Slug::parse("pci-dss").unwrap()));
    let masked = json!({ "mail": "bob@example.com", "card": "[CREDIT_CARD]" });
    assert_eq!(settled(&forge, &flagged, id).await, TaskState::Succeeded { result: masked });
    forge.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn a_tenant_is_refused_everything_of_another_and_each_attempt_is_in_its_own_chain() {
    let dir = tempfile::tempdir().unwrap();
    let forge = builder(dir.path()).build().await.unwrap();
    let ctx = ana(&forge);
    let space = Namespace::of(&ctx, Slug::parse("notes").unwrap());
    forge.scope(&ctx).remember(&space, vec![Passage::new("1", "t", "acme's own")]).await.unwrap();
    let gus = forge.context(Principal::employee("globex", "gus", "analyst").unwrap());
    let stranger = forge.scope(&gus);
    let acme = ctx.tenant();
    let attempts = [
        stranger.recall(&space, "own", 1).await.err(),
        stranger.remember(&space, vec![Passage::new("1", "t", "overwritten")]).await.err(),
        stranger.usage(acme, &UsageQuery::default(), 1).await.err(),
        stranger.usage_totals(acme, &UsageQuery::default()).await.err(),
        stranger.audit(acme, 1, 1).await.err(),
        stranger.task(acme, TaskId::fixed(1)).await.err(),
        stranger.export_audit(acme, dir.path().join("stolen.jsonl")).await.err(),
    ];
    for e in &attempts {
        assert_eq!(e.as_ref().map(Error::kind), Some(ErrorKind::TenantMismatch));
    }
    assert!(!dir.path().join("stolen.jsonl").exists());
    let rows = stranger.audit(gus.tenant(), 1, 100).await.unwrap();
    assert!(rows.len() > attempts.len() && rows.iter().all(|r| r.record.tenant == "globex"));
    assert_eq!(forge.scope(&ctx).recall(&space, "own", 1).await.unwrap()[0].text, "acme's own");
}

/// A model that only says its name.
#[derive(Debug)]
struct Says(&'static str);

#[async_trait]
impl HealthCheck for Says {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl LanguageModel for Says {
    async fn complete(&self, _: &ExecutionContext, _: CompletionRequest) -> Result<Completion> {
        let quantity = Quantity { tokens_in: 1, tokens_out: 1, ..Quantity::default() };
        Ok(Completion {
            text: self.0.into(),
            model: self.0.into(),
            response_id: None,
            citations: vec![],
            quantity,
            finish: Default::default(),
        })
    }

    fn model(&self) -> &str {
        self.0
    }

    fn capability(&self) -> ModelCapability {
        ModelCapability::new(true, false, false)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preference_chooses_among_what_the_policy_allows_and_outlives_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let grants = json!({ "grants": { "analyst": ["model.complete:acme/*", "preference.write:models"] } });
    let host = || {
        let builder = Forge::builder().config(Config::in_dir(dir.path())).tenant("acme", grants.clone());
        ["acme/a", "acme/b", "secret/c"].into_iter().fold(builder, |b, name| b.model(Arc::new(Says(name)))).build()
    };
    let ask = async |forge: &Forge, ctx: &ExecutionContext| {
        let request = CompletionRequest::new(vec![Message::user("who?")]);
        forge.scope(ctx).complete(request).await.map(|c| c.model)
    };
    let forge = host().await.unwrap();
    let (ana_, bo) = (ana(&forge), forge.context(Principal::employee("acme", "bo", "analyst").unwrap()));
    assert_eq!(ask(&forge, &ana_).await.unwrap(), "acme/a", "the host's order, without a preference");
    forge.scope(&ana_).prefer_models(&["secret/c".into(), "acme/b".into()]).await.unwrap();
    assert_eq!(ask(&forge, &ana_).await.unwrap(), "acme/b", "what is denied cannot be preferred");
    assert_eq!(ask(&forge, &bo).await.unwrap(), "acme/a", "it is hers alone");
    let visitor = forge.context(Principal::employee("acme", "eve", "visitor").unwrap());
    assert_eq!(ask(&forge, &visitor).await.unwrap_err().kind(), ErrorKind::PolicyDenied);
    forge.shutdown(Duration::from_secs(5)).await.unwrap();
    drop(forge);
    let forge = host().await.unwrap();
    assert_eq!(ask(&forge, &ana(&forge)).await.unwrap(), "acme/b");
    forge.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test]
async fn an_operator_changes_the_key_of_seals_while_work_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let forge = builder(dir.path()).task("keep", Keep::default()).build().await.unwrap();
    let ctx = ana(&forge);
    let queued =
        async || forge.scope(&ctx).enqueue(NewTask::new(Slug::parse("keep").unwrap(), json!({}))).await.unwrap();
    let old = forge.seal_keys().remove(0);
    let under_the_old = queued().await;
    let new = forge.rotate_seal_key().await.unwrap();
    assert_eq!(forge.seal_keys(), [new.clone(), old.clone()]);
    let under_the_new = queued().await;
    for id in [under_the_old, under_the_new] {
        assert!(matches!(settled(&forge, &ctx, id).await, TaskState::Succeeded { .. }), "both are accepted");
    }
    assert_eq!(forge.retire_seal_key(&new).await.unwrap_err().kind(), ErrorKind::Conflict, "not the one that seals");
    forge.retire_seal_key(&old).await.unwrap();
    assert_eq!(forge.seal_keys(), [new]);
    assert!(matches!(settled(&forge, &ctx, queued().await).await, TaskState::Succeeded { .. }));
    forge.shutdown(Duration::from_secs(5)).await.unwrap();
}
