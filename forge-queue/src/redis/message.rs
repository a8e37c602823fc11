//! From a task to the message that carries it, and back to a lease.
//!
//! A seal is in a header and covers id, name, queue and body. Python's workers keep it when they try a task again, but the later tasks of a
//! chain, callbacks and the body of a chord get stamps only. A seal in a stamp covers the root of the tree, the queue and the context; so it
//! holds where a task without any would run too, as the same tenant: in a queue that is bound (`docs/adr/0019-seals-in-stamps.md`).

use std::time::Duration;

use forge_core::queue::{Lease, NewTask};
use forge_core::{
    Digest, Error, ErrorKind, ExecutionContext, RequestId, Result, SealedContext, SealedFor, Slug, TaskId, TenantId,
    Timestamp,
};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{RedisBroker, Shared};
use crate::celery::{Envelope, Malformed};

/// The sealed context, in a header. Behind it, a colon and a queue it is the stamp for that queue.
const CONTEXT: &str = "x-forge-context";
/// Retries after the first try.
const MAX_RETRIES: &str = "x-forge-max-retries";
/// Leases that ran out: tries that Celery's `retries` do not count.
const LOST: &str = "x-forge-lost";
/// Seconds that a task may wait from when it was queued.
const LIFETIME: &str = "x-forge-lifetime";
/// Celery's own `max_retries`, for tasks that do not say.
const DEFAULT_RETRIES: u32 = 3;

/// Why a message is not a task that may run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It cannot be understood.
    Malformed(Malformed),
    /// It has no seal, and the queue is bound to nobody.
    Unsealed,
    /// Its seal does not parse, or something follows the task and it does not hold. Otherwise that is for the worker to find out.
    BadSeal,
    /// A task that has ended came again.
    Replayed,
    /// Its time was over before it began.
    Expired,
    /// Its leases ran out too often.
    Lost,
    /// What follows it is to go to a queue that is not its tenant's.
    ForeignQueue,
    /// Its stamp is another tenant's.
    ForeignStamp,
}

impl Refused {
    pub(super) fn reason(self) -> &'static str {
        match self {
            Self::Malformed(m) => m.reason(),
            Self::Unsealed => "unsealed",
            Self::BadSeal => "bad_seal",
            Self::Replayed => "replayed",
            Self::Expired => "expired",
            Self::Lost => "lost",
            Self::ForeignQueue => "foreign_queue",
            Self::ForeignStamp => ErrorKind::TenantMismatch.as_str(),
        }
    }

    pub(super) fn error(self) -> Error {
        let e = |kind, what: &'static str| Error::new(kind, "queue.lease", what).with_adapter("redis");
        let e = match self {
            Self::Malformed(m) => Error::new(ErrorKind::InvalidInput, "queue.lease", m.to_string()),
            Self::Unsealed => {
                e(ErrorKind::Unauthenticated, "the task has no seal and its queue is bound to no principal")
            }
            Self::BadSeal => e(ErrorKind::Unauthenticated, "the seal of the task does not parse or does not hold"),
            Self::Replayed => e(ErrorKind::Unauthenticated, "the task has ended and was sent again"),
            Self::Expired => e(ErrorKind::Timeout, "the task expired before a worker had done it"),
            // its worker may have died after the effect: only who can look may try again
            Self::Lost => e(ErrorKind::UnknownOutcome, "lease lost too often"),
            Self::ForeignQueue => {
                e(ErrorKind::TenantMismatch, "what follows the task names a queue that is not bound to its tenant")
            }
            Self::ForeignStamp => {
                e(ErrorKind::TenantMismatch, "the stamp of the task belongs to another tenant than the queue")
            }
        };
        e.with_retry(forge_core::Retryability::Never)
    }
}

/// What a message says of its task.
pub(super) struct Read {
    pub(super) envelope: Envelope,
    pub(super) id: TaskId,
    pub(super) sealed: Option<SealedContext>,
}

impl Read {
    pub(super) fn of(shared: &Shared, tenant: &TenantId, message: &[u8]) -> Result<Self, Refused> {
        let envelope = Envelope::parse(message, &shared.options.limits).map_err(Refused::Malformed)?;
        let id = task_id(tenant, &envelope.id);
        let sealed = match envelope.extra.get(CONTEXT) {
            None => None,
            Some(Value::String(text)) => Some(serde_json::from_str(text).map_err(|_| Refused::BadSeal)?),
            Some(value) => Some(serde_json::from_value(value.clone()).map_err(|_| Refused::BadSeal)?),
        };
        Ok(Self { envelope, id, sealed })
    }

    /// Until when the end of the task is remembered: as long as its seal says that it holds, for an id that Forge did not give. A task whose
    /// id it gave has ended once it has no record.
    pub(super) fn remembered(&self, queue: &str) -> Option<Timestamp> {
        match &self.sealed {
            Some(_) if is_ours(&self.envelope.id) => None,
            Some(sealed) => sealed.claimed_not_after(),
            None => self.stamp(queue).ok().flatten()?.claimed_not_after(),
        }
    }

