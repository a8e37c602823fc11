//! Runs survive their process: what is done is not done again, what is unknown is looked up, what waits for a person waits.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use forge_core::approvals::Answer;
use forge_core::audit::AuditEvent;
use forge_core::fake::{FakeJournal, FakeKeyring, FakeModel, FakePolicy, FakeQueue, FakeRedactor, FakeRouter};
use forge_core::guard::{Models, ToolSet, Tools, Tries};
use forge_core::journal::Journal;
use forge_core::metrics::NoMetrics;
use forge_core::model::LanguageModel;
use forge_core::policy::{Obligations, Verdict};
use forge_core::testing::{FakeGuard, context, fake_guard, tool_env};
use forge_core::tool::{Effect, Probe, Probed, Tool, ToolCall, ToolOutput, ToolSpec};
use forge_core::{Directory, Error, ErrorKind, ExecutionContext, OperationKey, Principal, Result, SystemClock};
use forge_queue::worker::{Worker, WorkerParts};
use forge_queue::workflow::{
    Engine, EngineParts, Limits, Observer, Outcome, RunHandle, RunRef, StepContext, Workflow, queued, stage, step, tool,
};
use futures::StreamExt;
use serde_json::{Value, json};

/// A far side that keeps what it was sent, as a mail server would.
#[derive(Debug, Clone, Default)]
struct FarSide {
    sent: Arc<Mutex<Vec<OperationKey>>>,
    /// Answers that are lost after the effect was made.
    lose: Arc<AtomicU32>,
    /// Failures before the effect is made.
    busy: Arc<AtomicU32>,
    reads: Arc<AtomicU32>,
    /// Hangs for ever: before the effect is made, or after it.
    hang: Arc<Mutex<Option<Hang>>>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Hang {
    Before,
    After,
}

impl FarSide {
    async fn hang_if(&self, at: Hang) {
        let hangs = *self.hang.lock().unwrap() == Some(at);
        if hangs {
            std::future::pending::<()>().await;
        }
    }
}

fn spend(n: &AtomicU32) -> bool {
    n.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
}

#[derive(Debug)]
struct Send(FarSide);

#[async_trait]
impl Tool for Send {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("send", "sends").input::<Value>().settles_in(Duration::from_millis(1))
    }

    async fn call(&self, _: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        if spend(&self.0.busy) {
            return Err(Error::new(ErrorKind::Unavailable, "send", "busy"));
        }
        self.0.hang_if(Hang::Before).await;
        self.0.sent.lock().unwrap().push(call.key().clone());
        self.0.hang_if(Hang::After).await;
        if spend(&self.0.lose) {
            return Err(Error::new(ErrorKind::UnknownOutcome, "send", "the answer was lost"));
        }
        Ok(json!({ "sent": true }).into())
    }
}

#[async_trait]
impl Probe for Send {
    async fn probe(&self, _: &ExecutionContext, call: ToolCall) -> Result<Probed> {
        let there = self.0.sent.lock().unwrap().contains(call.key());
        Ok(if there { Probed::Happened(json!({ "sent": true }).into()) } else { Probed::NotHappened })
    }
}

#[derive(Debug)]
struct Fetch(FarSide);

#[async_trait]
impl Tool for Fetch {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("fetch", "reads").input::<Value>().effect(Effect::Read)
    }

    async fn call(&self, ctx: &ExecutionContext, _: ToolCall) -> Result<ToolOutput> {
        self.0.reads.fetch_add(1, Ordering::SeqCst);
        Ok(json!({ "by": ctx.employee().as_str(), "for": ctx.on_behalf_of().map(|e| e.as_str()) }).into())
    }
}

async fn compose(cx: StepContext) -> Result<Value> {
    let fetched: Value = cx.outputs().get("fetch")?;
    let input: Value = cx.outputs().input()?;
    Ok(json!({ "text": format!("{} read {}", fetched["by"], input["what"]) }))
}

struct World {
    far: FarSide,
    journal: Arc<FakeJournal>,
    queue: Arc<FakeQueue>,
    fakes: FakeGuard,
    limits: Limits,
}

