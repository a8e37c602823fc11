//! Dead letters in Redis: the report rests encrypted, the message as it was.

use async_trait::async_trait;
use data_encoding::BASE64;
use forge_core::queue::TaskQueue;
use forge_core::{Digest, Error, ErrorKind, ExecutionContext, Result, TaskId, TenantId, Timestamp};
use forge_redis::redis::cmd;
use serde::{Deserialize, Serialize};

use super::message::{Read, record};
use super::queues::own;
use super::{RedisBroker, Shared, at, corrupt};
use crate::celery::{meta_key, queue_for};
use crate::dead::{DeadLetter, DeadLetters, LetterFilter};

/// Letters of one read.
const PAGE: usize = 256;

/// As it rests.
#[derive(Serialize, Deserialize)]
struct Stored {
    name: String,
    queue: String,
    reason: String,
    attempts: u32,
    died: i64,
    trace: Option<String>,
    /// Encrypted: errors speak of what was worked on.
    report: String,
    message: String,
}

/// What is known of a task when it is given up.
pub(super) struct Given<'a> {
    pub(super) tenant: &'a TenantId,
    pub(super) id: TaskId,
    pub(super) queue: &'a str,
    pub(super) reason: &'a str,
    pub(super) error: &'a forge_core::error::ErrorReport,
    /// None where it cannot be understood.
    pub(super) read: Option<&'a crate::celery::Envelope>,
    pub(super) message: &'a [u8],
    pub(super) attempts: u32,
}

fn place(tenant: &TenantId, id: TaskId) -> Digest {
    Digest::of_parts(&[b"task.letter", tenant.as_str().as_bytes(), id.as_bytes()])
}

impl Shared {
    /// A dead letter as it is stored.
    pub(super) async fn letter(&self, given: &Given<'_>, now: Timestamp) -> Result<String> {
        const OP: &str = "queue.nack";
        let unwritten = |e| Error::unexpected(OP, "the dead letter does not serialise").with_source(e);
        let report = serde_json::to_vec(given.error).map_err(unwritten)?;
        self.keyring.load(given.tenant).await?;
        let report = self.keyring.encrypt(given.tenant, place(given.tenant, given.id).as_bytes(), &report)?;
        let trace = given.read.and_then(|e| e.extra.get("traceparent")?.as_str()?.split('-').nth(1).map(str::to_owned));
        let stored = Stored {
            name: given.read.map(|e| e.task.clone()).unwrap_or_default(),
            queue: given.queue.to_owned(),
            reason: given.reason.to_owned(),
            attempts: given.attempts,
            died: now.as_millis(),
            trace,
            report: BASE64.encode(&report),
            message: BASE64.encode(given.message),
        };
        serde_json::to_string(&stored).map_err(unwritten)
    }

    async fn read_letter(&self, tenant: &TenantId, id: TaskId, stored: &Stored) -> Result<DeadLetter> {
        const OP: &str = "queue.dead_letters";
        let report = BASE64.decode(stored.report.as_bytes()).map_err(|_| corrupt(OP, "report"))?;
        self.keyring.load(tenant).await?;
        let report = self.keyring.decrypt(tenant, place(tenant, id).as_bytes(), &report)?;
        Ok(DeadLetter {
            id,
            name: stored.name.clone(),
            queue: stored.queue.clone(),
            reason: stored.reason.clone(),
            attempts: stored.attempts,
            died: at(stored.died),
            trace: stored.trace.clone(),
            report: serde_json::from_slice(&report).map_err(|_| corrupt(OP, "report"))?,
        })
    }
}

impl RedisBroker {
    /// One dead letter.
    pub(super) async fn letter(
        &self,
        operation: &'static str,
        tenant: &TenantId,
        id: TaskId,
    ) -> Result<Option<DeadLetter>> {
        match self.stored(operation, tenant, id).await? {
            Some(stored) => Ok(Some(self.shared.read_letter(tenant, id, &stored).await?)),
            None => Ok(None),
        }
    }

