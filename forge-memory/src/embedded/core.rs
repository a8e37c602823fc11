//! The statements.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use forge_core::vector::{Hit, Record, SearchRequest};
use forge_core::{Error, Result};
use forge_sqlite::rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use forge_sqlite::{Database, Options, corrupt, error};

use crate::words::words;

const SCHEMA: &str = "
CREATE TABLE spaces (space INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, dimensions INTEGER NOT NULL);
CREATE TABLE records (
    row INTEGER PRIMARY KEY, space INTEGER NOT NULL REFERENCES spaces (space), id TEXT NOT NULL, title TEXT NOT NULL, text TEXT NOT NULL,
    tags TEXT NOT NULL, vector BLOB NOT NULL, UNIQUE (space, id)
);
";

/// Reciprocal rank fusion's constant (Cormack et al. 2009).
const RRF: f32 = 60.0;

pub(super) async fn open(path: &Path) -> Result<Database> {
    Database::open(Options::new(path).migration(SCHEMA)).await
}

/// The number of a namespace, and the length of its vectors; its words are in the table `words_<number>`.
fn space(c: &Connection, name: &str) -> Result<Option<(i64, usize)>> {
    c.prepare_cached("SELECT space, dimensions FROM spaces WHERE name = ?1")
        .and_then(|mut s| s.query_row([name], |r| Ok((r.get(0)?, r.get::<_, i64>(1)?))).optional())
        .map_err(error("vector.space"))
        .map(|found| found.map(|(space, d)| (space, usize::try_from(d).unwrap_or(0))))
}

pub(super) fn upsert(tx: &Transaction<'_>, name: &str, records: &[Record]) -> Result<()> {
    let failed = error("vector.upsert");
    let Some(first) = records.first() else { return Ok(()) };
    let (space, dimensions) = match space(tx, name)? {
        Some(found) => found,
        None => {
            let dimensions = i64::try_from(first.vector.len()).unwrap_or(0);
            tx.execute("INSERT INTO spaces (name, dimensions) VALUES (?1, ?2)", params![name, dimensions])
                .map_err(&failed)?;
            let space = tx.last_insert_rowid();
            // a number of ours, so it may stand in the statement
            tx.execute_batch(&format!("CREATE VIRTUAL TABLE words_{space} USING fts5 (body, tokenize = 'unicode61')"))
                .map_err(&failed)?;
            (space, first.vector.len())
        }
    };
    if records.iter().any(|r| r.vector.len() != dimensions) {
        return Err(Error::invalid("vector.upsert", "all vectors of a namespace have one length")
            .with("length", dimensions.to_string()));
    }
    delete_rows(tx, space, records.iter().map(|r| r.id.as_str()))?;
    let mut insert = tx
        .prepare_cached("INSERT INTO records (space, id, title, text, tags, vector) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
        .map_err(&failed)?;
    let mut index =
        tx.prepare_cached(&format!("INSERT INTO words_{space} (rowid, body) VALUES (?1, ?2)")).map_err(&failed)?;
    let mut seen = BTreeSet::new();
    // of two records with one id the last one stays
    for r in records.iter().rev().filter(|r| seen.insert(&r.id)) {
        let tags = serde_json::to_string(&r.tags)
            .map_err(|e| Error::unexpected("vector.upsert", "tags do not serialise").with_source(e))?;
        let vector: Vec<u8> = r.vector.iter().flat_map(|x| x.to_le_bytes()).collect();
        let row = insert.insert(params![space, r.id, r.title, r.text, tags, vector]).map_err(&failed)?;
        index.execute(params![row, format!("{}\n{}", r.title, r.text)]).map_err(&failed)?;
    }
    Ok(())
}

fn delete_rows<'a>(tx: &Transaction<'_>, space: i64, ids: impl Iterator<Item = &'a str>) -> Result<u64> {
    let failed = error("vector.delete");
    let mut remove =
        tx.prepare_cached("DELETE FROM records WHERE space = ?1 AND id = ?2 RETURNING row").map_err(&failed)?;
    let mut unindex = tx.prepare_cached(&format!("DELETE FROM words_{space} WHERE rowid = ?1")).map_err(&failed)?;
    let mut n = 0;
    for id in ids {
        let row: Option<i64> = remove.query_row(params![space, id], |r| r.get(0)).optional().map_err(&failed)?;
        if let Some(row) = row {
            unindex.execute([row]).map_err(&failed)?;
            n += 1;
        }
    }
    Ok(n)
}

