//! Random tools and faults: whatever happens, an executed call has one decision, one outcome, one span and one settled usage;
//! a refusal one decision, one span and no execution; and nothing stays open.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use forge_core::audit::{AuditCapability, AuditLog, AuditRecord, AuditRow, ChainReport, Durability};
use forge_core::fake::{
    FakeApprovals, FakeAudit, FakeKeyring, FakeLedger, FakePolicy, FakePricing, FakeQuota, FakeRedactor, SkippingClock,
};
use forge_core::guard::{CallOptions, Guard, GuardParts, ToolSet, Tools};
use forge_core::metrics::NoMetrics;
use forge_core::policy::{Obligations, Verdict};
use forge_core::testing::{context, tool_env};
use forge_core::tool::{Effect, Tool, ToolCall, ToolOutput, ToolSpec};
use forge_core::{Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Result, Slot, TenantId, Timestamp};
use proptest::prelude::*;
use serde_json::{Value, json};
use tracing::span::{Attributes, Id};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};

/// What one attempt does.
#[derive(Debug, Clone, Copy)]
enum Act {
    Answer,
    Fail(ErrorKind),
    Panic,
    Hang,
    /// Yields before it answers, so that it can be dropped in the middle.
    Slow,
}

#[derive(Debug)]
struct Scripted {
    acts: Vec<Act>,
    effect: Effect,
    calls: Arc<AtomicU32>,
}

#[async_trait]
impl Tool for Scripted {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("scripted", "does as told").input::<Value>().effect(self.effect)
    }

    async fn call(&self, _: &ExecutionContext, _: ToolCall) -> Result<ToolOutput> {
        let n = usize::try_from(self.calls.fetch_add(1, Ordering::SeqCst)).unwrap();
        match self.acts.get(n).copied().unwrap_or(Act::Answer) {
            Act::Answer => {}
            Act::Fail(kind) => return Err(Error::new(kind, "scripted", "as told")),
            Act::Panic => panic!("as told"),
            Act::Hang => std::future::pending().await,
            Act::Slow => tokio::task::yield_now().await,
        }
        Ok(json!({ "n": n }).into())
    }
}

/// Where the books fail.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    None,
    Append,
    Reserve,
}

/// An audit log that fails as told.
#[derive(Debug)]
struct Audit(FakeAudit, Fault);

fn full() -> Error {
    Error::new(ErrorKind::Unavailable, "audit", "as told")
}

#[async_trait]
impl HealthCheck for Audit {
    async fn check(&self, depth: Depth) -> Health {
        self.0.check(depth).await
    }
}

#[async_trait]
impl AuditLog for Audit {
    async fn append(&self, ctx: &ExecutionContext, record: AuditRecord, durability: Durability) -> Result<()> {
        if self.1 == Fault::Append { Err(full()) } else { self.0.append(ctx, record, durability).await }
    }

    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<AuditRecord>> {
        if self.1 == Fault::Reserve { Err(full()) } else { self.0.reserve(ctx).await }
    }

    async fn read(&self, ctx: &ExecutionContext, from_seq: u64, limit: usize) -> Result<Vec<AuditRow>> {
        self.0.read(ctx, from_seq, limit).await
    }

    async fn verify(&self, ctx: &ExecutionContext) -> Result<ChainReport> {
        self.0.verify(ctx).await
    }

    async fn flush(&self, tenant: Option<&TenantId>) -> Result<()> {
        self.0.flush(tenant).await
    }

    fn capability(&self) -> AuditCapability {
        self.0.capability()
    }
}

/// Spans of calls and of attempts that were opened, and all that were closed.
#[derive(Debug, Clone, Default)]
struct Spans(Arc<Mutex<[usize; 3]>>);

impl<S: tracing::Subscriber> Layer<S> for Spans {
    fn on_new_span(&self, attributes: &Attributes<'_>, _: &Id, _: Context<'_, S>) {
        struct Name(String);
        impl tracing::field::Visit for Name {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                if field.name() == "otel.name" {
                    self.0 = format!("{value:?}");
                }
            }
        }
        let mut name = Name(String::new());
        attributes.record(&mut name);
        self.0.lock().unwrap()[usize::from(name.0.contains("attempt"))] += 1;
    }

    fn on_close(&self, _: Id, _: Context<'_, S>) {
        self.0.lock().unwrap()[2] += 1;
    }
}

#[derive(Debug, Clone)]
struct Case {
    acts: Vec<Act>,
    effect: Effect,
    verdict: Verdict,
    quota: u64,
    fault: Fault,
    /// Dropped after so many polls.
    polls: usize,
    /// Cancelled after so many polls.
    cancel: usize,
    deadline: Option<u64>,
}

