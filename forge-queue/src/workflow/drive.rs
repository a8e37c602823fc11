//! One run, from where its journal stands to where it ends, waits or is taken away.

use std::time::Duration;

use forge_core::context::derived_span;
use forge_core::error::ErrorReport;
use forge_core::guard::StepBooks;
use forge_core::journal::{Claim, Intent, Outbox, RunEvent, RunRecord, RunState, StepRecord, StepState, Transition};
use forge_core::metrics::Metric;
use forge_core::tool::Probed;
use forge_core::{EmployeeId, Error, ErrorKind, ExecutionContext, Result, Retryability, RunId, TenantId, TraceContext};
use serde_json::Value;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::definition::{Body, Mode, Stage, StepDef, path};
use super::engine::{Engine, bound};
use super::handle::RunRef;
use super::perform::perform;
use super::{Outputs, remote};

/// How a pass over the run ended.
enum Pass {
    Completed,
    /// A person is asked; the journal says what.
    Parked,
    /// The host is shutting down; the run stays as it is.
    Left,
    /// A step was given up.
    Failed(Error),
}

/// The run in hand.
pub(super) struct Driving<'a> {
    engine: &'a Engine,
    claim: Claim,
    record: RunRecord,
    token: CancellationToken,
    began: Duration,
    /// The end of the step before, which goes into the journal with what follows it: one commit a step.
    ended: Option<Change>,
}

/// A change of the run, and the try that it tells of.
#[derive(Clone)]
struct Change {
    attempt: u32,
    transition: Transition,
}

pub(super) async fn drive(engine: &Engine, tenant: &TenantId, run: RunId, token: &CancellationToken) -> Result<()> {
    let parts = &engine.0.parts;
    parts.keyring.load(tenant).await?;
    let now = parts.clock.now();
    let claim = parts.journal.claim(tenant, run, &parts.owner, now, now.after(parts.limits.lease)).await?;
    let record = parts.journal.run(tenant, run).await?;
    let mut driving = Driving {
        engine,
        claim: claim.clone(),
        record,
        token: token.clone(),
        began: parts.clock.monotonic(),
        ended: None,
    };
    let heart = engine.0.tasks.spawn(heartbeat(engine.clone(), claim.clone(), token.clone()));
    let heart = AbortOnDropHandle::new(heart);
    let outcome = driving.until_rest().await;
    drop(heart);
    match parts.journal.release(&claim).await {
        Err(e) if outcome.is_ok() && e.kind() != ErrorKind::LeaseLost => Err(e),
        _ => outcome,
    }
}

/// Holds the claim while the run is driven; a lost claim cancels the work at once.
async fn heartbeat(engine: Engine, claim: Claim, token: CancellationToken) {
    let parts = &engine.0.parts;
    loop {
        parts.clock.sleep(parts.limits.lease / 3).await;
        let until = parts.clock.now().after(parts.limits.lease);
        if let Err(e) = parts.journal.extend(&claim, until).await
            && e.kind() == ErrorKind::LeaseLost
        {
            token.cancel();
            return;
        }
    }
}

