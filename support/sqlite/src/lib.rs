//! Opening SQLite the one way that Forge trusts: WAL, `synchronous=FULL`, migrations, an owner's lock, group commit.
//!
//! ```
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! # let dir = tempfile::tempdir().unwrap();
//! use forge_sqlite::{Database, Options, error};
//! let db = Database::open(Options::new(dir.path().join("x.db")).migration("CREATE TABLE t (n INTEGER)")).await?;
//! db.write("t.add", |tx| tx.execute("INSERT INTO t VALUES (?1)", [7]).map_err(error("t.add"))).await?;
//! let n: i64 = db.read("t.sum", |c| c.query_row("SELECT sum(n) FROM t", [], |r| r.get(0)).map_err(error("t.sum"))).await?;
//! assert_eq!(n, 7);
//! # Ok::<(), forge_core::Error>(()) }).unwrap();
//! ```

mod error;
mod open;
mod queue;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forge_core::{Depth, Error, ErrorKind, Health, Result, Slot, Status};
use rusqlite::{Connection, Transaction};
use tokio::sync::{Semaphore, oneshot};

pub use error::{corrupt, error};
pub use open::Options;
pub use queue::Urgency;
pub use rusqlite;

use queue::Queue;
use writer::{Answer, Job, in_savepoint, shared, stopped};

/// Writes that wait for the writer; a caller beyond it waits too, nothing is dropped.
const ROOM: usize = 1024;
/// Slots that are open or filled and not written yet. Apart from [`ROOM`], so that whoever holds a slot can still write.
const SLOTS: usize = 16 * 1024;
/// Idle connections kept for readers.
const IDLE_READERS: usize = 4;

/// One SQLite file: a thread that writes, and connections that read beside it. Cheap to clone. When the last clone is
/// dropped, the writer finishes what is queued and ends.
#[derive(Clone)]
pub struct Database(Arc<Shared>);

struct Shared {
    path: PathBuf,
    jobs: Arc<Queue>,
    room: Arc<Semaphore>,
    slots: Arc<Semaphore>,
    idle: Mutex<Vec<Connection>>,
    closed: Arc<AtomicBool>,
    /// Records that were promised by a slot and could not be written.
    lost: Arc<AtomicU64>,
    /// Held for the life of the database, where one process owns it.
    lock: Option<std::fs::File>,
}

impl Drop for Shared {
    fn drop(&mut self) {
        self.jobs.close();
        // a child that was forked meanwhile may hold the descriptor too: the lock ends here all the same
        if let Some(lock) = &self.lock
            && let Err(e) = lock.unlock()
        {
            tracing::debug!(error = %e, "the owner's lock is left to the end of the process");
        }
    }
}