impl World {
    fn new(policy: FakePolicy) -> Self {
        let clock = Arc::new(SystemClock);
        World {
            far: FarSide::default(),
            journal: Arc::default(),
            queue: Arc::new(FakeQueue::new(clock.clone())),
            fakes: fake_guard(policy, clock),
            limits: Limits::default(),
        }
    }

    /// A process: its engine and its worker. Dropping the handles does not stop it; `crash` does.
    async fn process(&self, workflow: Workflow) -> Engine {
        self.observed(workflow, None).await
    }

    async fn observed(&self, workflow: Workflow, observer: Option<Observer>) -> Engine {
        let tools = ToolSet::new().tool(Fetch(self.far.clone())).probed(Send(self.far.clone()));
        let tools = Tools::seal(self.fakes.guard.clone(), tool_env(), tools).unwrap();
        let models: Vec<Arc<dyn LanguageModel>> = vec![Arc::new(FakeModel::new([]))];
        let parts = EngineParts {
            journal: self.journal.clone(),
            queue: self.queue.clone(),
            tools,
            models: Models::new(self.fakes.guard.clone(), models, Arc::new(FakeRouter)).unwrap(),
            guard: self.fakes.guard.clone(),
            approvals: self.fakes.parts.approvals.clone(),
            ledger: self.fakes.parts.ledger.clone(),
            audit: self.fakes.parts.audit.clone(),
            keyring: Arc::new(FakeKeyring),
            metrics: Arc::new(NoMetrics),
            clock: Arc::new(SystemClock),
            principals: Arc::new(
                Directory::default().with(Principal::employee("acme", "lawyer_001", "lawyer").unwrap()),
            ),
            owner: "host".into(),
            limits: self.limits,
            observer,
        };
        let engine = Engine::new(parts, vec![workflow]).unwrap();
        let worker = Worker::new(WorkerParts {
            broker: self.queue.clone(),
            guard: self.fakes.guard.clone(),
            redactor: Arc::new(FakeRedactor),
            keyring: Arc::new(FakeKeyring),
            metrics: Arc::new(NoMetrics),
            clock: Arc::new(SystemClock),
            concurrency: 2,
            visibility: Duration::from_secs(30),
        })
        .steps(engine.clone());
        tokio::spawn(async move { worker.run().await });
        engine.resume().await.unwrap();
        engine
    }

    fn sent(&self) -> usize {
        self.far.sent.lock().unwrap().len()
    }
}

fn quick() -> Tries {
    Tries { base: Duration::from_millis(1), ..Tries::default() }
}

fn review() -> Workflow {
    Workflow::new("review", 1).stage(stage("intake").steps([step("validate", |_| async { Ok(json!(null)) })])).stage(
        stage("lawyer").as_employee("lawyer_001").steps([
            queued("fetch"),
            step("compose", compose),
            tool("send").args(|o| o.value("compose").cloned()).tries(quick()),
        ]),
    )
}

