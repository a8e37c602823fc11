//! The statements that write, count and export.

use std::collections::BTreeSet;
use std::path::Path;

use forge_core::vector::Record;
use forge_core::{Error, Result};
use forge_sqlite::rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use forge_sqlite::{Database, Options, corrupt, error};

/// Beside these, each namespace has two tables named by its number: `vectors_<n>`, which holds all that a scan looks at, row
/// beside row and without the texts between them; and `words_<n>`, an FTS5 index of `records`, so that the statistics behind a
/// rank are the namespace's own.
const SCHEMA: &str = "
CREATE TABLE spaces (
    space INTEGER PRIMARY KEY, owner TEXT NOT NULL, memory_type TEXT NOT NULL, dimensions INTEGER NOT NULL,
    UNIQUE (owner, memory_type)
);
CREATE TABLE records (
    row INTEGER PRIMARY KEY, space INTEGER NOT NULL REFERENCES spaces (space), id TEXT NOT NULL, title TEXT NOT NULL,
    text TEXT NOT NULL, UNIQUE (space, id)
);
";

/// A namespace inside its tenant's file: owner and memory type.
pub(super) type Inside = (String, String);

/// What the statements need to know of a namespace.
#[derive(Clone, Copy)]
pub(super) struct Space {
    /// Its number; ours, so it may stand in a statement.
    pub(super) number: i64,
    /// Length of its vectors.
    pub(super) dimensions: usize,
}

pub(super) async fn open(path: &Path) -> Result<Database> {
    Database::open(Options::new(path).migration(SCHEMA)).await
}

pub(super) fn space(c: &Connection, (owner, memory_type): &Inside) -> Result<Option<Space>> {
    let found: Option<(i64, i64)> = c
        .prepare_cached("SELECT space, dimensions FROM spaces WHERE owner = ?1 AND memory_type = ?2")
        .and_then(|mut s| s.query_row([owner, memory_type], |r| Ok((r.get(0)?, r.get(1)?))).optional())
        .map_err(error("vector.space"))?;
    let Some((number, dimensions)) = found else { return Ok(None) };
    let dimensions = usize::try_from(dimensions).map_err(|_| corrupt("vector.space", "dimensions"))?;
    Ok(Some(Space { number, dimensions }))
}

fn make(tx: &Transaction<'_>, (owner, memory_type): &Inside, dimensions: usize) -> Result<Space> {
    let failed = error("vector.space");
    let length = i64::try_from(dimensions).unwrap_or(i64::MAX);
    tx.execute(
        "INSERT INTO spaces (owner, memory_type, dimensions) VALUES (?1, ?2, ?3)",
        params![owner, memory_type, length],
    )
    .map_err(&failed)?;
    let number = tx.last_insert_rowid();
    // secure-delete: a deleted text's words leave the index at once, not with some later merge
    tx.execute_batch(&format!(
        "CREATE TABLE vectors_{number} (row INTEGER PRIMARY KEY, id TEXT NOT NULL, tags TEXT NOT NULL, vector BLOB NOT NULL);
         CREATE VIRTUAL TABLE words_{number} USING fts5 (title, text, content = 'records', content_rowid = 'row', tokenize = 'unicode61');
         INSERT INTO words_{number} (words_{number}, rank) VALUES ('secure-delete', 1);"
    ))
    .map_err(failed)?;
    Ok(Space { number, dimensions })
}

pub(super) fn upsert(tx: &Transaction<'_>, inside: &Inside, records: &[Record]) -> Result<()> {
    let failed = error("vector.upsert");
    let Some(first) = records.first() else { return Ok(()) };
    let space = match space(tx, inside)? {
        Some(found) => found,
        None => make(tx, inside, first.vector.len())?,
    };
    if records.iter().any(|r| r.vector.len() != space.dimensions) {
        return Err(Error::invalid("vector.upsert", "all vectors of a namespace have one length")
            .with("length", space.dimensions.to_string()));
    }
    let n = space.number;
    delete_rows(tx, n, records.iter().map(|r| r.id.as_str()))?;
    let mut insert =
        tx.prepare_cached("INSERT INTO records (space, id, title, text) VALUES (?1, ?2, ?3, ?4)").map_err(&failed)?;
    let mut place = tx
        .prepare_cached(&format!("INSERT INTO vectors_{n} (row, id, tags, vector) VALUES (?1, ?2, ?3, ?4)"))
        .map_err(&failed)?;
    let mut index = tx
        .prepare_cached(&format!("INSERT INTO words_{n} (rowid, title, text) VALUES (?1, ?2, ?3)"))
        .map_err(&failed)?;
    let mut seen = BTreeSet::new();
    // of two records with one id the last one stays
    for r in records.iter().rev().filter(|r| seen.insert(&r.id)) {
        let tags = serde_json::to_string(&r.tags)
            .map_err(|e| Error::unexpected("vector.upsert", "tags do not serialise").with_source(e))?;
        let vector: Vec<u8> = r.vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        let row = insert.insert(params![n, r.id, r.title, r.text]).map_err(&failed)?;
        place.execute(params![row, r.id, tags, vector]).map_err(&failed)?;
        index.execute(params![row, r.title, r.text]).map_err(&failed)?;
    }
    Ok(())
}

