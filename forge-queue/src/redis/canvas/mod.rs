//! What follows a task: the next of its chain, callbacks, errbacks, the body of its chord. Celery's canvas, as its workers carry it out.
//!
//! What a lease's end sends goes with that end, in one script: it is sent once, or the lease is still held and the task is run again. Only
//! the count of a chord's parts goes before, and a part that is run again counts once ([`chord`]).
//!
//! | ends | is sent or stored |
//! |---|---|
//! | done | callbacks and the next of the chain, with the result; the chord's body, after the last part |
//! | given up | errbacks, with the id; `FAILURE` for every task that waited in the chain and for what waits for those; a chord's body fails with `ChordError` |
//! | expired | the same as `REVOKED` and without errbacks |
//! | will be tried again | nothing |
//!
//! **Whose.** Everything stays in the parent's tenant. A signature that names no queue goes where the tenant's tasks of that name go by
//! [`route`](super::RedisBroker::route), else to the parent's queue. One that names a queue goes there if the queue is the tenant's own or
//! bound to it; otherwise the parent is a dead letter, `foreign_queue`, before it runs: nothing was done that would want to be followed.
//! What follows a task with a seal is sealed for whoever the parent ran as; what follows one without has none.
//!
//! Errbacks are sent as tasks with the failed id, also those that a Python worker would call in its own process with three arguments.
//! `celery.map`, `celery.starmap` and other tasks of Celery's own are sent on, to be run by a worker of Celery.

mod chord;
mod expand;
mod follow;
mod op;

use forge_core::{Digest, Error, ExecutionContext, SealedFor, TenantId, Timestamp};

use super::Shared;
use super::message::{Read, Refused};
use crate::celery::Envelope;
pub(super) use follow::Follow;
pub(super) use op::Op;

/// Where a task was taken from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) queue: &'a str,
    pub(super) tag: &'a str,
}

/// Why what follows cannot be sent.
#[derive(Debug)]
pub(super) enum Stop {
    /// It never can.
    Refused(Refused),
    /// It may, later.
    Error(Error),
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<Error> for Stop {
    fn from(e: Error) -> Self {
        Self::Error(e)
    }
}

/// Whether anything waits for the task's end.
pub(super) fn is_followed(envelope: &Envelope) -> bool {
    let embed = envelope.embed();
    let any = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|l| !l.is_empty());
    any(&embed.callbacks) || any(&embed.errbacks) || any(&embed.chain) || embed.chord.is_some()
}

impl Shared {
    /// Whom what follows a task runs as; nobody for a task without a seal, whose followers have none. Whether a seal holds is otherwise
    /// the worker's to find out, but nothing is sealed again on the word of one that does not.
    pub(super) fn runs_as(
        &self,
        tenant: &TenantId,
        queue: &str,
        read: &Read,
        now: Timestamp,
    ) -> Result<Option<ExecutionContext>, Refused> {
        let Some(sealed) = read.sealed.as_ref().filter(|_| is_followed(&read.envelope)) else { return Ok(None) };
        let bound = SealedFor {
            id: read.id.to_string(),
            name: read.envelope.task.clone(),
            queue: queue.to_owned(),
            body: Digest::of(read.envelope.body()),
        };
        // the seal of a task that expired ended with it
        let last = |end: Timestamp| Timestamp::from_nanos(end.as_nanos().saturating_sub(1));
        let when = read.envelope.expires.map_or(now, |end| now.min(last(end)));
        let ctx = sealed.open(&bound, self.keyring.as_ref(), when).map_err(|_| Refused::BadSeal)?;
        if ctx.tenant() == tenant { Ok(Some(ctx)) } else { Err(Refused::BadSeal) }
    }
}
