//! The audit log on SQLite: one file a tenant, each a chain of hashes.
//!
//! A file a tenant, rather than one for all: no statement can reach another tenant's rows, a tenant that floods its log
//! delays nobody else's commits, and purging or handing over a tenant is one file. The price, a writer's thread and some
//! file handles for each tenant in use, is bounded: the files longest unused are closed.

mod chain;
mod export;
mod files;
mod rows;
mod verify;

use std::fmt;
use std::path::Path;

use async_trait::async_trait;
use forge_core::audit::{AuditCapability, AuditLog, AuditRecord, AuditRow, ChainReport, Durability};
use forge_core::{Depth, Digest, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Result, Slot, TenantId};

pub use export::verify_jsonl;

use files::{Files, Tenant};

const ADAPTER: &str = "sqlite";

/// The audit log in a directory that this process owns. Each tenant's rows are in `<tenant>.db`.
///
/// `Durable` appends return after the commit (`synchronous=FULL`, shared by those that wait together); `Enqueued` ones when
/// there was room in the writer's queue, which commits at once. Dropping an append does not undo it.
pub struct SqliteAudit {
    files: Files,
}

impl SqliteAudit {
    /// Opens the directory, which is made if need be; at most 32 tenants' files stay open beyond those in use.
    ///
    /// # Errors
    /// `Config` if another process owns it; `Unavailable` if it cannot be made.
    pub fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { files: Files::open(dir.as_ref(), 32)? })
    }

    /// As [`open`](Self::open), with another number of idle files (at least one).
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_bounded(dir: impl AsRef<Path>, files: usize) -> Result<Self> {
        Ok(Self { files: Files::open(dir.as_ref(), files.max(1))? })
    }

    /// Writes the tenant's whole chain to a file, a JSON object a line, as `docs/formats.md` says. The file appears under
    /// its name when it is complete, readable by its owner alone. Returns the number of rows.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be written; `Corrupt` if a stored row does not parse.
    pub async fn export_jsonl(&self, ctx: &ExecutionContext, path: impl AsRef<Path>) -> Result<u64> {
        let path = path.as_ref().to_path_buf();
        match self.files.existing(ctx.tenant()).await? {
            None => export::empty(&path).map(|()| 0),
            Some(tenant) => tenant.database()?.read("audit.export", move |c| export::write(c, &path)).await,
        }
    }

    async fn slot(&self, tenant: &TenantId) -> Result<Slot<AuditRecord>> {
        let (file, name) = (self.files.tenant(tenant).await?, tenant.clone());
        let database = file.database()?.clone();
        database
            .reserve_write("audit.append", move |tx, record: AuditRecord| {
                // the file counts as used, and so stays open, until this is written
                let _used: &Tenant = &file;
                own(&name, &record)?;
                rows::append(tx, &record)
            })
            .await
    }
}

#[async_trait]
impl AuditLog for SqliteAudit {
    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<AuditRecord>> {
        self.slot(ctx.tenant()).await
    }

    async fn append(&self, ctx: &ExecutionContext, record: AuditRecord, durability: Durability) -> Result<()> {
        own(ctx.tenant(), &record)?;
        match durability {
            Durability::Enqueued => {
                self.slot(ctx.tenant()).await?.fill(record);
                Ok(())
            }
            Durability::Durable => {
                let file = self.files.tenant(ctx.tenant()).await?;
                file.database()?.write("audit.append", move |tx| rows::append(tx, &record)).await
            }
        }
    }

    async fn read(&self, ctx: &ExecutionContext, from_seq: u64, limit: usize) -> Result<Vec<AuditRow>> {
        let Some(file) = self.files.existing(ctx.tenant()).await? else { return Ok(Vec::new()) };
        let tenant = ctx.tenant().clone();
        file.database()?.read("audit.read", move |c| rows::read(c, &tenant, from_seq, limit)).await
    }

    async fn verify(&self, ctx: &ExecutionContext) -> Result<ChainReport> {
        let Some(file) = self.files.existing(ctx.tenant()).await? else {
            return Ok(ChainReport { rows: 0, broken: None, head: chain::GENESIS });
        };
        let tenant = ctx.tenant().clone();
        file.database()?.read("audit.verify", move |c| verify::chain(c, &tenant)).await
    }

    async fn flush(&self, tenant: Option<&TenantId>) -> Result<()> {
        let files = match tenant {
            Some(tenant) => self.files.existing(tenant).await?.into_iter().collect(),
            None => self.files.in_use(),
        };
        for file in files {
            file.database()?.flush().await?;
        }
        Ok(())
    }

    fn capability(&self) -> AuditCapability {
        AuditCapability::new(true, true)
    }
}

#[async_trait]
impl HealthCheck for SqliteAudit {
    async fn check(&self, depth: Depth) -> Health {
        for file in self.files.in_use() {
            match file.database() {
                Ok(database) => {
                    let health = database.check(depth).await;
                    if health.status != forge_core::Status::Up {
                        return health;
                    }
                }
                Err(e) => return Health::down(e.to_string()),
            }
        }
        match depth {
            Depth::Shallow => Health::up(),
            Depth::Deep => self.files.probe().map_or_else(|e| Health::down(e.to_string()), |()| Health::up()),
        }
    }
}

impl fmt::Debug for SqliteAudit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteAudit").finish_non_exhaustive()
    }
}

fn own(tenant: &TenantId, record: &AuditRecord) -> Result<()> {
    if record.tenant == *tenant {
        return Ok(());
    }
    Err(Error::new(ErrorKind::TenantMismatch, "audit.append", "the record belongs to another tenant")
        .with_adapter(ADAPTER))
}

fn digest(bytes: &[u8], what: &'static str) -> Result<Digest> {
    let bytes = bytes.try_into().map_err(|_| forge_sqlite::corrupt("audit.read", what))?;
    Ok(Digest::from_bytes(bytes))
}
