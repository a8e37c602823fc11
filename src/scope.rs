//! The adapters, bound to one context: what a request handler holds.

use std::path::Path;

use forge_core::approvals::{Answer, Approval};
use forge_core::audit::{AuditRow, ChainReport};
use forge_core::guard::{Access, CallOptions};
use forge_core::model::{Completion, CompletionRequest};
use forge_core::policy::Obligations;
use forge_core::queue::{NewTask, TaskQueue, TaskState, TaskStatus};
use forge_core::redact::{RedactOptions, RedactorExt};
use forge_core::tool::{Effect, ToolOutput};
use forge_core::usage::{UsageEvent, UsageQuery, UsageTotals};
use forge_core::vector::Hit;
use forge_core::{ApprovalId, Digest, Error, ErrorKind, ExecutionContext, Namespace, Result, Slug, TaskId, TenantId};
use forge_memory::Passage;
use forge_queue::dead::{DeadLetter, LetterFilter};
use forge_queue::schedule::{Schedule, ScheduleStatus, Schedules};
use forge_queue::workflow::{FailedRun, RunHandle, RunRef};
use serde::Serialize;
use serde_json::Value;

use crate::Forge;

/// One request's view of Forge. Everything asked through it is decided, audited and paid for as the context's employee.
///
/// Where a reference or a tenant comes from outside with the request, it is an argument here and is checked: another tenant's
/// is `TenantMismatch`, with an audit row.
#[derive(Debug, Clone)]
pub struct Scope<'a> {
    pub(crate) forge: &'a Forge,
    pub(crate) ctx: ExecutionContext,
}

