//! The statements that search, and how two rankings become one.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

use forge_core::vector::{Hit, SearchRequest};
use forge_core::{Error, Result};
use forge_sqlite::rusqlite::{Connection, Row};
use forge_sqlite::{corrupt, error};

use super::core::{Inside, Space, space, tags};
use crate::words::words;

const OPERATION: &str = "vector.search";
/// Reciprocal rank fusion's constant (Cormack, Clarke and Büttcher 2009).
const RRF: f32 = 60.0;
/// How much of each ranking counts when two are fused.
const DEPTH: usize = 1000;
/// How many different words of a query count, the first ones: a document as a query is no reason to stop everybody else's.
const MAX_WORDS: usize = 256;

pub(super) fn search(c: &Connection, inside: &Inside, request: &SearchRequest) -> Result<Vec<Hit>> {
    let failed = error(OPERATION);
    // one snapshot: a record that is ranked is still there when it is fetched, whatever a writer does meanwhile
    let now = c.unchecked_transaction().map_err(&failed)?;
    let Some(space) = space(&now, inside)? else { return Ok(Vec::new()) };
    let ranked = match (&request.vector, &request.text) {
        (Some(vector), Some(text)) => fuse([
            nearest(&now, space, vector, &request.tags, DEPTH)?,
            by_words(&now, space, text, &request.tags, DEPTH)?,
        ]),
        (Some(vector), None) => nearest(&now, space, vector, &request.tags, request.limit)?,
        (None, Some(text)) => by_words(&now, space, text, &request.tags, request.limit)?,
        (None, None) => Vec::new(),
    };
    ranked.into_iter().take(request.limit).map(|ranked| hit(&now, space, ranked)).collect()
}

/// Exact: every vector of the namespace that carries the tags is looked at.
fn nearest(
    c: &Connection,
    space: Space,
    query: &[f32],
    wanted: &BTreeSet<String>,
    limit: usize,
) -> Result<Vec<Ranked>> {
    if query.len() != space.dimensions {
        return Err(Error::invalid(OPERATION, "the vector has another length than those stored")
            .with("length", space.dimensions.to_string()));
    }
    let failed = error(OPERATION);
    let sql = format!("SELECT row, id, tags, vector FROM vectors_{}", space.number);
    let mut select = c.prepare_cached(&sql).map_err(&failed)?;
    let mut rows = select.query([]).map_err(&failed)?;
    let mut best = Best::new(limit);
    while let Some(row) = rows.next().map_err(&failed)? {
        let vector = row.get_ref(3).map_err(&failed)?.as_blob().map_err(|_| corrupt(OPERATION, "vector"))?;
        if vector.len() != space.dimensions * 4 {
            return Err(corrupt(OPERATION, "vector"));
        }
        if carries(row, 2, wanted)? {
            best.offer(row, dot(query, vector))?;
        }
    }
    Ok(best.done())
}

/// Eight sums side by side, which the compiler turns into vector instructions; one sum in order it may not.
fn dot(query: &[f32], stored: &[u8]) -> f32 {
    let (stored, _) = stored.as_chunks::<4>();
    let ((xs, x_rest), (ys, y_rest)) = (query.as_chunks::<8>(), stored.as_chunks::<8>());
    let mut sums = [0.0_f32; 8];
    for (x, y) in xs.iter().zip(ys) {
        for ((sum, x), y) in sums.iter_mut().zip(x).zip(y) {
            *sum += x * f32::from_le_bytes(*y);
        }
    }
    let rest: f32 = x_rest.iter().zip(y_rest).map(|(x, y)| x * f32::from_le_bytes(*y)).sum();
    // + 0.0: there is no -0.0 that would come after its equals
    sums.iter().sum::<f32>() + rest + 0.0
}

/// BM25 with FTS5's constants (k1 1.2, b 0.75); any of the words may match.
fn by_words(c: &Connection, space: Space, text: &str, wanted: &BTreeSet<String>, limit: usize) -> Result<Vec<Ranked>> {
    let mut seen = BTreeSet::new();
    // each word in quotes: nothing in it is an operator
    let quoted = words(text).filter(|w| seen.insert(w.clone())).take(MAX_WORDS).map(|w| format!("\"{w}\""));
    let query = quoted.collect::<Vec<_>>().join(" OR ");
    if query.is_empty() {
        return Ok(Vec::new());
    }
    let failed = error(OPERATION);
    let n = space.number;
    let sql = format!(
        "SELECT v.row, v.id, v.tags, bm25(words_{n}) FROM words_{n} w JOIN vectors_{n} v ON v.row = w.rowid WHERE words_{n} MATCH ?1"
    );
    let mut select = c.prepare_cached(&sql).map_err(&failed)?;
    let mut rows = select.query([query]).map_err(&failed)?;
    let mut best = Best::new(limit);
    while let Some(row) = rows.next().map_err(&failed)? {
        if carries(row, 2, wanted)? {
            let rank: f64 = row.get(3).map_err(&failed)?;
            // FTS5's ranks are negative, the best the smallest
            #[expect(clippy::cast_possible_truncation, reason = "a rank, compared within this search only")]
            best.offer(row, -rank as f32)?;
        }
    }
    Ok(best.done())
}

