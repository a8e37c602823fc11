//! The thread that writes: one transaction for all that waits (group commit), a savepoint for each job.
//!
//! A job that fails undoes its own savepoint and nothing else. Answers go out after the commit, so that what was
//! acknowledged is on the disk.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use forge_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, Transaction, TransactionBehavior};

use crate::error::error;
use crate::queue::Queue;

/// Work inside the transaction, or word that there is none; gives back what to do once the commit is known.
pub(crate) type Job = Box<dyn FnOnce(Result<&Transaction<'_>, Arc<Error>>) -> Answer + Send>;
/// Told whether the commit went well.
pub(crate) type Answer = Box<dyn FnOnce(std::result::Result<(), Arc<Error>>) + Send>;

/// Runs until the queue is closed; what was queued before that is written.
pub(crate) fn run(mut db: Connection, queue: &Queue, closed: &AtomicBool) {
    let _end = End { queue, closed };
    loop {
        let batch = queue.next();
        if batch.is_empty() {
            break;
        }
        commit(&mut db, batch);
    }
    if let Err(e) = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(())) {
        tracing::debug!(error = %e, "the last checkpoint was left to the next open");
    }
}

/// The writer's end, after a panic too: nobody waits for one that is gone.
struct End<'a> {
    queue: &'a Queue,
    closed: &'a AtomicBool,
}

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.closed.store(true, Ordering::Release);
        self.queue.abandon();
    }
}

fn commit(db: &mut Connection, batch: Vec<Job>) {
    let begun = db.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error("sqlite.begin"));
    let (answers, verdict): (Vec<Answer>, _) = match begun {
        Ok(tx) => {
            let mut gone = None;
            let answers = batch.into_iter().map(|job| run_one(&tx, job, &mut gone)).collect();
            match gone {
                Some(e) => (answers, Err(e)),
                None => (answers, tx.commit().map_err(error("sqlite.commit")).map_err(Arc::new)),
            }
        }
        Err(e) => {
            let e = Arc::new(e);
            (batch.into_iter().map(|job| job(Err(e.clone()))).collect(), Err(e))
        }
    };
    for answer in answers {
        answer(verdict.clone());
    }
}

/// A full disk or a failed read makes SQLite end the whole transaction by itself: nothing of the batch may run outside it.
fn run_one(tx: &Transaction<'_>, job: Job, gone: &mut Option<Arc<Error>>) -> Answer {
    let answer = job(match gone {
        Some(e) => Err(e.clone()),
        None => Ok(tx),
    });
    if gone.is_none() && tx.is_autocommit() {
        let e = Error::new(
            ErrorKind::Unavailable,
            "sqlite.write",
            "the database gave the transaction up; nothing of it was written",
        );
        *gone = Some(Arc::new(e.with_adapter("sqlite")));
    }
    answer
}

/// Runs one job in a savepoint: its error undoes its own writes.
pub(crate) fn in_savepoint<T>(
    tx: Result<&Transaction<'_>, Arc<Error>>,
    work: impl FnOnce(&Transaction<'_>) -> Result<T>,
) -> Result<T> {
    let tx = tx.map_err(|e| shared(&e))?;
    let run = |sql| tx.prepare_cached(sql).and_then(|mut s| s.execute([])).map_err(error("sqlite.savepoint"));
    run("SAVEPOINT job")?;
    let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| work(tx)))
        .unwrap_or_else(|_| Err(Error::unexpected("sqlite.write", "the job panicked; nothing of it was written")));
    if outcome.is_err() {
        run("ROLLBACK TO job")?;
    }
    run("RELEASE job")?;
    outcome
}

/// The commit's error for each of the callers that shared it.
pub(crate) fn shared(e: &Arc<Error>) -> Error {
    e.report().into_error("sqlite.commit")
}

pub(crate) fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "sqlite.write", "the database is closed").with_adapter("sqlite")
}