    /// Whether stamps say as whom the task runs.
    pub(super) fn is_stamped(&self) -> bool {
        self.sealed.is_none() && self.envelope.stamps.keys().any(|key| stamped_queue(key).is_some())
    }

    /// The seal for this queue in a stamp; nothing for a task that no stamp of ours is on. One that is stamped for other queues has no
    /// business here.
    fn stamp(&self, queue: &str) -> Result<Option<SealedContext>, Refused> {
        if !self.is_stamped() {
            return Ok(None);
        }
        let stamps = &self.envelope.stamps;
        let ours = stamps.iter().find(|(key, _)| stamped_queue(key) == Some(queue)).and_then(|(_, v)| v.as_str());
        ours.and_then(|text| serde_json::from_str(text).ok()).map(Some).ok_or(Refused::BadSeal)
    }
}

fn stamped_queue(key: &str) -> Option<&str> {
    key.strip_prefix(CONTEXT)?.strip_prefix(':')
}

/// The id that a tenant sees; other programs' ids may be any text.
pub(super) fn task_id(tenant: &TenantId, id: &str) -> TaskId {
    let plain = id.len() == 36 && !id.bytes().any(|b| b.is_ascii_uppercase());
    let uuid = TaskId::parse(id).ok().filter(|_| plain);
    uuid.unwrap_or_else(|| TaskId::derived_v8(&[b"celery", tenant.as_str().as_bytes(), id.as_bytes()]))
}

/// Whether it is an id that Forge gave: those are UUIDv7, and such a task is open or has ended. The id is under the seal.
pub(super) fn is_ours(id: &str) -> bool {
    id.len() == 36 && id.as_bytes().get(14) == Some(&b'7')
}

/// Tries begun, with the one that a lease would be.
pub(super) fn attempt(envelope: &Envelope) -> u32 {
    envelope.retries.saturating_add(number(envelope, LOST).unwrap_or(0)).saturating_add(1)
}

pub(super) fn max_retries(envelope: &Envelope) -> u32 {
    number(envelope, MAX_RETRIES).unwrap_or(DEFAULT_RETRIES)
}

/// The same task after a lease of it ran out.
pub(super) fn lost(mut envelope: Envelope) -> Envelope {
    let times = number(&envelope, LOST).unwrap_or(0).saturating_add(1);
    envelope.extra.insert(LOST.to_owned(), times.into());
    envelope.set_redelivered();
    envelope
}

fn number(envelope: &Envelope, header: &str) -> Option<u32> {
    envelope.extra.get(header).and_then(Value::as_u64).map(|n| u32::try_from(n).unwrap_or(u32::MAX))
}

/// The record of a task that is open: tries begun, name, and the queue where that is not the tenant's own.
pub(super) fn record(attempts: u32, name: &str, elsewhere: Option<&str>) -> String {
    match elsewhere {
        None => format!("{attempts} {name}"),
        Some(queue) => format!("{attempts} {name} {queue}"),
    }
}

/// Tries begun, name and queue from a record.
pub(super) fn parse_record(record: &str) -> Option<(u32, &str, Option<&str>)> {
    let mut parts = record.split(' ');
    Some((parts.next()?.parse().ok()?, parts.next()?, parts.next()))
}

impl RedisBroker {
    /// A new task as a message, sealed to its queue, body, name and id.
    pub(super) fn message(&self, ctx: &ExecutionContext, task: &NewTask, queue: &str, id: TaskId) -> Result<Envelope> {
        const OP: &str = "queue.enqueue";
        let now = self.shared.clock.now();
        let mut envelope = Envelope::from_payload(id.to_string(), task.name.as_str(), &task.payload)
            .map_err(|e| Error::invalid(OP, e.to_string()))?;
        envelope.routing_key = queue.to_owned();
        envelope.priority = task.priority.step();
        envelope.expires = Some(now.after(task.expires));
        envelope.extra.insert("traceparent".to_owned(), ctx.trace().traceparent().into());
        envelope.extra.insert(MAX_RETRIES.to_owned(), task.max_retries.into());
        envelope.extra.insert(LIFETIME.to_owned(), super::seconds(task.expires).into());
        // the arguments go into logs and dashboards under these names
        envelope.argsrepr = Some("(...)".to_owned());
        envelope.kwargsrepr = Some("{...}".to_owned());
        self.shared.seal(OP, ctx, envelope, now.after(task.expires))
    }

    /// The same task for another round, as the caller and with all its tries.
    pub(super) fn again(&self, ctx: &ExecutionContext, mut envelope: Envelope) -> Result<Envelope> {
        let lifetime = self.shared.lifetime(&envelope).unwrap_or(Duration::from_secs(24 * 3600));
        let until = self.shared.clock.now().after(lifetime);
        envelope.retries = 0;
        envelope.eta = None;
        envelope.extra.remove(LOST);
        envelope.expires = Some(until);
        self.shared.seal("queue.replay", ctx, envelope, until)
    }
}

