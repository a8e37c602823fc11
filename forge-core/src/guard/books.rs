//! What every exit closes: the usage, the quota, the outcome's audit row, on an answer, an error, a panic and a drop alike.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::Guard;
use super::call::{CallOptions, Operation};
use crate::audit::{AuditEvent, AuditRecord};
use crate::journal::Outbox;
use crate::metrics::Metric;
use crate::tool::Effect;
use crate::usage::{Actual, Permit, Quantity, Resource, UsageEvent, UsageStatus};
use crate::{DecisionId, Digest, Error, ErrorKind, EventId, ExecutionContext, OperationKey, Result, RunId, Slot};

/// Where the outcome of a call is written.
#[derive(Debug, Clone, Default)]
pub enum Books {
    /// To ledger and audit log, by slots that were taken before the call.
    #[default]
    Direct,
    /// Into an outbox, which a workflow journals with the step and relays from there.
    Step(StepBooks),
}

/// Collects what the calls of one step owe.
#[derive(Debug, Clone, Default)]
pub struct StepBooks(Arc<Mutex<Outbox>>);

impl StepBooks {
    /// What is owed so far; the next call of this returns what came since.
    pub fn take(&self) -> Outbox {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, usage: Vec<UsageEvent>, audit: AuditRecord) {
        let mut outbox = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        outbox.usage.extend(usage);
        outbox.audit.push(audit);
    }
}

enum Target {
    Slots { audit: Slot<AuditRecord>, usage: Option<Slot<Vec<UsageEvent>>> },
    Step(StepBooks),
}

/// An open call. Dropped without [`close`](Open::close), it closes as cancelled.
pub(super) struct Open {
    guard: Guard,
    ctx: ExecutionContext,
    facts: Facts,
    started: Duration,
    target: Option<Target>,
    permit: Option<Permit>,
}

/// What the rows of one call have in common.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) action: &'static str,
    pub(super) resource: String,
    pub(super) billed: Option<Resource>,
    pub(super) key: OperationKey,
    pub(super) attempt: u32,
    pub(super) run: Option<RunId>,
    /// The decision that let it through: tells two executions of one operation apart.
    pub(super) decision: Option<DecisionId>,
    /// Whether a call that was cut off may simply be repeated.
    pub(super) repeatable: bool,
}

/// How a call ended.
pub(super) struct Closing {
    pub(super) result: Result<Quantity, ErrorKind>,
    /// The answer was given before.
    pub(super) cached: bool,
    pub(super) attempts: u32,
    pub(super) output: Option<Digest>,
    /// The name that the provider reports, where it differs from what was asked.
    pub(super) billed: Option<Resource>,
}

impl Closing {
    pub(super) fn failed(kind: ErrorKind, attempts: u32) -> Self {
        Self { result: Err(kind), cached: false, attempts, output: None, billed: None }
    }

    pub(super) fn cached(output: Option<Digest>) -> Self {
        Self { result: Ok(Quantity::default()), cached: true, attempts: 0, output, billed: None }
    }

    fn word(&self) -> &'static str {
        match self.result {
            Ok(_) if self.cached => "cached",
            Ok(_) => "ok",
            Err(kind) => kind.as_str(),
        }
    }
}

impl Open {
    /// Takes the slots. Nothing was called yet: an error here means that nothing will be.
    pub(super) async fn take(
        guard: &Guard,
        ctx: &ExecutionContext,
        facts: Facts,
        books: &Books,
        permit: Option<Permit>,
    ) -> Result<Self> {
        let target = match books {
            Books::Step(step) => Target::Step(step.clone()),
            Books::Direct => {
                let audit = guard.parts().audit.reserve(ctx).await?;
                let usage = match facts.billed {
                    Some(_) => Some(guard.parts().ledger.reserve(ctx).await?),
                    None => None,
                };
                Target::Slots { audit, usage }
            }
        };
        let started = guard.parts().clock.monotonic();
        Ok(Self { guard: guard.clone(), ctx: ctx.clone(), facts, started, target: Some(target), permit })
    }

    pub(super) fn close(mut self, closing: Closing) {
        self.write(closing);
    }

    /// Nothing was called, and nothing is written: slots and reservation go back.
    pub(super) fn abandon(mut self) {
        self.target = None;
    }

    fn write(&mut self, closing: Closing) {
        let Some(target) = self.target.take() else { return };
        let parts = self.guard.parts();
        let duration = parts.clock.monotonic().saturating_sub(self.started);
        let (usage, actual) = self.usage(&closing, duration);
        if let Some(permit) = self.permit.take() {
            permit.settle(actual);
        }
        let record = self.outcome(&closing, duration);
        let tenant = self.ctx.tenant().as_str();
        let result = closing.word();
        let resource = self.facts.resource.as_str();
        match self.facts.billed {
            Some(Resource::Model(_)) => parts.metrics.add(Metric::ModelCalls, &[tenant, resource, result], 1.0),
            Some(Resource::Tool(_)) => {
                parts.metrics.add(Metric::ToolCalls, &[tenant, resource, result], 1.0);
                parts.metrics.observe(Metric::ToolDuration, &[tenant, resource], duration.as_secs_f64());
            }
            None => {}
        }
        parts.metrics.add(Metric::Attempts, &[tenant, resource, result], f64::from(closing.attempts));
        if !usage.is_empty() {
            parts.metrics.add(Metric::UsageEvents, &[tenant, resource], 1.0);
        }
        match target {
            Target::Step(books) => books.add(usage, record),
            Target::Slots { audit, usage: slot } => {
                if let Some(slot) = slot {
                    slot.fill(usage);
                }
                audit.fill(record);
            }
        }
    }

