//! How a file is opened: pragmas, the owner's lock, migrations.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use forge_core::{Error, ErrorKind, Result};
use rusqlite::{Connection, OpenFlags};

use crate::error::error;

/// What to open.
#[derive(Debug, Clone)]
pub struct Options {
    path: PathBuf,
    migrations: Vec<&'static str>,
    owned: bool,
}

impl Options {
    /// A file that several processes may share.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), migrations: Vec::new(), owned: false }
    }

    /// Adds the next migration: SQL that runs once, in its own transaction. Their number is the file's `user_version`.
    #[must_use]
    pub fn migration(mut self, sql: &'static str) -> Self {
        self.migrations.push(sql);
        self
    }

    /// One process owns the file, by an advisory lock on `<file>.lock`. Readers of other tools still work.
    #[must_use]
    pub fn owned(mut self) -> Self {
        self.owned = true;
        self
    }

    pub(crate) fn open(self) -> Result<Opened> {
        let file = shown(&self.path);
        self.opened().map_err(|e| e.with("file", file))
    }

    fn opened(self) -> Result<Opened> {
        if let Some(parent) = self.path.parent() {
            std::fs::create_dir_all(parent).map_err(|e| {
                Error::new(ErrorKind::Unavailable, "sqlite.open", "the directory cannot be made; check owner and mode")
                    .with_retry(forge_core::Retryability::Never)
                    .with_source(e)
            })?;
        }
        let lock = if self.owned { Some(lock(&self.path)?) } else { None };
        let mut connection = Connection::open(&self.path).map_err(error("sqlite.open"))?;
        configure(&connection)?;
        migrate(&mut connection, &self.migrations)?;
        Ok(Opened { path: self.path, connection, lock })
    }
}

/// The file in its directory: which of a tenant's it is, and not where the host keeps them.
fn shown(path: &Path) -> String {
    let parts: Vec<_> = path.iter().map(|p| p.to_string_lossy()).collect();
    parts.get(parts.len().saturating_sub(2)..).unwrap_or_default().join("/")
}

pub(crate) struct Opened {
    pub(crate) path: PathBuf,
    pub(crate) connection: Connection,
    pub(crate) lock: Option<File>,
}

/// A connection that only reads.
pub(crate) fn reader(path: &Path) -> Result<Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let c = Connection::open_with_flags(path, flags).map_err(error("sqlite.open"))?;
    c.set_prepared_statement_cache_capacity(STATEMENTS);
    c.busy_timeout(BUSY).map_err(error("sqlite.open"))?;
    Ok(c)
}

/// How long a writer of another process is waited for.
const BUSY: Duration = Duration::from_secs(10);

/// Prepared statements kept by a connection: more than a store has, so that none is compiled twice.
const STATEMENTS: usize = 128;

fn configure(c: &Connection) -> Result<()> {
    c.set_prepared_statement_cache_capacity(STATEMENTS);
    let set = || -> rusqlite::Result<()> {
        c.busy_timeout(BUSY)?;
        c.pragma_update(None, "journal_mode", "WAL")?;
        c.pragma_update(None, "synchronous", "FULL")?;
        c.pragma_update(None, "foreign_keys", true)?;
        // what a savepoint may have to undo stays in memory: as a file it is written page by page, a dozen of them for a task
        c.pragma_update(None, "temp_store", "MEMORY")?;
        // what is deleted is overwritten: personal data does not linger in free pages
        c.pragma_update(None, "secure_delete", true)
    };
    set().map_err(error("sqlite.open"))
}

fn lock(path: &Path) -> Result<File> {
    let mut name = path.as_os_str().to_owned();
    name.push(".lock");
    let file = File::create(&name).map_err(|e| {
        Error::new(ErrorKind::Unavailable, "sqlite.lock", "the lock file cannot be made; check owner and mode")
            .with_source(e)
    })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::new(
            ErrorKind::Config,
            "sqlite.lock",
            "another process owns this file; give each process a data_dir of its own",
        )),
        Err(TryLockError::Error(e)) => Err(Error::unexpected("sqlite.lock", "the lock cannot be taken").with_source(e)),
    }
}

/// Runs the migrations that the file has not seen. Another process may be doing the same: the transaction decides.
fn migrate(c: &mut Connection, migrations: &[&str]) -> Result<()> {
    let failed = error("sqlite.migrate");
    let tx = c.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate).map_err(&failed)?;
    let have: i64 = tx.pragma_query_value(None, "user_version", |r| r.get(0)).map_err(&failed)?;
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    if have > known {
        return Err(Error::new(
            ErrorKind::Config,
            "sqlite.migrate",
            "a newer version of Forge wrote this file; update this one",
        )
        .with("file_version", have.to_string())
        .with("known_version", known.to_string()));
    }
    for sql in migrations.iter().skip(usize::try_from(have).unwrap_or(0)) {
        tx.execute_batch(sql).map_err(&failed)?;
    }
    tx.pragma_update(None, "user_version", known).map_err(&failed)?;
    tx.commit().map_err(failed)
}