    async fn stored(&self, operation: &'static str, tenant: &TenantId, id: TaskId) -> Result<Option<Stored>> {
        let mut get = cmd("HGET");
        get.arg(self.shared.key(tenant, "letters")).arg(id.to_string());
        let text: Option<String> = self.shared.redis.query(operation, &get).await?;
        text.map(|t| serde_json::from_str(&t).map_err(|_| corrupt(operation, "letter"))).transpose()
    }
}

#[async_trait]
impl DeadLetters for RedisBroker {
    async fn dead_letters(
        &self,
        ctx: &ExecutionContext,
        filter: &LetterFilter,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        const OP: &str = "queue.dead_letters";
        let (shared, tenant) = (&self.shared, ctx.tenant());
        let mut letters = Vec::new();
        for page in 0.. {
            let (from, to) = (page * PAGE, (page + 1) * PAGE - 1);
            let ids: Vec<String> =
                shared.redis.query(OP, cmd("ZREVRANGE").arg(shared.key(tenant, "dead")).arg(from).arg(to)).await?;
            if ids.is_empty() {
                break;
            }
            let texts: Vec<Option<String>> =
                shared.redis.query(OP, cmd("HMGET").arg(shared.key(tenant, "letters")).arg(&ids)).await?;
            for (id, text) in ids.iter().zip(texts) {
                // purged meanwhile
                let Some(text) = text else { continue };
                let id = TaskId::parse(id).map_err(|_| corrupt(OP, "id"))?;
                let stored: Stored = serde_json::from_str(&text).map_err(|_| corrupt(OP, "letter"))?;
                let letter = shared.read_letter(tenant, id, &stored).await?;
                if filter.fits(&letter) {
                    letters.push(letter);
                }
                if letters.len() >= limit {
                    return Ok(letters);
                }
            }
        }
        Ok(letters)
    }

    async fn replay(&self, ctx: &ExecutionContext, id: TaskId) -> Result<()> {
        const OP: &str = "queue.replay";
        let (shared, tenant) = (&self.shared, ctx.tenant());
        let Some(stored) = self.stored(OP, tenant, id).await? else {
            self.status(ctx, id).await?;
            return Err(Error::new(ErrorKind::Conflict, OP, "the task is not a dead letter"));
        };
        let message = BASE64.decode(stored.message.as_bytes()).map_err(|_| corrupt(OP, "message"))?;
        let read = Read::of(shared, tenant, &message).map_err(|refused| {
            Error::invalid(OP, "the message cannot be understood").with("reason", refused.reason())
        })?;
        let mut envelope = read.envelope;
        envelope.routing_key.clone_from(&stored.queue);
        let envelope = self.again(ctx, envelope)?;
        let elsewhere = Some(stored.queue.as_str()).filter(|queue| *queue != own(tenant));
        let mut call = shared.call(&shared.scripts.replay);
        call.arg(tenant.as_str()).arg(id.to_string()).arg(queue_for(&stored.queue, envelope.priority));
        call.arg(envelope.to_bytes()).arg(record(0, &envelope.task, elsewhere));
        call.arg(meta_key(&envelope.id));
        match shared.run(OP, &call).await? {
            true => Ok(()),
            false => Err(Error::new(ErrorKind::Conflict, OP, "the task is not a dead letter")),
        }
    }

    async fn purge(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool> {
        let (shared, tenant) = (&self.shared, ctx.tenant());
        let mut purge = forge_redis::redis::pipe();
        purge.atomic().cmd("ZREM").arg(shared.key(tenant, "dead")).arg(id.to_string());
        purge.cmd("HDEL").arg(shared.key(tenant, "letters")).arg(id.to_string());
        let (was, _): (bool, i64) = shared.redis.pipeline("queue.purge", &purge).await?;
        Ok(was)
    }
}