impl Shared {
    /// How long a task may wait.
    pub(super) fn lifetime(&self, envelope: &Envelope) -> Option<Duration> {
        number(envelope, LIFETIME).map(|seconds| Duration::from_secs(seconds.into()))
    }

    /// What a task hands on to those that follow it. A seal is made for each; none comes from a signature.
    pub(super) fn inherit(&self, child: &mut Envelope, parent: &Envelope) {
        for theirs in [CONTEXT, LOST] {
            child.extra.remove(theirs);
        }
        for ours in ["traceparent", MAX_RETRIES, LIFETIME] {
            if let Some(value) = parent.extra.get(ours) {
                child.extra.entry(ours).or_insert_with(|| value.clone());
            }
        }
    }

    pub(super) fn seal(
        &self,
        operation: &'static str,
        ctx: &ExecutionContext,
        mut envelope: Envelope,
        until: Timestamp,
    ) -> Result<Envelope> {
        let bound = SealedFor {
            id: task_id(ctx.tenant(), &envelope.id).to_string(),
            name: envelope.task.clone(),
            queue: envelope.routing_key.clone(),
            body: Digest::of(envelope.body()),
        };
        let sealed = SealedContext::seal(ctx, bound, self.keyring.as_ref(), self.clock.now(), until)?;
        let sealed = serde_json::to_value(&sealed)
            .map_err(|e| Error::unexpected(operation, "the seal does not serialise").with_source(e))?;
        envelope.extra.insert(CONTEXT.to_owned(), sealed);
        Ok(envelope)
    }

    /// Whom a stamp says that a task runs as.
    fn stamped(
        &self,
        tenant: &TenantId,
        queue: &str,
        envelope: &Envelope,
        stamp: &SealedContext,
        now: Timestamp,
    ) -> Result<ExecutionContext, Refused> {
        // no task has such an id: what is sealed for a stamp is none in a header
        let id = format!("root:{}", envelope.root_id.as_deref().unwrap_or_default());
        let bound = SealedFor { id, name: "*".to_owned(), queue: queue.to_owned(), body: Digest::of(b"") };
        let ctx = stamp.open(&bound, self.keyring.as_ref(), now).map_err(|_| Refused::BadSeal)?;
        if ctx.tenant() == tenant { Ok(ctx) } else { Err(Refused::ForeignStamp) }
    }

    /// A message as a lease. One without a seal is sealed here, as whom its stamp names or the principal that its queue is bound to; none
    /// without a queue that is.
    pub(super) fn to_lease(
        &self,
        tenant: &TenantId,
        queue: &str,
        name: Slug,
        read: &Read,
        fence: u64,
        (now, until): (Timestamp, Timestamp),
    ) -> Result<Lease, Refused> {
        let body = Digest::of(read.envelope.body());
        let context = match (&read.sealed, self.queues.principal(queue)) {
            (Some(sealed), _) => sealed.clone(),
            (None, None) => return Err(Refused::Unsealed),
            (None, Some(principal)) => {
                let ctx = match read.stamp(queue)? {
                    Some(stamp) => self.stamped(tenant, queue, &read.envelope, &stamp, now)?,
                    None => {
                        let request = RequestId::derived(&[b"celery", read.envelope.id.as_bytes()]);
                        ExecutionContext::issue(principal.clone(), request)
                    }
                };
                let bound =
                    SealedFor { id: read.id.to_string(), name: name.to_string(), queue: queue.to_owned(), body };
                let not_after = now.after(Duration::from_secs(366 * 24 * 3600));
                SealedContext::seal(&ctx, bound, self.keyring.as_ref(), now, not_after)
                    .map_err(|_| Refused::Unsealed)?
            }
        };
        Ok(Lease {
            tenant: tenant.clone(),
            id: read.id,
            name,
            queue: queue.to_owned(),
            payload: read.envelope.payload(),
            body,
            context,
            attempt: attempt(&read.envelope),
            max_retries: max_retries(&read.envelope),
            fence,
            until,
            lost: CancellationToken::new(),
            soft_time_limit: seconds_of(read.envelope.soft_time_limit),
            time_limit: seconds_of(read.envelope.time_limit),
        })
    }
}

/// A limit in seconds, as another program wrote it; what is no span of time is no limit.
fn seconds_of(limit: Option<f64>) -> Option<Duration> {
    limit.filter(|s| *s > 0.0).and_then(|s| Duration::try_from_secs_f64(s).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_no_span_of_time_is_none() {
        assert_eq!(seconds_of(Some(2.5)), Some(Duration::from_millis(2500)));
        for odd in [0.0, -1.0, f64::NAN, f64::INFINITY, 1e300] {
            assert_eq!(seconds_of(Some(odd)), None, "{odd}");
        }
    }
}
