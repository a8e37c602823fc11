//! The backends that need nothing else: SQLite files and keys under one directory, which belongs to one process.

use std::path::Path;
use std::sync::Arc;

use forge_core::approvals::Approvals;
use forge_core::audit::AuditLog;
use forge_core::blob::BlobStore;
use forge_core::journal::Journal;
use forge_core::keyring::Keyring;
use forge_core::kv::KeyValue;
use forge_core::queue::{Broker, TaskQueue};
use forge_core::redact::Redactor;
use forge_core::secret::Secrets;
use forge_core::usage::{Quota, UsageLedger};
use forge_core::vector::VectorStore;
use forge_core::{Clock, Error, ErrorKind, HealthCheck, Result, RunId};
use forge_dlp::{FileKeyring, StandardRedactor};
use forge_memory::EmbeddedVectors;
use forge_metering::{SqliteLedger, SqliteQuota};
use forge_policy::SqliteAudit;
use forge_queue::blob::FileBlobs;
use forge_queue::dead::DeadLetters;
use forge_queue::limits::QueueControl;
use forge_queue::schedule::ScheduleStore;
use forge_queue::sqlite::SqliteStore;

use crate::Config;

/// Where a host keeps everything.
pub(crate) struct Stores {
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) redactor: Arc<dyn Redactor>,
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) broker: Arc<dyn Broker>,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) approvals: Arc<dyn Approvals>,
    pub(crate) key_values: Arc<dyn KeyValue>,
    pub(crate) blobs: Arc<dyn BlobStore>,
    pub(crate) vectors: Arc<dyn VectorStore>,
    pub(crate) ledger: Arc<dyn UsageLedger>,
    pub(crate) quota: Arc<dyn Quota>,
    pub(crate) audit: Arc<dyn AuditLog>,
    /// Dead letters, the operator's side and schedules of the queue; test hosts have none.
    pub(crate) upkeep: Option<Upkeep>,
    /// The same, where its chain can be written to a file.
    pub(crate) exporter: Option<Arc<SqliteAudit>>,
    /// Names these stores in claims: who opens them again is the same owner.
    pub(crate) owner: String,
}

/// What is done about a queue beside queueing, by whichever store has it.
#[derive(Clone)]
pub(crate) struct Upkeep {
    pub(crate) letters: Arc<dyn DeadLetters>,
    pub(crate) control: Arc<dyn QueueControl>,
    pub(crate) schedules: Arc<dyn ScheduleStore>,
    /// Its health, where it is not the journal's store.
    pub(crate) check: Option<Arc<dyn HealthCheck>>,
    /// Its place among the workers of Celery, for as long as the host lives.
    pub(crate) _presence: Option<Arc<dyn Send + Sync>>,
}

impl Upkeep {
    pub(crate) fn of(store: Arc<impl DeadLetters + QueueControl + ScheduleStore>) -> Self {
        Self { letters: store.clone(), control: store.clone(), schedules: store, check: None, _presence: None }
    }
}

pub(crate) async fn open(config: &Config, secrets: &Secrets, clock: Arc<dyn Clock>) -> Result<Stores> {
    let dir = &config.data_dir;
    let master = match &config.master_key {
        Some(reference) => Some(secrets.fetch(reference).await?),
        None => None,
    };
    // the ledger is owned: opened first, it keeps a second process out of the whole directory
    let ledger = Arc::new(SqliteLedger::open(dir).await?);
    let keyring = Arc::new(FileKeyring::open(dir.join("keys"), master).await?);
    let redactor = Arc::new(StandardRedactor::new(keyring.clone()));
    let queue = Arc::new(SqliteStore::open(config.queue_path(), clock.clone(), keyring.clone()).await?);
    let audit = Arc::new(SqliteAudit::open(dir.join("audit"))?);
    Ok(Stores {
        queue: queue.clone(),
        broker: queue.clone(),
        upkeep: Some(Upkeep::of(queue.clone())),
        journal: queue.clone(),
        approvals: queue.clone(),
        key_values: queue,
        blobs: Arc::new(FileBlobs::open(dir.join("blobs"), keyring.clone(), clock.clone()).await?),
        vectors: Arc::new(EmbeddedVectors::new(dir.join("memory")).with_redactor(redactor.clone())),
        quota: Arc::new(SqliteQuota::open(dir, config.quota.clone(), clock.clone()).await?),
        audit: audit.clone(),
        exporter: Some(audit),
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
