//! The guard's promises: one decision and one outcome for each executed call, one decision and no execution for each
//! refusal, and every slot, permit and reservation closed, whatever the tool does.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use async_trait::async_trait;
use forge_core::approvals::{Answer, Approval, ApprovalState, Approvals, ApprovalsCapability};
use forge_core::audit::{AuditEvent, AuditRecord};
use forge_core::fake::{
    FakeApprovals, FakeAudit, FakeKeyring, FakeLedger, FakePolicy, FakePricing, FakeQuota, FakeRedactor, SkippingClock,
};
use forge_core::guard::{CallOptions, Guard, GuardParts, StepBooks, ToolSet, Tools};
use forge_core::metrics::NoMetrics;
use forge_core::policy::{Obligations, Verdict};
use forge_core::redact::EntityKind;
use forge_core::testing::{context, fake_guard, tool_env};
use forge_core::tool::{Effect, Tool, ToolCall, ToolOutput, ToolSpec};
use forge_core::usage::UsageStatus;
use forge_core::{
    ApprovalId, Clock, Depth, Digest, Error, ErrorKind, ExecutionContext, Health, HealthCheck, OperationKey, Result,
    RunId,
};
use serde_json::{Value, json};

#[derive(Debug, Clone, Copy, PartialEq)]
enum Behaviour {
    Answer,
    Fail(ErrorKind),
    FailOnce,
    Panic,
    Hang,
}

#[derive(Debug)]
struct Scripted {
    behaviour: Behaviour,
    effect: Effect,
    calls: Arc<AtomicU32>,
    seen: Arc<std::sync::Mutex<Vec<String>>>,
}

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    #[expect(dead_code, reason = "only its schema is used")]
    text: String,
}

#[async_trait]
impl Tool for Scripted {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("scripted", "does as told").input::<Args>().effect(self.effect)
    }

    async fn call(&self, _: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        let n = self.calls.fetch_add(1, Ordering::SeqCst);
        self.seen.lock().unwrap().push(call.raw_args().get().to_owned());
        match self.behaviour {
            Behaviour::Answer => Ok(json!({ "mail": "bob@example.com", "bell": "\u{7}" }).into()),
            Behaviour::Fail(kind) => Err(Error::new(kind, "scripted", "as told")),
            Behaviour::FailOnce if n == 0 => Err(Error::new(ErrorKind::Unavailable, "scripted", "as told")),
            Behaviour::FailOnce => Ok(json!(null).into()),
            Behaviour::Panic => panic!("as told"),
            Behaviour::Hang => std::future::pending().await,
        }
    }
}

struct Bench {
    tools: Tools,
    guard: Guard,
    audit: FakeAudit,
    ledger: FakeLedger,
    quota: FakeQuota,
    calls: Arc<AtomicU32>,
    seen: Arc<std::sync::Mutex<Vec<String>>>,
}

fn bench(behaviour: Behaviour, effect: Effect, policy: FakePolicy, quota: FakeQuota) -> Bench {
    let (audit, ledger, calls, seen) = (FakeAudit::default(), FakeLedger::default(), Arc::default(), Arc::default());
    // a hanging tool needs a clock whose sleep ends; the others one that never ends before their answer
    let clock: Arc<dyn forge_core::Clock> =
        if matches!(behaviour, Behaviour::Hang | Behaviour::FailOnce | Behaviour::Fail(_)) {
            Arc::new(SkippingClock::default())
        } else {
            Arc::new(forge_core::fake::ManualClock::default())
        };
    let guard = Guard::new(GuardParts {
        policy: Arc::new(policy),
        approvals: Arc::new(FakeApprovals::default()),
        redactor: Arc::new(FakeRedactor),
        keyring: Arc::new(FakeKeyring),
        quota: Arc::new(quota.clone()),
        pricing: Arc::new(FakePricing),
        ledger: Arc::new(ledger.clone()),
        audit: Arc::new(audit.clone()),
        metrics: Arc::new(NoMetrics),
        clock,
    });
    let tool = Scripted { behaviour, effect, calls: Arc::clone(&calls), seen: Arc::clone(&seen) };
    let tools = Tools::seal(guard.clone(), tool_env(), ToolSet::new().tool(tool)).unwrap();
    Bench { tools, guard, audit, ledger, quota, calls, seen }
}

fn count(records: &[AuditRecord], name: &str) -> usize {
    records.iter().filter(|r| r.event.name() == name).count()
}

