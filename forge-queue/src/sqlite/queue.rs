//! The producing side.

use async_trait::async_trait;
use forge_core::error::ErrorReport;
use forge_core::queue::{NewTask, QueueCapability, QueueDepth, TaskQueue, TaskState, TaskStatus};
use forge_core::{
    Digest, Error, ErrorKind, ExecutionContext, Result, SealedContext, SealedFor, Slug, TaskId, TenantId, Timestamp,
};
use forge_sqlite::rusqlite::{OptionalExtension, Row, Transaction, params};
use forge_sqlite::{corrupt, error};
use serde_json::Value;

use super::SqliteStore;
use super::row::{from_json, nanos, parsed, to_json, unsigned};
use super::schema::{CANCELLED, DEAD, LEASED, READY, SUCCEEDED};

const PAYLOAD_MAX: usize = 256 * 1024;

/// The queue's name, as seals and leases carry it.
pub(super) fn queue_of(tenant: &TenantId) -> String {
    format!("{tenant}.default")
}

/// The place of a task's outcome, for the cipher.
pub(super) fn outcome_place<'a>(tenant: &'a TenantId, id: &'a str) -> [&'a [u8]; 3] {
    [b"task.outcome", tenant.as_str().as_bytes(), id.as_bytes()]
}

/// Tells the machinery that the tenant may have something at `due`.
pub(super) fn expect_at(tx: &Transaction<'_>, operation: &'static str, tenant: &str, due: i64) -> Result<()> {
    tx.prepare_cached(
        "INSERT INTO tenants (tenant, next_due) VALUES (?1, ?2)
         ON CONFLICT (tenant) DO UPDATE SET next_due = min(next_due, excluded.next_due)",
    )
    .and_then(|mut s| s.execute(params![tenant, due]))
    .map(|_| ())
    .map_err(error(operation))
}

/// Gives up what nobody took in time.
pub(super) fn bury_expired(tx: &Transaction<'_>, operation: &'static str, tenant: &str, now: i64) -> Result<()> {
    tx.prepare_cached(
        "UPDATE tasks SET state = ?3, reason = 'expired', updated = ?2 WHERE tenant = ?1 AND state = 0 AND expires <= ?2",
    )
    .and_then(|mut s| s.execute(params![tenant, now, DEAD]))
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
        const OP: &str = "queue.enqueue";
        let payload = task.payload.to_string();
        if payload.len() > PAYLOAD_MAX {
            return Err(Error::invalid(OP, "the payload is too large; keep it as a blob and queue its reference")
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
                    .map_err(error(OP))?;
                if known {
                    return Ok(id);
                }
            }
            let unique = task.unique.as_ref().map(|k| k.as_str());
            if unique.is_some() {
                bury_expired(tx, OP, &tenant, now.as_nanos())?;
                let sql = "SELECT id FROM tasks WHERE tenant = ?1 AND unique_key = ?2 AND state IN (0, 1)";
                let known = tx
                    .prepare_cached(sql)
                    .and_then(|mut s| s.query_row(params![tenant, unique], |r| r.get::<_, String>(0)).optional());
                if let Some(known) = known.map_err(error(OP))? {
                    return parsed(OP, "id", TaskId::parse(&known));
                }
            }
            tx.prepare_cached(
                "INSERT INTO tasks (tenant, id, name, state, due, expires, lifetime, max_retries, unique_key, payload,
                 context, created, updated) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?12)",
            )
            .and_then(|mut s| {
                s.execute(params![
                    tenant,
                    id.to_string(),
                    task.name.as_str(),
                    READY,
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
            .map_err(error(OP))?;
            expect_at(tx, OP, &tenant, due.as_nanos())?;
            Ok(id)
        };
        let id = self.db.write(OP, insert).await?;
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
            if tx.execute(sql, params![tenant, id, CANCELLED, now]).map_err(error(OP))? > 0 {
                return Ok(true);
            }
            let sql = "SELECT 1 FROM tasks WHERE tenant = ?1 AND id = ?2";
            let there = tx.query_row(sql, params![tenant, id], |_| Ok(())).optional().map_err(error(OP))?;
            there.map(|()| false).ok_or_else(|| Error::not_found(OP, "no such task"))
        };
        self.db.write(OP, cancel).await
    }

    async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth> {
        let tenant = ctx.tenant().to_string();
        let count = move |c: &forge_sqlite::rusqlite::Connection| {
            let sql = "SELECT count(*) FILTER (WHERE state = 0), count(*) FILTER (WHERE state = 1),
                       (SELECT count(*) FROM tasks WHERE tenant = ?1 AND state = 3)
                       FROM tasks WHERE tenant = ?1 AND state IN (0, 1)";
            c.query_row(sql, [tenant], |r| {
                let n = |i| r.get::<_, i64>(i).map(unsigned);
                Ok(QueueDepth { ready: n(0)?, leased: n(1)?, dead: n(2)? })
            })
            .map_err(error("queue.depth"))
        };
        self.db.read("queue.depth", count).await
    }

    fn capability(&self) -> QueueCapability {
        QueueCapability::new(true, true, PAYLOAD_MAX)
    }
}

/// The payload of a task, from the text that its seal is bound to.
pub(super) fn payload(text: &str) -> Result<Value> {
    from_json("queue.lease", "payload", text)
}