impl Driving<'_> {
    async fn until_rest(&mut self) -> Result<()> {
        if self.record.state.is_final() {
            return Ok(());
        }
        if self.record.state == RunState::Parked {
            self.moved(RunState::Running, None).await?;
        }
        let ctx = self.open_context()?;
        let name = format!("invoke_workflow {}", self.record.run.workflow);
        let (ctx, span) = derived_span(&ctx, &name, &[b"run", self.claim.run.as_bytes()]);
        span.record("resource", self.record.run.workflow.as_str());
        let pass = self.walk(&ctx).instrument(span.clone()).await;
        let (state, error) = match pass {
            Ok(Pass::Left) => return self.settle().await,
            Ok(Pass::Completed) => (RunState::Completed, None),
            Ok(Pass::Parked) => (RunState::Parked, None),
            Ok(Pass::Failed(e)) if e.kind() == ErrorKind::Cancelled => (RunState::Cancelled, Some(e)),
            Ok(Pass::Failed(e)) => (RunState::Failed, Some(e)),
            // another host has it now, or the journal does not answer: this one must not write
            Err(e) if matches!(e.kind(), ErrorKind::LeaseLost | ErrorKind::Conflict | ErrorKind::Unavailable) => {
                // but what is done is done, if it still may say so
                let _ = self.settle().await;
                return Err(e);
            }
            // nothing is lost by a deploy: the run waits for a host that has its definition
            Err(e) if e.kind() == ErrorKind::DefinitionChanged => (RunState::Parked, Some(e)),
            Err(e) if e.kind() == ErrorKind::Cancelled => (RunState::Cancelled, Some(e)),
            Err(e) => (RunState::Failed, Some(e)),
        };
        if let Some(e) = &error {
            span.record("error", e.kind().as_str());
        }
        let result = match state {
            RunState::Completed => "ok",
            RunState::Parked => "parked",
            _ => error.as_ref().map_or("failed", |e| e.kind().as_str()),
        };
        self.moved(state, error.map(|e| e.report())).await?;
        if state != RunState::Parked {
            let labels = [self.claim.tenant.as_str(), self.record.run.workflow.as_str(), result];
            self.engine.0.parts.metrics.add(Metric::Runs, &labels, 1.0);
        }
        Ok(())
    }

    /// The starter's context, unsealed, in the run's own trace.
    fn open_context(&self) -> Result<ExecutionContext> {
        let parts = &self.engine.0.parts;
        let run = &self.record.run;
        let bound = bound(run.id, run.workflow.as_str(), &run.input);
        let ctx = run.context.open(&bound, parts.keyring.as_ref(), parts.clock.now())?;
        if *ctx.tenant() != self.claim.tenant {
            return Err(Error::new(
                ErrorKind::TenantMismatch,
                "workflow.resume",
                "the sealed context belongs to another tenant",
            ));
        }
        let trace = TraceContext::derived(&[b"run", run.id.as_bytes()]);
        Ok(ctx.with_trace(trace).with_cancellation(self.token.clone()))
    }

    async fn walk(&mut self, ctx: &ExecutionContext) -> Result<Pass> {
        let shared = &self.engine.0;
        // a cancelled run needs no definition to end
        if self.record.cancel_requested {
            return Err(cancelled());
        }
        self.may_go_on(ctx).await?;
        let definition = shared.definition(&self.record)?;
        let (tenant, run) = (self.claim.tenant.clone(), self.claim.run);
        let mut outputs = definition.outputs(shared.decrypt(&tenant, run, "input", &self.record.run.input)?)?;
        let done = shared.parts.journal.steps(&tenant, run).await?;
        for stage in &definition.stages {
            // to enter a stage may take its time
            self.settle().await?;
            let (stage_ctx, stage_span) = self.enter(ctx, stage).await?;
            for step in &stage.steps {
                let path = path(stage, step);
                let before = done.iter().find(|s| s.path == path);
                let output = match before.and_then(|s| s.output.as_deref()) {
                    Some(blob) => shared.decrypt(&tenant, run, &path, blob)?,
                    None => {
                        let work = self.step(&stage_ctx, step, &path, before, &outputs).instrument(stage_span.clone());
                        match work.await? {
                            Done::Output(output) => output,
                            Done::Failed(e) => return Ok(Pass::Failed(e)),
                            Done::Waits if shared.stopping.is_cancelled() => return Ok(Pass::Left),
                            Done::Waits => return Ok(Pass::Parked),
                        }
                    }
                };
                outputs.insert(&step.name, output);
            }
        }
        Ok(Pass::Completed)
    }

    async fn enter(&self, ctx: &ExecutionContext, stage: &Stage) -> Result<(ExecutionContext, tracing::Span)> {
        let actor = match &stage.employee {
            None => ctx.clone(),
            Some(employee) => {
                let employee = EmployeeId::parse(employee)?;
                ctx.on_behalf(self.engine.0.parts.principals.resolve(ctx, &employee).await?)?
            }
        };
        let (ctx, span) = derived_span(
            &actor,
            &format!("stage {}", stage.name),
            &[b"stage", self.claim.run.as_bytes(), stage.name.as_bytes()],
        );
        Ok((ctx, span))
    }

    /// One step, tried until it is done, given up or parked. An error is the engine's own: the run stays resumable.
    async fn step(
        &mut self,
        ctx: &ExecutionContext,
        step: &StepDef,
        path: &str,
        before: Option<&StepRecord>,
        outputs: &Outputs,
    ) -> Result<Done> {
        let engine = self.engine;
        let parts = &engine.0.parts;
        let mut attempt = before.map_or(0, |s| s.attempt);
        // the tries of a step that was given up and is replayed count no more
        let given_up = |s: &&StepRecord| matches!(s.state, StepState::Failed { next: None, .. });
        let ended = before.filter(given_up).map_or(0, |s| s.attempt);
        let mut intent = before.and_then(|s| s.intent.clone());
        let mut failures = 0;
        loop {
            self.may_go_on(ctx).await?;
            if engine.0.stopping.is_cancelled() {
                return Ok(Done::Waits);
            }
            if let Some(open) = intent.take() {
                match self.look_up(ctx, step, path, attempt, &open, outputs).await? {
                    Looked::Done(output) => return Ok(Done::Output(output)),
                    Looked::NotThere => {}
                    Looked::Unknown => return Ok(Done::Waits),
                }
            }
            if attempt - ended >= parts.limits.attempts {
                let e =
                    Error::new(ErrorKind::Unavailable, "workflow.step", "the step was begun too often without an end");
                return Ok(Done::Failed(e.with("step", path.to_owned()).with_retry(Retryability::Exhausted)));
            }
            attempt += 1;
            if self.apply(attempt, Transition::StepStarted { path: path.into(), attempt }).await? {
                return Ok(match self.stopped(step, path, attempt, failures, cancelled(), Outbox::default()).await? {
                    After::GivenUp(e) => Done::Failed(e),
                    After::Parked | After::Retry(_) | After::LookUp(_) => Done::Waits,
                });
            }
            let name = format!("step {}", step.name);
            let (step_ctx, span) = forge_core::context::span(ctx, &name);
            span.record("attempt", attempt);
            span.record("resource", path);
            let began = parts.clock.monotonic();
            let (outcome, outbox) =
                self.execute(&step_ctx, step, path, attempt, outputs).instrument(span.clone()).await;
            let took = parts.clock.monotonic().saturating_sub(began).as_secs_f64();
            parts.metrics.observe(Metric::StepDuration, &[ctx.tenant().as_str(), &step.name], took);
            let error = match outcome {
                Ok(output) => {
                    let blob = engine.0.encrypt(ctx.tenant(), self.claim.run, path, &output)?;
                    let transition = Transition::StepCompleted { path: path.into(), output: blob, outbox };
                    self.ended = Some(Change { attempt, transition });
                    return Ok(Done::Output(output));
                }
                Err(e) => e,
            };
            span.record("error", error.kind().as_str());
            if self.token.is_cancelled() && !self.is_cancel_requested().await? {
                // cut off, not cancelled: nothing is journalled, so that whoever comes next finds an interrupted try
                return Err(cut_off());
            }
            failures += 1;
            match self.stopped(step, path, attempt, failures, error, outbox).await? {
                After::Parked => return Ok(Done::Waits),
                After::GivenUp(e) => return Ok(Done::Failed(e)),
                After::LookUp(open) => intent = Some(open),
                After::Retry(wait) => {
                    tokio::select! {
                        () = parts.clock.sleep(wait) => {}
                        () = self.token.cancelled() => {}
                        () = self.engine.0.stopping.cancelled() => {}
                    }
                }
            }
        }
    }

    /// Journals a try that did not complete and says what follows.
    async fn stopped(
        &mut self,
        step: &StepDef,
        path: &str,
        attempt: u32,
        failures: u32,
        error: Error,
        outbox: Outbox,
    ) -> Result<After> {
        let parts = &self.engine.0.parts;
        let kind = error.kind();
        let stop = |state, clear_intent| Transition::StepStopped { path: path.to_owned(), state, outbox, clear_intent };
        if let Some(request) = error.approval() {
            let state = StepState::AwaitingApproval { request: request.clone() };
            self.apply(attempt, stop(state, true)).await?;
            return Ok(After::Parked);
        }
        if kind == ErrorKind::UnknownOutcome {
            let state = StepState::UnknownOutcome { report: error.report() };
            self.apply(attempt, stop(state, false)).await?;
            let steps = parts.journal.steps(&self.claim.tenant, self.claim.run).await?;
            let open = steps.into_iter().find(|s| s.path == path).and_then(|s| s.intent);
            // an intent is written before any effect that cannot be repeated: without one nothing was sent
            let harmless = matches!(&step.body, Body::Tool { tool, .. } if parts.tools.is_repeatable(tool));
            return Ok(match open {
                Some(open) => After::LookUp(open),
                None if harmless && failures < step.tries.max => After::Retry(step.tries.base),
                None => After::Parked,
            });
        }
        let wait = step.tries.backoff(failures, &error);
        let next = wait.map(|w| parts.clock.now().after(w));
        // a tool's own refusal or failure means that its effect was not made; of code with several calls nobody knows, nor of a
        // call that was cancelled while a worker had it
        let clear = matches!(step.body, Body::Tool { .. }) && kind != ErrorKind::Cancelled;
        let report = error.report();
        self.apply(attempt, stop(StepState::Failed { report, next }, clear)).await?;
        Ok(wait.map_or(After::GivenUp(error), After::Retry))
    }

    /// The step's body, here or through the queue: one code path.
    async fn execute(
        &self,
        ctx: &ExecutionContext,
        step: &StepDef,
        path: &str,
        attempt: u32,
        outputs: &Outputs,
    ) -> (Result<Value>, Outbox) {
        match step.mode {
            Mode::Inline => perform(self.engine, ctx, &self.claim, step, path, attempt, outputs).await,
            Mode::Queued => remote::through_queue(self.engine, ctx, &self.claim, path, attempt).await,
        }
    }

    /// After a crash or a lost answer: did the effect happen?
    async fn look_up(
        &mut self,
        ctx: &ExecutionContext,
        step: &StepDef,
        path: &str,
        attempt: u32,
        intent: &Intent,
        outputs: &Outputs,
    ) -> Result<Looked> {
        let parts = &self.engine.0.parts;
        let tools = &parts.tools;
        let probed = match &step.body {
            Body::Code(_) => {
                Err(Error::new(ErrorKind::UnknownOutcome, "workflow.probe", "a step of code cannot be probed"))
            }
            Body::Tool { tool, args } => {
                let options = forge_core::guard::CallOptions::default().in_step(
                    self.claim.run,
                    attempt,
                    StepBooks::default(),
                    None,
                );
                let (mut n, mut settled) = (0, false);
                loop {
                    n += 1;
                    let probed = tools.probe(ctx, tool, &args(outputs)?, intent, &options).await;
                    // what was sent a moment ago may not show yet: "not there" is believed the second time
                    if matches!(probed, Ok((Probed::NotHappened, _))) && !settled {
                        settled = true;
                        parts.clock.sleep(tools.settles_in(tool)).await;
                        continue;
                    }
                    // looking is harmless: a far side that is busy is asked again before a person is
                    match probed.as_ref().err().and_then(|e| step.tries.backoff(n, e)) {
                        Some(wait) => parts.clock.sleep(wait).await,
                        None => break probed,
                    }
                }
            }
        };
        let report = match probed {
            Ok((Probed::Happened(output), owed)) => {
                let output = output.content().clone();
                let blob = self.engine.0.encrypt(ctx.tenant(), self.claim.run, path, &output)?;
                let done = Transition::StepCompleted { path: path.into(), output: blob, outbox: owed };
                self.apply(attempt, done).await?;
                return Ok(Looked::Done(output));
            }
            Ok((Probed::NotHappened, _)) => {
                let e =
                    Error::new(ErrorKind::Unavailable, "workflow.probe", "the effect was not made; it is tried again");
                let state = StepState::Failed { report: e.report(), next: Some(parts.clock.now()) };
                let stop =
                    Transition::StepStopped { path: path.into(), state, outbox: Outbox::default(), clear_intent: true };
                self.apply(attempt, stop).await?;
                return Ok(Looked::NotThere);
            }
            Ok((Probed::Unknown, _)) => {
                Error::new(ErrorKind::UnknownOutcome, "workflow.probe", "the far side cannot tell; a person must look")
                    .report()
            }
            Err(e) => e.report(),
        };
        let state = StepState::UnknownOutcome { report };
        let stop = Transition::StepStopped { path: path.into(), state, outbox: Outbox::default(), clear_intent: false };
        self.apply(attempt, stop).await?;
        Ok(Looked::Unknown)
    }

    async fn is_cancel_requested(&self) -> Result<bool> {
        let journal = &self.engine.0.parts.journal;
        Ok(journal.run(&self.claim.tenant, self.claim.run).await?.cancel_requested)
    }

    /// Cut off, cancelled by this host, out of time, or free to go on. Of a cancellation that others asked for the journal tells
    /// when a try begins.
    async fn may_go_on(&self, ctx: &ExecutionContext) -> Result<()> {
        let parts = &self.engine.0.parts;
        if self.token.is_cancelled() {
            return Err(if self.is_cancel_requested().await? { cancelled() } else { cut_off() });
        }
        let ran = self.record.running + parts.clock.monotonic().saturating_sub(self.began);
        if ran > parts.limits.running {
            let e = Error::new(ErrorKind::Timeout, "workflow.run", "the run used up its running time")
                .with_retry(Retryability::Never);
            return Err(e.with("limit_s", parts.limits.running.as_secs().to_string()));
        }
        ctx.check("workflow.run", parts.clock.now())
    }

    async fn moved(&mut self, state: RunState, error: Option<ErrorReport>) -> Result<()> {
        let clock = &self.engine.0.parts.clock;
        let now = clock.monotonic();
        let ran = now.saturating_sub(self.began);
        self.began = now;
        self.record.running += ran;
        self.apply(0, Transition::RunMoved { state, error, ran }).await.map(drop)
    }

    /// Journals the end of the step before, if that is still to be done.
    async fn settle(&mut self) -> Result<()> {
        match self.ended.take() {
            Some(ended) => self.journal(vec![ended]).await.map(drop),
            None => Ok(()),
        }
    }

    /// Journals a change, after the end of the step before and with it. Returns whether the run's cancellation was asked for.
    async fn apply(&mut self, attempt: u32, transition: Transition) -> Result<bool> {
        let ended = self.ended.clone();
        let change = Change { attempt, transition };
        let asked = self.journal(ended.into_iter().chain([change]).collect()).await?;
        self.ended = None;
        Ok(asked)
    }

    /// Journals changes, then tells who listens.
    async fn journal(&self, changes: Vec<Change>) -> Result<bool> {
        let parts = &self.engine.0.parts;
        let at = parts.clock.now();
        let event = |c: &Change| {
            let (path, what, error) = c.transition.event();
            let error = error.map(|k| k.as_str().to_owned());
            // the number is the journal's to give
            RunEvent { seq: 0, at, path: path.to_owned(), what: what.to_owned(), attempt: c.attempt, error }
        };
        let observed = parts.observer.as_ref().map(|o| (o, changes.iter().map(event).collect::<Vec<_>>()));
        let moved = changes.iter().any(|c| matches!(c.transition, Transition::RunMoved { .. }));
        let owes = changes.iter().any(|c| c.transition.owes());
        let changes = changes.into_iter().map(|c| c.transition).collect();
        let asked = parts.journal.apply(&self.claim, at, changes).await?;
        let bells = &self.engine.0.bells;
        if moved {
            bells.rested(self.claim.run)
        } else {
            bells.changed(self.claim.run)
        }
        if owes {
            bells.owed.notify_waiters();
        }
        if let Some((observer, events)) = observed {
            let run = RunRef { tenant: self.claim.tenant.clone(), run: self.claim.run };
            events.iter().for_each(|event| observer(&run, event));
        }
        Ok(asked)
    }
}

/// The claim is another's, or the host is going down with the step in its hands.
fn cut_off() -> Error {
    Error::new(ErrorKind::LeaseLost, "workflow.run", "the run was taken over or cut off")
}

fn cancelled() -> Error {
    Error::new(ErrorKind::Cancelled, "workflow.run", "the run was cancelled")
}

enum Looked {
    Done(Value),
    NotThere,
    Unknown,
}

/// How a step ended, or why it does not go on.
enum Done {
    Output(Value),
    Failed(Error),
    /// For a person, or for the next start.
    Waits,
}

enum After {
    GivenUp(Error),
    Retry(Duration),
    LookUp(Intent),
    Parked,
}
