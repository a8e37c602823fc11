//! The producing side.

use std::sync::Arc;

use async_trait::async_trait;
use forge_core::queue::{NewTask, QueueCapability, QueueDepth, TaskQueue, TaskState, TaskStatus};
use forge_core::{Error, ErrorKind, ExecutionContext, Result, Slug, TaskId, TenantId};
use forge_redis::redis::Pipeline;
use futures::FutureExt;
use serde_json::json;

use super::batch::grouped;
use super::message::{parse_record, record};
use super::{RedisBroker, Shared, corrupt, queues, seconds};
use crate::celery::{ResultState, Revocation, TaskResult, meta_key, queue_for, queues as lists};

/// Behind base64 and headers it must still fit into an envelope.
const PAYLOAD_MAX: usize = 128 * 1024;
const ENQUEUE: &str = "queue.enqueue";

/// A task on its way in.
pub(super) struct Queued {
    tenant: TenantId,
    id: TaskId,
    list: String,
    message: Vec<u8>,
    record: String,
    /// Seconds that it stays, and the key; or nothing.
    unique: String,
    /// In ms; 0 for now.
    due: i64,
}

/// Queues a batch: the id that each has now, none where the queue is full.
pub(super) async fn push(shared: Arc<Shared>, items: Vec<Queued>) -> Vec<Result<Option<String>>> {
    // one call of the script touches one tenant
    let push = |tenant, some| push_of_tenant(&shared, tenant, some).boxed();
    grouped(&items, |item| &item.tenant, push).await
}

async fn push_of_tenant(shared: &Shared, tenant: &TenantId, items: Vec<&Queued>) -> Result<Vec<Option<String>>> {
    let mut call = shared.call(&shared.scripts.enqueue);
    call.arg(tenant.as_str());
    for item in items {
        call.arg(item.id.to_string()).arg(&item.list).arg(&item.message).arg(&item.record);
        call.arg(&item.unique).arg(item.due);
    }
    let ids: Vec<String> = shared.run(ENQUEUE, &call).await?;
    Ok(ids.into_iter().map(|id| Some(id).filter(|id| !id.is_empty())).collect())
}

#[async_trait]
impl TaskQueue for RedisBroker {
    async fn enqueue(&self, ctx: &ExecutionContext, task: NewTask) -> Result<TaskId> {
        let shared = &self.shared;
        let now = shared.clock.now();
        let id = task.id(ctx.tenant(), now);
        let queue = shared.queues.queue_of(ctx.tenant(), task.name.as_str());
        let envelope = self.message(ctx, &task, &queue, id)?;
        let message = envelope.to_bytes();
        if envelope.body().len() > PAYLOAD_MAX || message.len() > shared.options.limits.envelope {
            return Err(Error::invalid(ENQUEUE, "the payload is too large; keep it as a blob and queue its reference")
                .with("bytes", envelope.body().len().to_string())
                .with("max", PAYLOAD_MAX.to_string()));
        }
        let elsewhere = Some(queue.clone()).filter(|q| *q != queues::own(ctx.tenant()));
        let queued = Queued {
            tenant: ctx.tenant().clone(),
            id,
            list: queue_for(&queue, envelope.priority),
            message,
            record: record(0, task.name.as_str(), elsewhere.as_deref()),
            unique: task.unique.map(|k| format!("{} {}", seconds(task.expires), k.as_str())).unwrap_or_default(),
            due: if task.delay.is_zero() { 0 } else { now.after(task.delay).as_millis() },
        };
        match self.enqueues.call(ENQUEUE, queued).await? {
            Some(id) => TaskId::parse(&id).map_err(|_| corrupt(ENQUEUE, "id")),
            None => Err(Error::new(ErrorKind::QuotaExceeded, ENQUEUE, "the tenant's queue is full; try again later")),
        }
    }

    async fn status(&self, ctx: &ExecutionContext, id: TaskId) -> Result<TaskStatus> {
        const OP: &str = "queue.status";
        let (shared, tenant) = (&self.shared, ctx.tenant());
        let mut look = Pipeline::new();
        look.cmd("HGET").arg(shared.key(tenant, "open")).arg(id.to_string());
        look.cmd("HEXISTS").arg(shared.key(tenant, "run")).arg(id.to_string());
        look.cmd("GET").arg(shared.redis.key(meta_key(&id.to_string())));
        let (record, leased, result): (Option<String>, bool, Option<Vec<u8>>) =
            shared.redis.pipeline(OP, &look).await?;
        if let Some(record) = record {
            let (begun, name, queue) = parse_record(&record).ok_or_else(|| corrupt(OP, "record"))?;
            let name = Slug::parse(name).map_err(|_| corrupt(OP, "name"))?;
            let waiting = if leased { TaskState::Leased } else { TaskState::Ready };
            let theirs = Some(queue).filter(|_| !leased).and_then(|q| self.elsewhere(tenant, q, result.as_deref()));
            let attempts = begun + u32::from(leased || theirs.is_some());
            return Ok(TaskStatus { id, name, attempts, state: theirs.unwrap_or(waiting) });
        }
        if let Some(letter) = self.letter(OP, tenant, id).await? {
            let name = Slug::parse(&letter.name).map_err(|_| corrupt(OP, "name"))?;
            return Ok(TaskStatus {
                id,
                name,
                attempts: letter.attempts,
                state: TaskState::Dead { report: letter.report },
            });
        }
        self.ended(tenant, id, result)?.ok_or_else(|| Error::not_found(OP, "no such task, or none any more"))
    }