fn args() -> Value {
    json!({ "text": "write to ana@example.com" })
}

#[tokio::test]
async fn every_executed_call_has_one_decision_one_outcome_and_one_usage() {
    use Behaviour::{Answer, Fail, FailOnce, Panic};
    let behaviours = [Answer, Fail(ErrorKind::NotFound), Fail(ErrorKind::Unavailable), FailOnce, Panic];
    for behaviour in behaviours {
        for effect in [Effect::Read, Effect::Write, Effect::Send] {
            let b = bench(behaviour, effect, FakePolicy::allow_all(), FakeQuota::default());
            let r = b.tools.call(&context("acme", "ana", "analyst"), "scripted", args(), CallOptions::default()).await;
            let records = b.audit.records();
            assert_eq!(
                (count(&records, "decision"), count(&records, "outcome")),
                (1, 1),
                "{behaviour:?} {effect:?} {r:?}"
            );
            assert_eq!((b.ledger.all().len(), b.quota.open()), (1, 0), "{behaviour:?} {effect:?}");
        }
    }
}

#[tokio::test]
async fn a_refusal_has_one_decision_and_no_execution() {
    let deny = || bench(Behaviour::Answer, Effect::Send, FakePolicy::deny_all(), FakeQuota::default());
    let full = || bench(Behaviour::Answer, Effect::Send, FakePolicy::allow_all(), FakeQuota::calls(0));
    let cases = [
        (deny(), args(), ErrorKind::PolicyDenied),
        (full(), args(), ErrorKind::QuotaExceeded),
        (full(), json!({ "text": "x", "more": 1 }), ErrorKind::InvalidInput),
        (full(), json!({ "text": "x".repeat(300_000) }), ErrorKind::InvalidInput),
    ];
    for (b, args, kind) in cases {
        let e = b
            .tools
            .call(&context("acme", "ana", "analyst"), "scripted", args, CallOptions::default())
            .await
            .unwrap_err();
        assert_eq!(e.kind(), kind);
        let records = b.audit.records();
        assert_eq!((count(&records, "decision"), count(&records, "outcome")), (1, 0), "{kind}");
        assert_eq!((b.calls.load(Ordering::SeqCst), b.ledger.all().len(), b.quota.open()), (0, 0, 0), "{kind}");
    }
}

#[tokio::test]
async fn a_cancelled_context_and_a_passed_deadline_reach_no_tool() {
    let b = bench(Behaviour::Answer, Effect::Read, FakePolicy::allow_all(), FakeQuota::default());
    let cancelled = context("acme", "ana", "analyst");
    cancelled.cancellation().cancel();
    let late = context("acme", "bo", "analyst").with_deadline(forge_core::Timestamp::from_nanos(1));
    for (ctx, kind) in [(cancelled, ErrorKind::Cancelled), (late, ErrorKind::Timeout)] {
        let e = b.tools.call(&ctx, "scripted", args(), CallOptions::default()).await.unwrap_err();
        assert_eq!(e.kind(), kind);
    }
    assert_eq!(b.calls.load(Ordering::SeqCst), 0);
    assert_eq!(count(&b.audit.records(), "decision"), 2);
}

#[tokio::test]
async fn a_dropped_call_closes_its_books() {
    let b = bench(Behaviour::Hang, Effect::Send, FakePolicy::allow_all(), FakeQuota::default());
    let clock_stands = bench(Behaviour::Answer, Effect::Send, FakePolicy::allow_all(), FakeQuota::default());
    drop(clock_stands);
    let ctx = context("acme", "ana", "analyst");
    {
        let call = b.tools.call(&ctx, "scripted", args(), CallOptions::default());
        tokio::pin!(call);
        // polled until the tool holds it, then dropped
        while b.calls.load(Ordering::SeqCst) == 0 {
            let _ = futures::poll!(call.as_mut());
        }
    }
    let records = b.audit.records();
    let result = records.iter().find_map(|r| match &r.event {
        AuditEvent::Outcome { result, .. } => Some(result.clone()),
        _ => None,
    });
    assert_eq!(result.as_deref(), Some("unknown_outcome"), "of a message that was perhaps sent nobody knows");
    assert_eq!((b.ledger.all().len(), b.quota.open()), (1, 0));
}

