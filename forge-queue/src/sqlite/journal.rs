//! The journal: one transaction a change, under the fence of its claim.

use async_trait::async_trait;
use forge_core::error::ErrorReport;
use forge_core::journal::{Claim, Journal, NewRun, Owed, RunEvent, RunRecord, RunState, StepRecord, Transition};
use forge_core::{Digest, Error, ErrorKind, Result, RunId, Slug, TenantId, Timestamp};
use forge_sqlite::rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use forge_sqlite::{corrupt, error};

use super::SqliteStore;
use super::row::{at, from_json, from_word, parsed, signed, span, to_json, unsigned, word};
use super::transition::conflict;

pub(super) const APPLY: &str = "journal.apply";

#[async_trait]
impl Journal for SqliteStore {
    async fn create(&self, run: NewRun) -> Result<RunRecord> {
        const OP: &str = "journal.create";
        let context = to_json(OP, &run.context)?;
        let create = move |tx: &Transaction<'_>| {
            let key = Key::new(&run.tenant, run.id);
            let sql = "INSERT INTO runs (tenant, id, workflow, version, definition, context, input, created, updated)
                       VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8) ON CONFLICT (tenant, id) DO NOTHING";
            let values = params![
                key.tenant,
                key.run,
                run.workflow.as_str(),
                run.version,
                run.definition.to_string(),
                context,
                run.input,
                run.created.as_nanos()
            ];
            if tx.execute(sql, values).map_err(error(OP))? > 0 {
                key.tell(tx, run.created, "run", "started", 0, None)?;
            }
            key.read(tx, OP)
        };
        self.db.write(OP, create).await
    }

    async fn run(&self, tenant: &TenantId, run: RunId) -> Result<RunRecord> {
        let key = Key::new(tenant, run);
        self.db.read("journal.run", move |c| key.read(c, "journal.run")).await
    }

    async fn steps(&self, tenant: &TenantId, run: RunId) -> Result<Vec<StepRecord>> {
        const OP: &str = "journal.steps";
        let key = Key::new(tenant, run);
        let sql = "SELECT path, attempt, state, intent, output, started, updated FROM steps
                   WHERE tenant = ?1 AND run = ?2 ORDER BY ordinal";
        self.db.read(OP, move |c| all(c, OP, sql, params![key.tenant, key.run], |r| read_step(r, OP))).await
    }

    async fn events(&self, tenant: &TenantId, run: RunId, from_seq: u64) -> Result<Vec<RunEvent>> {
        const OP: &str = "journal.events";
        let (key, from) = (Key::new(tenant, run), signed(from_seq));
        let sql = "SELECT seq, at, path, what, attempt, error FROM events
                   WHERE tenant = ?1 AND run = ?2 AND seq >= ?3 ORDER BY seq";
        let read = |r: &Row<'_>| {
            Ok(RunEvent {
                seq: unsigned(col(r, OP, 0)?),
                at: at(col(r, OP, 1)?),
                path: col(r, OP, 2)?,
                what: col(r, OP, 3)?,
                attempt: col(r, OP, 4)?,
                error: col(r, OP, 5)?,
            })
        };
        self.db.read(OP, move |c| all(c, OP, sql, params![key.tenant, key.run, from], read)).await
    }

    async fn runs(&self, tenant: &TenantId, state: Option<RunState>, limit: usize) -> Result<Vec<RunRecord>> {
        const OP: &str = "journal.runs";
        let (tenant, limit) = (tenant.to_string(), signed(limit));
        let state = state.map(|s| word(OP, &s)).transpose()?;
        let sql = concat!(
            run_columns!(),
            " WHERE tenant = ?1 AND (?2 IS NULL OR state = ?2) ORDER BY created DESC, rowid DESC LIMIT ?3"
        );
        self.db.read(OP, move |c| all(c, OP, sql, params![tenant, state, limit], |r| read_run(r, OP))).await
    }

    async fn resumable(&self, owner: &str, now: Timestamp, limit: usize) -> Result<Vec<(TenantId, RunId)>> {
        const OP: &str = "journal.resumable";
        let (owner, limit) = (owner.to_owned(), signed(limit));
        let sql = "SELECT tenant, id FROM runs WHERE state IN ('running', 'parked')
                   AND (owner IS NULL OR owner = ?1 OR held_until <= ?2) ORDER BY state = 'parked', created, rowid LIMIT ?3";
        let read = |r: &Row<'_>| Ok((tenant_of(r, OP, 0)?, run_of(r, OP, 1)?));
        self.db.read(OP, move |c| all(c, OP, sql, params![owner, now.as_nanos(), limit], read)).await
    }

    async fn claim(
        &self,
        tenant: &TenantId,
        run: RunId,
        owner: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim> {
        const OP: &str = "journal.claim";
        let (tenant, owner) = (tenant.clone(), owner.to_owned());
        let claim = move |tx: &Transaction<'_>| {
            let key = Key::new(&tenant, run);
            let sql = "UPDATE runs SET fence = fence + 1, owner = ?3, held_until = ?5 WHERE tenant = ?1 AND id = ?2
                       AND (owner IS NULL OR owner = ?3 OR held_until <= ?4) RETURNING fence";
            let values = params![key.tenant, key.run, owner, now.as_nanos(), until.as_nanos()];
            match tx.query_row(sql, values, |r| r.get(0)).optional().map_err(error(OP))? {
                Some(fence) => Ok(Claim { tenant, run, fence: unsigned(fence) }),
                None => {
                    key.read(tx, OP)?;
                    Err(Error::new(ErrorKind::Conflict, OP, "another owner holds the run").with("run", key.run))
                }
            }
        };
        self.db.write(OP, claim).await
    }

    async fn extend(&self, claim: &Claim, until: Timestamp) -> Result<()> {
        const OP: &str = "journal.extend";
        let claim = claim.clone();
        let extend = move |tx: &Transaction<'_>| {
            let key = Key::fenced(tx, OP, &claim)?.0;
            let sql = "UPDATE runs SET held_until = ?3 WHERE tenant = ?1 AND id = ?2";
            tx.execute(sql, params![key.tenant, key.run, until.as_nanos()]).map(|_| ()).map_err(error(OP))
        };
        self.db.write(OP, extend).await
    }

    async fn release(&self, claim: &Claim) -> Result<()> {
        const OP: &str = "journal.release";
        let claim = claim.clone();
        let release = move |tx: &Transaction<'_>| {
            let key = Key::fenced(tx, OP, &claim)?.0;
            let sql = "UPDATE runs SET owner = NULL, held_until = NULL WHERE tenant = ?1 AND id = ?2";
            tx.execute(sql, params![key.tenant, key.run]).map(|_| ()).map_err(error(OP))
        };
        self.db.write(OP, release).await
    }

    async fn apply(&self, claim: &Claim, now: Timestamp, changes: Vec<Transition>) -> Result<bool> {
        let claim = claim.clone();
        let apply = move |tx: &Transaction<'_>| {
            let (key, mut state) = Key::fenced(tx, APPLY, &claim)?;
            for change in changes {
                if state.is_final() {
                    return Err(conflict("the run has ended"));
                }
                if let Transition::RunMoved { state: moved, .. } = &change {
                    state = *moved;
                }
                let outbox = key.change(tx, now, change)?;
                if !outbox.is_empty() {
                    let sql = "INSERT INTO outbox (tenant, run, body) VALUES (?1, ?2, ?3)";
                    let values = params![key.tenant, key.run, to_json(APPLY, &outbox)?];
                    tx.prepare_cached(sql).and_then(|mut s| s.execute(values)).map_err(error(APPLY))?;
                }
            }
            let sql = "UPDATE runs SET updated = ?3 WHERE tenant = ?1 AND id = ?2 RETURNING cancel_requested";
            let values = params![key.tenant, key.run, now.as_nanos()];
            tx.prepare_cached(sql).and_then(|mut s| s.query_row(values, |r| r.get(0))).map_err(error(APPLY))
        };
        self.db.write(APPLY, apply).await
    }

    async fn replay(&self, tenant: &TenantId, run: RunId, now: Timestamp) -> Result<bool> {
        const OP: &str = "journal.replay";
        let key = Key::new(tenant, run);
        let replay = move |tx: &Transaction<'_>| {
            if key.read(tx, OP)?.state != RunState::Failed {
                return Ok(false);
            }
            let sql = "UPDATE runs SET state = 'running', error = NULL, running = 0, updated = ?3
                       WHERE tenant = ?1 AND id = ?2";
            tx.execute(sql, params![key.tenant, key.run, now.as_nanos()]).map_err(error(OP))?;
            key.tell(tx, now, "run", "replayed", 0, None)?;
            Ok(true)
        };
        self.db.write(OP, replay).await
    }

    async fn request_cancel(&self, tenant: &TenantId, run: RunId) -> Result<bool> {
        const OP: &str = "journal.request_cancel";
        let key = Key::new(tenant, run);
        let ask = move |tx: &Transaction<'_>| {
            if key.read(tx, OP)?.state.is_final() {
                return Ok(false);
            }
            let sql = "UPDATE runs SET cancel_requested = 1 WHERE tenant = ?1 AND id = ?2";
            tx.execute(sql, params![key.tenant, key.run]).map(|_| true).map_err(error(OP))
        };
        self.db.write(OP, ask).await
    }

    async fn owed(&self, after: u64, limit: usize) -> Result<Vec<Owed>> {
        const OP: &str = "journal.owed";
        let (after, limit) = (i64::try_from(after).unwrap_or(i64::MAX), signed(limit));
        let sql = "SELECT id, tenant, run, body FROM outbox WHERE id > ?1 ORDER BY id LIMIT ?2";
        let read = |r: &Row<'_>| {
            Ok(Owed {
                id: unsigned(col(r, OP, 0)?),
                tenant: tenant_of(r, OP, 1)?,
                run: run_of(r, OP, 2)?,
                outbox: from_json(OP, "outbox", &col::<String>(r, OP, 3)?)?,
            })
        };
        self.db.read(OP, move |c| all(c, OP, sql, params![after, limit], read)).await
    }

    async fn paid(&self, ids: &[u64]) -> Result<()> {
        const OP: &str = "journal.paid";
        let ids: Vec<i64> = ids.iter().map(|id| signed(*id)).collect();
        let forget = move |tx: &Transaction<'_>| {
            let mut statement = tx.prepare_cached("DELETE FROM outbox WHERE id = ?1").map_err(error(OP))?;
            ids.iter().try_for_each(|id| statement.execute([id]).map(|_| ()).map_err(error(OP)))
        };
        self.db.write(OP, forget).await
    }
}

