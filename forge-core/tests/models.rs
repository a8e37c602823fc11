//! Several language models: what the policy denies is not asked, and what is down is passed over.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use forge_core::audit::AuditEvent;
use forge_core::fake::{FakePolicy, FakeRouter, SkippingClock};
use forge_core::guard::{CallOptions, Models, Tries};
use forge_core::model::{Completion, CompletionRequest, LanguageModel, Message, ModelCapability};
use forge_core::policy::{Obligations, Verdict};
use forge_core::route::{Candidate, ModelRouter};
use forge_core::testing::{FakeGuard, context, fake_guard};
use forge_core::usage::{Quantity, UsageQuery};
use forge_core::{Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Result};

/// Fails with the kind, or answers with its name; notes that it was asked.
#[derive(Debug)]
struct Named(&'static str, Option<ErrorKind>, Arc<Mutex<Vec<&'static str>>>);

#[async_trait]
impl HealthCheck for Named {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl LanguageModel for Named {
    async fn complete(&self, _: &ExecutionContext, _: CompletionRequest) -> Result<Completion> {
        self.2.lock().unwrap().push(self.0);
        if let Some(kind) = self.1 {
            return Err(Error::new(kind, "model.complete", "no"));
        }
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

struct Bench {
    models: Models,
    fakes: FakeGuard,
    asked: Arc<Mutex<Vec<&'static str>>>,
}

fn bench(policy: FakePolicy, router: Arc<dyn ModelRouter>, models: &[(&'static str, Option<ErrorKind>)]) -> Bench {
    let fakes = fake_guard(policy, Arc::new(SkippingClock::default()));
    let asked = Arc::new(Mutex::new(Vec::new()));
    let named = |(name, fails): &(&'static str, Option<ErrorKind>)| {
        Arc::new(Named(name, *fails, asked.clone())) as Arc<dyn LanguageModel>
    };
    let models = Models::new(fakes.guard.clone(), models.iter().map(named).collect(), router).unwrap();
    Bench { models, fakes, asked }
}

/// Routes among `a` and `b`; a call of `closed` is denied.
fn policy(closed: &'static str) -> FakePolicy {
    FakePolicy::by(move |input| match input.action.as_str() {
        "model.route" => {
            let model_allow = input.candidates.iter().filter(|c| *c != closed).cloned().collect();
            (Verdict::Allow, Obligations { model_allow, ..Obligations::default() })
        }
        _ if input.tool_name == closed => (Verdict::Deny, Obligations::default()),
        _ => (Verdict::Allow, Obligations::default()),
    })
}

fn once() -> CallOptions {
    CallOptions::default().with_tries(Tries::ONCE)
}

fn request() -> CompletionRequest {
    CompletionRequest::new(vec![Message::user("hello")])
}

#[tokio::test]
async fn a_model_that_is_down_is_passed_over_and_each_call_has_its_books() {
    let b = bench(policy("c"), Arc::new(FakeRouter), &[("a", Some(ErrorKind::Unavailable)), ("b", None), ("c", None)]);
    let ana = context("acme", "ana", "analyst");
    let answer = b.models.complete(&ana, request(), once()).await.unwrap();
    assert_eq!((answer.model.as_str(), b.asked.lock().unwrap().as_slice()), ("b", &["a", "b"][..]));
    let rows = b.fakes.audit.records();
    let mut seen: Vec<_> = rows.iter().map(|r| (r.action.as_str(), r.resource.as_str(), word(&r.event))).collect();
    seen.sort_unstable();
    let expected = [
        ("model.complete", "a", "allow"),
        ("model.complete", "a", "unavailable"),
        ("model.complete", "b", "allow"),
        ("model.complete", "b", "ok"),
        ("model.route", "models", "allow"),
    ];
    assert_eq!(seen, expected);
    let usage =
        forge_core::usage::UsageLedger::events(&b.fakes.ledger, &ana, &UsageQuery::default(), 10).await.unwrap();
    let operations: std::collections::BTreeSet<_> = usage.iter().map(|e| e.operation.clone()).collect();
    assert_eq!((usage.len(), operations.len()), (2, 2), "each model is an operation of its own");
}

fn word(event: &AuditEvent) -> &str {
    match event {
        AuditEvent::Decision { verdict: Verdict::Allow, .. } => "allow",
        AuditEvent::Decision { .. } => "deny",
        AuditEvent::Outcome { result, .. } => result,
        _ => "other",
    }
}

#[tokio::test]
async fn a_denied_model_is_never_fallen_back_to() {
    let failing = [("a", Some(ErrorKind::Unavailable)), ("closed", None)];
    let b = bench(policy("closed"), Arc::new(FakeRouter), &failing);
    let e = b.models.complete(&context("acme", "ana", "analyst"), request(), once()).await.unwrap_err();
    assert_eq!((e.kind(), b.asked.lock().unwrap().as_slice()), (ErrorKind::Unavailable, &["a"][..]));
    let e = b.models.complete(&context("acme", "ana", "analyst"), request().with_model("closed"), once()).await;
    assert_eq!(e.unwrap_err().kind(), ErrorKind::PolicyDenied, "nor when it is named");
}

/// Answers with names of its own.
#[derive(Debug)]
struct Rogue(&'static [&'static str]);

#[async_trait]
impl HealthCheck for Rogue {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl ModelRouter for Rogue {
    async fn route(&self, _: &ExecutionContext, _: &CompletionRequest, _: &[Candidate]) -> Result<Vec<String>> {
        Ok(self.0.iter().map(|s| (*s).to_owned()).collect())
    }
}

#[tokio::test]
async fn a_router_lets_nothing_through_that_the_policy_does_not() {
    let b = bench(policy("closed"), Arc::new(Rogue(&["closed", "unknown"])), &[("a", None), ("closed", None)]);
    let e = b.models.complete(&context("acme", "ana", "analyst"), request(), once()).await.unwrap_err();
    assert_eq!((e.kind(), b.asked.lock().unwrap().len()), (ErrorKind::InvalidInput, 0));
}

#[tokio::test]
async fn what_is_wrong_with_the_request_is_not_tried_elsewhere() {
    for kind in [ErrorKind::InvalidInput, ErrorKind::PolicyDenied, ErrorKind::Unauthenticated] {
        let b = bench(policy("c"), Arc::new(FakeRouter), &[("a", Some(kind)), ("b", None)]);
        let e = b.models.complete(&context("acme", "ana", "analyst"), request(), once()).await.unwrap_err();
        assert_eq!((e.kind(), b.asked.lock().unwrap().as_slice()), (kind, &["a"][..]));
    }
}

#[tokio::test]
async fn names_are_checked() {
    let fakes = fake_guard(FakePolicy::allow_all(), Arc::new(SkippingClock::default()));
    let asked = Arc::default();
    let twice: Vec<Arc<dyn LanguageModel>> =
        vec![Arc::new(Named("a", None, Arc::clone(&asked))), Arc::new(Named("a", None, asked))];
    for models in [vec![], twice] {
        let e = Models::new(fakes.guard.clone(), models, Arc::new(FakeRouter)).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Config);
    }
    let b = bench(policy("c"), Arc::new(FakeRouter), &[("a", None)]);
    let e = b.models.complete(&context("acme", "ana", "analyst"), request().with_model("z"), once()).await;
    assert_eq!(e.unwrap_err().kind(), ErrorKind::NotFound);
}