fn carries(row: &Row<'_>, column: usize, wanted: &BTreeSet<String>) -> Result<bool> {
    Ok(wanted.is_empty() || wanted.is_subset(&tags(row, column)?))
}

fn fuse(lists: [Vec<Ranked>; 2]) -> Vec<Ranked> {
    let mut fused: BTreeMap<i64, Ranked> = BTreeMap::new();
    for list in lists {
        let mut rank = RRF;
        for found in list {
            rank += 1.0;
            fused.entry(found.row).or_insert(Ranked { score: 0.0, ..found }).score += 1.0 / rank;
        }
    }
    let mut ranked: Vec<Ranked> = fused.into_values().collect();
    ranked.sort();
    ranked
}

fn hit(c: &Connection, space: Space, ranked: Ranked) -> Result<Hit> {
    let failed = error(OPERATION);
    let sql = format!("SELECT title, text, tags FROM records JOIN vectors_{} USING (row) WHERE row = ?1", space.number);
    let mut select = c.prepare_cached(&sql).map_err(&failed)?;
    let mut rows = select.query([ranked.row]).map_err(&failed)?;
    let r = rows.next().map_err(&failed)?.ok_or_else(|| corrupt(OPERATION, "row"))?;
    Ok(Hit {
        id: ranked.id,
        title: r.get(0).map_err(&failed)?,
        text: r.get(1).map_err(&failed)?,
        tags: tags(r, 2)?,
        score: ranked.score,
    })
}

/// A row with its score. The better one is the lesser; of equals the one whose id comes first.
#[derive(Debug, PartialEq)]
struct Ranked {
    row: i64,
    id: String,
    score: f32,
}

impl Ranked {
    fn against(&self, score: f32, id: &str) -> Ordering {
        score.total_cmp(&self.score).then_with(|| self.id.as_str().cmp(id))
    }
}

impl Eq for Ranked {}

impl Ord for Ranked {
    fn cmp(&self, other: &Self) -> Ordering {
        self.against(other.score, &other.id)
    }
}

impl PartialOrd for Ranked {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// The best so far, the worst of them on top.
struct Best {
    heap: BinaryHeap<Ranked>,
    limit: usize,
}

impl Best {
    fn new(limit: usize) -> Self {
        Self { heap: BinaryHeap::new(), limit }
    }

    /// Takes the row, whose first two columns are number and id, if it is among the best.
    fn offer(&mut self, row: &Row<'_>, score: f32) -> Result<()> {
        let failed = error(OPERATION);
        let id = row.get_ref(1).map_err(&failed)?.as_str().map_err(|_| corrupt(OPERATION, "id"))?;
        if self.heap.len() >= self.limit {
            if self.heap.peek().is_none_or(|worst| worst.against(score, id).is_le()) {
                return Ok(());
            }
            self.heap.pop();
        }
        self.heap.push(Ranked { row: row.get(0).map_err(&failed)?, id: id.to_owned(), score });
        Ok(())
    }

    fn done(self) -> Vec<Ranked> {
        self.heap.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ranked(row: i64, id: &str, score: f32) -> Ranked {
        Ranked { row, id: id.into(), score }
    }

    #[test]
    fn what_both_rankings_know_wins_and_equals_go_by_id() {
        let near = vec![ranked(1, "c", 0.9), ranked(2, "b", 0.8)];
        let words = vec![ranked(3, "a", 7.0), ranked(2, "b", 6.0)];
        let fused: Vec<_> = fuse([near, words]).into_iter().map(|r| (r.id, r.score)).collect();
        assert_eq!(fused, [("b".into(), 2.0 / 62.0), ("a".into(), 1.0 / 61.0), ("c".into(), 1.0 / 61.0)]);
    }

    #[test]
    fn lanes_and_rest_both_count() {
        let x: Vec<f32> = (1..=19_u8).map(f32::from).collect();
        let bytes: Vec<u8> = x.iter().flat_map(|x| x.to_le_bytes()).collect();
        assert_eq!(dot(&x, &bytes), 2470.0, "the sum of the first 19 squares");
        assert!(dot(&[-1.0], &0.0_f32.to_le_bytes()).is_sign_positive());
    }
}