    async fn cancel(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool> {
        const OP: &str = "queue.cancel";
        let (shared, tenant) = (&self.shared, ctx.tenant());
        let revoked = ResultState::Revoked { reason: Revocation::Revoked };
        let mut open = Pipeline::new();
        open.cmd("HGET").arg(shared.key(tenant, "open")).arg(id.to_string());
        let (record,): (Option<String>,) = shared.redis.pipeline(OP, &open).await?;
        let Some((begun, name, _)) = record.as_deref().and_then(parse_record) else {
            // there and ended, or not there
            return self.status(ctx, id).await.map(|_| false);
        };
        let mut result = shared.result(tenant, id.to_string(), revoked);
        told(&mut result, name, begun);
        let mut call = shared.call(&shared.scripts.cancel);
        call.arg(tenant.as_str()).arg(id.to_string()).arg(meta_key(&id.to_string()));
        call.arg(result.to_json()).arg(seconds(shared.options.result_ttl));
        let cancelled = shared.run(OP, &call).await?;
        if cancelled {
            self.tell_cancelled(tenant, id).await;
        }
        Ok(cancelled)
    }

    async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth> {
        self.depth_of("queue.depth", ctx.tenant()).await
    }

    fn capability(&self) -> QueueCapability {
        QueueCapability::new(true, true, PAYLOAD_MAX)
    }
}

impl RedisBroker {
    pub(super) async fn depth_of(&self, operation: &'static str, tenant: &TenantId) -> Result<QueueDepth> {
        let shared = &self.shared;
        let mut look = Pipeline::new();
        look.cmd("HLEN").arg(shared.key(tenant, "run"));
        look.cmd("ZCARD").arg(shared.key(tenant, "dead"));
        look.cmd("ZCARD").arg(shared.key(tenant, "delayed"));
        let theirs = shared.queues.beside().filter(|(t, _)| *t == tenant).map(|(_, queue)| queue.to_owned());
        for list in std::iter::once(queues::own(tenant)).chain(theirs).flat_map(|queue| lists(&queue)) {
            look.cmd("LLEN").arg(shared.redis.key(list));
        }
        let counts: Vec<u64> = shared.redis.pipeline(operation, &look).await?;
        let mut counts = counts.into_iter();
        let mut next = || counts.next().unwrap_or(0);
        let (leased, dead) = (next(), next());
        Ok(QueueDepth { ready: counts.sum(), leased, dead })
    }

    /// What a worker of Celery stored of a task that we sent to its queue. Such a result does not say whose it is; it is believed for a task
    /// whose own record says that it went to a queue that is bound to the tenant, for there it is the tenant's program that answers.
    fn elsewhere(&self, tenant: &TenantId, queue: Option<&str>, result: Option<&[u8]>) -> Option<TaskState> {
        queue.filter(|queue| self.shared.queues.is_bound(tenant, queue))?;
        let result = TaskResult::parse(result?, &self.shared.options.limits).ok()?;
        if result.extra.contains_key(TENANT) {
            return None;
        }
        match result.state {
            ResultState::Success { result } => Some(TaskState::Succeeded { result }),
            ResultState::Failure { exception, .. } => {
                let plain = |c: &char| c.is_ascii_alphanumeric() || "_.".contains(*c);
                let kind: String = exception.kind.chars().filter(plain).take(64).collect();
                let e =
                    Error::unexpected("queue.status", "the task failed in a worker of Celery").with("exception", kind);
                Some(TaskState::Dead { report: e.report() })
            }
            ResultState::Revoked { .. } => Some(TaskState::Cancelled),
            ResultState::Started { .. } => Some(TaskState::Leased),
            _ => None,
        }
    }

    /// A task that ended, from its stored result. Whoever can write to the server could put another tenant's there.
    fn ended(&self, tenant: &TenantId, id: TaskId, result: Option<Vec<u8>>) -> Result<Option<TaskStatus>> {
        const OP: &str = "queue.status";
        let Some(raw) = result else { return Ok(None) };
        let result = TaskResult::parse(&raw, &self.shared.options.limits).map_err(|_| corrupt(OP, "result"))?;
        if result.extra.get(TENANT) != Some(&json!(tenant.as_str())) {
            return Ok(None);
        }
        let name = result.extra.get("name").and_then(|n| Slug::parse(n.as_str()?).ok());
        let attempts = result.extra.get("retries").and_then(|n| u32::try_from(n.as_u64()?).ok()).unwrap_or(0);
        let (name, state) = match (name, result.state) {
            (Some(name), ResultState::Success { result }) => (name, TaskState::Succeeded { result }),
            (Some(name), ResultState::Revoked { .. }) => (name, TaskState::Cancelled),
            _ => return Ok(None),
        };
        let begun = u32::from(!matches!(state, TaskState::Cancelled));
        Ok(Some(TaskStatus { id, name, attempts: attempts + begun, state }))
    }
}

/// Whose a result is.
const TENANT: &str = "forge";

/// Adds what Celery keeps in a result under `result_extended`.
pub(super) fn told(result: &mut TaskResult, name: &str, retries: u32) {
    result.extra.insert("name".to_owned(), name.into());
    result.extra.insert("retries".to_owned(), retries.into());
}

impl Shared {
    /// A result, with the tenant whose it is.
    pub(super) fn result(&self, tenant: &TenantId, id: String, state: ResultState) -> TaskResult {
        let mut result = TaskResult::new(id, state, self.clock.now());
        result.children = Some(Vec::new());
        result.extra.insert(TENANT.to_owned(), tenant.as_str().into());
        result
    }
}