fn case() -> impl Strategy<Value = Case> {
    let kinds = prop::sample::select(vec![
        ErrorKind::Unavailable,
        ErrorKind::Timeout,
        ErrorKind::RateLimited,
        ErrorKind::NotFound,
        ErrorKind::UnknownOutcome,
        ErrorKind::PolicyDenied,
        ErrorKind::Cancelled,
    ]);
    let act = prop_oneof![
        3 => Just(Act::Answer),
        4 => kinds.prop_map(Act::Fail),
        1 => Just(Act::Panic),
        1 => Just(Act::Hang),
        2 => Just(Act::Slow)
    ];
    let effects = prop::sample::select(vec![Effect::Read, Effect::Write, Effect::Send]);
    let verdict = prop_oneof![6 => Just(Verdict::Allow), 1 => Just(Verdict::Deny), 1 => Just(Verdict::NeedsApproval)];
    let quota = prop_oneof![5 => Just(u64::MAX), 1 => Just(0)];
    let fault = prop_oneof![6 => Just(Fault::None), 1 => Just(Fault::Append), 1 => Just(Fault::Reserve)];
    let polls = || prop_oneof![2 => Just(usize::MAX), 1 => 0_usize..6];
    let deadline = prop_oneof![5 => Just(None), 1 => (0_u64..40).prop_map(Some)];
    (prop::collection::vec(act, 0..4), effects, verdict, quota, fault, polls(), polls(), deadline).prop_map(
        |(acts, effect, verdict, quota, fault, polls, cancel, deadline)| Case {
            acts,
            effect,
            verdict,
            quota,
            fault,
            polls,
            cancel,
            deadline,
        },
    )
}

/// How many cases were executed, and how many cut off.
#[derive(Default)]
struct Ledger {
    executed: AtomicU32,
    cut_off: AtomicU32,
}

async fn runs(case: &Case, spans: &Spans, seen: &Ledger) {
    let (audit, ledger, quota) = (FakeAudit::default(), FakeLedger::default(), FakeQuota::calls(case.quota));
    let clock: Arc<dyn forge_core::Clock> = Arc::new(SkippingClock::default());
    let (verdict, calls) = (case.verdict, Arc::new(AtomicU32::new(0)));
    let guard = Guard::new(GuardParts {
        policy: Arc::new(FakePolicy::by(move |_| (verdict, Obligations::default()))),
        approvals: Arc::new(FakeApprovals::default()),
        redactor: Arc::new(FakeRedactor),
        keyring: Arc::new(FakeKeyring),
        quota: Arc::new(quota.clone()),
        pricing: Arc::new(FakePricing),
        ledger: Arc::new(ledger.clone()),
        audit: Arc::new(Audit(audit.clone(), case.fault)),
        metrics: Arc::new(NoMetrics),
        clock: clock.clone(),
    });
    let tool = Scripted { acts: case.acts.clone(), effect: case.effect, calls: calls.clone() };
    let tools = Tools::seal(guard, tool_env(), ToolSet::new().tool(tool)).unwrap();
    let mut ctx = context("acme", "ana", "analyst");
    if let Some(seconds) = case.deadline {
        let at: Timestamp = clock.now();
        ctx = ctx.with_deadline(at.after(std::time::Duration::from_secs(seconds)));
    }
    let key = ctx.next_operation();
    let ended = {
        let options = CallOptions::default().with_key(key.clone());
        let call = tools.call(&ctx, "scripted", json!({ "text": "x" }), options);
        tokio::pin!(call);
        let mut polled = 0;
        loop {
            if polled == case.cancel {
                ctx.cancellation().cancel();
            }
            if polled == case.polls {
                break None;
            }
            if let std::task::Poll::Ready(outcome) = futures::poll!(call.as_mut()) {
                break Some(outcome);
            }
            polled += 1;
            tokio::task::yield_now().await;
        }
    };
    let records = audit.records();
    let count = |name| records.iter().filter(|r| r.event.name() == name).count();
    let (decisions, outcomes, usage) = (count("decision"), count("outcome"), ledger.all());
    let (called, [opened, attempts, closed]) = (calls.load(Ordering::SeqCst), *spans.0.lock().unwrap());
    assert_eq!(quota.open(), 0, "no reservation stays open");
    assert_eq!(opened + attempts, closed, "no span stays open");
    assert_eq!(opened, usize::from(case.polls > 0), "one span for each call that was begun");
    assert!(attempts >= usize::try_from(called).unwrap(), "an attempt has its span");
    assert!(
        records.iter().all(|r| r.operation == key) && usage.iter().all(|e| e.operation == key),
        "one operation key"
    );
    assert_eq!(outcomes, usage.len(), "one usage for each outcome");
    assert!(decisions <= 1 && outcomes <= decisions, "at most one of each: {decisions} {outcomes}");
    if called > 0 {
        assert_eq!((decisions, outcomes), (1, 1), "an executed call has both rows");
    }
    let refused = case.verdict != Verdict::Allow || case.quota == 0 || case.fault != Fault::None;
    if refused {
        assert_eq!((called, outcomes), (0, 0), "what is refused is not executed");
    }
    seen.executed.fetch_add(u32::from(called > 0), Ordering::SeqCst);
    seen.cut_off.fetch_add(u32::from(ended.is_none()), Ordering::SeqCst);
    if let Some(outcome) = ended {
        assert_eq!(decisions, usize::from(case.fault != Fault::Append), "what ended was decided, once: {outcome:?}");
        assert!(!refused || outcome.is_err());
    }
}

#[test]
fn whatever_happens_the_books_and_the_spans_agree() {
    // a tool's panic is caught; its message would fill the output
    std::panic::set_hook(Box::new(|info| {
        if info.payload().downcast_ref::<&str>() != Some(&"as told") {
            eprintln!("{info}");
        }
    }));
    let seen = Ledger::default();
    proptest!(ProptestConfig::with_cases(1000), |(case in case())| {
        let spans = Spans::default();
        let _guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(runs(&case, &spans, &seen));
    });
    let (executed, cut_off) = (seen.executed.into_inner(), seen.cut_off.into_inner());
    println!("1000 random cases: {executed} executed, {cut_off} cut off");
    assert!(executed > 100 && cut_off > 10, "the cases reach what they are for: {executed} {cut_off}");
}
