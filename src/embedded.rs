//! The backends that need nothing else: SQLite files and keys under one directory, which belongs to one process.

use std::path::Path;
use std::sync::Arc;

use forge_core::secret::Secrets;
use forge_core::vector::VectorStore;
use forge_core::{Clock, Error, ErrorKind, Result, RunId};
use forge_dlp::{FileKeyring, StandardRedactor};
use forge_memory::EmbeddedVectors;
use forge_metering::{SqliteLedger, SqliteQuota};
use forge_policy::SqliteAudit;
use forge_queue::blob::FileBlobs;
use forge_queue::sqlite::SqliteStore;

use crate::Config;

pub(crate) struct Embedded {
    pub(crate) keyring: Arc<FileKeyring>,
    pub(crate) redactor: Arc<StandardRedactor>,
    pub(crate) queue: Arc<SqliteStore>,
    pub(crate) blobs: Arc<FileBlobs>,
    pub(crate) vectors: Arc<dyn VectorStore>,
    pub(crate) ledger: Arc<SqliteLedger>,
    pub(crate) quota: Arc<SqliteQuota>,
    pub(crate) audit: Arc<SqliteAudit>,
    /// Names this directory in claims: who opens it again is the same owner.
    pub(crate) owner: String,
}

pub(crate) async fn open(config: &Config, secrets: &Secrets, clock: Arc<dyn Clock>) -> Result<Embedded> {
    let dir = &config.data_dir;
    let master = match &config.master_key {
        Some(reference) => Some(secrets.fetch(reference).await?),
        None => None,
    };
    // the ledger is owned: opened first, it keeps a second process out of the whole directory
    let ledger = Arc::new(SqliteLedger::open(dir).await?);
    let keyring = Arc::new(FileKeyring::open(dir.join("keys"), master).await?);
    let redactor = Arc::new(StandardRedactor::new(keyring.clone()));
    Ok(Embedded {
        queue: Arc::new(SqliteStore::open(config.queue_path(), clock.clone(), keyring.clone()).await?),
        blobs: Arc::new(FileBlobs::open(dir.join("blobs"), keyring.clone(), clock.clone()).await?),
        vectors: Arc::new(EmbeddedVectors::new(dir.join("memory")).with_redactor(redactor.clone())),
        quota: Arc::new(SqliteQuota::open(dir, config.quota.clone(), clock.clone()).await?),
        audit: Arc::new(SqliteAudit::open(dir.join("audit"))?),
        owner: owner(dir, clock.as_ref())?,
        ledger,
        keyring,
        redactor,
    })
}

/// The directory's name for itself, made once.
fn owner(dir: &Path, clock: &dyn Clock) -> Result<String> {
    let path = dir.join("owner");
    let failed = |e: std::io::Error| {
        Error::new(ErrorKind::Unavailable, "embedded.owner", "the directory cannot be written").with_source(e)
    };
    if let Ok(owner) = std::fs::read_to_string(&path)
        && !owner.is_empty()
    {
        return Ok(owner);
    }
    let owner = RunId::random(clock.now()).to_string();
    std::fs::write(&path, &owner).map_err(failed)?;
    Ok(owner)
}