/// A run's place.
pub(super) struct Key {
    pub(super) tenant: String,
    pub(super) run: String,
}

impl Key {
    fn new(tenant: &TenantId, run: RunId) -> Self {
        Self { tenant: tenant.to_string(), run: run.to_string() }
    }

    /// The place that a claim still holds, and where the run is.
    fn fenced(tx: &Transaction<'_>, operation: &'static str, claim: &Claim) -> Result<(Self, RunState)> {
        let key = Self::new(&claim.tenant, claim.run);
        let sql = "SELECT fence, owner IS NOT NULL, state FROM runs WHERE tenant = ?1 AND id = ?2";
        let found = tx.prepare_cached(sql).and_then(|mut s| {
            let read = |r: &Row<'_>| Ok((r.get::<_, i64>(0)?, r.get::<_, bool>(1)?, r.get::<_, String>(2)?));
            s.query_row(params![key.tenant, key.run], read).optional()
        });
        match found.map_err(error(operation))? {
            None => Err(Error::not_found(operation, "no such run")),
            Some((fence, true, state)) if fence == signed(claim.fence) => {
                Ok((key, from_word(operation, "state", &state)?))
            }
            Some(_) => {
                Err(Error::new(ErrorKind::LeaseLost, operation, "another owner holds the run").with("run", key.run))
            }
        }
    }

