//! The producing side.

use async_trait::async_trait;
use forge_core::error::ErrorReport;
use forge_core::queue::{NewTask, QueueCapability, QueueDepth, TaskQueue, TaskState, TaskStatus};
use forge_core::{
    Digest, Error, ErrorKind, ExecutionContext, Result, SealedContext, SealedFor, Slug, TaskId, TenantId, Timestamp,
};
use forge_sqlite::rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use forge_sqlite::{corrupt, error};
use serde_json::Value;

use super::SqliteStore;
use super::row::{from_json, nanos, parsed, to_json, unsigned};
use super::schema::{CANCELLED, DEAD, LEASED, READY, SUCCEEDED};
use super::serve::bury_expired;

const PAYLOAD_MAX: usize = 256 * 1024;
const ENQUEUE: &str = "queue.enqueue";

/// The queue's name, as seals and leases carry it.
pub(super) fn queue_of(tenant: &TenantId) -> String {
    format!("{tenant}.default")
}

/// The place of a task's outcome, for the cipher.
pub(super) fn outcome_place<'a>(tenant: &'a TenantId, id: &'a str) -> [&'a [u8]; 3] {
    [b"task.outcome", tenant.as_str().as_bytes(), id.as_bytes()]
}

/// Gives up the task that has the key, if nobody took it in time: the key is free again.
pub(super) fn free_key(tx: &Transaction<'_>, operation: &'static str, tenant: &str, key: &str, now: i64) -> Result<()> {
    tx.prepare_cached(
        "UPDATE tasks SET state = ?4, reason = 'expired', updated = ?3
         WHERE tenant = ?1 AND unique_key = ?2 AND state IN (0, 1) AND state = 0 AND expires <= ?3",
    )
    .and_then(|mut s| s.execute(params![tenant, key, now, DEAD]))
    .map(|_| ())
    .map_err(error(operation))
}

