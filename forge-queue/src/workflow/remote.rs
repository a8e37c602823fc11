//! Steps through the queue: the task carries names and numbers, the worker reads the rest from the journal, and the owner of
//! the run journals the answer.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use forge_core::error::ErrorReport;
use forge_core::journal::{Claim, Outbox, StepState};
use forge_core::queue::{Lease, NewTask, TaskHandler, TaskState};
use forge_core::{Error, ErrorKind, ExecutionContext, OperationKey, Result, RunId, Slug};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::definition::path;
use super::engine::Engine;
use super::perform::perform;

/// The task's name.
const STEP: &str = "forge.step";

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepTask {
    run: RunId,
    path: String,
    attempt: u32,
    fence: u64,
}

/// The worker's answer; the output is encrypted, because a queue's result store is not the journal.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct StepAnswer {
    output: Result<String, ErrorReport>,
    outbox: Outbox,
}

/// Queues the step and waits for its answer.
pub(super) async fn through_queue(
    engine: &Engine,
    ctx: &ExecutionContext,
    claim: &Claim,
    path: &str,
    attempt: u32,
) -> (Result<Value>, Outbox) {
    match ask(engine, ctx, claim, path, attempt).await {
        Err(e) => (Err(e), Outbox::default()),
        Ok(StepAnswer { output: Err(report), outbox }) => (Err(report.into_error("workflow.queued")), outbox),
        Ok(StepAnswer { output: Ok(blob), outbox }) => (open(engine, claim, path, &blob), outbox),
    }
}

async fn ask(engine: &Engine, ctx: &ExecutionContext, claim: &Claim, path: &str, attempt: u32) -> Result<StepAnswer> {
    let parts = &engine.0.parts;
    let task = StepTask { run: claim.run, path: path.to_owned(), attempt, fence: claim.fence };
    let payload = serde_json::to_value(task)
        .map_err(|e| Error::unexpected("workflow.queued", "the task does not serialise").with_source(e))?;
    let unique = OperationKey::derived(&[
        b"queued",
        claim.run.as_bytes(),
        path.as_bytes(),
        &attempt.to_be_bytes(),
        &claim.fence.to_be_bytes(),
    ]);
    // the journal retries, so the queue does not
    let new = NewTask::new(Slug::parse(STEP)?, payload).with_unique(unique).with_max_retries(0);
    let id = parts.queue.enqueue(ctx, new).await?;
    let mut pause = Duration::from_millis(5);
    loop {
        let state = match parts.queue.status(ctx, id).await {
            Ok(status) => status.state,
            // the worker goes on whether we can look or not
            Err(e) if e.kind() == ErrorKind::Unavailable => {
                tracing::warn!(error = %e, "a queued step could not be looked at; trying again");
                TaskState::Leased
            }
            Err(e) => return Err(e),
        };
        match state {
            TaskState::Succeeded { result } => {
                return serde_json::from_value(result).map_err(|e| {
                    Error::new(ErrorKind::Corrupt, "workflow.queued", "the answer has another shape").with_source(e)
                });
            }
            TaskState::Dead { report } => return Err(report.into_error("workflow.queued")),
            TaskState::Cancelled => {
                return Err(Error::new(ErrorKind::Cancelled, "workflow.queued", "the task was cancelled"));
            }
            TaskState::Ready | TaskState::Leased => {}
        }
        tokio::select! {
            () = parts.clock.sleep(pause) => pause = (pause * 2).min(Duration::from_millis(200)),
            () = ctx.cancellation().cancelled() => {
                parts.queue.cancel(ctx, id).await?;
                return Err(Error::new(ErrorKind::Cancelled, "workflow.queued", "the run was cancelled"));
            }
        }
    }
}

fn open(engine: &Engine, claim: &Claim, path: &str, blob: &str) -> Result<Value> {
    let bytes = data_encoding::BASE64
        .decode(blob.as_bytes())
        .map_err(|e| Error::new(ErrorKind::Corrupt, "workflow.queued", "the answer is not base64").with_source(e))?;
    engine.0.decrypt(&claim.tenant, claim.run, path, &bytes)
}

/// The worker's side: performs a step of a run that is still at this try under this fence, and nothing else.
pub(crate) struct StepHandler(pub(crate) Engine);

impl fmt::Debug for StepHandler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StepHandler")
    }
}

impl StepHandler {
    pub(crate) const NAME: &'static str = STEP;
}

#[async_trait]
impl TaskHandler for StepHandler {
    async fn handle(&self, ctx: &ExecutionContext, lease: &Lease) -> Result<Value> {
        let shape = |e| Error::new(ErrorKind::Corrupt, "workflow.queued", "the task has another shape").with_source(e);
        let task: StepTask = serde_json::from_value(lease.payload.clone()).map_err(shape)?;
        let shared = &self.0.0;
        let (tenant, journal) = (ctx.tenant(), &shared.parts.journal);
        let claim = Claim { tenant: tenant.clone(), run: task.run, fence: task.fence };
        let record = journal.run(tenant, task.run).await?;
        let definition = shared.definition(&record)?;
        let mut outputs = definition.outputs(shared.decrypt(tenant, task.run, "input", &record.run.input)?)?;
        let mut current = false;
        for row in journal.steps(tenant, task.run).await? {
            current |= row.path == task.path && row.attempt == task.attempt && row.state == StepState::Running;
            if let (Some(blob), Some((_, name))) = (&row.output, row.path.split_once('/')) {
                outputs.insert(name, shared.decrypt(tenant, task.run, &row.path, blob)?);
            }
        }
        if !current {
            return Err(Error::new(ErrorKind::LeaseLost, "workflow.queued", "the run has gone on without this task"));
        }
        let step = definition.stages.iter().flat_map(|stage| stage.steps.iter().map(move |s| (path(stage, s), s)));
        let (_, step) = step.into_iter().find(|(p, _)| *p == task.path).ok_or_else(|| {
            Error::new(ErrorKind::DefinitionChanged, "workflow.queued", "the definition has no such step")
        })?;
        let (outcome, outbox) = perform(&self.0, ctx, &claim, step, &task.path, task.attempt, &outputs).await;
        let output = match outcome {
            Ok(value) => Ok(data_encoding::BASE64.encode(&shared.encrypt(tenant, task.run, &task.path, &value)?)),
            Err(e) => Err(e.report()),
        };
        serde_json::to_value(StepAnswer { output, outbox }).map_err(shape)
    }
}
