//! The open files, the longest unused of which are closed, and the lock on the directory.

use std::collections::HashMap;
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forge_core::{Error, ErrorKind, Result, TenantId};
use forge_sqlite::{Database, Options};
use tokio::sync::OnceCell;

use super::ADAPTER;

/// The rows, and the head that tells whether rows at the end were taken away.
const SCHEMA: &str = "
    CREATE TABLE rows (
        seq INTEGER PRIMARY KEY,
        id BLOB NOT NULL UNIQUE,
        prev BLOB NOT NULL,
        hash BLOB NOT NULL,
        record TEXT NOT NULL
    ) STRICT;
    CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL, hash BLOB NOT NULL) STRICT;
    INSERT INTO head VALUES (1, 0, zeroblob(32));
";

/// One tenant's file; it stays open while anybody holds it.
pub(super) struct Tenant(OnceCell<Database>);

impl Tenant {
    pub(super) fn database(&self) -> Result<&Database> {
        self.0.get().ok_or_else(|| Error::unexpected("audit.open", "the file is not open").with_adapter(ADAPTER))
    }
}

pub(super) struct Files {
    dir: PathBuf,
    idle: usize,
    open: Mutex<Open>,
    /// Held for the life of the log: two processes would each think that they own the chains.
    lock: File,
}

impl Drop for Files {
    fn drop(&mut self) {
        // closing would do, were it not for children that the host is just forking: they hold the file until they exec
        if let Err(e) = self.lock.unlock() {
            tracing::debug!(error = %e, "the lock is left to the operating system");
        }
    }
}

#[derive(Default)]
struct Open {
    /// With the turn of the last use.
    tenants: HashMap<TenantId, (u64, Arc<Tenant>)>,
    turn: u64,
    /// Taken out above, and not known yet to be on the disk.
    closing: Vec<Arc<Tenant>>,
}

impl Files {
    pub(super) fn open(dir: &Path, idle: usize) -> Result<Self> {
        fs::create_dir_all(dir).map_err(|e| unavailable("the directory cannot be made; check owner and mode", e))?;
        let lock = File::create(dir.join("owner.lock"))
            .map_err(|e| unavailable("the lock file cannot be made; check owner and mode", e))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_path_buf(), idle, open: Mutex::default(), lock }),
            Err(TryLockError::WouldBlock) => Err(Error::new(
                ErrorKind::Config,
                "audit.open",
                "another process owns this directory; give each process a data_dir of its own",
            )),
            Err(TryLockError::Error(e)) => Err(unavailable("the directory cannot be locked", e)),
        }
    }

    /// The tenant's file, made if need be.
    pub(super) async fn tenant(&self, tenant: &TenantId) -> Result<Arc<Tenant>> {
        let slot = self.slot(tenant);
        // a tenant id holds neither separators nor dots
        let options = Options::new(self.path(tenant)).migration(SCHEMA);
        slot.0.get_or_try_init(|| Database::open(options)).await?;
        self.close().await;
        Ok(slot)
    }

    /// Waits for the last commit of what was taken out; dropped half-way, the next call goes on.
    async fn close(&self) {
        let closing = self.locked().closing.clone();
        for file in closing {
            if let Some(database) = file.0.get()
                && let Err(e) = database.flush().await
            {
                tracing::error!(error = %e, "the last rows of a file that is being closed may not be on the disk");
            }
            self.locked().closing.retain(|other| !Arc::ptr_eq(other, &file));
        }
    }

    /// The tenant's file, if it has one: a question must not make files.
    pub(super) async fn existing(&self, tenant: &TenantId) -> Result<Option<Arc<Tenant>>> {
        let there = fs::exists(self.path(tenant)).map_err(|e| unavailable("the directory cannot be read", e))?;
        if there { self.tenant(tenant).await.map(Some) } else { Ok(None) }
    }

    /// Every open file.
    pub(super) fn in_use(&self) -> Vec<Arc<Tenant>> {
        let open = self.locked();
        let all = open.tenants.values().map(|(_, file)| file).chain(&open.closing);
        all.filter(|file| file.0.initialized()).cloned().collect()
    }

    /// Whether a new tenant could be given a file.
    pub(super) fn probe(&self) -> Result<()> {
        let path = self.dir.join("probe");
        fs::write(&path, b"x")
            .and_then(|()| fs::remove_file(&path))
            .map_err(|e| unavailable("the directory cannot be written", e))
    }

    fn path(&self, tenant: &TenantId) -> PathBuf {
        self.dir.join(format!("{tenant}.db"))
    }

    fn slot(&self, tenant: &TenantId) -> Arc<Tenant> {
        let mut open = self.locked();
        open.turn += 1;
        let turn = open.turn;
        if let Some((used, slot)) = open.tenants.get_mut(tenant) {
            *used = turn;
            return slot.clone();
        }
        let slot = Arc::new(Tenant(OnceCell::new()));
        open.tenants.insert(tenant.clone(), (turn, slot.clone()));
        while open.tenants.len() > self.idle {
            // one that somebody holds has work in flight; closing it would let its work outlive it
            let unused = open.tenants.iter().filter(|(_, (_, t))| Arc::strong_count(t) == 1);
            let Some(oldest) = unused.min_by_key(|(_, (used, _))| *used).map(|(name, _)| name.clone()) else { break };
            let removed = open.tenants.remove(&oldest);
            open.closing.extend(removed.map(|(_, file)| file));
        }
        slot
    }

    fn locked(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unavailable(message: &'static str, e: std::io::Error) -> Error {
    Error::new(ErrorKind::Unavailable, "audit.open", message).with_adapter(ADAPTER).with_source(e)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_in_use_stays_open_and_the_longest_unused_is_closed() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::open(dir.path(), 2).unwrap();
        let [a, b, c] = ["a", "b", "c"].map(|name| TenantId::parse(name).unwrap());
        let held = files.tenant(&a).await.unwrap();
        files.tenant(&b).await.unwrap();
        files.tenant(&c).await.unwrap();
        let open = |name| files.locked().tenants.contains_key(name);
        assert!(open(&a) && !open(&b) && open(&c), "`a` is older, but somebody holds it");
        assert!(Arc::ptr_eq(&held, &files.tenant(&a).await.unwrap()), "one database for one file");
        assert_eq!(files.in_use().len(), 2);
    }
}