impl Database {
    /// Opens, or creates, and migrates. Blocking work runs on tokio's blocking pool.
    ///
    /// # Errors
    /// `Config` if another process owns it or a newer Forge wrote it; `Corrupt`; `Unavailable`.
    pub async fn open(options: Options) -> Result<Self> {
        blocking("sqlite.open", move || {
            let opened = options.open()?;
            let jobs = Arc::new(Queue::default());
            let closed = Arc::new(AtomicBool::new(false));
            let (queue, flag) = (jobs.clone(), closed.clone());
            let name = format!("sqlite:{}", opened.path.file_name().unwrap_or_default().to_string_lossy());
            std::thread::Builder::new()
                .name(name)
                .spawn(move || writer::run(opened.connection, &queue, &flag))
                .map_err(|e| {
                    Error::unexpected("sqlite.open", "the writer's thread cannot be started").with_source(e)
                })?;
            Ok(Self(Arc::new(Shared {
                path: opened.path,
                jobs,
                room: Arc::new(Semaphore::new(ROOM)),
                slots: Arc::new(Semaphore::new(SLOTS)),
                idle: Mutex::default(),
                closed,
                lost: Arc::default(),
                lock: opened.lock,
            })))
        })
        .await
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Writes; durable when it returns. Jobs of many callers share one commit, each in a savepoint of its own: an error
    /// undoes this job alone. Dropping the future does not undo a queued job.
    ///
    /// # Errors
    /// The job's own; those of the commit; `Unavailable` if the database is closed.
    pub async fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let room = self.0.room.clone().acquire_owned().await.map_err(|_| stopped())?;
        let (done, answer) = oneshot::channel();
        let job: Job = Box::new(move |tx| {
            drop(room);
            let outcome = in_savepoint(tx, work);
            answering(move |committed| {
                // the caller may be gone; its write stands all the same
                let _ = done.send(match committed {
                    Ok(()) => outcome,
                    Err(e) => Err(shared(&e).with("job", operation)),
                });
            })
        });
        self.0.jobs.push(job, Urgency::Now).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped().with("job", operation))?
    }

    /// Room for one write that a drop may fill later, without waiting. Nobody is left to tell of its error, so it is logged and
    /// counted: [`flush`](Self::flush) fails from then on, and the health is degraded.
    ///
    /// # Errors
    /// `Unavailable` if the database is closed.
    pub async fn reserve_write<T: Send + Sync + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Transaction<'_>, T) -> Result<()> + Send + Sync + 'static,
    ) -> Result<Slot<T>> {
        if self.0.closed.load(Ordering::Acquire) {
            return Err(stopped());
        }
        let room = self.0.slots.clone().acquire_owned().await.map_err(|_| stopped())?;
        let shared = self.0.clone();
        Ok(Slot::new(move |record: T| {
            let lost = shared.lost.clone();
            let work = move |tx: &Transaction<'_>| {
                drop(room);
                work(tx, record)
            };
            shared.queue(Urgency::Soon, work, move |outcome| {
                if let Err(e) = outcome {
                    lost.fetch_add(1, Ordering::AcqRel);
                    tracing::error!(operation, error = %e, "a record that was promised could not be written");
                }
            });
        }))
    }

    /// Queues a write without waiting. `done` learns, on the writer's thread, whether it is on the disk, and must not block. The
    /// queue has no bound for these: whoever submits sees to it that they are few.
    pub fn submit(
        &self,
        urgency: Urgency,
        work: impl FnOnce(&Transaction<'_>) -> Result<()> + Send + 'static,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        self.0.queue(urgency, work, done);
    }

    /// Reads, on the blocking pool, beside the writer; sees all that was acknowledged.
    ///
    /// # Errors
    /// The job's own; `Unavailable` if the file cannot be opened.
    pub async fn read<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = self.0.clone();
        blocking(operation, move || {
            let idle = shared.idle.lock().map_or(None, |mut idle| idle.pop());
            let connection = match idle {
                Some(c) => c,
                None => open::reader(&shared.path)?,
            };
            let outcome = work(&connection);
            if let Ok(mut idle) = shared.idle.lock()
                && idle.len() < IDLE_READERS
            {
                idle.push(connection);
            }
            outcome
        })
        .await
    }

    /// Waits until all that was queued so far is on the disk.
    ///
    /// # Errors
    /// `Unavailable`, also if a record that a slot promised was lost since the file was opened.
    pub async fn flush(&self) -> Result<()> {
        self.write("sqlite.flush", |_| Ok(())).await?;
        match self.0.lost.load(Ordering::Acquire) {
            0 => Ok(()),
            n => Err(Error::new(
                ErrorKind::Unavailable,
                "sqlite.flush",
                "records that were promised could not be written; see the log",
            )
            .with("lost", n.to_string())
            .with_retry(forge_core::Retryability::Never)),
        }
    }

    /// Looks at it: shallow, whether the writer runs; deep, one durable write.
    pub async fn check(&self, depth: Depth) -> Health {
        if self.0.closed.load(Ordering::Acquire) {
            return Health::down("the writer has stopped");
        }
        let lost = self.0.lost.load(Ordering::Acquire);
        if lost > 0 {
            return Health {
                status: Status::Degraded,
                detail: format!("{lost} promised records could not be written"),
            };
        }
        match depth {
            Depth::Shallow => Health::up(),
            Depth::Deep => match tokio::time::timeout(Duration::from_secs(5), self.flush()).await {
                Ok(Ok(())) => Health::up(),
                Ok(Err(e)) => Health::down(e.to_string()),
                Err(_) => Health::down("no commit within five seconds"),
            },
        }
    }
}

impl Shared {
    fn queue(
        &self,
        urgency: Urgency,
        work: impl FnOnce(&Transaction<'_>) -> Result<()> + Send + 'static,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let job: Job = Box::new(move |tx| {
            let outcome = in_savepoint(tx, work);
            answering(move |committed| done(outcome.and(committed.map_err(|e| shared(&e)))))
        });
        if let Err(unsent) = self.jobs.push(job, urgency) {
            let e = Arc::new(stopped());
            unsent(Err(e.clone()))(Err(e));
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("file", &self.0.path.file_name().unwrap_or_default()).finish_non_exhaustive()
    }
}

fn answering(answer: impl FnOnce(std::result::Result<(), Arc<Error>>) + Send + 'static) -> Answer {
    Box::new(answer)
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Error::unexpected(operation, "the reader panicked or the runtime is stopping").with_source(e)),
    }
}
