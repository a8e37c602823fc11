//! The producing side.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use forge_core::error::ErrorReport;
use forge_core::queue::{NewTask, QueueCapability, QueueDepth, TaskQueue, TaskState, TaskStatus};
use forge_core::{Error, ErrorKind, ExecutionContext, Result, Slug, TaskId, TenantId};
use forge_redis::redis::Pipeline;
use serde_json::json;

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
    /// Seconds that the record stays.
    stays: u64,
    unique: String,
    /// In ms; 0 for now.
    due: i64,
}

/// Queues a batch: the id that each has now, none where the queue is full.
pub(super) async fn push(shared: Arc<Shared>, items: Vec<Queued>) -> Result<Vec<Option<String>>> {
    // one call of the script touches one tenant
    let mut tenants: BTreeMap<&TenantId, Vec<usize>> = BTreeMap::new();
    for (i, item) in items.iter().enumerate() {
        tenants.entry(&item.tenant).or_default().push(i);
    }
    let mut outcomes = vec![None; items.len()];
    for (tenant, places) in tenants {
        let mut call = shared.call(&shared.scripts.enqueue);
        call.arg(tenant.as_str());
        for item in places.iter().filter_map(|i| items.get(*i)) {
            call.arg(item.id.to_string()).arg(&item.list).arg(&item.message).arg(&item.record);
            call.arg(item.stays).arg(&item.unique).arg(item.due);
        }
        let ids: Vec<String> = shared.redis.script(ENQUEUE, &call).await?;
        for (place, id) in places.into_iter().zip(ids) {
            if let Some(outcome) = outcomes.get_mut(place) {
                *outcome = Some(id).filter(|id| !id.is_empty());
            }
        }
    }
    Ok(outcomes)
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
        let queued = Queued {
            tenant: ctx.tenant().clone(),
            id,
            list: queue_for(&queue, envelope.priority),
            message,
            record: record('R', 0, task.name.as_str()),
            stays: seconds(task.expires).saturating_add(seconds(shared.options.result_ttl)),
            unique: task.unique.as_ref().map(|k| k.as_str().to_owned()).unwrap_or_default(),
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
        look.cmd("GET").arg(shared.key(tenant, format_args!("task:{id}")));
        look.cmd("HEXISTS").arg(shared.key(tenant, "run")).arg(id.to_string());
        look.cmd("GET").arg(shared.redis.key(meta_key(&id.to_string())));
        let (record, leased, result): (Option<String>, bool, Option<Vec<u8>>) =
            shared.redis.pipeline(OP, &look).await?;
        let record = record.ok_or_else(|| Error::not_found(OP, "no such task"))?;
        let (state, attempts, name) = parse_record(&record).ok_or_else(|| corrupt(OP, "record"))?;
        let name = Slug::parse(name).map_err(|_| corrupt(OP, "name"))?;
        let state = match state {
            'R' if leased => TaskState::Leased,
            'R' => TaskState::Ready,
            'C' => TaskState::Cancelled,
            'D' => TaskState::Dead { report: self.report(tenant, id).await? },
            _ => match self.answer(tenant, result)? {
                Some(result) => TaskState::Succeeded { result },
                None => return Err(Error::not_found(OP, "the task was done; its result was kept no longer")),
            },
        };
        let attempts = attempts + u32::from(state == TaskState::Leased);
        Ok(TaskStatus { id, name, attempts, state })
    }

    async fn cancel(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool> {
        const OP: &str = "queue.cancel";
        let (shared, tenant) = (&self.shared, ctx.tenant());
        let revoked = ResultState::Revoked { reason: Revocation::Revoked };
        let result = shared.result(tenant, id.to_string(), revoked);
        let mut call = shared.call(&shared.scripts.cancel);
        call.arg(tenant.as_str()).arg(id.to_string()).arg(meta_key(&id.to_string()));
        call.arg(result.to_json()).arg(seconds(shared.options.result_ttl));
        match shared.redis.script::<i64>(OP, &call).await? {
            1 => Ok(true),
            0 => Ok(false),
            _ => Err(Error::not_found(OP, "no such task")),
        }
    }

    async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth> {
        let (shared, tenant) = (&self.shared, ctx.tenant());
        let mut look = Pipeline::new();
        look.cmd("HLEN").arg(shared.key(tenant, "run"));
        look.cmd("ZCARD").arg(shared.key(tenant, "dead"));
        look.cmd("ZCARD").arg(shared.key(tenant, "delayed"));
        let theirs = shared.queues.beside().filter(|(t, _)| *t == tenant).map(|(_, queue)| queue.to_owned());
        for list in std::iter::once(queues::own(tenant)).chain(theirs).flat_map(|queue| lists(&queue)) {
            look.cmd("LLEN").arg(shared.redis.key(list));
        }
        let counts: Vec<u64> = shared.redis.pipeline("queue.depth", &look).await?;
        let mut counts = counts.into_iter();
        let mut next = || counts.next().unwrap_or(0);
        let (leased, dead) = (next(), next());
        Ok(QueueDepth { ready: counts.sum(), leased, dead })
    }

    fn capability(&self) -> QueueCapability {
        QueueCapability::new(true, true, PAYLOAD_MAX)
    }
}

impl RedisBroker {
    /// The answer in a stored result of this tenant's; whoever can write to the server could put another's there.
    fn answer(&self, tenant: &TenantId, result: Option<Vec<u8>>) -> Result<Option<serde_json::Value>> {
        let Some(raw) = result else { return Ok(None) };
        let result =
            TaskResult::parse(&raw, &self.shared.options.limits).map_err(|_| corrupt("queue.status", "result"))?;
        let theirs = result.extra.get("forge") == Some(&json!(tenant.as_str()));
        match result.state {
            ResultState::Success { result } if theirs => Ok(Some(result)),
            _ => Ok(None),
        }
    }

    async fn report(&self, tenant: &TenantId, id: TaskId) -> Result<ErrorReport> {
        let letter = self.letter("queue.status", tenant, id).await?;
        letter.map(|l| l.report).ok_or_else(|| Error::not_found("queue.status", "the dead letter was purged"))
    }
}

impl Shared {
    /// A result, with the tenant whose it is.
    pub(super) fn result(&self, tenant: &TenantId, id: String, state: ResultState) -> TaskResult {
        let mut result = TaskResult::new(id, state, self.clock.now());
        result.children = Some(Vec::new());
        result.extra.insert("forge".to_owned(), tenant.as_str().into());
        result
    }
}
