//! Ledger and quotas in one SQLite file, which one process owns.

mod ledger;
mod quota;

pub use ledger::SqliteLedger;
pub use quota::SqliteQuota;

use forge_core::Result;
use forge_sqlite::{Database, Options};
use std::path::Path;

/// Tenant first in every key. Decimals are text: SQLite has no exact type for them, so sums are made in Rust.
const SCHEMA: &str = "
CREATE TABLE usage (
    tenant TEXT NOT NULL, id BLOB NOT NULL, at INTEGER NOT NULL, employee TEXT NOT NULL, run BLOB, event TEXT NOT NULL,
    PRIMARY KEY (tenant, id)
) WITHOUT ROWID;
CREATE INDEX usage_by_time ON usage (tenant, at, id);
CREATE TABLE quota (
    tenant TEXT NOT NULL, operation TEXT NOT NULL, employee TEXT NOT NULL, window INTEGER NOT NULL, at INTEGER NOT NULL,
    settled INTEGER NOT NULL, calls INTEGER NOT NULL, tokens INTEGER NOT NULL, money TEXT NOT NULL,
    PRIMARY KEY (tenant, window, operation)
) WITHOUT ROWID;
";

/// Opens `<dir>/ledger.db`.
async fn open(dir: &Path) -> Result<Database> {
    Database::open(Options::new(dir.join("ledger.db")).migration(SCHEMA).owned()).await
}
