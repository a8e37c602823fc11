//! `kill -9` at each point where a run can stand between two books: the same process again ends the run, each effect is made once, each step
//! is done once, and journal, ledger, audit and far side agree.
//!
//! The host is the embedded one, put together by hand so that its journal, queue and broker can stop at a point. The child stops
//! there and says so, its parent kills it, and a second child goes on. The ledger is printed; `--nocapture` shows it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge::core::approvals::Approvals;
use forge::core::audit::{AuditEvent, AuditLog};
use forge::core::fake::{FakeBlobs, FakeEmbedder, FakeModel, FakePolicy, FakePricing, FakeRouter, FakeVectors};
use forge::core::guard::{Guard, GuardParts, Models, ToolSet, Tools};
use forge::core::journal::{
    Claim, Journal, NewRun, Owed, RunEvent, RunRecord, RunState, StepRecord, StepState, Transition,
};
use forge::core::keyring::Keyring;
use forge::core::metrics::NoMetrics;
use forge::core::queue::{
    Broker, Lease, LeaseRequest, Nack, NewTask, QueueCapability, QueueDepth, TaskQueue, TaskStatus,
};
use forge::core::secret::Secrets;
use forge::core::testing::context;
use forge::core::tool::{Probe, Probed, ToolEnv};
use forge::core::usage::{UsageLedger, UsageQuery};
use forge::core::{
    Clock, Depth, Directory, Health, HealthCheck, RequestId, RunId, SystemClock, TaskId, TenantId, Timestamp,
};
use forge::dlp::{FileKeyring, StandardRedactor};
use forge::metering::{Limits, SqliteLedger, SqliteQuota};
use forge::policy::SqliteAudit;
use forge::prelude::*;
use forge::queue::sqlite::SqliteStore;
use forge::queue::worker::{Worker, WorkerParts};
use forge::queue::workflow::{Engine, EngineParts};
use serde_json::{Value, json};

const DIR: &str = "FORGE_TEST_CRASH_DIR";
const POINT: &str = "FORGE_TEST_CRASH_POINT";

/// Each point, in the order in which a run passes them. Of a step that is queued the points of the queue come between.
const POINTS: [&str; 22] = [
    "before the run is created",
    "after the run is created",
    "after the claim",
    "before plan starts",
    "after plan starts",
    "inside plan",
    "before plan ends and send starts",
    "after plan ends and send starts",
    "before the intent",
    "after the intent",
    "before the effect",
    "after the effect",
    "before send ends and look starts",
    "after send ends and look starts",
    "before the task is queued",
    "after the task is queued",
    "after the task is leased",
    "before the task is acknowledged",
    "after the task is acknowledged",
    "before the run ends",
    "after the run ends",
    "after the books, before the outbox is paid",
];

/// Stops for ever at one point, and says so.
#[derive(Debug, Clone)]
struct Stop(Arc<str>);

impl Stop {
    async fn at(&self, point: &str) {
        assert!(POINTS.contains(&point), "{point}");
        if *self.0 == *point {
            println!("\nstopped");
            std::future::pending::<()>().await;
        }
    }
}

/// A line in a file of the far side, on the disk when it returns.
fn note(dir: &Path, file: &str, line: &str) {
    let mut file = std::fs::File::options().create(true).append(true).open(dir.join(file)).unwrap();
    writeln!(file, "{line}").unwrap();
    file.sync_data().unwrap();
}

fn noted(dir: &Path, file: &str) -> Vec<String> {
    std::fs::read_to_string(dir.join(file)).unwrap_or_default().lines().map(str::to_owned).collect()
}

/// A far side that can be asked what it was sent.
#[derive(Debug)]
struct Send(PathBuf, Stop);

#[async_trait]
impl Tool for Send {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("send", "sends").input::<Value>().effect(Effect::Send)
    }

    async fn call(&self, _: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        self.1.at("before the effect").await;
        note(&self.0, "sent", call.key().as_str());
        self.1.at("after the effect").await;
        Ok(json!("sent").into())
    }
}

#[async_trait]
impl Probe for Send {
    async fn probe(&self, _: &ExecutionContext, call: ToolCall) -> Result<Probed> {
        let there = noted(&self.0, "sent").iter().any(|key| key == call.key().as_str());
        Ok(if there { Probed::Happened(json!("sent").into()) } else { Probed::NotHappened })
    }
}

#[derive(Debug)]
struct Look;

#[async_trait]
impl Tool for Look {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("look", "reads").input::<Value>().effect(Effect::Read)
    }

    async fn call(&self, _: &ExecutionContext, _: ToolCall) -> Result<ToolOutput> {
        Ok(json!("seen").into())
    }
}

