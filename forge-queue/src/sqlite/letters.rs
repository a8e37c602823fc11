//! Dead letters: tasks in their last state, and their way back.

use async_trait::async_trait;
use forge_core::queue::TaskState;
use forge_core::{Error, ErrorKind, ExecutionContext, Result, SealedContext, TaskId};
use forge_sqlite::error;
use forge_sqlite::rusqlite::{OptionalExtension, Row, Transaction, params};

use super::SqliteStore;
use super::queue::{Stored, free_key, queue_of};
use super::row::{at, from_json, span};
use super::schema::{DEAD, READY};
use crate::dead::{DeadLetter, DeadLetters, LetterFilter};

#[async_trait]
impl DeadLetters for SqliteStore {
    async fn dead_letters(
        &self,
        ctx: &ExecutionContext,
        filter: &LetterFilter,
        limit: usize,
    ) -> Result<Vec<DeadLetter>> {
        const OP: &str = "queue.dead_letters";
        let (tenant, filter) = (ctx.tenant().to_string(), filter.clone());
        let name = filter.name.as_ref().map(ToString::to_string);
        let before = filter.died_before.map(|t| t.as_nanos());
        let sql = "SELECT id, name, attempt, state, outcome, reason, updated, context FROM tasks
                   WHERE tenant = ?1 AND state = 3 AND (?2 IS NULL OR name = ?2) AND (?3 IS NULL OR updated < ?3)
                   ORDER BY updated DESC, rowid DESC";
        let rows = self.db.read(OP, move |c| {
            let read = |r: &Row<'_>| Ok((Stored::read(r)?, r.get::<_, String>(7)?));
            c.prepare_cached(sql)
                .and_then(|mut s| s.query_map(params![tenant, name, before], read)?.collect::<Result<Vec<_>, _>>())
                .map_err(error(OP))
        });
        let mut letters = Vec::new();
        for (row, context) in rows.await? {
            let (died, reason) = (at(row.updated), row.reason.clone());
            let status = self.status_of(ctx.tenant(), row).await?;
            let TaskState::Dead { report } = status.state else { continue };
            let context: SealedContext = from_json(OP, "context", &context)?;
            let letter = DeadLetter {
                id: status.id,
                name: status.name.to_string(),
                queue: queue_of(ctx.tenant()),
                reason: reason.unwrap_or_else(|| report.kind.as_str().to_owned()),
                attempts: status.attempts,
                died,
                trace: context.claimed_trace().map(|t| format!("{:032x}", t.trace_id)),
                report,
            };
            if filter.fits(&letter) {
                letters.push(letter);
            }
            if letters.len() >= limit {
                break;
            }
        }
        Ok(letters)
    }

    async fn replay(&self, ctx: &ExecutionContext, id: TaskId) -> Result<()> {
        const OP: &str = "queue.replay";
        let (tenant, key) = (ctx.tenant().to_string(), id.to_string());
        let row = self.db.read(OP, move |c| {
            let sql = "SELECT name, payload, lifetime, unique_key FROM tasks WHERE tenant = ?1 AND id = ?2";
            let row = c.query_row(sql, params![tenant, key], |r| {
                Ok((
                    r.get::<_, String>(0)?,
                    r.get::<_, String>(1)?,
                    r.get::<_, i64>(2)?,
                    r.get::<_, Option<String>>(3)?,
                ))
            });
            row.optional().map_err(error(OP))?.ok_or_else(|| Error::not_found(OP, "no such task"))
        });
        let (name, payload, lifetime, unique) = row.await?;
        let now = self.clock.now();
        let until = now.after(span(lifetime));
        let context = self.seal(ctx, id, &name, &payload, now, until)?;
        let (tenant, key) = (ctx.tenant().to_string(), id.to_string());
        let revive = move |tx: &Transaction<'_>| {
            if let Some(unique) = unique {
                free_key(tx, OP, &tenant, &unique, now.as_nanos())?;
            }
            let sql = "UPDATE tasks SET state = ?3, due = ?4, expires = ?5, context = ?6, attempt = 0, outcome = NULL,
                       reason = NULL, updated = ?4 WHERE tenant = ?1 AND id = ?2 AND state = ?7";
            let values = params![tenant, key, READY, now.as_nanos(), until.as_nanos(), context, DEAD];
            if tx.execute(sql, values).map_err(error(OP))? == 0 {
                return Err(Error::new(ErrorKind::Conflict, OP, "the task is not a dead letter"));
            }
            Ok(())
        };
        self.db.write(OP, revive).await?;
        self.queued.notify_one();
        Ok(())
    }

    async fn purge(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool> {
        const OP: &str = "queue.purge";
        let (tenant, id) = (ctx.tenant().to_string(), id.to_string());
        let purge = move |tx: &Transaction<'_>| {
            let sql = "DELETE FROM tasks WHERE tenant = ?1 AND id = ?2 AND state = 3";
            tx.execute(sql, params![tenant, id]).map(|n| n > 0).map_err(error(OP))
        };
        self.db.write(OP, purge).await
    }
}