async fn start(engine: &Engine) -> RunHandle {
    engine
        .start(&context("acme", "ana", "analyst"), "review", json!({ "what": "a contract" }), Some("case-1"))
        .await
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_run_goes_through_its_stages_and_its_books_balance() {
    let w = World::new(FakePolicy::allow_all());
    let engine = w.process(review()).await;
    let run = start(&engine).await;
    let lines: Vec<String> = run.progress().map(|p| p.unwrap().to_string()).collect().await;
    assert!(matches!(run.wait().await.unwrap(), Outcome::Completed));
    assert_eq!(lines.first().unwrap(), "run started");
    assert_eq!(lines.last().unwrap(), "run completed");
    let fetched: Value = run.output("lawyer/fetch").await.unwrap();
    assert_eq!(
        fetched,
        json!({ "by": "lawyer_001", "for": "ana" }),
        "a stage acts as its employee, for whoever started the run"
    );
    assert_eq!(w.sent(), 1);
    engine.shutdown(Duration::from_secs(5)).await;
    let records = w.fakes.audit.records();
    let rows = |name| records.iter().filter(|r| r.event.name() == name && r.run.is_some()).count();
    assert_eq!((rows("decision"), rows("outcome"), w.fakes.ledger.all().len()), (2, 2, 2));
    assert!(w.journal.owed(0, 10).await.unwrap().is_empty(), "everything that was owed is paid");
}

#[tokio::test(start_paused = true)]
async fn starting_again_with_the_same_business_key_is_the_same_run() {
    let w = World::new(FakePolicy::allow_all());
    let engine = w.process(review()).await;
    let (first, second) = (start(&engine).await, start(&engine).await);
    assert_eq!(first.reference(), second.reference());
    first.wait().await.unwrap();
    let third = start(&engine).await;
    assert!(matches!(third.wait().await.unwrap(), Outcome::Completed));
    assert_eq!(w.sent(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_looked_up_and_nothing_is_sent_twice() {
    let w = World::new(FakePolicy::allow_all());
    w.far.lose.store(1, Ordering::SeqCst);
    let engine = w.process(review()).await;
    let run = start(&engine).await;
    assert!(matches!(run.wait().await.unwrap(), Outcome::Completed));
    assert_eq!(w.sent(), 1);
    engine.shutdown(Duration::from_secs(5)).await;
    let ok = |r: &&forge_core::audit::AuditRecord| {
        r.resource == "send" && matches!(&r.event, AuditEvent::Outcome { result, .. } if result == "ok")
    };
    assert_eq!(w.fakes.audit.records().iter().filter(ok).count(), 1, "the effect is in the books once");
}

#[tokio::test(start_paused = true)]
async fn a_busy_far_side_is_tried_again_three_times_in_all() {
    let w = World::new(FakePolicy::allow_all());
    w.far.busy.store(2, Ordering::SeqCst);
    let engine = w.process(review()).await;
    assert!(matches!(start(&engine).await.wait().await.unwrap(), Outcome::Completed));
    assert_eq!(w.sent(), 1);

    let w = World::new(FakePolicy::allow_all());
    w.far.busy.store(3, Ordering::SeqCst);
    let engine = w.process(review()).await;
    let Outcome::Ended(report) = start(&engine).await.wait().await.unwrap() else { panic!("the run must fail") };
    assert_eq!((report.kind, w.sent()), (ErrorKind::Unavailable, 0));
}

/// Runs a process until `what` happens at `path`, and stops it there, as `kill -9` would: no task of it runs any more.
fn crash_at(w: &World, path: &'static str, what: &'static str) -> RunRef {
    let reached = Arc::new(tokio::sync::Notify::new());
    let tell = reached.clone();
    let observer: Observer = Arc::new(move |_, e| {
        if e.path == path && e.what == what {
            tell.notify_one();
            // the driver's task ends here; nothing after this event is journalled
            panic!("crash at {path} {what}");
        }
    });
    until(w, Some(observer), |_| async move { reached.notified().await })
}

/// Runs a process whose send hangs, until it does.
fn crash_in_send(w: &World, at: Hang) -> RunRef {
    *w.far.hang.lock().unwrap() = Some(at);
    let journal = w.journal.clone();
    let reference = until(w, None, |run| async move {
        let intended = |e: &forge_core::journal::RunEvent| e.path == "lawyer/send" && e.what == "intended";
        while !journal.events(&run.tenant, run.run, 1).await.unwrap().iter().any(intended) {
            tokio::task::yield_now().await;
        }
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
    });
    *w.far.hang.lock().unwrap() = None;
    reference
}

fn until<F: Future<Output = ()>>(
    w: &World,
    observer: Option<Observer>,
    reached: impl FnOnce(RunRef) -> F + std::marker::Send,
) -> RunRef {
    std::thread::scope(|s| {
        let process = s.spawn(|| {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let reference = rt.block_on(async {
                let engine = w.observed(review(), observer).await;
                let reference = start(&engine).await.reference().clone();
                reached(reference.clone()).await;
                reference
            });
            rt.shutdown_background();
            reference
        });
        process.join().unwrap()
    })
}

async fn goes_on(w: &World, reference: &RunRef) -> RunHandle {
    let engine = w.process(review()).await;
    engine.find(&context("acme", "ana", "analyst"), reference).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_crash_after_any_event_loses_nothing_and_repeats_no_effect() {
    let points = [
        ("intake/validate", "started"),
        ("intake/validate", "completed"),
        ("lawyer/fetch", "started"),
        ("lawyer/fetch", "completed"),
        ("lawyer/compose", "completed"),
        ("lawyer/send", "started"),
        ("lawyer/send", "completed"),
    ];
    for (path, what) in points {
        let w = World::new(FakePolicy::allow_all());
        let reference = crash_at(&w, path, what);
        // by now the circuit is open
        tokio::time::sleep(Duration::from_secs(31)).await;
        w.far.busy.store(0, Ordering::SeqCst);
        let reads = w.far.reads.load(Ordering::SeqCst);
        let run = goes_on(&w, &reference).await;
        assert!(matches!(run.wait().await.unwrap(), Outcome::Completed), "{path} {what}");
        assert_eq!(w.sent(), 1, "{path} {what}");
        if path == "lawyer/compose" || path == "lawyer/send" {
            assert_eq!(w.far.reads.load(Ordering::SeqCst), reads, "a finished step is not run again: {path} {what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_crash_between_intent_and_answer_is_probed() {
    for at in [Hang::Before, Hang::After] {
        let w = World::new(FakePolicy::allow_all());
        let reference = crash_in_send(&w, at);
        assert_eq!(w.sent(), usize::from(at == Hang::After));
        let run = goes_on(&w, &reference).await;
        assert!(matches!(run.wait().await.unwrap(), Outcome::Completed), "{at:?}");
        assert_eq!(w.sent(), 1, "{at:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_for_a_persons_yes_over_a_crash_too() {
    let policy = || {
        FakePolicy::by(|input| {
            let verdict = if input.tool_name == "send" && input.action == "tool.call" {
                Verdict::NeedsApproval
            } else {
                Verdict::Allow
            };
            let approver_roles = BTreeSet::from([forge_core::Role::parse("partner").unwrap()]);
            (verdict, Obligations { approver_roles, ..Obligations::default() })
        })
    };
    let w = World::new(policy());
    let reference = crash_at(&w, "run", "parked");
    assert_eq!(w.sent(), 0);
    let engine = w.process(review()).await;
    let run = engine.find(&context("acme", "ana", "analyst"), &reference).await.unwrap();
    assert!(matches!(run.wait().await.unwrap(), Outcome::Parked));
    let request = run.status().await.unwrap().approval().cloned().unwrap();
    let partner = context("acme", "pat", "partner");
    w.fakes.guard.answer(&partner, request.id, request.digest, Answer::Approve).await.unwrap();
    assert_eq!(engine.answered(partner.tenant(), request.id).await.unwrap().unwrap(), reference);
    assert!(matches!(run.wait().await.unwrap(), Outcome::Completed));
    assert_eq!(w.sent(), 1);
}

#[tokio::test(start_paused = true)]
async fn another_tenant_cannot_see_find_or_cancel_a_run() {
    let w = World::new(FakePolicy::allow_all());
    let engine = w.process(review()).await;
    let run = start(&engine).await;
    let globex = context("globex", "gus", "analyst");
    let e = engine.find(&globex, run.reference()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TenantMismatch);
    let renamed = RunRef { tenant: globex.tenant().clone(), ..run.reference().clone() };
    assert_eq!(engine.find(&globex, &renamed).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(engine.cancel(&globex, run.reference()).await.unwrap_err().kind(), ErrorKind::TenantMismatch);
    let refused =
        w.fakes.audit.records().iter().filter(|r| r.tenant == "globex" && r.event.name() == "decision").count();
    assert_eq!(refused, 3, "each attempt has its row, in the chain of the one who tried");
    assert!(matches!(run.wait().await.unwrap(), Outcome::Completed));
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_run_ends_and_sends_nothing() {
    let w = World::new(FakePolicy::allow_all());
    let hanging = Workflow::new("review", 1)
        .stage(stage("s").steps([step("wait", |_| std::future::pending::<Result<Value>>()), tool("send")]));
    let engine = w.process(hanging).await;
    let run = start(&engine).await;
    engine.cancel(&context("acme", "ana", "analyst"), run.reference()).await.unwrap();
    let Outcome::Ended(report) = run.wait().await.unwrap() else { panic!("the run must end") };
    assert_eq!((report.kind, w.sent()), (ErrorKind::Cancelled, 0));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_that_cuts_a_step_off_loses_nothing() {
    let w = World::new(FakePolicy::allow_all());
    *w.far.hang.lock().unwrap() = Some(Hang::After);
    let engine = w.process(review()).await;
    let reference = start(&engine).await.reference().clone();
    while w.sent() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    engine.shutdown(Duration::from_millis(10)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    *w.far.hang.lock().unwrap() = None;
    let run = goes_on(&w, &reference).await;
    assert!(matches!(run.wait().await.unwrap(), Outcome::Completed), "cut off is not cancelled");
    assert_eq!(w.sent(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_waits_for_a_host_that_has_its_definition() {
    let w = World::new(FakePolicy::allow_all());
    let reference = crash_at(&w, "lawyer/compose", "completed");
    let engine = w.process(Workflow::new("review", 2).stage(stage("s").steps([tool("send")]))).await;
    let run = engine.find(&context("acme", "ana", "analyst"), &reference).await.unwrap();
    assert!(matches!(run.wait().await.unwrap(), Outcome::Parked));
    assert_eq!(run.status().await.unwrap().error.unwrap().kind, ErrorKind::DefinitionChanged);
    assert_eq!(w.sent(), 0);
    engine.shutdown(Duration::from_secs(5)).await;
    let run = goes_on(&w, &reference).await;
    assert!(matches!(run.wait().await.unwrap(), Outcome::Completed), "nothing is lost by a wrong deploy");
    assert_eq!(w.sent(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_run_that_was_given_up_is_listed_and_goes_on_where_it_failed() {
    let mut w = World::new(FakePolicy::allow_all());
    // as many as a step that never ends may have: what is given up in good order is none of them
    w.limits.attempts = 3;
    w.far.busy.store(4, Ordering::SeqCst);
    let engine = w.process(review()).await;
    let run = start(&engine).await;
    assert!(matches!(run.wait().await.unwrap(), Outcome::Ended(_)));
    let (ana, globex) = (context("acme", "ana", "analyst"), context("globex", "ana", "analyst"));
    let failed = engine.failed(&ana, ana.tenant(), 10).await.unwrap();
    let [dead] = failed.as_slice() else { panic!("one run failed: {failed:?}") };
    assert_eq!((&dead.run, dead.error.as_ref().unwrap().kind), (run.reference(), ErrorKind::Unavailable));
    assert!(engine.failed(&globex, globex.tenant(), 10).await.unwrap().is_empty(), "isolation: another tenant's list");
    for refused in [
        engine.failed(&globex, ana.tenant(), 10).await.map(|_| ()),
        engine.replay(&globex, run.reference()).await.map(|_| ()),
    ] {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::TenantMismatch);
    }
    let reads = w.far.reads.load(Ordering::SeqCst);
    let again = engine.replay(&ana, run.reference()).await.unwrap();
    let outcome = again.wait().await.unwrap();
    assert!(matches!(outcome, Outcome::Completed), "{outcome:?}");
    assert_eq!((w.sent(), w.far.reads.load(Ordering::SeqCst)), (1, reads), "what is done stays done");
    assert!(engine.failed(&ana, ana.tenant(), 10).await.unwrap().is_empty());
    let twice = engine.replay(&ana, run.reference()).await.unwrap_err();
    assert_eq!(twice.kind(), ErrorKind::Conflict, "a completed run is not replayed");
}

#[tokio::test(start_paused = true)]
async fn a_business_key_is_for_one_input() {
    let w = World::new(FakePolicy::allow_all());
    let engine = w.process(review()).await;
    let run = start(&engine).await;
    let ana = context("acme", "ana", "analyst");
    let other = engine.start(&ana, "review", json!({ "what": "another contract" }), Some("case-1")).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::Conflict);
    assert!(!format!("{other:?}").contains("another contract"), "the input is not in the error");
    assert!(matches!(run.wait().await.unwrap(), Outcome::Completed));
    assert_eq!(w.sent(), 1);
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_when_the_host_does() {
    let w = World::new(FakePolicy::allow_all());
    *w.far.hang.lock().unwrap() = Some(Hang::Before);
    let engine = w.process(review()).await;
    let run = start(&engine).await;
    let stop = engine.shutdown(Duration::from_millis(10));
    let (waited, ()) = futures::join!(run.wait(), stop);
    assert_eq!(waited.unwrap_err().kind(), ErrorKind::Unavailable);
}