fn workflow(dir: &Path, stop: &Stop) -> Workflow {
    let (dir, stop) = (dir.to_owned(), stop.clone());
    let plan = step("plan", move |_| {
        let (dir, stop) = (dir.clone(), stop.clone());
        async move {
            stop.at("inside plan").await;
            note(&dir, "planned", "once");
            Ok(json!("planned"))
        }
    });
    let empty = |_: &forge::queue::workflow::Outputs| Ok(json!({}));
    Workflow::new("order", 1).stage(stage("only").steps([plan, tool("send").args(empty), queued("look").args(empty)]))
}

/// The store, which stops at the point of its process.
#[derive(Debug, Clone)]
struct Stopping {
    store: SqliteStore,
    stop: Stop,
}

#[async_trait]
impl HealthCheck for Stopping {
    async fn check(&self, depth: Depth) -> Health {
        self.store.check(depth).await
    }
}

#[async_trait]
impl Journal for Stopping {
    async fn create(&self, run: NewRun) -> Result<RunRecord> {
        self.stop.at("before the run is created").await;
        let made = self.store.create(run).await;
        self.stop.at("after the run is created").await;
        made
    }
    async fn run(&self, tenant: &TenantId, run: RunId) -> Result<RunRecord> {
        self.store.run(tenant, run).await
    }
    async fn steps(&self, tenant: &TenantId, run: RunId) -> Result<Vec<StepRecord>> {
        self.store.steps(tenant, run).await
    }
    async fn events(&self, tenant: &TenantId, run: RunId, from_seq: u64) -> Result<Vec<RunEvent>> {
        self.store.events(tenant, run, from_seq).await
    }
    async fn runs(&self, tenant: &TenantId, state: Option<RunState>, limit: usize) -> Result<Vec<RunRecord>> {
        self.store.runs(tenant, state, limit).await
    }
    async fn resumable(&self, owner: &str, now: Timestamp, limit: usize) -> Result<Vec<(TenantId, RunId)>> {
        self.store.resumable(owner, now, limit).await
    }
    async fn claim(
        &self,
        tenant: &TenantId,
        run: RunId,
        owner: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim> {
        let claim = self.store.claim(tenant, run, owner, now, until).await;
        self.stop.at("after the claim").await;
        claim
    }
    async fn extend(&self, claim: &Claim, until: Timestamp) -> Result<()> {
        self.store.extend(claim, until).await
    }
    async fn release(&self, claim: &Claim) -> Result<()> {
        self.store.release(claim).await
    }
    async fn apply(&self, claim: &Claim, now: Timestamp, changes: Vec<Transition>) -> Result<bool> {
        let what = changes.last().and_then(|c| match (c.event().0, c.event().1) {
            ("only/plan", "started") => Some("plan starts"),
            ("only/send", "started") => Some("plan ends and send starts"),
            ("only/send", "intended") => Some("the intent"),
            ("only/look", "started") => Some("send ends and look starts"),
            ("run", "completed") => Some("the run ends"),
            // on the way of a second process only
            _ => None,
        });
        let Some(what) = what else { return self.store.apply(claim, now, changes).await };
        self.stop.at(&format!("before {what}")).await;
        let applied = self.store.apply(claim, now, changes).await;
        self.stop.at(&format!("after {what}")).await;
        applied
    }
    async fn replay(&self, tenant: &TenantId, run: RunId, now: Timestamp) -> Result<bool> {
        Journal::replay(&self.store, tenant, run, now).await
    }
    async fn request_cancel(&self, tenant: &TenantId, run: RunId) -> Result<bool> {
        self.store.request_cancel(tenant, run).await
    }
    async fn owed(&self, after: u64, limit: usize) -> Result<Vec<Owed>> {
        self.store.owed(after, limit).await
    }
    async fn paid(&self, ids: &[u64]) -> Result<()> {
        self.stop.at("after the books, before the outbox is paid").await;
        self.store.paid(ids).await
    }
}

#[async_trait]
impl TaskQueue for Stopping {
    async fn enqueue(&self, ctx: &ExecutionContext, task: NewTask) -> Result<TaskId> {
        self.stop.at("before the task is queued").await;
        let queued = self.store.enqueue(ctx, task).await;
        self.stop.at("after the task is queued").await;
        queued
    }
    async fn status(&self, ctx: &ExecutionContext, id: TaskId) -> Result<TaskStatus> {
        self.store.status(ctx, id).await
    }
    async fn cancel(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool> {
        self.store.cancel(ctx, id).await
    }
    async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth> {
        self.store.depth(ctx).await
    }
    fn capability(&self) -> QueueCapability {
        TaskQueue::capability(&self.store)
    }
}

#[async_trait]
impl Broker for Stopping {
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Lease>> {
        let leases = self.store.lease(request).await?;
        if !leases.is_empty() {
            self.stop.at("after the task is leased").await;
        }
        Ok(leases)
    }
    async fn renew(&self, lease: &Lease, visibility: Duration) -> Result<Timestamp> {
        self.store.renew(lease, visibility).await
    }
    async fn ack(&self, lease: &Lease, result: Value) -> Result<()> {
        self.stop.at("before the task is acknowledged").await;
        let acked = self.store.ack(lease, result).await;
        self.stop.at("after the task is acknowledged").await;
        acked
    }
    async fn nack(&self, lease: &Lease, nack: Nack) -> Result<()> {
        self.store.nack(lease, nack).await
    }
    async fn wait(&self, at_most: Duration) {
        self.store.wait(at_most).await;
    }
}

/// The embedded books of one directory.
struct Host {
    store: SqliteStore,
    ledger: Arc<SqliteLedger>,
    audit: Arc<SqliteAudit>,
    keyring: Arc<dyn Keyring>,
}

impl Host {
    async fn open(dir: &Path) -> Self {
        let keyring: Arc<dyn Keyring> = Arc::new(FileKeyring::open(dir.join("keys"), None).await.unwrap());
        Self {
            store: SqliteStore::open(dir.join("queue.db"), Arc::new(SystemClock), keyring.clone()).await.unwrap(),
            ledger: Arc::new(SqliteLedger::open(dir).await.unwrap()),
            audit: Arc::new(SqliteAudit::open(dir.join("audit")).unwrap()),
            keyring,
        }
    }

