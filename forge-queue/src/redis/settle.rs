//! How leases end: done, again later, given up.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forge_core::error::ErrorReport;
use forge_core::queue::{Lease, Nack};
use forge_core::{Error, ErrorKind, Result, TaskId, TenantId, Timestamp};
use futures::FutureExt;
use serde_json::Value;

use super::batch::grouped;
use super::canvas::{Follow, Op, Place, Stop};
use super::held::Held;
use super::letters::Given;
use super::message::record;
use super::produce::told;
use super::queues::own;
use super::{RedisBroker, Shared, millis, seconds};
use crate::celery::{Exception, ResultState, TaskResult, meta_key, queue_for};

/// Leases and what goes with their ends, in one call of the script.
const LINES: usize = 256;

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
    /// What else goes with it.
    pub(super) ops: Vec<Op>,
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
    /// To the front, after so long; a list behind `!` when everybody here has looked.
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
            && self.ops.is_empty()
            && !self.careful
            && self.tag.starts_with('f')
            && self.remember.is_none()
            && self.result.as_ref().is_none_or(|r| r.task_id == self.field)
    }
}

/// Ends a batch of leases; whether each was still held.
pub(super) async fn settle(shared: Arc<Shared>, items: Vec<Settlement>) -> Vec<Result<bool>> {
    let settle = |(tenant, plain), some| settle_some(&shared, tenant, plain, some).boxed();
    grouped(&items, |item| (&item.tenant, item.is_plain()), settle).await
}

async fn settle_some(shared: &Shared, tenant: &TenantId, plain: bool, items: Vec<&Settlement>) -> Result<Vec<bool>> {
    if plain { done(shared, tenant, &items).await } else { all_ways(shared, &items).await }
}

async fn done(shared: &Shared, tenant: &TenantId, items: &[&Settlement]) -> Result<Vec<bool>> {
    let mut call = shared.call(&shared.scripts.done);
    call.arg(tenant.as_str()).arg(seconds(shared.options.result_ttl));
    for item in items {
        let result = item.result.as_ref().map(TaskResult::to_json).unwrap_or_default();
        call.arg(&item.tag).arg(&item.field).arg(result);
    }
    shared.run("queue.settle", &call).await
}

async fn all_ways(shared: &Shared, items: &[&Settlement]) -> Result<Vec<bool>> {
    let mut outcomes = Vec::with_capacity(items.len());
    let mut rest = items;
    while !rest.is_empty() {
        // a call of many lines would keep Redis from everybody else
        let mut lines = 0;
        let fits = rest.iter().take_while(|item| {
            lines += 1 + item.ops.len();
            lines <= LINES
        });
        let (now, later) = rest.split_at(fits.count().max(1));
        outcomes.extend(some_ways(shared, now).await?);
        rest = later;
    }
    Ok(outcomes)
}

async fn some_ways(shared: &Shared, items: &[&Settlement]) -> Result<Vec<bool>> {
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
        call.arg(item.ops.len());
        for op in &item.ops {
            op.write(&mut call, seconds(shared.options.result_ttl));
        }
    }
    shared.run("queue.settle", &call).await
}

impl RedisBroker {
    pub(super) async fn acknowledge(&self, lease: &Lease, result: Value) -> Result<()> {
        const OP: &str = "queue.ack";
        let held = self.holding(OP, lease)?;
        let mut follow = self.follow(lease, &held);
        match follow.succeeded(&result).await {
            Ok(()) => {}
            Err(Stop::Error(e)) if e.kind() == ErrorKind::LeaseLost => return Err(lost(OP, lease)),
            Err(Stop::Error(e)) => return Err(e),
            // it was looked at before the task began: what follows grew too large with the result
            Err(Stop::Refused(refused)) => {
                let e = refused.error();
                let settlement = self.dead(lease, &held, &e.report(), refused.reason()).await?;
                self.finish(OP, lease, settlement).await?;
                return Err(Error::invalid(OP, "what follows the task cannot be sent; it is a dead letter now")
                    .with("reason", refused.reason()));
            }
        }
        let (ops, children) = (follow.ops, follow.children);
        let shown = self.shared.presences.shown(&held, &result);
        let mut settlement = self.end(lease, &held);
        settlement.result = self.outcome(lease, &held, ResultState::Success { result }, children);
        settlement.ops = ops;
        self.finish(OP, lease, settlement).await?;
        self.shared.presences.succeeded(&held, shown.as_deref());
        Ok(())
    }

    pub(super) async fn refuse(&self, lease: &Lease, nack: Nack) -> Result<()> {
        const OP: &str = "queue.nack";
        let held = self.holding(OP, lease)?;
        let (report, after) = match nack {
            Nack::Release => {
                let list = queue_for(&lease.queue, held.envelope.priority);
                let mut settlement = self.end(lease, &held);
                settlement.remember = None;
                settlement.then = Then::Front { list, message: held.envelope.to_bytes() };
                return self.finish(OP, lease, settlement).await;
            }
            Nack::Retry { after, report } if lease.attempt <= lease.max_retries => (report, Some(after)),
            Nack::Retry { report, .. } | Nack::Dead { report } => (report, None),
        };
        let settlement = match after {
            Some(after) => self.retried(lease, &held, &report, after),
            None => self.dead(lease, &held, &report, report.kind.as_str()).await?,
        };
        self.finish(OP, lease, settlement).await?;
        self.shared.presences.failed(&held, &report, after.is_some());
        Ok(())
    }

