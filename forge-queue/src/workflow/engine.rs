//! The engine: starts runs, resumes those that a crash left, stops in good order.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::bells::Bells;
use forge_core::approvals::{ApprovalState, Approvals};
use forge_core::audit::AuditLog;
use forge_core::guard::{Access, Guard, Models, Tools};
use forge_core::journal::{Journal, NewRun, RunEvent, RunRecord, RunState, StepState};
use forge_core::keyring::Keyring;
use forge_core::metrics::Metrics;
use forge_core::queue::TaskQueue;
use forge_core::tool::Effect;
use forge_core::usage::UsageLedger;
use forge_core::{
    ApprovalId, Clock, Digest, Error, ErrorKind, ExecutionContext, Principal, PrincipalResolver, RequestId, Result,
    RunId, SealedContext, SealedFor, Slug, TenantId,
};
use futures::FutureExt;
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::handle::{FailedRun, RunHandle, RunRef};
use super::{Workflow, drive, relay};

/// Told of every event of every run after it is on the disk, before the run goes on. It must not block.
pub type Observer = Arc<dyn Fn(&RunRef, &RunEvent) + Send + Sync>;

/// What bounds a run.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Limits {
    /// Running time of one run, parked time left out; 5 minutes by default.
    pub running: Duration,
    /// How long a host that stopped answering keeps a run; 30 seconds by default.
    pub lease: Duration,
    /// Tries of one step in all, those that a crash cut off included; 10 by default.
    pub attempts: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { running: Duration::from_secs(300), lease: Duration::from_secs(30), attempts: 10 }
    }
}

/// What the engine is made of.
#[derive(Clone)]
pub struct EngineParts {
    /// The durable record.
    pub journal: Arc<dyn Journal>,
    /// For queued steps; not guarded, because what runs there is guarded itself.
    pub queue: Arc<dyn TaskQueue>,
    /// The sealed tools.
    pub tools: Tools,
    /// The language models.
    pub models: Models,
    /// Decides who may start a run.
    pub guard: Guard,
    /// What parked runs wait for.
    pub approvals: Arc<dyn Approvals>,
    /// Where relayed usage goes.
    pub ledger: Arc<dyn UsageLedger>,
    /// Where relayed outcomes go.
    pub audit: Arc<dyn AuditLog>,
    /// Encrypts bodies, seals contexts.
    pub keyring: Arc<dyn Keyring>,
    /// Counts.
    pub metrics: Arc<dyn Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Who the stages' employees are.
    pub principals: Arc<dyn PrincipalResolver>,
    /// This process, as claims name it.
    pub owner: String,
    /// What bounds a run.
    pub limits: Limits,
    /// Told of every event.
    pub observer: Option<Observer>,
}

/// Runs workflows. Cheap to clone.
#[derive(Clone)]
pub struct Engine(pub(super) Arc<Shared>);

pub(super) struct Shared {
    pub(super) parts: EngineParts,
    pub(super) workflows: BTreeMap<String, Workflow>,
    /// Runs that this process drives, with what cancels them.
    pub(super) driving: Mutex<BTreeMap<RunId, Driver>>,
    pub(super) tasks: TaskTracker,
    /// Set at shutdown: a run stops between two steps.
    pub(super) stopping: CancellationToken,
    pub(super) bells: Bells,
}

impl Engine {
    /// An engine for these workflows. All problems come back at once.
    ///
    /// # Errors
    /// `Config` for a definition that cannot run.
    pub fn new(parts: EngineParts, workflows: Vec<Workflow>) -> Result<Self, Vec<Error>> {
        let problems = Self::problems(&workflows, &|tool| parts.tools.contains(tool));
        if !problems.is_empty() {
            return Err(problems);
        }
        let by_name = workflows.into_iter().map(|w| (w.name.clone(), w)).collect();
        Ok(Self(Arc::new(Shared {
            parts,
            workflows: by_name,
            driving: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            bells: Bells::default(),
        })))
    }

    /// What is wrong with a set of workflows, given which tools there are.
    pub fn problems(workflows: &[Workflow], has_tool: &dyn Fn(&str) -> bool) -> Vec<Error> {
        let mut problems = Vec::new();
        let mut seen = BTreeSet::new();
        for workflow in workflows {
            problems.extend(workflow.problems(has_tool));
            if !seen.insert(workflow.name()) {
                let e = Error::new(ErrorKind::Config, "workflow.check", "two workflows have this name");
                problems.push(e.with("workflow", workflow.name.clone()));
            }
        }
        problems
    }