pub(super) fn delete(tx: &Transaction<'_>, inside: &Inside, ids: &[String]) -> Result<u64> {
    match space(tx, inside)? {
        Some(space) => delete_rows(tx, space.number, ids.iter().map(String::as_str)),
        None => Ok(0),
    }
}

fn delete_rows<'a>(tx: &Transaction<'_>, n: i64, ids: impl Iterator<Item = &'a str>) -> Result<u64> {
    let failed = error("vector.delete");
    let mut find = tx.prepare_cached("SELECT row FROM records WHERE space = ?1 AND id = ?2").map_err(&failed)?;
    // the index first: it reads the words that it forgets from `records`
    let mut unindex = tx.prepare_cached(&format!("DELETE FROM words_{n} WHERE rowid = ?1")).map_err(&failed)?;
    let mut displace = tx.prepare_cached(&format!("DELETE FROM vectors_{n} WHERE row = ?1")).map_err(&failed)?;
    let mut remove = tx.prepare_cached("DELETE FROM records WHERE row = ?1").map_err(&failed)?;
    let mut deleted = 0;
    for id in ids {
        let row: Option<i64> = find.query_row(params![n, id], |r| r.get(0)).optional().map_err(&failed)?;
        if let Some(row) = row {
            for statement in [&mut unindex, &mut displace, &mut remove] {
                statement.execute([row]).map_err(&failed)?;
            }
            deleted += 1;
        }
    }
    Ok(deleted)
}

pub(super) fn count(c: &Connection, inside: &Inside) -> Result<u64> {
    let n: i64 = c
        .query_row(
            "SELECT count(*) FROM records JOIN spaces USING (space) WHERE owner = ?1 AND memory_type = ?2",
            [&inside.0, &inside.1],
            |r| r.get(0),
        )
        .map_err(error("vector.count"))?;
    u64::try_from(n).map_err(|_| corrupt("vector.count", "count"))
}

/// Every record with its owner and memory type, in the order of these and of the ids.
pub(super) fn export(c: &Connection) -> Result<Vec<(Inside, Record)>> {
    let failed = error("vector.export");
    let now = c.unchecked_transaction().map_err(&failed)?;
    let mut out = Vec::new();
    for (number, inside) in spaces(&now)? {
        let sql = format!(
            "SELECT id, title, text, tags, vector FROM records JOIN vectors_{number} USING (row, id) ORDER BY id"
        );
        let mut select = now.prepare(&sql).map_err(&failed)?;
        let mut rows = select.query([]).map_err(&failed)?;
        while let Some(r) = rows.next().map_err(&failed)? {
            let text = |i| r.get::<_, String>(i).map_err(&failed);
            let blob: Vec<u8> = r.get(4).map_err(&failed)?;
            let vector = blob.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
            let record = Record { id: text(0)?, title: text(1)?, text: text(2)?, vector, tags: tags(r, 3)? };
            out.push((inside.clone(), record));
        }
    }
    Ok(out)
}

pub(super) fn purge(tx: &Transaction<'_>) -> Result<()> {
    let failed = error("vector.purge");
    for (n, _) in spaces(tx)? {
        tx.execute_batch(&format!("DROP TABLE words_{n}; DROP TABLE vectors_{n};")).map_err(&failed)?;
    }
    tx.execute_batch("DELETE FROM records; DELETE FROM spaces;").map_err(failed)
}

fn spaces(c: &Connection) -> Result<Vec<(i64, Inside)>> {
    c.prepare("SELECT space, owner, memory_type FROM spaces ORDER BY owner, memory_type")
        .and_then(|mut s| s.query_map([], |r| Ok((r.get(0)?, (r.get(1)?, r.get(2)?))))?.collect())
        .map_err(error("vector.spaces"))
}

pub(super) fn tags(row: &Row<'_>, column: usize) -> Result<BTreeSet<String>> {
    let text =
        row.get_ref(column).map_err(error("vector.tags"))?.as_str().map_err(|_| corrupt("vector.tags", "tags"))?;
    serde_json::from_str(text).map_err(|e| corrupt("vector.tags", "tags").with_source(e))
}