pub(super) fn delete(tx: &Transaction<'_>, name: &str, ids: &[String]) -> Result<u64> {
    match space(tx, name)? {
        Some((space, _)) => delete_rows(tx, space, ids.iter().map(String::as_str)),
        None => Ok(0),
    }
}

pub(super) fn count(c: &Connection, name: &str) -> Result<u64> {
    let Some((space, _)) = space(c, name)? else { return Ok(0) };
    let n: i64 = c
        .query_row("SELECT count(*) FROM records WHERE space = ?1", [space], |r| r.get(0))
        .map_err(error("vector.count"))?;
    Ok(u64::try_from(n).unwrap_or(0))
}

pub(super) fn search(c: &Connection, name: &str, request: &SearchRequest) -> Result<Vec<Hit>> {
    let Some((space, dimensions)) = space(c, name)? else { return Ok(Vec::new()) };
    let near = match &request.vector {
        Some(v) if v.len() != dimensions => {
            return Err(Error::invalid("vector.search", "the vector has another length than those stored")
                .with("length", dimensions.to_string()));
        }
        Some(v) => Some(nearest(c, space, v, request)?),
        None => None,
    };
    let words = match &request.text {
        Some(text) => Some(by_words(c, space, text, request)?),
        None => None,
    };
    let ranked = match (near, words) {
        (Some(near), Some(words)) => fuse(&near, &words),
        (Some(one), None) | (None, Some(one)) => one,
        (None, None) => return Err(Error::invalid("vector.search", "give a vector, a text, or both")),
    };
    ranked.into_iter().take(request.limit).map(|(row, _, score)| hit(c, row, score)).collect()
}

/// Row, id and score, best first; equal scores in the order of their ids.
type Ranked = Vec<(i64, String, f32)>;

fn sorted(mut ranked: Ranked) -> Ranked {
    ranked.sort_by(|(_, a, x), (_, b, y)| y.total_cmp(x).then_with(|| a.cmp(b)));
    ranked
}

/// Exact: every vector of the namespace that carries the tags is looked at.
fn nearest(c: &Connection, space: i64, query: &[f32], request: &SearchRequest) -> Result<Ranked> {
    let failed = error("vector.search");
    let mut select = c.prepare_cached("SELECT row, id, tags, vector FROM records WHERE space = ?1").map_err(&failed)?;
    let mut rows = select.query([space]).map_err(&failed)?;
    let mut ranked = Vec::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        if carries(row, 2, &request.tags)? {
            let vector = row.get_ref(3).map_err(&failed)?.as_blob().map_err(|_| corrupt("vector.search", "vector"))?;
            ranked.push((row.get(0).map_err(&failed)?, row.get(1).map_err(&failed)?, dot(query, vector)));
        }
    }
    Ok(sorted(ranked))
}

fn dot(query: &[f32], stored: &[u8]) -> f32 {
    let (numbers, _) = stored.as_chunks::<4>();
    query.iter().zip(numbers).map(|(x, y)| x * f32::from_le_bytes(*y)).sum()
}

