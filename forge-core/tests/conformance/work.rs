//! Journals, models, embedders, prices and tools.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use forge_core::embed::Embedder;
use forge_core::fake::{FakeEmbedder, FakeJournal, FakeModel, FakePricing, FakeRouter};
use forge_core::journal::{Claim, Journal, NewRun, Owed, RunEvent, RunRecord, RunState, StepRecord, Transition};
use forge_core::model::LanguageModel;
use forge_core::route::ModelRouter;
use forge_core::testing::{Fixture, ToolCase, embedder, journal, language_model, model_router, pricing, probe, tool};
use forge_core::tool::{Effect, Probe, Probed, Tool, ToolCall, ToolOutput, ToolSpec};
use forge_core::usage::Pricing;
use forge_core::{Depth, ExecutionContext, Health, HealthCheck, OperationKey, Result, RunId, TenantId, Timestamp};
use serde_json::json;

use crate::finds_the_leak;

#[tokio::test]
async fn journals() {
    journal(|| async { Fixture::new(Arc::new(FakeJournal::default()) as Arc<dyn Journal>) }).await;
}

#[tokio::test]
async fn embedders() {
    embedder(|| async { Fixture::new(Arc::new(FakeEmbedder) as Arc<dyn Embedder>) }).await;
}

#[tokio::test]
async fn models() {
    let answers = || std::iter::repeat_with(|| Ok("Oregon".to_owned())).take(20);
    language_model(|| async { Fixture::new(Arc::new(FakeModel::new(answers())) as Arc<dyn LanguageModel>) }).await;
}

#[tokio::test]
async fn routers() {
    model_router(|| async { Fixture::new(Arc::new(FakeRouter) as Arc<dyn ModelRouter>) }).await;
}

#[tokio::test]
async fn prices() {
    pricing(|| async { Fixture::new(Arc::new(FakePricing) as Arc<dyn Pricing>) }).await;
}

#[tokio::test]
async fn tools() {
    let post = || {
        let far = FarSide::default();
        let count = far.clone();
        ToolCase::new(Arc::new(Post(far, true)) as Arc<dyn Probe>, json!({ "text": "hello" }))
            .with_effects(move || count.0.load(Ordering::SeqCst))
    };
    probe(|| async { post() }).await;
    let post = || {
        let far = FarSide::default();
        let count = far.clone();
        ToolCase::new(Arc::new(Post(far, true)) as Arc<dyn Tool>, json!({ "text": "hello" }))
            .with_effects(move || count.0.load(Ordering::SeqCst))
    };
    tool(|| async { post() }).await;
}

#[tokio::test]
async fn those_that_forget_the_tenant_are_found() {
    finds_the_leak(journal(|| async { Fixture::new(Arc::new(Forgetful(FakeJournal::default())) as Arc<dyn Journal>) }))
        .await;
    finds_the_leak(probe(|| async {
        ToolCase::new(Arc::new(Post(FarSide::default(), false)) as Arc<dyn Probe>, json!({ "text": "hello" }))
    }))
    .await;
}

/// The operations that were made, and how many.
#[derive(Debug, Clone, Default)]
struct FarSide(Arc<AtomicUsize>, Arc<std::sync::Mutex<Vec<(TenantId, OperationKey)>>>);

/// Sends once for each key; without the flag, it looks for keys of every tenant.
#[derive(Debug)]
struct Post(FarSide, bool);

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    #[expect(dead_code, reason = "only its shape is used")]
    text: String,
}

#[async_trait]
impl Tool for Post {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("post", "posts a text").input::<Args>().effect(Effect::Send).idempotent()
    }

    async fn call(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        let _: Args = call.args()?;
        let mut made = self.0.1.lock().unwrap();
        let key = (ctx.tenant().clone(), call.key().clone());
        if !made.contains(&key) {
            made.push(key);
            self.0.0.fetch_add(1, Ordering::SeqCst);
        }
        Ok(json!({ "posted": true }).into())
    }
}

#[async_trait]
impl Probe for Post {
    async fn probe(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<Probed> {
        let made = self.0.1.lock().unwrap();
        let ours = |(tenant, key): &(TenantId, OperationKey)| key == call.key() && (!self.1 || tenant == ctx.tenant());
        let there = made.iter().any(ours);
        Ok(if there { Probed::Happened(json!({ "posted": true }).into()) } else { Probed::NotHappened })
    }
}

/// Keeps everybody's runs in one place.
#[derive(Debug)]
struct Forgetful(FakeJournal);

fn all() -> TenantId {
    TenantId::parse("everybody").unwrap()
}

fn of_all(claim: &Claim) -> Claim {
    Claim { tenant: all(), ..claim.clone() }
}

#[async_trait]
impl HealthCheck for Forgetful {
    async fn check(&self, depth: Depth) -> Health {
        self.0.check(depth).await
    }
}

#[async_trait]
impl Journal for Forgetful {
    async fn create(&self, run: NewRun) -> Result<RunRecord> {
        self.0.create(NewRun { tenant: all(), ..run }).await
    }

    async fn run(&self, _: &TenantId, run: RunId) -> Result<RunRecord> {
        self.0.run(&all(), run).await
    }

    async fn steps(&self, _: &TenantId, run: RunId) -> Result<Vec<StepRecord>> {
        self.0.steps(&all(), run).await
    }

    async fn events(&self, _: &TenantId, run: RunId, from_seq: u64) -> Result<Vec<RunEvent>> {
        self.0.events(&all(), run, from_seq).await
    }

    async fn runs(&self, _: &TenantId, state: Option<RunState>, limit: usize) -> Result<Vec<RunRecord>> {
        self.0.runs(&all(), state, limit).await
    }

    async fn resumable(&self, owner: &str, now: Timestamp, limit: usize) -> Result<Vec<(TenantId, RunId)>> {
        self.0.resumable(owner, now, limit).await
    }

    async fn claim(
        &self,
        tenant: &TenantId,
        run: RunId,
        owner: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim> {
        let claim = self.0.claim(&all(), run, owner, now, until).await?;
        Ok(Claim { tenant: tenant.clone(), ..claim })
    }

    async fn extend(&self, claim: &Claim, until: Timestamp) -> Result<()> {
        self.0.extend(&of_all(claim), until).await
    }

    async fn release(&self, claim: &Claim) -> Result<()> {
        self.0.release(&of_all(claim)).await
    }

    async fn apply(&self, claim: &Claim, now: Timestamp, changes: Vec<Transition>) -> Result<bool> {
        self.0.apply(&of_all(claim), now, changes).await
    }

    async fn replay(&self, _: &TenantId, run: RunId, now: Timestamp) -> Result<bool> {
        self.0.replay(&all(), run, now).await
    }

    async fn request_cancel(&self, _: &TenantId, run: RunId) -> Result<bool> {
        self.0.request_cancel(&all(), run).await
    }

    async fn owed(&self, after: u64, limit: usize) -> Result<Vec<Owed>> {
        let acme = TenantId::parse("acme")?;
        Ok(self.0.owed(after, limit).await?.into_iter().map(|o| Owed { tenant: acme.clone(), ..o }).collect())
    }

    async fn paid(&self, ids: &[u64]) -> Result<()> {
        self.0.paid(ids).await
    }
}