    /// Begins the relay and goes on with every run that a crash or a shutdown left; from then on also with those that another
    /// host of the same journal abandons. Call it once, at start.
    ///
    /// # Errors
    /// `Unavailable` if the journal cannot be read.
    pub async fn resume(&self) -> Result<usize> {
        let resumed = self.take_over().await?;
        self.0.tasks.spawn(relay::run(self.clone()));
        let engine = self.clone();
        self.0.tasks.spawn(async move {
            let shared = &engine.0;
            loop {
                tokio::select! {
                    () = shared.parts.clock.sleep(shared.parts.limits.lease) => {}
                    () = shared.stopping.cancelled() => return,
                }
                if let Err(e) = engine.take_over().await {
                    tracing::warn!(error = %e, "the journal could not be searched for abandoned runs; it is tried again");
                }
            }
        });
        Ok(resumed)
    }

    /// Drives what nobody drives.
    async fn take_over(&self) -> Result<usize> {
        let parts = &self.0.parts;
        let left = parts.journal.resumable(&parts.owner, parts.clock.now(), 10_000).await?;
        let mut resumed = 0;
        for (tenant, run) in left {
            match self.take_over_one(&tenant, run).await {
                Ok(taken) => resumed += usize::from(taken),
                // one run that cannot be read must not keep the others, or the host, from going on
                Err(e) => tracing::error!(%tenant, %run, error = %e, "a run cannot be resumed"),
            }
        }
        Ok(resumed)
    }

    async fn take_over_one(&self, tenant: &TenantId, run: RunId) -> Result<bool> {
        let record = self.0.parts.journal.run(tenant, run).await?;
        let known_again = || {
            let changed = record.error.as_ref().is_some_and(|e| e.kind == ErrorKind::DefinitionChanged);
            changed && self.0.definition(&record).is_ok()
        };
        let free = record.state == RunState::Running || record.cancel_requested || known_again();
        let goes_on = free || self.is_answered(tenant, run).await?;
        if goes_on {
            self.spawn(tenant.clone(), run);
        }
        Ok(goes_on)
    }

    /// Whether the approval that a parked run waits for was answered while nobody was there to go on.
    async fn is_answered(&self, tenant: &TenantId, run: RunId) -> Result<bool> {
        let parts = &self.0.parts;
        let ctx = ExecutionContext::issue(
            Principal::system(tenant.as_str(), "resume")?,
            RequestId::random(parts.clock.now()),
        );
        for step in parts.journal.steps(tenant, run).await? {
            if let StepState::AwaitingApproval { request } = step.state {
                let approval = parts.approvals.find(&ctx, request.id).await?;
                return Ok(approval.state != ApprovalState::Pending);
            }
        }
        Ok(false)
    }

    /// Starts a run. With a business key, starting again is the same run.
    ///
    /// # Errors
    /// `NotFound` for an unknown workflow; `Conflict` if the key's run has another input; the guard's refusals of
    /// `workflow.start`; `Unavailable`.
    pub async fn start(
        &self,
        ctx: &ExecutionContext,
        workflow: &str,
        input: impl Serialize,
        key: Option<&str>,
    ) -> Result<RunHandle> {
        let parts = &self.0.parts;
        let definition = self.0.workflows.get(workflow).ok_or_else(|| {
            let known = self.0.workflows.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Error::not_found("workflow.start", "no workflow is registered by this name").with("known", known)
        })?;
        if self.0.stopping.is_cancelled() {
            return Err(Error::new(ErrorKind::Unavailable, "workflow.start", "the host is shutting down"));
        }
        let input = serde_json::to_value(input)
            .map_err(|e| Error::invalid("workflow.start", "the input does not serialise").with_source(e))?;
        let access = Access {
            action: "workflow.start",
            resource: workflow,
            owner: ctx.tenant(),
            effect: Effect::Write,
            payload: input.clone(),
        };
        parts.guard.authorize(ctx, access).await?;

        let now = parts.clock.now();
        let id = match key {
            Some(key) => {
                RunId::derived(&[b"run", ctx.tenant().as_str().as_bytes(), workflow.as_bytes(), key.as_bytes()])
            }
            None => RunId::random(now),
        };
        let sealed_input = self.0.encrypt(ctx.tenant(), id, "input", &input)?;
        let bound = bound(id, workflow, &sealed_input);
        // a parked run waits long; its seal must outlive it
        let not_after = now.after(Duration::from_secs(366 * 24 * 3600));
        let run = NewRun {
            tenant: ctx.tenant().clone(),
            id,
            workflow: Slug::parse(workflow)?,
            version: definition.version,
            definition: definition.digest(),
            context: SealedContext::seal(ctx, bound, parts.keyring.as_ref(), now, not_after)?,
            input: sealed_input,
            created: now,
        };
        let stored = parts.journal.create(run).await?;
        if key.is_some() && self.0.decrypt(ctx.tenant(), id, "input", &stored.run.input)? != input {
            let why = "a run with this business key has another input; use another key for another piece of work";
            return Err(Error::new(ErrorKind::Conflict, "workflow.start", why).with("run", id.to_string()));
        }
        if stored.state == RunState::Running {
            self.spawn(ctx.tenant().clone(), id);
        }
        Ok(self.handle(RunRef { tenant: ctx.tenant().clone(), run: id }))
    }