#[tokio::test]
async fn a_time_limit_on_an_effect_that_cannot_be_repeated_is_an_unknown_outcome() {
    let b = bench(Behaviour::Hang, Effect::Send, FakePolicy::allow_all(), FakeQuota::default());
    let e =
        b.tools.call(&context("acme", "ana", "analyst"), "scripted", args(), CallOptions::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::UnknownOutcome);
    assert_eq!(b.calls.load(Ordering::SeqCst), 1, "never re-sent blindly");
    let b = bench(Behaviour::Hang, Effect::Read, FakePolicy::allow_all(), FakeQuota::default());
    let e =
        b.tools.call(&context("acme", "ana", "analyst"), "scripted", args(), CallOptions::default()).await.unwrap_err();
    assert_eq!((e.kind(), b.calls.load(Ordering::SeqCst)), (ErrorKind::Timeout, 3));
}

#[tokio::test]
async fn obligations_are_obeyed_and_policy_saw_the_true_flags() {
    let policy = FakePolicy::by(|input| {
        assert_eq!(input.pii_flags, BTreeSet::from([EntityKind::Email]));
        let masks = BTreeSet::from([EntityKind::Email]);
        (Verdict::Allow, Obligations { redact_input: masks.clone(), redact_output: masks, ..Obligations::default() })
    });
    let b = bench(Behaviour::Answer, Effect::Read, policy, FakeQuota::default());
    let out =
        b.tools.call(&context("acme", "ana", "analyst"), "scripted", args(), CallOptions::default()).await.unwrap();
    assert_eq!(out.content(), &json!({ "mail": "[EMAIL]", "bell": "" }));
    assert_eq!(b.seen.lock().unwrap().as_slice(), [r#"{"text":"write to [EMAIL]"}"#]);
    let rows = serde_json::to_string(&b.audit.records()).unwrap() + &serde_json::to_string(&b.ledger.all()).unwrap();
    assert!(!rows.contains("example.com"), "no payload in the books");
}

#[tokio::test]
async fn an_approval_is_for_exactly_these_arguments_by_somebody_else_and_once() {
    let policy = FakePolicy::by(|input| {
        let verdict = if input.action == "tool.call" { Verdict::NeedsApproval } else { Verdict::Allow };
        let approver_roles = BTreeSet::from([forge_core::Role::parse("partner").unwrap()]);
        (verdict, Obligations { approver_roles, ..Obligations::default() })
    });
    let b = bench(Behaviour::Answer, Effect::Send, policy, FakeQuota::default());
    let (ana, partner, foreign) =
        (context("acme", "ana", "partner"), context("acme", "pat", "partner"), context("globex", "gus", "partner"));
    let key = ana.next_operation();
    let call = |args| b.tools.call(&ana, "scripted", args, CallOptions::default().with_key(key.clone()));
    let request = call(args()).await.unwrap_err().approval().cloned().unwrap();
    assert_eq!(call(args()).await.unwrap_err().approval(), Some(&request), "asking twice asks once");
    let answer = |ctx, digest| b.guard.answer(ctx, request.id, digest, Answer::Approve);
    assert_eq!(answer(&ana, request.digest).await.unwrap_err().kind(), ErrorKind::PolicyDenied, "not oneself");
    assert_eq!(answer(&foreign, request.digest).await.unwrap_err().kind(), ErrorKind::NotFound, "not another tenant");
    let other = forge_core::Digest::of(b"other");
    assert_eq!(answer(&partner, other).await.unwrap_err().kind(), ErrorKind::Conflict, "not something else");
    answer(&partner, request.digest).await.unwrap();
    let changed = call(json!({ "text": "changed after the yes" })).await.unwrap_err();
    assert_eq!(changed.kind(), ErrorKind::ApprovalRequired);
    assert!(call(args()).await.is_ok());
    assert_eq!(b.calls.load(Ordering::SeqCst), 1);
}

/// Approvals whose process dies between the audit row of the first answer and the answer itself.
#[derive(Debug)]
struct Dying(Arc<FakeApprovals>, AtomicU32);

#[async_trait]
impl HealthCheck for Dying {
    async fn check(&self, depth: Depth) -> Health {
        self.0.check(depth).await
    }
}

#[async_trait]
impl Approvals for Dying {
    async fn ask(&self, ctx: &ExecutionContext, approval: Approval) -> Result<Approval> {
        self.0.ask(ctx, approval).await
    }
    async fn find(&self, ctx: &ExecutionContext, id: ApprovalId) -> Result<Approval> {
        self.0.find(ctx, id).await
    }
    async fn pending(&self, ctx: &ExecutionContext, limit: usize) -> Result<Vec<Approval>> {
        self.0.pending(ctx, limit).await
    }
    async fn answer(&self, ctx: &ExecutionContext, id: ApprovalId, digest: Digest, answer: Answer) -> Result<Approval> {
        if self.1.fetch_add(1, Ordering::SeqCst) == 0 {
            return Err(Error::new(ErrorKind::Unavailable, "approvals.answer", "cut off"));
        }
        self.0.answer(ctx, id, digest, answer).await
    }
    async fn consume(&self, ctx: &ExecutionContext, id: ApprovalId, operation: &OperationKey) -> Result<()> {
        self.0.consume(ctx, id, operation).await
    }
    fn capability(&self) -> ApprovalsCapability {
        self.0.capability()
    }
}

/// A crash between the audit row of an answer and the answer left a question that nobody could answer any more.
#[tokio::test]
async fn an_answer_that_was_cut_off_is_given_anew_and_a_refused_one_has_its_row() {
    let clock = Arc::new(forge_core::fake::ManualClock::default());
    let fakes = fake_guard(
        FakePolicy::by(|input| {
            let verdict = if input.employee_id.as_str() == "bo" { Verdict::Deny } else { Verdict::Allow };
            (verdict, Obligations::default())
        }),
        clock.clone(),
    );
    let approvals = Arc::new(FakeApprovals::default());
    let guard =
        Guard::new(GuardParts { approvals: Arc::new(Dying(approvals.clone(), AtomicU32::new(0))), ..fakes.parts });
    let (ana, pat) = (context("acme", "ana", "analyst"), context("acme", "pat", "partner"));
    let question = Approval {
        id: ApprovalId::fixed(1),
        operation: ana.next_operation(),
        resource: "send".into(),
        digest: Digest::of(b"these arguments"),
        asker: ana.employee().clone(),
        approver_roles: vec![pat.role().clone()],
        asked: clock.now(),
        state: ApprovalState::Pending,
        decided: None,
    };
    let asked = approvals.ask(&ana, question).await.unwrap();
    let answer = async |ctx| guard.answer(ctx, asked.id, asked.digest, Answer::Approve).await;
    assert_eq!(answer(&pat).await.unwrap_err().kind(), ErrorKind::Unavailable, "cut off");
    clock.advance(std::time::Duration::from_secs(5));
    assert_eq!(answer(&pat).await.unwrap().state, ApprovalState::Approved, "and given anew");
    let bo = context("acme", "bo", "analyst");
    assert_eq!(answer(&bo).await.unwrap_err().kind(), ErrorKind::PolicyDenied);
    let rows = fakes.audit.records();
    assert_eq!((count(&rows, "decision"), count(&rows, "approval")), (3, 2), "each try has its decision: {rows:?}");
}

#[tokio::test]
async fn in_a_step_the_books_ride_in_the_outbox() {
    let b = bench(Behaviour::Answer, Effect::Read, FakePolicy::allow_all(), FakeQuota::default());
    let books = StepBooks::default();
    let options = CallOptions::default().in_step(RunId::fixed(7), 2, books.clone(), None);
    b.tools.call(&context("acme", "ana", "analyst"), "scripted", args(), options).await.unwrap();
    let outbox = books.take();
    assert_eq!((outbox.usage.len(), outbox.audit.len()), (1, 1));
    assert_eq!(outbox.usage[0].status, UsageStatus::Ok);
    assert_eq!(outbox.audit[0].run, Some(RunId::fixed(7)));
    assert!(b.ledger.all().is_empty(), "the ledger hears of it from the relay");
}

#[tokio::test]
async fn two_tenants_do_not_share_quota_or_rows() {
    let b = bench(Behaviour::Answer, Effect::Read, FakePolicy::allow_all(), FakeQuota::calls(1));
    let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "ana", "analyst"));
    b.tools.call(&acme, "scripted", args(), CallOptions::default()).await.unwrap();
    let e = b.tools.call(&acme, "scripted", args(), CallOptions::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::QuotaExceeded);
    b.tools.call(&globex, "scripted", args(), CallOptions::default()).await.unwrap();
    let of = |t: &str| b.audit.records().iter().filter(|r| r.tenant == t).count();
    assert_eq!((of("acme"), of("globex")), (3, 2));
}
