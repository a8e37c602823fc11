//! One change of a run: what it demands of the step, what it writes, the line of history that tells of it.

use forge_core::journal::{Outbox, StepState, Transition};
use forge_core::{Error, ErrorKind, Result, Timestamp};
use forge_sqlite::error;
use forge_sqlite::rusqlite::{OptionalExtension, ToSql, Transaction, params};

use super::journal::{APPLY, Key};
use super::row::{nanos, to_json, word};

impl Key {
    /// Makes the change and returns what it owes.
    ///
    /// # Errors
    /// `Conflict` if the step is not where the change takes it from.
    pub(super) fn change(&self, tx: &Transaction<'_>, now: Timestamp, transition: Transition) -> Result<Outbox> {
        let (what, kind) = {
            let (_, what, kind) = transition.event();
            (what, kind)
        };
        match transition {
            Transition::StepStarted { path, attempt } => {
                let begun = self.open_step(tx, &path)?.unwrap_or(0);
                if begun.checked_add(1) != Some(attempt) {
                    return Err(conflict("another try was begun"));
                }
                let sql = "INSERT INTO steps (tenant, run, path, ordinal, attempt, state, started, updated)
                           SELECT ?1, ?2, ?3, count(*), ?4, ?5, ?6, ?6 FROM steps WHERE tenant = ?1 AND run = ?2
                           ON CONFLICT (tenant, run, path) DO UPDATE SET attempt = excluded.attempt,
                           state = excluded.state, started = excluded.started, updated = excluded.updated";
                let state = to_json(APPLY, &StepState::Running)?;
                self.execute(tx, sql, &[&path, &attempt, &state, &now.as_nanos()])?;
                self.tell(tx, now, &path, what, attempt, kind)?;
                Ok(Outbox::default())
            }
            Transition::Intended { path, intent } => {
                let attempt = self.begun_step(tx, &path)?;
                let sql = "UPDATE steps SET intent = ?4, updated = ?5 WHERE tenant = ?1 AND run = ?2 AND path = ?3";
                self.execute(tx, sql, &[&path, &to_json(APPLY, &intent)?, &now.as_nanos()])?;
                self.tell(tx, now, &path, what, attempt, kind)?;
                Ok(Outbox::default())
            }
            Transition::StepCompleted { path, output, outbox } => {
                let attempt = self.begun_step(tx, &path)?;
                let sql = "UPDATE steps SET state = ?4, completed = 1, intent = NULL, output = ?5, updated = ?6
                           WHERE tenant = ?1 AND run = ?2 AND path = ?3";
                let state = to_json(APPLY, &StepState::Completed)?;
                self.execute(tx, sql, &[&path, &state, &output, &now.as_nanos()])?;
                self.tell(tx, now, &path, what, attempt, kind)?;
                Ok(outbox)
            }
            Transition::StepStopped { path, state, outbox, clear_intent } => {
                if matches!(state, StepState::Running | StepState::Completed) {
                    return Err(Error::invalid(APPLY, "a step stops as failed, awaiting approval or unknown"));
                }
                let attempt = self.begun_step(tx, &path)?;
                let sql = "UPDATE steps SET state = ?4, intent = iif(?5, NULL, intent), updated = ?6
                           WHERE tenant = ?1 AND run = ?2 AND path = ?3";
                self.execute(tx, sql, &[&path, &to_json(APPLY, &state)?, &clear_intent, &now.as_nanos()])?;
                self.tell(tx, now, &path, what, attempt, kind)?;
                Ok(outbox)
            }
            Transition::RunMoved { state, error, ran } => {
                let report = error.as_ref().map(|e| to_json(APPLY, e)).transpose()?;
                let sql =
                    "UPDATE runs SET state = ?3, error = ?4, running = running + ?5 WHERE tenant = ?1 AND id = ?2";
                self.execute(tx, sql, &[&word(APPLY, &state)?, &report, &nanos(ran)])?;
                self.tell(tx, now, "run", what, 0, kind)?;
                Ok(Outbox::default())
            }
        }
    }

    /// Tries begun of a step that is not completed; none if it was never begun.
    fn open_step(&self, tx: &Transaction<'_>, path: &str) -> Result<Option<u32>> {
        let sql = "SELECT attempt, completed FROM steps WHERE tenant = ?1 AND run = ?2 AND path = ?3";
        let found = tx.prepare_cached(sql).and_then(|mut s| {
            s.query_row(params![self.tenant, self.run, path], |r| Ok((r.get(0)?, r.get(1)?))).optional()
        });
        match found.map_err(error(APPLY))? {
            Some((_, true)) => Err(conflict("the step is completed")),
            Some((attempt, false)) => Ok(Some(attempt)),
            None => Ok(None),
        }
    }

    fn begun_step(&self, tx: &Transaction<'_>, path: &str) -> Result<u32> {
        self.open_step(tx, path)?.ok_or_else(|| conflict("the step was not begun"))
    }

    /// Runs a statement whose first two values are the run's place.
    fn execute(&self, tx: &Transaction<'_>, sql: &str, values: &[&dyn ToSql]) -> Result<()> {
        let place: [&dyn ToSql; 2] = [&self.tenant, &self.run];
        let values: Vec<&dyn ToSql> = place.iter().chain(values).copied().collect();
        tx.prepare_cached(sql).and_then(|mut s| s.execute(values.as_slice())).map(|_| ()).map_err(error(APPLY))
    }

    /// Adds a line to the history, under the next number.
    pub(super) fn tell(
        &self,
        tx: &Transaction<'_>,
        now: Timestamp,
        path: &str,
        what: &str,
        attempt: u32,
        kind: Option<ErrorKind>,
    ) -> Result<()> {
        let sql = "INSERT INTO events (tenant, run, seq, at, path, what, attempt, error)
                   SELECT ?1, ?2, coalesce(max(seq), 0) + 1, ?3, ?4, ?5, ?6, ?7 FROM events
                   WHERE tenant = ?1 AND run = ?2";
        self.execute(tx, sql, &[&now.as_nanos(), &path, &what, &attempt, &kind.map(ErrorKind::as_str)])
    }
}

pub(super) fn conflict(why: &'static str) -> Error {
    Error::new(ErrorKind::Conflict, APPLY, why)
}