impl SqliteStore {
    pub(super) fn seal(
        &self,
        ctx: &ExecutionContext,
        id: TaskId,
        name: &str,
        payload: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<String> {
        let bound = SealedFor {
            id: id.to_string(),
            name: name.to_owned(),
            queue: queue_of(ctx.tenant()),
            body: Digest::of(payload.as_bytes()),
        };
        to_json("queue.seal", &SealedContext::seal(ctx, bound, self.keyring.as_ref(), now, until)?)
    }

    pub(super) async fn status_of(&self, tenant: &TenantId, row: Stored) -> Result<TaskStatus> {
        const OP: &str = "queue.status";
        let outcome = match &row.outcome {
            Some(blob) => self.decrypt(tenant, &outcome_place(tenant, &row.id), blob).await?,
            None => Vec::new(),
        };
        let text = || std::str::from_utf8(&outcome).map_err(|_| corrupt(OP, "outcome"));
        let state = match row.state {
            READY => TaskState::Ready,
            LEASED => TaskState::Leased,
            SUCCEEDED => TaskState::Succeeded { result: from_json(OP, "result", text()?)? },
            DEAD => TaskState::Dead {
                report: match row.reason.as_deref() {
                    Some(reason) => buried(reason),
                    None => from_json(OP, "report", text()?)?,
                },
            },
            CANCELLED => TaskState::Cancelled,
            _ => return Err(corrupt(OP, "state")),
        };
        Ok(TaskStatus {
            id: parsed(OP, "id", TaskId::parse(&row.id))?,
            name: parsed(OP, "name", Slug::parse(&row.name))?,
            attempts: row.attempt,
            state,
        })
    }
}

/// The report of a task that the queue itself gave up.
fn buried(reason: &str) -> ErrorReport {
    let e = match reason {
        "expired" => Error::new(ErrorKind::Timeout, "queue.lease", "the task expired before a worker had done it")
            .with_retry(forge_core::Retryability::Never),
        // its worker may have died after the effect: only who can look may try again
        "lost" => Error::new(ErrorKind::UnknownOutcome, "queue.lease", "lease lost too often"),
        _ => Error::new(ErrorKind::Corrupt, "queue.lease", "the stored task does not parse"),
    };
    e.report()
}

/// What is kept of a task, without its body.
pub(super) struct Stored {
    id: String,
    name: String,
    attempt: u32,
    state: i64,
    outcome: Option<Vec<u8>>,
    pub(super) reason: Option<String>,
    pub(super) updated: i64,
}

impl Stored {
    pub(super) fn read(r: &Row<'_>) -> forge_sqlite::rusqlite::Result<Self> {
        Ok(Self {
            id: r.get(0)?,
            name: r.get(1)?,
            attempt: r.get(2)?,
            state: r.get(3)?,
            outcome: r.get(4)?,
            reason: r.get(5)?,
            updated: r.get(6)?,
        })
    }
}

#[async_trait]
impl TaskQueue for SqliteStore {
    async fn enqueue(&self, ctx: &ExecutionContext, task: NewTask) -> Result<TaskId> {
        let payload = task.payload.to_string();
        if payload.len() > PAYLOAD_MAX {
            return Err(Error::invalid(ENQUEUE, "the payload is too large; keep it as a blob and queue its reference")
                .with("bytes", payload.len().to_string())
                .with("max", PAYLOAD_MAX.to_string()));
        }
        let now = self.clock.now();
        let id = task.id(ctx.tenant(), now);
        let expires = now.after(task.expires);
        let due = now.after(task.delay).min(expires);
        let context = self.seal(ctx, id, task.name.as_str(), &payload, now, expires)?;
        let tenant = ctx.tenant().to_string();
        let insert = move |tx: &Transaction<'_>| {
            if task.once.is_some() {
                let sql = "SELECT 1 FROM tasks WHERE tenant = ?1 AND id = ?2";
                let known = tx
                    .prepare_cached(sql)
                    .and_then(|mut s| s.exists(params![tenant, id.to_string()]))
                    .map_err(error(ENQUEUE))?;
                if known {
                    return Ok(id);
                }
            }
            let unique = task.unique.as_ref().map(|k| k.as_str());
            if let Some(key) = unique {
                free_key(tx, ENQUEUE, &tenant, key, now.as_nanos())?;
                let sql = "SELECT id FROM tasks WHERE tenant = ?1 AND unique_key = ?2 AND state IN (0, 1)";
                let known = tx
                    .prepare_cached(sql)
                    .and_then(|mut s| s.query_row(params![tenant, key], |r| r.get::<_, String>(0)).optional());
                if let Some(known) = known.map_err(error(ENQUEUE))? {
                    return parsed(ENQUEUE, "id", TaskId::parse(&known));
                }
            }
            has_room(tx, &tenant, now.as_nanos())?;
            tx.prepare_cached(
                "INSERT INTO tasks (tenant, id, name, state, priority, due, expires, lifetime, max_retries, unique_key,
                 payload, context, created, updated)
                 VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?13)",
            )
            .and_then(|mut s| {
                s.execute(params![
                    tenant,
                    id.to_string(),
                    task.name.as_str(),
                    READY,
                    task.priority.step(),
                    due.as_nanos(),
                    expires.as_nanos(),
                    nanos(task.expires),
                    task.max_retries,
                    unique,
                    payload,
                    context,
                    now.as_nanos()
                ])
            })
            .map_err(error(ENQUEUE))?;
            Ok(id)
        };
        let id = self.db.write(ENQUEUE, insert).await?;
        self.queued.notify_one();
        Ok(id)
    }

    async fn status(&self, ctx: &ExecutionContext, id: TaskId) -> Result<TaskStatus> {
        let tenant = ctx.tenant().to_string();
        let row = self.db.read("queue.status", move |c| {
            let sql =
                "SELECT id, name, attempt, state, outcome, reason, updated FROM tasks WHERE tenant = ?1 AND id = ?2";
            c.prepare_cached(sql)
                .and_then(|mut s| s.query_row(params![tenant, id.to_string()], Stored::read).optional())
                .map_err(error("queue.status"))?
                .ok_or_else(|| Error::not_found("queue.status", "no such task"))
        });
        self.status_of(ctx.tenant(), row.await?).await
    }

    async fn cancel(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool> {
        const OP: &str = "queue.cancel";
        let (tenant, id, now) = (ctx.tenant().to_string(), id.to_string(), self.clock.now().as_nanos());
        let cancel = move |tx: &Transaction<'_>| {
            let sql = "UPDATE tasks SET state = ?3, updated = ?4 WHERE tenant = ?1 AND id = ?2 AND state IN (0, 1)";
            if tx
                .prepare_cached(sql)
                .and_then(|mut s| s.execute(params![tenant, id, CANCELLED, now]))
                .map_err(error(OP))?
                > 0
            {
                return Ok(true);
            }
            let sql = "SELECT 1 FROM tasks WHERE tenant = ?1 AND id = ?2";
            let there = tx.query_row(sql, params![tenant, id], |_| Ok(())).optional().map_err(error(OP))?;
            there.map(|()| false).ok_or_else(|| Error::not_found(OP, "no such task"))
        };
        let cancelled = self.db.write(OP, cancel).await?;
        if cancelled {
            // its slot may be what another task of the tenant waits for
            self.queued.notify_one();
        }
        Ok(cancelled)
    }

    async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth> {
        const OP: &str = "queue.depth";
        let tenant = ctx.tenant().to_string();
        let count = move |c: &Connection| {
            let sql = "SELECT waiting, leased, dead FROM queues WHERE tenant = ?1";
            let depth = c.prepare_cached(sql).and_then(|mut s| s.query_row([tenant], |r| depth_at(r, 0)).optional());
            Ok(depth.map_err(error(OP))?.unwrap_or_default())
        };
        self.db.read(OP, count).await
    }

    fn capability(&self) -> QueueCapability {
        QueueCapability::new(true, true, PAYLOAD_MAX)
    }
}

/// Three counts, from this column on.
pub(super) fn depth_at(r: &Row<'_>, column: usize) -> forge_sqlite::rusqlite::Result<QueueDepth> {
    let n = |i| r.get::<_, i64>(column + i).map(unsigned);
    Ok(QueueDepth { ready: n(0)?, leased: n(1)?, dead: n(2)? })
}

/// Refuses one task too many. What nobody took in time takes no room.
fn has_room(tx: &Transaction<'_>, tenant: &str, now: i64) -> Result<()> {
    let full = || {
        let sql = "SELECT waiting + leased >= length FROM queues WHERE tenant = ?1 AND length IS NOT NULL";
        let full = tx.prepare_cached(sql).and_then(|mut s| s.query_row([tenant], |r| r.get(0)).optional());
        full.map(|full| full.unwrap_or(false)).map_err(error(ENQUEUE))
    };
    if full()? && (bury_expired(tx, ENQUEUE, now)? == 0 || full()?) {
        return Err(Error::new(ErrorKind::QuotaExceeded, ENQUEUE, "the tenant's queue is full; try again later"));
    }
    Ok(())
}

/// The payload of a task, from the text that its seal is bound to.
pub(super) fn payload(text: &str) -> Result<Value> {
    from_json("queue.lease", "payload", text)
}
