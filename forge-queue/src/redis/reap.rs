//! What nobody finished, and what cannot be run at all.

use forge_core::{Result, Slug, TaskId, TenantId};

use super::letters::Given;
use super::message::{Read, Refused, attempt, lost, max_retries, record};
use super::settle::{Settlement, Then};
use super::{RedisBroker, Shared};
use crate::celery::{Envelope, ResultState, Revocation, queue_for};
use std::time::Duration;

/// How long a task rests that this worker has no handler for: another may have one.
pub(super) const NO_HANDLER: Duration = Duration::from_secs(5);
/// How long a task rests whose handler is busy here: it may be the next one that fits, and those behind it may fit now.
pub(super) const NO_ROOM: Duration = Duration::from_millis(500);

/// A tag's parts: fence, tenant, and the field in the tenant's `run`.
pub(super) fn parse_tag(tag: &str) -> Option<(u64, TenantId, String)> {
    let mut parts = tag.strip_prefix("f:")?.splitn(3, ':');
    let (fence, tenant, id) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
    let field = if id == "-" { tag } else { id };
    Some((fence, TenantId::parse(tenant).ok()?, field.to_owned()))
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
    fn settlement(&self, id: TaskId, record: String, then: Then) -> Settlement {
        Settlement {
            tag: self.tag.to_owned(),
            field: self.field.to_owned(),
            tenant: self.tenant.clone(),
            id,
            record,
            result: None,
            careful: true,
            then,
        }
    }

    /// Puts it back as it is, for later.
    pub(super) fn deferred(&self, read: &Read, after: Duration) -> Settlement {
        let list = queue_for(self.queue, read.envelope.priority);
        self.settlement(read.id, String::new(), Then::Later { list, message: self.message.to_vec(), after })
    }
}

impl RedisBroker {
    /// Puts tasks back whose leases ran out, with their tries counted, or gives them up.
    pub(super) async fn reap(&self, expired: Vec<(String, Vec<u8>)>) -> Result<()> {
        for (tag, value) in expired {
            let (Some((_, tenant, field)), Some((message, queue))) = (parse_tag(&tag), parse_unacked(&value)) else {
                tracing::error!("a lease that nobody can read is left; was it written by another program?");
                continue;
            };
            let taken = Taken { tag: &tag, tenant: &tenant, field: &field, queue: &queue, message };
            match Read::of(&self.shared, &tenant, message) {
                Err(refused) => self.quarantine(&taken, refused, None).await?,
                Ok(read) if attempt(&read.envelope) > max_retries(&read.envelope) => {
                    self.quarantine(&taken, Refused::Lost, Some(&read)).await?;
                }
                Ok(read) => {
                    let tries = attempt(&read.envelope);
                    let name = read.envelope.task.clone();
                    let list = queue_for(&queue, read.envelope.priority);
                    let then = Then::Front { list, message: lost(read.envelope).to_bytes() };
                    self.settlements
                        .call("queue.lease", taken.settlement(read.id, record('R', tries, &name), then))
                        .await?;
                }
            }
        }
        Ok(())
    }

    /// Makes a dead letter of what may not run.
    pub(super) async fn quarantine(&self, taken: &Taken<'_>, refused: Refused, read: Option<&Read>) -> Result<()> {
        let (shared, tenant) = (&self.shared, taken.tenant);
        // what is no task of its own must not change the record of one: its letter has an id of its own
        let own = read.filter(|_| !matches!(refused, Refused::Replayed | Refused::Unsealed));
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
        let record = own.map(|r| record('D', attempts, &r.envelope.task)).unwrap_or_default();
        let mut settlement = taken.settlement(id, record, Then::Dead { id, letter });
        settlement.result = envelope.filter(|_| refused == Refused::Expired).map(|e| shared.expired(tenant, e));
        self.settlements.call("queue.lease", settlement).await.map(|_| ())
    }
}

impl Shared {
    fn expired(&self, tenant: &TenantId, envelope: &Envelope) -> crate::celery::TaskResult {
        self.result(tenant, envelope.id.clone(), ResultState::Revoked { reason: Revocation::Expired })
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
        let (fence, tenant, field) = parse_tag("f:7:acme:1db5982d-e505-425a-b8b6-d5ce35897a4c").unwrap();
        assert_eq!((fence, tenant.as_str(), field.as_str()), (7, "acme", "1db5982d-e505-425a-b8b6-d5ce35897a4c"));
        assert_eq!(parse_tag("f:7:acme:-").unwrap().2, "f:7:acme:-");
        for foreign in ["", "30a75b3f-0000-0000-0000-000000000000", "f:x:acme:-", "f:7:ACME:-", "f:7:acme"] {
            assert!(parse_tag(foreign).is_none(), "{foreign}");
        }
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