    /// A handle on a run of the context's tenant.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`; `NotFound`.
    pub async fn find(&self, ctx: &ExecutionContext, run: &RunRef) -> Result<RunHandle> {
        let access = Access {
            action: "run.read",
            resource: "run",
            owner: &run.tenant,
            effect: Effect::Read,
            payload: Value::Null,
        };
        self.0.parts.guard.authorize(ctx, access).await?;
        self.0.parts.journal.run(&run.tenant, run.run).await?;
        Ok(self.handle(run.clone()))
    }

    /// The runs of a tenant that were given up, newest first: its dead letters.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`; `Unavailable`.
    pub async fn failed(&self, ctx: &ExecutionContext, owner: &TenantId, limit: usize) -> Result<Vec<FailedRun>> {
        let access = Access { action: "run.read", resource: "run", owner, effect: Effect::Read, payload: Value::Null };
        self.0.parts.guard.authorize(ctx, access).await?;
        let failed = self.0.parts.journal.runs(owner, Some(RunState::Failed), limit).await?;
        Ok(failed.into_iter().map(FailedRun::from).collect())
    }

    /// Goes on with a run that was given up, at the step that failed: what is done stays done, and an effect whose outcome is not
    /// known is looked up first. Its tries and its running time count anew.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`; `NotFound`; `Conflict` if it did not fail.
    pub async fn replay(&self, ctx: &ExecutionContext, run: &RunRef) -> Result<RunHandle> {
        let parts = &self.0.parts;
        let access = Access {
            action: "run.replay",
            resource: "run",
            owner: &run.tenant,
            effect: Effect::Write,
            payload: Value::Null,
        };
        parts.guard.authorize(ctx, access).await?;
        if !parts.journal.replay(&run.tenant, run.run, parts.clock.now()).await? {
            let why = "only a run that failed can be replayed";
            return Err(Error::new(ErrorKind::Conflict, "workflow.replay", why));
        }
        self.spawn(run.tenant.clone(), run.run);
        Ok(self.handle(run.clone()))
    }

    /// Asks a run to stop. Effects in flight finish or become unknown outcomes.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`; `NotFound`.
    pub async fn cancel(&self, ctx: &ExecutionContext, run: &RunRef) -> Result<bool> {
        let access = Access {
            action: "run.cancel",
            resource: "run",
            owner: &run.tenant,
            effect: Effect::Write,
            payload: Value::Null,
        };
        self.0.parts.guard.authorize(ctx, access).await?;
        let asked = self.0.parts.journal.request_cancel(&run.tenant, run.run).await?;
        if let Some(driver) = self.0.driving().get(&run.run) {
            driver.token.cancel();
        }
        // a parked run has nobody who would notice
        self.spawn(run.tenant.clone(), run.run);
        Ok(asked)
    }

    /// Goes on with the parked run that waits for this answer, if one does. Call it after an approval was answered.
    ///
    /// # Errors
    /// `Unavailable` if the journal cannot be read.
    pub async fn answered(&self, tenant: &TenantId, approval: ApprovalId) -> Result<Option<RunRef>> {
        let journal = &self.0.parts.journal;
        for record in journal.runs(tenant, Some(RunState::Parked), usize::MAX).await? {
            let id = record.run.id;
            let waits = |s: &StepState| matches!(s, StepState::AwaitingApproval { request } if request.id == approval);
            if journal.steps(tenant, id).await?.iter().any(|s| waits(&s.state)) {
                self.spawn(tenant.clone(), id);
                return Ok(Some(RunRef { tenant: tenant.clone(), run: id }));
            }
        }
        Ok(None)
    }

