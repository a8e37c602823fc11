//! What nobody finished, and what cannot be run at all.

use std::time::Duration;

use forge_core::error::ErrorReport;
use forge_core::{Result, Slug, TaskId, TenantId};
use futures::future::join_all;

use super::RedisBroker;
use super::canvas::{Follow, Op, Place, Stop};
use super::letters::Given;
use super::message::{Read, Refused, attempt, lost, max_retries, record};
use super::queues::own;
use super::settle::{Settlement, Then, raised};
use crate::celery::{Envelope, ResultState, Revocation, queue_for};

/// How long a task rests that this worker has no handler for: another may have one.
const NO_HANDLER: Duration = Duration::from_secs(5);
/// How long a task rests whose handler is busy here: it may be the next one that fits, and those behind it may fit now.
pub(super) const NO_ROOM: Duration = Duration::from_millis(500);

/// The tag of a lease: the number of the call and of the task in it, whose it is, which task, and who took it, so that it has more than
/// 64 bytes: of shorter ones Redis makes lists that it searches from the front. Those that begin with `k` lie where kombu keeps its own.
pub(super) fn tag(shared_with_kombu: bool, call: u64, place: u8, tenant: &str, id: &str, who: &str) -> String {
    let kind = if shared_with_kombu { 'k' } else { 'f' };
    let place = PLACES.get(usize::from(place)).copied().unwrap_or(b'?');
    format!("{kind}:{call}.{}:{tenant}:{id}:{who}", char::from(place))
}

/// The place in a call as a character, as the script writes it; none stands between the parts of a tag.
const PLACES: &[u8; super::BATCH] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/// The fence of a lease.
pub(super) fn fence(call: u64, place: u8) -> u64 {
    call.saturating_mul(128).saturating_add(u64::from(place))
}

/// Whose a tag's lease is, and its field in the tenant's `run`.
pub(super) fn parse_tag(tag: &str) -> Option<(TenantId, String)> {
    let mut parts = tag.split(':');
    let (_, _, tenant, id) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    parts.next()?;
    let field = if id == "-" { tag } else { id };
    Some((TenantId::parse(tenant).ok()?, field.to_owned()))
}

/// Message and queue from a value of kombu's `unacked`: `[<envelope>, "<exchange>", "<routing key>"]`.
pub(super) fn parse_unacked(value: &[u8]) -> Option<(&[u8], String)> {
    let inner = value.strip_prefix(b"[")?;
    // written by our script, with exactly these separators; the envelope has no other place for them at its end
    let end = inner.windows(6).rposition(|w| w == b", \"\", ")?;
    let (message, rest) = inner.split_at(end);
    let queue: String = serde_json::from_slice(rest.get(6..rest.len().checked_sub(1)?)?).ok()?;
    Some((message, queue))
}

/// A message that was taken, with the place that it holds.
pub(super) struct Taken<'a> {
    pub(super) tag: &'a str,
    pub(super) tenant: &'a TenantId,
    pub(super) field: &'a str,
    pub(super) queue: &'a str,
    pub(super) message: &'a [u8],
}

impl Taken<'_> {
    pub(super) fn settlement(&self, id: TaskId, record: String, then: Then) -> Settlement {
        Settlement {
            tag: self.tag.to_owned(),
            field: self.field.to_owned(),
            tenant: self.tenant.clone(),
            id,
            record,
            remember: None,
            result: None,
            careful: true,
            then,
            ops: Vec::new(),
        }
    }

    /// Puts it back as it is, for later.
    pub(super) fn deferred(&self, read: &Read, after: Duration) -> Settlement {
        self.put_back(queue_for(self.queue, read.envelope.priority), read, after)
    }

    /// Puts back what has no handler here, so that other workers get it first.
    pub(super) fn for_others(&self, read: &Read) -> Settlement {
        self.put_back(format!("!{}", queue_for(self.queue, read.envelope.priority)), read, NO_HANDLER)
    }

    fn put_back(&self, list: String, read: &Read, after: Duration) -> Settlement {
        self.settlement(read.id, String::new(), Then::Later { list, message: self.message.to_vec(), after })
    }
}

impl RedisBroker {
    /// Puts tasks back whose leases ran out, with their tries counted, or gives them up. All at once: the leases that were just taken run.
    pub(super) async fn reap(&self, expired: &[(String, Vec<u8>)]) -> Result<()> {
        let all = join_all(expired.iter().map(|(tag, value)| self.reap_one(tag, value))).await;
        all.into_iter().collect()
    }

    async fn reap_one(&self, tag: &str, value: &[u8]) -> Result<()> {
        let Some((tenant, field)) = parse_tag(tag) else {
            tracing::error!("a lease that nobody can read is left; was it written by another program?");
            return Ok(());
        };
        let (message, queue) = match tag.starts_with('k') {
            true => match parse_unacked(value) {
                Some(parts) => parts,
                None => return Ok(()),
            },
            false => (value, own(&tenant)),
        };
        let taken = Taken { tag, tenant: &tenant, field: &field, queue: &queue, message };
        match Read::of(&self.shared, &tenant, message) {
            Err(refused) => self.quarantine(&taken, refused, None).await,
            Ok(read) if attempt(&read.envelope) > max_retries(&read.envelope) => {
                self.quarantine(&taken, Refused::Lost, Some(&read)).await
            }
            Ok(read) => {
                let tries = attempt(&read.envelope);
                let elsewhere = Some(queue.as_str()).filter(|queue| *queue != own(&tenant));
                let record = read.sealed.as_ref().map(|_| record(tries, &read.envelope.task, elsewhere));
                let list = queue_for(&queue, read.envelope.priority);
                let then = Then::Front { list, message: lost(read.envelope).to_bytes() };
                let settlement = taken.settlement(read.id, record.unwrap_or_default(), then);
                self.settlements.call("queue.lease", settlement).await.map(|_| ())
            }
        }
    }