    /// Puts the engine and its worker together; both stop at the point.
    async fn engine(&self, dir: &Path, stop: &Stop) -> (Engine, Worker) {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let redactor = Arc::new(StandardRedactor::new(self.keyring.clone()));
        let guard = Guard::new(GuardParts {
            policy: Arc::new(FakePolicy::allow_all()),
            approvals: Arc::new(self.store.clone()),
            redactor: redactor.clone(),
            keyring: self.keyring.clone(),
            quota: Arc::new(SqliteQuota::open(dir, Limits::default(), clock.clone()).await.unwrap()),
            pricing: Arc::new(FakePricing),
            ledger: self.ledger.clone(),
            audit: self.audit.clone(),
            metrics: Arc::new(NoMetrics),
            clock: clock.clone(),
        });
        let env = ToolEnv {
            blobs: Arc::new(FakeBlobs::default()),
            vectors: Arc::new(FakeVectors::default()),
            embedder: Arc::new(FakeEmbedder),
            redactor: redactor.clone(),
            secrets: Secrets::standard(),
            clock: clock.clone(),
        };
        let set = ToolSet::new().probed(Send(dir.to_owned(), stop.clone())).tool(Look);
        let store = Arc::new(Stopping { store: self.store.clone(), stop: stop.clone() });
        let parts = EngineParts {
            journal: store.clone(),
            queue: store.clone(),
            tools: Tools::seal(guard.clone(), env, set).unwrap(),
            models: Models::new(guard.clone(), vec![Arc::new(FakeModel::new([]))], Arc::new(FakeRouter)).unwrap(),
            guard: guard.clone(),
            approvals: Arc::new(self.store.clone()) as Arc<dyn Approvals>,
            ledger: self.ledger.clone(),
            audit: self.audit.clone(),
            keyring: self.keyring.clone(),
            metrics: Arc::new(NoMetrics),
            clock: clock.clone(),
            principals: Arc::new(Directory::default()),
            owner: "host".into(),
            limits: Default::default(),
            observer: None,
        };
        let engine = Engine::new(parts, vec![workflow(dir, stop)]).unwrap();
        let parts = WorkerParts {
            broker: store,
            guard,
            redactor,
            keyring: self.keyring.clone(),
            metrics: Arc::new(NoMetrics),
            clock,
            concurrency: 2,
            visibility: Duration::from_secs(1),
        };
        (engine.clone(), Worker::new(parts).steps(engine))
    }
}

/// The child: starts the run or goes on with it, until it ends. Without its directory it is no child.
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_methods, reason = "how the parent tells the child where to work, and where to stop")]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let (dir, stop) = (PathBuf::from(dir), Stop(std::env::var(POINT).unwrap_or_default().into()));
    let host = Host::open(&dir).await;
    let (engine, worker) = host.engine(&dir, &stop).await;
    let serving = tokio::spawn({
        let worker = worker.clone();
        async move { worker.run().await }
    });
    engine.resume().await.unwrap();
    // each process has a request of its own
    let ana = ExecutionContext::issue(
        Principal::employee("acme", "ana", "analyst").unwrap(),
        RequestId::random(SystemClock.now()),
    );
    let run = engine.start(&ana, "order", json!({}), Some("order-1")).await.unwrap();
    let outcome = tokio::time::timeout(Duration::from_secs(60), run.wait()).await;
    assert!(matches!(outcome, Ok(Ok(Outcome::Completed))), "{outcome:?} {:?}", run.status().await);
    engine.shutdown(Duration::from_secs(5)).await;
    worker.shutdown(Duration::from_secs(5)).await;
    serving.await.unwrap();
    host.ledger.flush(None).await.unwrap();
    host.audit.flush(None).await.unwrap();
}