    /// One event a try, whatever became of it: what failed used nothing, and says so.
    fn usage(&self, closing: &Closing, duration: Duration) -> (Vec<UsageEvent>, Actual) {
        let Some(asked) = &self.facts.billed else { return (Vec::new(), Actual::default()) };
        let parts = self.guard.parts();
        let at = parts.clock.now();
        let resource = closing.billed.as_ref().unwrap_or(asked);
        let (quantity, status) = match closing.result {
            Ok(q) => (q, if closing.cached { UsageStatus::Cached } else { UsageStatus::Ok }),
            Err(ErrorKind::Cancelled) => (Quantity::default(), UsageStatus::Cancelled),
            Err(_) => (Quantity::default(), UsageStatus::Failed),
        };
        let cost = parts.pricing.quote(resource, &quantity, at).unwrap_or_else(|e| {
            tracing::error!(error = %e, "the usage could not be priced");
            None
        });
        let key = &self.facts.key;
        let event = UsageEvent {
            id: self.facts.row_id(&self.ctx, "usage"),
            at,
            tenant: self.ctx.tenant().clone(),
            employee: self.ctx.employee().clone(),
            request: self.ctx.request_id(),
            run: self.facts.run,
            operation: key.clone(),
            resource: resource.clone(),
            quantity,
            latency_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            cost,
            status,
        };
        (vec![event], Actual { quantity, cost })
    }

    fn outcome(&self, closing: &Closing, duration: Duration) -> AuditRecord {
        let event = AuditEvent::Outcome {
            result: closing.word().to_owned(),
            attempts: closing.attempts,
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            output_digest: closing.output,
        };
        let f = &self.facts;
        let at = self.guard.parts().clock.now();
        let mut record = AuditRecord::new(&self.ctx, at, f.key.clone(), f.attempt, f.action, f.resource.clone(), event);
        record.run = f.run;
        record.id = f.row_id(&self.ctx, "outcome");
        record
    }
}

impl Facts {
    pub(super) fn of(ctx: &ExecutionContext, op: &Operation<'_>, options: &CallOptions) -> Self {
        Self {
            action: op.action,
            resource: op.resource.to_owned(),
            billed: op.billed.clone(),
            key: options.key.clone().unwrap_or_else(|| ctx.next_operation()),
            attempt: options.attempt.max(1),
            run: options.run,
            decision: None,
            repeatable: op.idempotent || op.effect != Effect::Send,
        }
    }

    /// Of something that is no call of its own: a search inside one.
    pub(super) fn outside(ctx: &ExecutionContext) -> Self {
        Self {
            action: "",
            resource: String::new(),
            billed: None,
            key: ctx.next_operation(),
            attempt: 1,
            run: None,
            decision: None,
            repeatable: true,
        }
    }

    /// The id of a row about this execution: the same when it is relayed again, another for another execution.
    pub(super) fn row_id(&self, ctx: &ExecutionContext, row: &str) -> EventId {
        EventId::derived(&[
            row.as_bytes(),
            ctx.tenant().as_str().as_bytes(),
            self.key.as_str().as_bytes(),
            &self.attempt.to_be_bytes(),
            self.decision.as_ref().map_or(&[], |d| d.as_bytes()),
        ])
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.target.is_some() {
            let kind = if self.facts.repeatable { ErrorKind::Cancelled } else { ErrorKind::UnknownOutcome };
            self.write(Closing::failed(kind, 1));
        }
    }
}

/// What an interrupted call owes once a probe has shown that its effect happened: the process that made it did not live to say.
pub(super) fn settle_probed(guard: &Guard, ctx: &ExecutionContext, facts: Facts, quantity: Quantity) -> Outbox {
    let books = StepBooks::default();
    let started = guard.parts().clock.monotonic();
    let target = Some(Target::Step(books.clone()));
    let open = Open { guard: guard.clone(), ctx: ctx.clone(), facts, started, target, permit: None };
    open.close(Closing { result: Ok(quantity), cached: false, attempts: 1, output: None, billed: None });
    books.take()
}

/// Refuses one that has no key for what it wants to say.
pub(super) fn keyed(guard: &Guard, ctx: &ExecutionContext, bytes: &[u8]) -> Result<Digest> {
    guard.parts().keyring.digest(ctx.tenant(), bytes).map_err(|e| {
        Error::new(ErrorKind::Redaction, "guard.digest", "no key for a digest of the arguments").with_source(e)
    })
}
