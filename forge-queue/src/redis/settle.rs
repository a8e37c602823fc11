//! How leases end: done, again later, given up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forge_core::error::ErrorReport;
use forge_core::queue::{Lease, Nack};
use forge_core::{Error, ErrorKind, Result, TaskId, TenantId, Timestamp};
use serde_json::Value;

use super::held::{Held, Origin};
use super::letters::Given;
use super::message::record;
use super::produce::told;
use super::{RedisBroker, Shared, millis, seconds};
use crate::celery::{Exception, ResultState, TaskResult, meta_key, queue_for};

/// One lease and how it ends; a line of `settle.lua`.
pub(super) struct Settlement {
    pub(super) tag: String,
    pub(super) field: String,
    pub(super) tenant: TenantId,
    pub(super) id: TaskId,
    /// What the record of a task becomes that stays open; empty for one that ends or has none.
    pub(super) record: String,
    /// Until when the end is remembered, for a task that has no record.
    pub(super) remember: Option<Timestamp>,
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

impl Settlement {
    /// Whether the short script does: a task of ours that is done.
    fn is_plain(&self) -> bool {
        matches!(self.then, Then::End)
            && !self.careful
            && self.tag.starts_with('f')
            && self.remember.is_none()
            && self.result.as_ref().is_none_or(|r| r.task_id == self.field)
    }
}

/// Ends a batch of leases; whether each was still held.
pub(super) async fn settle(shared: Arc<Shared>, items: Vec<Settlement>) -> Result<Vec<bool>> {
    let mut groups: BTreeMap<Option<&TenantId>, Vec<usize>> = BTreeMap::new();
    for (i, item) in items.iter().enumerate() {
        groups.entry(Some(&item.tenant).filter(|_| item.is_plain())).or_default().push(i);
    }
    let mut outcomes = vec![false; items.len()];
    for (tenant, places) in groups {
        let some: Vec<&Settlement> = places.iter().filter_map(|i| items.get(*i)).collect();
        let held = match tenant {
            Some(tenant) => done(&shared, tenant, &some).await?,
            None => all_ways(&shared, &some).await?,
        };
        for (place, held) in places.into_iter().zip(held) {
            if let Some(outcome) = outcomes.get_mut(place) {
                *outcome = held;
            }
        }
    }
    Ok(outcomes)
}

async fn done(shared: &Shared, tenant: &TenantId, items: &[&Settlement]) -> Result<Vec<bool>> {
    let mut call = shared.call(&shared.scripts.done);
    call.arg(tenant.as_str()).arg(seconds(shared.options.result_ttl));
    for item in items {
        let result = item.result.as_ref().map(TaskResult::to_json).unwrap_or_default();
        call.arg(&item.tag).arg(&item.field).arg(result);
    }
    shared.redis.script("queue.settle", &call).await
}

async fn all_ways(shared: &Shared, items: &[&Settlement]) -> Result<Vec<bool>> {
    let mut call = shared.call(&shared.scripts.settle);
    for item in items {
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
        match item.remember {
            Some(until) => call.arg(until.as_millis()),
            None => call.arg(""),
        };
        call.arg(0);
    }
    shared.redis.script("queue.settle", &call).await
}

impl RedisBroker {
    pub(super) async fn acknowledge(&self, lease: &Lease, result: Value) -> Result<()> {
        const OP: &str = "queue.ack";
        let held = self.holding(OP, lease)?;
        let mut settlement = self.end(lease, &held);
        settlement.result = Some(self.outcome(lease, &held, ResultState::Success { result }))
            .filter(|_| held.envelope.ignore_result != Some(true));
        self.finish(OP, lease, settlement).await
    }

    pub(super) async fn refuse(&self, lease: &Lease, nack: Nack) -> Result<()> {
        const OP: &str = "queue.nack";
        let held = self.holding(OP, lease)?;
        let (report, after) = match nack {
            Nack::Retry { after, report } if lease.attempt <= lease.max_retries => (report, Some(after)),
            Nack::Retry { report, .. } | Nack::Dead { report } => (report, None),
        };
        let settlement = match after {
            Some(after) => {
                let again = held.envelope.clone().with_retry(held.envelope.retries.saturating_add(1), None);
                let mut settlement = self.end(lease, &held);
                settlement.remember = None;
                if held.origin == Origin::Ours {
                    settlement.record = record(lease.attempt, lease.name.as_str());
                }
                let (exception, traceback) = raised(&report);
                settlement.result = Some(self.outcome(lease, &held, ResultState::Retry { exception, traceback }));
                let (list, message) = (queue_for(&lease.queue, again.priority), again.to_bytes());
                settlement.then =
                    if after.is_zero() { Then::Back { list, message } } else { Then::Later { list, message, after } };
                settlement
            }
            None => {
                let mut settlement = self.end(lease, &held);
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

    fn end(&self, lease: &Lease, held: &Held) -> Settlement {
        Settlement {
            tag: held.tag.clone(),
            field: held.field.clone(),
            tenant: lease.tenant.clone(),
            id: lease.id,
            record: String::new(),
            remember: match held.origin {
                Origin::Sealed { until } => Some(until),
                Origin::Ours | Origin::Foreign => None,
            },
            result: None,
            careful: held.origin == Origin::Foreign,
            then: Then::End,
        }
    }

    /// A result, with what Celery keeps beside it.
    fn outcome(&self, lease: &Lease, held: &Held, state: ResultState) -> TaskResult {
        let mut result = self.shared.result(&lease.tenant, held.envelope.id.clone(), state);
        told(&mut result, lease.name.as_str(), lease.attempt.saturating_sub(1));
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