/// What is in the books at the end.
#[derive(Debug, PartialEq, Eq)]
struct Books {
    sent: usize,
    planned: usize,
    completed: BTreeMap<String, usize>,
    owed: usize,
    /// Usage events, by what they are for.
    usage: BTreeMap<String, usize>,
    /// Outcomes in the audit log, by resource: executions that ended.
    outcomes: BTreeMap<String, usize>,
}

async fn books(dir: &Path) -> Books {
    let host = Host::open(dir).await;
    let ana = context("acme", "ana", "analyst");
    let runs = host.store.runs(ana.tenant(), None, 10).await.unwrap();
    let [run] = runs.as_slice() else { panic!("one order is one run: {runs:?}") };
    assert_eq!(run.state, RunState::Completed);
    let steps = host.store.steps(ana.tenant(), run.run.id).await.unwrap();
    assert!(steps.iter().all(|s| s.state == StepState::Completed && s.intent.is_none()), "{steps:?}");
    let mut completed = BTreeMap::new();
    for event in host.store.events(ana.tenant(), run.run.id, 0).await.unwrap() {
        if event.what == "completed" {
            *completed.entry(event.path).or_default() += 1;
        }
    }
    let mut usage = BTreeMap::new();
    for event in host.ledger.events(&ana, &UsageQuery::default(), 1000).await.unwrap() {
        *usage.entry(event.resource.label()).or_default() += 1;
    }
    host.audit.verify(&ana).await.unwrap();
    let mut outcomes = BTreeMap::new();
    for row in host.audit.read(&ana, 1, 1000).await.unwrap() {
        if matches!(&row.record.event, AuditEvent::Outcome { result, .. } if result == "ok") {
            *outcomes.entry(row.record.resource.clone()).or_default() += 1;
        }
    }
    Books {
        sent: noted(dir, "sent").len(),
        planned: noted(dir, "planned").len(),
        completed,
        owed: host.store.owed(0, 100).await.unwrap().len(),
        usage,
        outcomes,
    }
}

fn process(dir: &Path, point: &str) -> Command {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "child", "--nocapture"]).env(DIR, dir).env(POINT, point);
    child.stdout(Stdio::piped()).stderr(std::fs::File::create(dir.join("stderr")).unwrap());
    child
}

#[tokio::test]
async fn killed_at_each_point_it_goes_on_and_the_books_agree() {
    let undisturbed = tempfile::tempdir().unwrap();
    assert!(process(undisturbed.path(), "").status().unwrap().success());
    let expected = books(undisturbed.path()).await;
    let once = |of: &[&str]| of.iter().map(|k| ((*k).to_owned(), 1)).collect::<BTreeMap<_, _>>();
    assert_eq!(expected.completed, once(&["only/look", "only/plan", "only/send", "run"]));
    assert_eq!((expected.sent, expected.planned, expected.owed), (1, 1, 0));
    println!("killed                                        effects  lost  doubled  steps done twice  owed");
    for point in POINTS {
        let dir = tempfile::tempdir().unwrap();
        let mut child = process(dir.path(), point).spawn().unwrap();
        let said = BufReader::new(child.stdout.take().unwrap()).lines().any(|line| line.unwrap() == "stopped");
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(said, "the run never came to `{point}`");
        let again = process(dir.path(), "").output().unwrap();
        assert!(again.status.success(), "{point}: {}", noted(dir.path(), "stderr").join("\n"));
        let found = books(dir.path()).await;
        let twice = found.completed.values().filter(|n| **n != 1).count();
        println!(
            "{point:<45} {:>7}  {:>4}  {:>7}  {twice:>16}  {:>4}",
            found.sent,
            1_usize.saturating_sub(found.sent),
            found.sent.saturating_sub(1),
            found.owed
        );
        // code is at least once: what it did before its end was journalled is done again
        let repeated = usize::from(point == "before plan ends and send starts");
        let expected = Books {
            planned: 1 + repeated,
            completed: expected.completed.clone(),
            usage: expected.usage.clone(),
            outcomes: expected.outcomes.clone(),
            ..expected
        };
        assert_eq!(found, expected, "{point}");
    }
}