    /// Stops: no new run, running ones end after their current step. What is left at the deadline is cut off; the journal
    /// knows how to go on.
    pub async fn shutdown(&self, within: Duration) {
        self.0.stopping.cancel();
        self.0.bells.all();
        self.0.tasks.close();
        tokio::select! {
            () = self.0.tasks.wait() => {}
            () = self.0.parts.clock.sleep(within) => {
                for driver in self.0.driving().values() {
                    driver.token.cancel();
                }
            }
        }
    }

    pub(super) fn handle(&self, run: RunRef) -> RunHandle {
        RunHandle::new(self.clone(), run)
    }

    /// Drives a run in a task of its own; where this process does already, once more after that: what it was told of may have come
    /// too late for it.
    pub(super) fn spawn(&self, tenant: TenantId, run: RunId) {
        {
            let mut driving = self.0.driving();
            if self.0.stopping.is_cancelled() {
                return;
            }
            if let Some(driver) = driving.get_mut(&run) {
                driver.again = true;
                return;
            }
            driving.insert(run, Driver::default());
        }
        let engine = self.clone();
        self.0.tasks.spawn(async move {
            while let Some(token) = engine.0.turn(run) {
                // an observer's panic is the host's bug; the run stays resumable all the same
                let outcome = AssertUnwindSafe(drive::drive(&engine, &tenant, run, &token)).catch_unwind().await;
                let outcome =
                    outcome.unwrap_or_else(|_| Err(Error::unexpected("workflow.run", "driving the run panicked")));
                engine.0.bells.rested(run);
                if let Err(e) = outcome {
                    tracing::warn!(tenant = %tenant, run = %run, error = %e, "the run stopped here and stays resumable");
                }
            }
            engine.0.bells.rested(run);
            if engine.0.stopping.is_cancelled() {
                // the relay leaves with the last driver
                engine.0.bells.owed.notify_waiters();
            }
        });
    }
}

/// Who drives a run in this process.
pub(super) struct Driver {
    token: CancellationToken,
    /// It is to be driven, for the first time or once more.
    again: bool,
}

impl Default for Driver {
    fn default() -> Self {
        Self { token: CancellationToken::new(), again: true }
    }
}

impl Shared {
    pub(super) fn driving(&self) -> std::sync::MutexGuard<'_, BTreeMap<RunId, Driver>> {
        self.driving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The token of the next drive, or the end of the driver.
    fn turn(&self, run: RunId) -> Option<CancellationToken> {
        let mut driving = self.driving();
        match driving.get_mut(&run) {
            Some(driver) if driver.again => {
                *driver = Driver { again: false, ..Driver::default() };
                Some(driver.token.clone())
            }
            _ => {
                driving.remove(&run);
                None
            }
        }
    }

    pub(super) fn definition(&self, record: &RunRecord) -> Result<&Workflow> {
        let name = record.run.workflow.as_str();
        let changed = |why: &'static str| {
            Error::new(ErrorKind::DefinitionChanged, "workflow.resume", why).with("workflow", name.to_owned())
        };
        let definition = self.workflows.get(name).ok_or_else(|| changed("the workflow is not registered any more"))?;
        if definition.digest() != record.run.definition {
            return Err(changed(
                "the stored run was made by another definition; start a host that has that one, or cancel the run",
            ));
        }
        Ok(definition)
    }

    pub(super) fn encrypt(&self, tenant: &TenantId, run: RunId, what: &str, body: &Value) -> Result<Vec<u8>> {
        self.parts.keyring.encrypt(tenant, &aad(run, what), body.to_string().as_bytes())
    }

    pub(super) fn decrypt(&self, tenant: &TenantId, run: RunId, what: &str, blob: &[u8]) -> Result<Value> {
        let plain = self.parts.keyring.decrypt(tenant, &aad(run, what), blob)?;
        serde_json::from_slice(&plain)
            .map_err(|e| Error::new(ErrorKind::Corrupt, "workflow.decrypt", "a stored body is no JSON").with_source(e))
    }
}

/// Binds a body to its place, so that rows cannot be exchanged.
fn aad(run: RunId, what: &str) -> Vec<u8> {
    [run.as_bytes().as_slice(), b"|", what.as_bytes()].concat()
}

pub(super) fn bound(run: RunId, workflow: &str, body: &[u8]) -> SealedFor {
    SealedFor { id: run.to_string(), name: workflow.to_owned(), queue: "journal".to_owned(), body: Digest::of(body) }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("workflows", &self.0.workflows.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
