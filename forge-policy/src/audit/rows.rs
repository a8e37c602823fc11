//! Writing and reading rows of one file.

use forge_core::audit::{AuditRecord, AuditRow};
use forge_core::{Error, ErrorKind, Result, TenantId};
use forge_sqlite::rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use forge_sqlite::{corrupt, error};

use super::chain::{canonical, link};
use super::{ADAPTER, digest};

/// Most rows of one read.
const MAX_READ: usize = 10_000;

/// Adds the record to the chain. The same record again is no row; another with its id is a `Conflict`.
pub(super) fn append(tx: &Transaction<'_>, record: &AuditRecord) -> Result<()> {
    let failed = error("audit.append");
    let text = serde_json::to_value(record)
        .map_err(|e| Error::unexpected("audit.append", "the record does not serialise").with_source(e))
        .and_then(|value| canonical(&value))?;
    let stored: Option<String> = tx
        .prepare_cached("SELECT record FROM rows WHERE id = ?1")
        .and_then(|mut s| s.query_row([record.id.as_bytes()], |r| r.get(0)).optional())
        .map_err(&failed)?;
    if let Some(stored) = stored {
        return if stored == text { Ok(()) } else { Err(conflict(record)) };
    }
    let (last, prev): (i64, Vec<u8>) = tx
        .prepare_cached("SELECT seq, hash FROM head WHERE one = 1")
        .and_then(|mut s| s.query_row([], |r| Ok((r.get(0)?, r.get(1)?))))
        .map_err(&failed)?;
    let (seq, prev) = (last + 1, digest(&prev, "head")?);
    let hash = link(&prev, u64::try_from(seq).map_err(|_| corrupt("audit.append", "head"))?, &text);
    tx.prepare_cached("INSERT INTO rows (seq, id, prev, hash, record) VALUES (?1, ?2, ?3, ?4, ?5)")
        .and_then(|mut s| s.execute(params![seq, record.id.as_bytes(), prev.as_bytes(), hash.as_bytes(), text]))
        .map_err(&failed)?;
    tx.prepare_cached("UPDATE head SET seq = ?1, hash = ?2 WHERE one = 1")
        .and_then(|mut s| s.execute(params![seq, hash.as_bytes()]))
        .map_err(failed)?;
    Ok(())
}

/// Rows from `from_seq` on. A row of another tenant means that files were exchanged: `Corrupt`.
pub(super) fn read(c: &Connection, tenant: &TenantId, from_seq: u64, limit: usize) -> Result<Vec<AuditRow>> {
    let failed = error("audit.read");
    let from = i64::try_from(from_seq).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit.min(MAX_READ)).unwrap_or(0);
    let mut statement = c
        .prepare_cached("SELECT seq, prev, hash, record, id FROM rows WHERE seq >= ?1 ORDER BY seq LIMIT ?2")
        .map_err(&failed)?;
    let mut rows = statement.query([from, limit]).map_err(&failed)?;
    let mut out = Vec::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        let raw = Raw::of(row)?;
        let record: AuditRecord =
            serde_json::from_str(&raw.record).map_err(|e| corrupt("audit.read", "record").with_source(e))?;
        if record.tenant != *tenant {
            return Err(corrupt("audit.read", "tenant"));
        }
        out.push(AuditRow { seq: raw.seq, prev: digest(&raw.prev, "prev")?, hash: digest(&raw.hash, "hash")?, record });
    }
    Ok(out)
}

/// A row as it is stored: `seq, prev, hash, record, id`.
pub(super) struct Raw {
    pub(super) seq: u64,
    pub(super) prev: Vec<u8>,
    pub(super) hash: Vec<u8>,
    pub(super) record: String,
    pub(super) id: Vec<u8>,
}

impl Raw {
    pub(super) fn of(row: &Row<'_>) -> Result<Self> {
        let read = || -> forge_sqlite::rusqlite::Result<_> {
            Ok((row.get::<_, i64>(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?))
        };
        let (seq, prev, hash, record, id) = read().map_err(|e| corrupt("audit.read", "row").with_source(e))?;
        Ok(Self { seq: u64::try_from(seq).map_err(|_| corrupt("audit.read", "seq"))?, prev, hash, record, id })
    }
}

fn conflict(record: &AuditRecord) -> Error {
    Error::new(ErrorKind::Conflict, "audit.append", "another record has this id")
        .with("id", record.id.to_string())
        .with_adapter(ADAPTER)
}