    /// Makes a dead letter of what may not run.
    pub(super) async fn quarantine(&self, taken: &Taken<'_>, refused: Refused, read: Option<&Read>) -> Result<()> {
        let (shared, tenant) = (&self.shared, taken.tenant);
        // what is no task of its own must not change the record of one: its letter has an id of its own
        let own = read.filter(|_| {
            !matches!(refused, Refused::Replayed | Refused::Unsealed | Refused::BadSeal | Refused::ForeignStamp)
        });
        let digest = || TaskId::derived(&[b"letter", tenant.as_str().as_bytes(), taken.tag.as_bytes(), taken.message]);
        let id = own.map_or_else(digest, |r| r.id);
        let envelope = read.map(|r| &r.envelope);
        let attempts = envelope.map_or(0, |e| attempt(e) - u32::from(refused != Refused::Lost));
        let error = refused.error().report();
        tracing::warn!(tenant = %tenant, queue = taken.queue, reason = refused.reason(), task = %id, "a message was refused; it is a dead letter now");
        let given = Given {
            tenant,
            id,
            queue: taken.queue,
            reason: refused.reason(),
            error: &error,
            read: envelope,
            message: taken.message,
            attempts,
        };
        let letter = shared.letter(&given, shared.clock.now()).await?;
        let mut settlement = taken.settlement(id, String::new(), Then::Dead { id, letter });
        settlement.remember = own.and_then(|r| r.remembered(taken.queue));
        if let (Some(read), Some(state)) = (own, ended(refused, &error)) {
            settlement.result = (read.envelope.ignore_result != Some(true))
                .then(|| shared.result(tenant, read.envelope.id.clone(), state.clone()));
            settlement.ops = self.nobody_did(taken, read, &state).await?;
        }
        let ended = self.settlements.call("queue.lease", settlement).await?;
        if let Some(read) = read.filter(|_| ended) {
            shared.presences.refused(tenant, read, refused);
        }
        Ok(())
    }
}

impl RedisBroker {
    /// What waited for a task that will not be run any more.
    async fn nobody_did(&self, taken: &Taken<'_>, read: &Read, state: &ResultState) -> Result<Vec<Op>> {
        let (shared, now) = (&self.shared, self.shared.clock.now());
        // nothing follows on the word of a seal that does not hold
        let Ok(ctx) = shared.runs_as(taken.tenant, taken.queue, read, now) else { return Ok(Vec::new()) };
        let place = Place { tenant: taken.tenant, queue: taken.queue, tag: taken.tag };
        let mut follow = Follow::new(shared, place, &read.envelope, ctx.as_ref(), now);
        match follow.failed(state).await {
            Ok(()) => Ok(follow.ops),
            Err(Stop::Error(e)) => Err(e),
            Err(Stop::Refused(_)) => Ok(Vec::new()),
        }
    }
}

/// What the result says of a task that was given up without a worker.
fn ended(refused: Refused, error: &ErrorReport) -> Option<ResultState> {
    match refused {
        Refused::Expired => Some(ResultState::Revoked { reason: Revocation::Expired }),
        Refused::Lost => {
            let (exception, traceback) = raised(error);
            Some(ResultState::Failure { exception, traceback })
        }
        _ => None,
    }
}

/// The name as a handler's, if it can be one.
pub(super) fn handler_name(envelope: &Envelope) -> Option<Slug> {
    Slug::parse(&envelope.task).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_says_whose_the_lease_is() {
        let id = "1db5982d-e505-425a-b8b6-d5ce35897a4c";
        for place in 0..64 {
            let (tenant, field) = parse_tag(&tag(false, 7, place, "acme", id, "0f")).unwrap();
            assert_eq!((tenant.as_str(), field.as_str()), ("acme", id), "place {place}");
        }
        let foreign = tag(true, 7, 0, "acme", "-", "0f");
        assert_eq!((foreign.as_str(), parse_tag(&foreign).unwrap().1), ("k:7.A:acme:-:0f", foreign.clone()));
        for other in ["", id, "f:7.0:ACME:-:0", "f:7.0:acme", "f:7.0:acme:-"] {
            assert!(parse_tag(other).is_none(), "{other}");
        }
        assert!(fence(8, 0) > fence(7, 63));
    }

    #[test]
    fn what_is_unacknowledged_is_read_again() {
        let value = br#"[{"a": ", \"\", "}, "", "acme.default"]"#;
        let (message, queue) = parse_unacked(value).unwrap();
        assert_eq!((message, queue.as_str()), (&br#"{"a": ", \"\", "}"#[..], "acme.default"));
        assert!(
            parse_unacked(b"").is_none() && parse_unacked(b"[x").is_none() && parse_unacked(b"[, \"\", ").is_none()
        );
    }
}