    fn read(&self, c: &Connection, operation: &'static str) -> Result<RunRecord> {
        let sql = concat!(run_columns!(), " WHERE tenant = ?1 AND id = ?2");
        let mut found = all(c, operation, sql, params![self.tenant, self.run], |r| read_run(r, operation))?;
        found.pop().ok_or_else(|| Error::not_found(operation, "no such run"))
    }
}

/// All rows of a query, each turned into what it stands for.
fn all<T>(
    c: &Connection,
    operation: &'static str,
    sql: &str,
    values: impl forge_sqlite::rusqlite::Params,
    read: impl Fn(&Row<'_>) -> Result<T>,
) -> Result<Vec<T>> {
    let mut statement = c.prepare_cached(sql).map_err(error(operation))?;
    let mut rows = statement.query(values).map_err(error(operation))?;
    let mut found = Vec::new();
    while let Some(row) = rows.next().map_err(error(operation))? {
        found.push(read(row)?);
    }
    Ok(found)
}

fn col<T: forge_sqlite::rusqlite::types::FromSql>(r: &Row<'_>, operation: &'static str, i: usize) -> Result<T> {
    r.get(i).map_err(|e| corrupt(operation, "column").with_source(e))
}

fn tenant_of(r: &Row<'_>, operation: &'static str, i: usize) -> Result<TenantId> {
    parsed(operation, "tenant", TenantId::parse(col::<String>(r, operation, i)?))
}

fn run_of(r: &Row<'_>, operation: &'static str, i: usize) -> Result<RunId> {
    parsed(operation, "run", RunId::parse(&col::<String>(r, operation, i)?))
}

/// The head of every query that [`read_run`] reads.
macro_rules! run_columns {
    () => {
        "SELECT tenant, id, workflow, version, definition, context, input, created, state, error, cancel_requested,
         running, updated FROM runs"
    };
}
use run_columns;

fn read_run(r: &Row<'_>, op: &'static str) -> Result<RunRecord> {
    let text = |i| col::<String>(r, op, i);
    let error = match col::<Option<String>>(r, op, 9)? {
        Some(report) => Some(from_json::<ErrorReport>(op, "error", &report)?),
        None => None,
    };
    Ok(RunRecord {
        run: NewRun {
            tenant: tenant_of(r, op, 0)?,
            id: run_of(r, op, 1)?,
            workflow: parsed(op, "workflow", Slug::parse(text(2)?))?,
            version: col(r, op, 3)?,
            definition: parsed(op, "definition", Digest::try_from(text(4)?))?,
            context: from_json(op, "context", &text(5)?)?,
            input: col(r, op, 6)?,
            created: at(col(r, op, 7)?),
        },
        state: from_word(op, "state", &text(8)?)?,
        error,
        cancel_requested: col(r, op, 10)?,
        running: span(col(r, op, 11)?),
        updated: at(col(r, op, 12)?),
    })
}

fn read_step(r: &Row<'_>, op: &'static str) -> Result<StepRecord> {
    Ok(StepRecord {
        path: col(r, op, 0)?,
        attempt: col(r, op, 1)?,
        state: from_json(op, "state", &col::<String>(r, op, 2)?)?,
        intent: col::<Option<String>>(r, op, 3)?.map(|i| from_json(op, "intent", &i)).transpose()?,
        output: col(r, op, 4)?,
        started: at(col(r, op, 5)?),
        updated: at(col(r, op, 6)?),
    })
}
