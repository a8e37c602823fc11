//! Looking for the first row that does not fit.

use forge_core::audit::{AuditRecord, ChainReport};
use forge_core::{Digest, Result, TenantId};
use forge_sqlite::error;
use forge_sqlite::rusqlite::Connection;

use super::chain::{GENESIS, link};
use super::rows::Raw;

/// Checks every row of the file, then that none is missing at the end.
pub(super) fn chain(c: &Connection, tenant: &TenantId) -> Result<ChainReport> {
    let failed = error("audit.verify");
    // rows and head of one moment, while the writer goes on
    let tx = c.unchecked_transaction().map_err(&failed)?;
    let mut statement =
        tx.prepare_cached("SELECT seq, prev, hash, record, id FROM rows ORDER BY seq").map_err(&failed)?;
    let mut rows = statement.query([]).map_err(&failed)?;
    let mut links = Links::default();
    while let Some(row) = rows.next().map_err(&failed)? {
        let why = match Raw::of(row) {
            Ok(raw) => links.add(raw.seq, &raw.prev, &raw.hash, &raw.record).err().or_else(|| foreign(&raw, tenant)),
            Err(_) => Some("the row holds other types than were written".to_owned()),
        };
        if let Some(why) = why {
            return Ok(links.broken(why));
        }
    }
    let (seq, hash): (i64, Vec<u8>) =
        tx.query_row("SELECT seq, hash FROM head WHERE one = 1", [], |r| Ok((r.get(0)?, r.get(1)?))).map_err(failed)?;
    if u64::try_from(seq).ok() != Some(links.rows) || hash != links.head.as_bytes() {
        links.rows += 1;
        return Ok(links.broken(format!("the rows end before the last that was written, {seq}")));
    }
    Ok(ChainReport { rows: links.rows, broken: None, head: links.head })
}

fn foreign(raw: &Raw, tenant: &TenantId) -> Option<String> {
    match serde_json::from_str::<AuditRecord>(&raw.record) {
        Err(_) => Some("the record does not parse".to_owned()),
        Ok(record) if record.tenant != *tenant => Some("the record belongs to another tenant".to_owned()),
        Ok(record) if record.id.as_bytes().as_slice() != raw.id => {
            Some("the row stands under another id than its record's".to_owned())
        }
        Ok(_) => None,
    }
}

/// The chain so far.
pub(super) struct Links {
    /// Rows looked at.
    pub(super) rows: u64,
    /// Hash of the last good one.
    pub(super) head: Digest,
}

impl Default for Links {
    fn default() -> Self {
        Self { rows: 0, head: GENESIS }
    }
}

impl Links {
    /// Looks at the next row; an error says why it does not fit.
    pub(super) fn add(&mut self, seq: u64, prev: &[u8], hash: &[u8], record: &str) -> Result<(), String> {
        self.rows += 1;
        if seq != self.rows {
            return Err(format!("the row is missing, the next is {seq}"));
        }
        if prev != self.head.as_bytes() {
            return Err("the row does not follow the one before it".to_owned());
        }
        let computed = link(&self.head, seq, record);
        if hash != computed.as_bytes() {
            return Err("the row was changed after it was written".to_owned());
        }
        self.head = computed;
        Ok(())
    }

    /// The report with the row that was looked at last as the first broken one.
    pub(super) fn broken(self, why: String) -> ChainReport {
        ChainReport { rows: self.rows, broken: Some((self.rows, why)), head: self.head }
    }
}
