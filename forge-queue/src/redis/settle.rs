//! How leases end: done, again later, given up.

use std::sync::Arc;
use std::time::Duration;

use forge_core::error::ErrorReport;
use forge_core::queue::{Lease, Nack};
use forge_core::{Error, ErrorKind, Result, TaskId, TenantId};
use serde_json::Value;

use super::held::Held;
use super::letters::Given;
use super::message::record;
use super::{RedisBroker, Shared, millis, seconds};
use crate::celery::{Exception, ResultState, TaskResult, meta_key, queue_for};

/// One lease and how it ends; a line of `settle.lua`.
pub(super) struct Settlement {
    pub(super) tag: String,
    pub(super) field: String,
    pub(super) tenant: TenantId,
    pub(super) id: TaskId,
    /// What the task's record becomes; empty where there is none of ours.
    pub(super) record: String,
    pub(super) result: Option<TaskResult>,
    /// Leaves a result that is another tenant's.
    pub(super) careful: bool,
    pub(super) then: Then,
}

/// Where the task goes on.
pub(super) enum Then {
    End,
    /// To the front of its list.
    Front {
        list: String,
        message: Vec<u8>,
    },
    /// To the back.
    Back {
        list: String,
        message: Vec<u8>,
    },
    /// To the front, after so long.
    Later {
        list: String,
        message: Vec<u8>,
        after: Duration,
    },
    /// Among the dead letters.
    Dead {
        id: TaskId,
        letter: String,
    },
}

/// Ends a batch of leases; whether each was still held.
pub(super) async fn settle(shared: Arc<Shared>, items: Vec<Settlement>) -> Result<Vec<bool>> {
    let now = shared.clock.now();
    let mut call = shared.call(&shared.scripts.settle);
    for item in &items {
        call.arg(&item.tag).arg(item.tenant.as_str()).arg(&item.field).arg(item.id.to_string()).arg(&item.record);
        match &item.result {
            Some(result) => call.arg(meta_key(&result.task_id)).arg(result.to_json()),
            None => call.arg("").arg(""),
        };
        call.arg(seconds(shared.options.result_ttl)).arg(if item.careful { "1" } else { "" });
        match &item.then {
            Then::End => call.arg("end").arg("").arg("").arg("").arg(""),
            Then::Front { list, message } => call.arg("front").arg(list).arg(message).arg("").arg(""),
            Then::Back { list, message } => call.arg("back").arg(list).arg(message).arg("").arg(""),
            Then::Later { list, message, after } => {
                call.arg("later").arg(list).arg(message).arg(millis(*after)).arg("")
            }
            Then::Dead { id, letter } => {
                let oldest = millis(shared.options.dead_letter_ttl);
                call.arg("dead").arg(id.to_string()).arg(letter).arg(shared.options.dead_letters_max).arg(oldest)
            }
        };
        call.arg(0);
    }
    let outcomes: Vec<bool> = shared.redis.script("queue.settle", &call).await?;
    tracing::trace!(leases = items.len(), took = ?shared.clock.now().since(now), "settled");
    Ok(outcomes)
}

impl RedisBroker {
    pub(super) async fn acknowledge(&self, lease: &Lease, result: Value) -> Result<()> {
        const OP: &str = "queue.ack";
        let held = self.holding(OP, lease)?;
        let mut settlement = self.end(lease, &held, 'S');
        settlement.result = Some(self.outcome(lease, &held, ResultState::Success { result }))
            .filter(|_| held.envelope.ignore_result != Some(true));
        self.finish(OP, lease, settlement).await
    }

    pub(super) async fn refuse(&self, lease: &Lease, nack: Nack) -> Result<()> {
        const OP: &str = "queue.nack";
        let held = self.holding(OP, lease)?;
        let (report, after) = match nack {
            Nack::Release => {
                let list = queue_for(&lease.queue, held.envelope.priority);
                let mut settlement = self.end(lease, &held, 'R');
                settlement.record = String::new();
                settlement.then = Then::Front { list, message: held.envelope.to_bytes() };
                return self.finish(OP, lease, settlement).await;
            }
            Nack::Retry { after, report } if lease.attempt <= lease.max_retries => (report, Some(after)),
            Nack::Retry { report, .. } | Nack::Dead { report } => (report, None),
        };
        let settlement = match after {
            Some(after) => {
                let again = held.envelope.clone().with_retry(held.envelope.retries.saturating_add(1), None);
                let mut settlement = self.end(lease, &held, 'R');
                let (exception, traceback) = raised(&report);
                settlement.result = Some(self.outcome(lease, &held, ResultState::Retry { exception, traceback }));
                let (list, message) = (queue_for(&lease.queue, again.priority), again.to_bytes());
                settlement.then =
                    if after.is_zero() { Then::Back { list, message } } else { Then::Later { list, message, after } };
                settlement
            }
            None => {
                let mut settlement = self.end(lease, &held, 'D');
                let (exception, traceback) = raised(&report);
                settlement.result = Some(self.outcome(lease, &held, ResultState::Failure { exception, traceback }));
                let given = Given {
                    tenant: &lease.tenant,
                    id: lease.id,
                    queue: &lease.queue,
                    reason: report.kind.as_str(),
                    error: &report,
                    read: Some(&held.envelope),
                    message: &held.envelope.to_bytes(),
                    attempts: lease.attempt,
                };
                let letter = self.shared.letter(&given, self.shared.clock.now()).await?;
                settlement.then = Then::Dead { id: lease.id, letter };
                settlement
            }
        };
        self.finish(OP, lease, settlement).await
    }

    /// The message of a lease that this process still holds, as far as it knows.
    fn holding(&self, operation: &'static str, lease: &Lease) -> Result<Arc<Held>> {
        self.shared
            .held
            .find(lease.fence)
            .filter(|held| held.tag.contains(lease.tenant.as_str()))
            .ok_or_else(|| lost(operation, lease))
    }

    fn end(&self, lease: &Lease, held: &Held, state: char) -> Settlement {
        Settlement {
            tag: held.tag.clone(),
            field: held.field.clone(),
            tenant: lease.tenant.clone(),
            id: lease.id,
            record: record(state, lease.attempt, lease.name.as_str()),
            result: None,
            careful: held.foreign,
            then: Then::End,
        }
    }

    /// A result, with what Celery keeps beside it.
    fn outcome(&self, lease: &Lease, held: &Held, state: ResultState) -> TaskResult {
        let mut result = self.shared.result(&lease.tenant, held.envelope.id.clone(), state);
        result.group_id.clone_from(&held.envelope.group);
        result.parent_id.clone_from(&held.envelope.parent_id);
        result
    }

    /// Settles with the others; a lease that was lost stays as it is.
    async fn finish(&self, operation: &'static str, lease: &Lease, settlement: Settlement) -> Result<()> {
        let held = self.settlements.call(operation, settlement).await?;
        self.shared.held.forget(lease.fence);
        if held { Ok(()) } else { Err(lost(operation, lease)) }
    }
}

fn lost(operation: &'static str, lease: &Lease) -> Error {
    let why = "the task is with another worker, finished or cancelled";
    Error::new(ErrorKind::LeaseLost, operation, why).with("task", lease.id.to_string())
}

/// An error as an exception that any Python client can raise. The sentence is the operator's: it names no datum, but facts may.
fn raised(report: &ErrorReport) -> (Exception, Option<String>) {
    (Exception::builtin("RuntimeError", format!("{}: {}", report.kind.as_str(), report.message)), None)
}