impl Scope<'_> {
    /// Calls a tool.
    ///
    /// # Errors
    /// `PolicyDenied`, `ApprovalRequired`, `QuotaExceeded`, `InvalidInput`; the tool's own.
    pub async fn call(&self, tool: &str, args: Value) -> Result<ToolOutput> {
        self.call_with(tool, args, CallOptions::default()).await
    }

    /// Calls a tool with a key or tries of one's own.
    ///
    /// # Errors
    /// As for [`call`](Self::call).
    pub async fn call_with(&self, tool: &str, args: Value, options: CallOptions) -> Result<ToolOutput> {
        self.forge.parts().tools.call(&self.ctx, tool, args, options).await
    }

    /// Asks the best language model that the policy allows, or the one that the request names.
    ///
    /// # Errors
    /// As for [`Models::complete`](forge_core::guard::Models::complete).
    pub async fn complete(&self, request: CompletionRequest) -> Result<Completion> {
        self.forge.parts().models.complete(&self.ctx, request, CallOptions::default()).await
    }

    /// Keeps which models the employee prefers, best first. A preference chooses among what the policy allows.
    ///
    /// # Errors
    /// `PolicyDenied`; `InvalidInput` for too many.
    pub async fn prefer_models(&self, models: &[String]) -> Result<()> {
        let access = self.access("preference.write", "models", self.ctx.tenant(), Effect::Write);
        self.forge.parts().guard.authorize(&self.ctx, access).await?;
        self.forge.parts().preferences.prefer(&self.ctx, models).await
    }

    /// Starts a workflow; it survives the process.
    ///
    /// # Errors
    /// `NotFound`; the guard's refusals.
    pub async fn start(&self, workflow: &str, input: impl Serialize) -> Result<RunHandle> {
        self.forge.parts().engine.start(&self.ctx, workflow, input, None).await
    }

    /// Starts a workflow once for this business key: again is the same run.
    ///
    /// # Errors
    /// As for [`start`](Self::start).
    pub async fn start_once(&self, key: &str, workflow: &str, input: impl Serialize) -> Result<RunHandle> {
        self.forge.parts().engine.start(&self.ctx, workflow, input, Some(key)).await
    }

    /// A run.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`, `NotFound`.
    pub async fn run(&self, run: &RunRef) -> Result<RunHandle> {
        self.forge.parts().engine.find(&self.ctx, run).await
    }

    /// The runs of a tenant that were given up, newest first.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`.
    pub async fn failed_runs(&self, owner: &TenantId, limit: usize) -> Result<Vec<FailedRun>> {
        self.forge.parts().engine.failed(&self.ctx, owner, limit).await
    }

    /// Goes on with a run that was given up, at the step that failed.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`, `NotFound`; `Conflict` if it did not fail.
    pub async fn replay(&self, run: &RunRef) -> Result<RunHandle> {
        self.forge.parts().engine.replay(&self.ctx, run).await
    }

    /// Asks a run to stop.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`, `NotFound`.
    pub async fn cancel(&self, run: &RunRef) -> Result<bool> {
        self.forge.parts().engine.cancel(&self.ctx, run).await
    }

    /// Questions that wait for a person.
    ///
    /// # Errors
    /// `PolicyDenied`.
    pub async fn pending_approvals(&self) -> Result<Vec<Approval>> {
        self.read("approval.read", "approvals", self.ctx.tenant()).await?;
        self.forge.parts().approvals.pending(&self.ctx, 1000).await
    }

    /// Says yes to exactly the arguments with this digest; the run that waits for it goes on.
    ///
    /// # Errors
    /// `PolicyDenied` for the asker and for a role that may not; `Conflict`; `NotFound`.
    pub async fn approve(&self, id: ApprovalId, digest: Digest) -> Result<()> {
        self.answer(id, digest, Answer::Approve).await
    }

    /// Says no.
    ///
    /// # Errors
    /// As for [`approve`](Self::approve).
    pub async fn deny(&self, id: ApprovalId, digest: Digest) -> Result<()> {
        self.answer(id, digest, Answer::Deny).await
    }

    async fn answer(&self, id: ApprovalId, digest: Digest, answer: Answer) -> Result<()> {
        let parts = self.forge.parts();
        parts.guard.answer(&self.ctx, id, digest, answer).await?;
        parts.engine.answered(self.ctx.tenant(), id).await.map(|_| ())
    }

    /// Queues a task.
    ///
    /// # Errors
    /// The guard's refusals; `InvalidInput` if it is too large.
    pub async fn enqueue(&self, task: NewTask) -> Result<TaskId> {
        self.forge.parts().queue.enqueue(&self.ctx, task).await
    }

    /// Where a task of this tenant is. The tokens of its result are what they stand for again, but for what the policy masks.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`, `NotFound`.
    pub async fn task(&self, owner: &TenantId, id: TaskId) -> Result<TaskStatus> {
        let obliged = self.read("task.read", "task", owner).await?;
        let parts = self.forge.parts();
        let mut status = parts.queue.status(&self.ctx, id).await?;
        if let TaskState::Succeeded { result } = &mut status.state {
            let mask = RedactOptions::mask(obliged.redact_output);
            parts.redactor.reveal_json(self.ctx.tenant(), result)?;
            parts.redactor.redact_json(self.ctx.tenant(), result, &mask)?;
        }
        Ok(status)
    }

    /// The tenant's dead letters that the filter lets through, the last to die first.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`.
    pub async fn dead_letters(&self, owner: &TenantId, filter: &LetterFilter, limit: usize) -> Result<Vec<DeadLetter>> {
        self.read("task.read", "dead_letters", owner).await?;
        self.forge.parts().upkeep()?.letters.dead_letters(&self.ctx, filter, limit).await
    }

    /// Queues a dead letter of the tenant again, with all its tries. It runs as the caller.
    ///
    /// # Errors
    /// `PolicyDenied`, `NotFound`; `Conflict` if the task is not dead.
    pub async fn replay_task(&self, id: TaskId) -> Result<()> {
        let access = self.access("task.replay", "dead_letters", self.ctx.tenant(), Effect::Write);
        self.forge.parts().guard.authorize(&self.ctx, access).await?;
        self.forge.parts().upkeep()?.letters.replay(&self.ctx, id).await
    }

    /// Deletes a dead letter of the tenant; whether it was there.
    ///
    /// # Errors
    /// `PolicyDenied`.
    pub async fn purge_task(&self, id: TaskId) -> Result<bool> {
        let access = self.access("task.purge", "dead_letters", self.ctx.tenant(), Effect::Write);
        self.forge.parts().guard.authorize(&self.ctx, access).await?;
        self.forge.parts().upkeep()?.letters.purge(&self.ctx, id).await
    }

    /// Schedules a task of the tenant, or changes the schedule of that name. It runs as the caller; each tick asks the policy as any
    /// task does.
    ///
    /// # Errors
    /// `PolicyDenied`, `InvalidInput`.
    pub async fn put_schedule(&self, schedule: Schedule) -> Result<()> {
        self.change_schedule(schedule.name.clone()).await?.put(&self.ctx, schedule).await
    }

    /// The tenant's schedules, with what became of their last ticks.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`.
    pub async fn schedules(&self, owner: &TenantId) -> Result<Vec<ScheduleStatus>> {
        self.read("schedule.read", "schedules", owner).await?;
        self.beat()?.list(&self.ctx).await
    }

    /// Removes a schedule of the tenant.
    ///
    /// # Errors
    /// `PolicyDenied`, `NotFound`.
    pub async fn remove_schedule(&self, name: &Slug) -> Result<()> {
        self.change_schedule(name.clone()).await?.remove(&self.ctx, name).await
    }

    /// Lets a schedule of the tenant rest.
    ///
    /// # Errors
    /// `PolicyDenied`, `NotFound`.
    pub async fn pause_schedule(&self, name: &Slug) -> Result<()> {
        self.change_schedule(name.clone()).await?.pause(&self.ctx, name).await
    }

    /// Lets a schedule go on that rests or was stopped, as the caller.
    ///
    /// # Errors
    /// `PolicyDenied`, `NotFound`.
    pub async fn resume_schedule(&self, name: &Slug) -> Result<()> {
        self.change_schedule(name.clone()).await?.resume(&self.ctx, name).await
    }

    async fn change_schedule(&self, name: Slug) -> Result<&Schedules> {
        let access = self.access("schedule.write", name.as_str(), self.ctx.tenant(), Effect::Write);
        self.forge.parts().guard.authorize(&self.ctx, access).await?;
        self.beat()
    }

    fn beat(&self) -> Result<&Schedules> {
        let schedules = self.forge.parts().schedules.as_ref();
        schedules.ok_or_else(|| Error::new(ErrorKind::Config, "schedule.find", "this host's queue keeps no schedules"))
    }

    /// Remembers passages, so that they can be recalled by meaning and by words.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`, `InvalidInput`.
    pub async fn remember(&self, namespace: &Namespace, passages: Vec<Passage>) -> Result<()> {
        let access = self.access("memory.write", namespace.memory_type().as_str(), namespace.tenant(), Effect::Write);
        self.forge.parts().guard.authorize(&self.ctx, access).await?;
        self.forge.parts().memory.remember(&self.ctx, namespace, passages).await
    }

    /// Recalls passages, best first.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`.
    pub async fn recall(&self, namespace: &Namespace, query: &str, limit: usize) -> Result<Vec<Hit>> {
        let obliged = self.read("memory.read", namespace.memory_type().as_str(), namespace.tenant()).await?;
        let parts = self.forge.parts();
        let most = obliged.max_rows.map_or(limit, |n| limit.min(usize::try_from(n).unwrap_or(usize::MAX)));
        let mut hits = parts.memory.recall(&self.ctx, namespace, query, most).await?;
        let mask = RedactOptions::mask(obliged.redact_output);
        let texts = hits.iter_mut().flat_map(|hit| [&mut hit.title, &mut hit.text]);
        parts.redactor.redact_texts(self.ctx.tenant(), texts, &mask)?;
        Ok(hits)
    }

    /// Usage events of a tenant, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`.
    pub async fn usage(&self, owner: &TenantId, query: &UsageQuery, limit: usize) -> Result<Vec<UsageEvent>> {
        self.read("usage.read", "usage", owner).await?;
        self.forge.parts().ledger.events(&self.ctx, query, limit).await
    }

    /// Exact sums of a tenant's usage.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`.
    pub async fn usage_totals(&self, owner: &TenantId, query: &UsageQuery) -> Result<UsageTotals> {
        self.read("usage.read", "usage", owner).await?;
        self.forge.parts().ledger.totals(&self.ctx, query).await
    }

    /// Audit rows of a tenant from `from_seq` on, at most `limit`.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`.
    pub async fn audit(&self, owner: &TenantId, from_seq: u64, limit: usize) -> Result<Vec<AuditRow>> {
        self.read("audit.read", "audit", owner).await?;
        let audit = &self.forge.parts().audit;
        // what was decided before this question is in the answer
        audit.flush(Some(owner)).await?;
        audit.read(&self.ctx, from_seq, limit).await
    }

    /// Checks the whole chain of a tenant's audit rows.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`; `Unavailable`.
    pub async fn verify_audit(&self, owner: &TenantId) -> Result<ChainReport> {
        self.read("audit.read", "audit", owner).await?;
        let audit = &self.forge.parts().audit;
        audit.flush(Some(owner)).await?;
        audit.verify(&self.ctx).await
    }

    /// Writes a tenant's audit rows to a file, in the format of `docs/formats.md`; returns how many.
    ///
    /// # Errors
    /// `TenantMismatch`, `PolicyDenied`; `Unavailable` if the file cannot be written.
    pub async fn export_audit(&self, owner: &TenantId, path: impl AsRef<Path>) -> Result<u64> {
        self.read("audit.read", "audit", owner).await?;
        let audit = &self.forge.parts().audit;
        audit.flush(Some(owner)).await?;
        let exporter = self.forge.parts().exporter.as_ref().ok_or_else(|| {
            Error::new(ErrorKind::Config, "audit.export", "this host's audit log cannot be written to a file")
        })?;
        exporter.export_jsonl(&self.ctx, path).await
    }

    fn access<'b>(&self, action: &'static str, resource: &'b str, owner: &'b TenantId, effect: Effect) -> Access<'b> {
        Access { action, resource, owner, effect, payload: Value::Null }
    }

    async fn read(&self, action: &'static str, resource: &str, owner: &TenantId) -> Result<Obligations> {
        let access = self.access(action, resource, owner, Effect::Read);
        self.forge.parts().guard.authorize(&self.ctx, access).await
    }
}