/// BM25 with FTS5's constants (k1 1.2, b 0.75); any of the words may match.
fn by_words(c: &Connection, space: i64, text: &str, request: &SearchRequest) -> Result<Ranked> {
    let failed = error("vector.search");
    // each word in quotes: nothing in it is an operator
    let query =
        words(text).map(|w| format!("\"{w}\"")).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(" OR ");
    if query.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT r.row, r.id, r.tags, bm25(words_{space}) FROM words_{space} w JOIN records r ON r.row = w.rowid WHERE words_{space} MATCH ?1"
    );
    let mut select = c.prepare_cached(&sql).map_err(&failed)?;
    let mut rows = select.query([query]).map_err(&failed)?;
    let mut ranked = Vec::new();
    while let Some(row) = rows.next().map_err(&failed)? {
        if carries(row, 2, &request.tags)? {
            let score: f64 = row.get(3).map_err(&failed)?;
            // FTS5's ranks are negative, the best the smallest
            #[expect(clippy::cast_possible_truncation, reason = "a rank, compared within this search only")]
            ranked.push((row.get(0).map_err(&failed)?, row.get(1).map_err(&failed)?, -score as f32));
        }
    }
    Ok(sorted(ranked))
}

fn carries(row: &Row<'_>, column: usize, wanted: &BTreeSet<String>) -> Result<bool> {
    Ok(wanted.is_empty() || wanted.is_subset(&tags(row, column)?))
}

fn tags(row: &Row<'_>, column: usize) -> Result<BTreeSet<String>> {
    let text: String = row.get(column).map_err(error("vector.search"))?;
    serde_json::from_str(&text).map_err(|e| corrupt("vector.search", "tags").with_source(e))
}

fn fuse(near: &Ranked, words: &Ranked) -> Ranked {
    let mut scores: BTreeMap<i64, (String, f32)> = BTreeMap::new();
    for list in [near, words] {
        let mut rank = RRF;
        for (row, id, _) in list {
            rank += 1.0;
            scores.entry(*row).or_insert_with(|| (id.clone(), 0.0)).1 += 1.0 / rank;
        }
    }
    sorted(scores.into_iter().map(|(row, (id, score))| (row, id, score)).collect())
}

fn hit(c: &Connection, row: i64, score: f32) -> Result<Hit> {
    let failed = error("vector.search");
    let mut select = c.prepare_cached("SELECT id, title, text, tags FROM records WHERE row = ?1").map_err(&failed)?;
    let mut rows = select.query([row]).map_err(&failed)?;
    let r = rows.next().map_err(&failed)?.ok_or_else(|| corrupt("vector.search", "row"))?;
    Ok(Hit {
        id: r.get(0).map_err(&failed)?,
        title: r.get(1).map_err(&failed)?,
        text: r.get(2).map_err(&failed)?,
        tags: tags(r, 3)?,
        score,
    })
}

pub(super) fn export(c: &Connection) -> Result<Vec<(String, Record)>> {
    let failed = error("vector.export");
    let sql = "SELECT s.name, r.id, r.title, r.text, r.tags, r.vector FROM records r JOIN spaces s USING (space) ORDER BY s.name, r.id";
    let mut select = c.prepare_cached(sql).map_err(&failed)?;
    let mut rows = select.query([]).map_err(&failed)?;
    let mut out = Vec::new();
    while let Some(r) = rows.next().map_err(&failed)? {
        let blob: Vec<u8> = r.get(5).map_err(&failed)?;
        let vector = blob.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        let text = |i| r.get::<_, String>(i).map_err(&failed);
        out.push((text(0)?, Record { id: text(1)?, title: text(2)?, text: text(3)?, tags: tags(r, 4)?, vector }));
    }
    Ok(out)
}

pub(super) fn purge(tx: &Transaction<'_>) -> Result<()> {
    let failed = error("vector.purge");
    let spaces: Vec<i64> = tx
        .prepare("SELECT space FROM spaces")
        .and_then(|mut s| s.query_map([], |r| r.get(0))?.collect())
        .map_err(&failed)?;
    for space in spaces {
        tx.execute_batch(&format!("DROP TABLE words_{space}")).map_err(&failed)?;
    }
    tx.execute_batch("DELETE FROM records; DELETE FROM spaces;").map_err(failed)
}