    /// Tries a task again, as Celery does: a new message, with the old one's id.
    fn retried(&self, lease: &Lease, held: &Held, report: &ErrorReport, after: Duration) -> Settlement {
        let again = held.envelope.clone().with_retry(held.envelope.retries.saturating_add(1), None);
        let mut settlement = self.end(lease, held);
        settlement.remember = None;
        if !held.foreign {
            let elsewhere = Some(lease.queue.as_str()).filter(|queue| *queue != own(&lease.tenant));
            settlement.record = record(lease.attempt, lease.name.as_str(), elsewhere);
        }
        let (exception, traceback) = raised(report);
        settlement.result = self.outcome(lease, held, ResultState::Retry { exception, traceback }, Vec::new());
        let (list, message) = (queue_for(&lease.queue, again.priority), again.to_bytes());
        settlement.then =
            if after.is_zero() { Then::Back { list, message } } else { Then::Later { list, message, after } };
        settlement
    }

    /// Gives a task up, and with it what waits for it.
    async fn dead(&self, lease: &Lease, held: &Held, report: &ErrorReport, reason: &str) -> Result<Settlement> {
        let mut settlement = self.end(lease, held);
        let (exception, traceback) = raised(report);
        let state = ResultState::Failure { exception, traceback };
        let mut follow = self.follow(lease, held);
        match follow.failed(&state).await {
            Ok(()) => settlement.ops = follow.ops,
            Err(Stop::Error(e)) if e.kind() == ErrorKind::LeaseLost => return Err(lost("queue.nack", lease)),
            Err(Stop::Error(e)) => return Err(e),
            Err(Stop::Refused(refused)) => {
                tracing::warn!(tenant = %lease.tenant, task = %lease.id, reason = refused.reason(), "what waits for a failed task was not told");
            }
        }
        settlement.result = self.outcome(lease, held, state, Vec::new());
        let given = Given {
            tenant: &lease.tenant,
            id: lease.id,
            queue: &lease.queue,
            reason,
            error: report,
            read: Some(&held.envelope),
            message: &held.envelope.to_bytes(),
            attempts: lease.attempt,
        };
        let letter = self.shared.letter(&given, self.shared.clock.now()).await?;
        settlement.then = Then::Dead { id: lease.id, letter };
        Ok(settlement)
    }

    fn follow<'a>(&'a self, lease: &'a Lease, held: &'a Held) -> Follow<'a> {
        let place = Place { tenant: &lease.tenant, queue: &lease.queue, tag: &held.tag };
        Follow::new(&self.shared, place, &held.envelope, held.context.as_ref(), self.shared.clock.now())
    }

    /// The message of a lease that this process still holds, as far as it knows.
    pub(super) fn holding(&self, operation: &'static str, lease: &Lease) -> Result<Arc<Held>> {
        self.shared
            .held
            .find(lease.fence)
            .filter(|held| held.tenant == lease.tenant && held.id == lease.id)
            .ok_or_else(|| lost(operation, lease))
    }

    fn end(&self, lease: &Lease, held: &Held) -> Settlement {
        Settlement {
            tag: held.tag.clone(),
            field: held.field.clone(),
            tenant: lease.tenant.clone(),
            id: lease.id,
            record: String::new(),
            remember: held.remember,
            result: None,
            careful: held.foreign,
            then: Then::End,
            ops: Vec::new(),
        }
    }

    /// A result, with what Celery keeps beside it; none for a task that wants none.
    fn outcome(&self, lease: &Lease, held: &Held, state: ResultState, children: Vec<Value>) -> Option<TaskResult> {
        let mut result = self.shared.result(&lease.tenant, held.envelope.id.clone(), state);
        result.children = Some(children);
        told(&mut result, lease.name.as_str(), lease.attempt.saturating_sub(1));
        result.group_id.clone_from(&held.envelope.group);
        result.parent_id.clone_from(&held.envelope.parent_id);
        Some(result).filter(|_| held.envelope.ignore_result != Some(true))
    }

    /// Settles with the others; a lease that was lost stays as it is.
    async fn finish(&self, operation: &'static str, lease: &Lease, settlement: Settlement) -> Result<()> {
        let ending = |ending| {
            if let Some(held) = self.shared.held.find(lease.fence) {
                held.ending.store(ending, Ordering::Relaxed);
            }
        };
        ending(true);
        let held = self.settlements.call(operation, settlement).await.inspect_err(|_| ending(false))?;
        self.shared.held.forget(lease.fence);
        if held { Ok(()) } else { Err(lost(operation, lease)) }
    }
}

pub(super) fn lost(operation: &'static str, lease: &Lease) -> Error {
    let why = "the task is with another worker, finished or cancelled";
    Error::new(ErrorKind::LeaseLost, operation, why).with("task", lease.id.to_string())
}

/// An error as an exception that any Python client can raise. The sentence is the operator's: it names no datum, but facts may.
pub(super) fn raised(report: &ErrorReport) -> (Exception, Option<String>) {
    (Exception::builtin("RuntimeError", format!("{}: {}", report.kind.as_str(), report.message)), None)
}
