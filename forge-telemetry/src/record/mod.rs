//! A recorder of Forge's spans: each is appended to a file when it opens and when it closes, so that a killed process leaves what it
//! did and what it was doing.

mod layer;
mod otlp;
mod writer;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::Path;

use forge_core::{Error, ErrorKind, Result, TenantId};
use serde::{Deserialize, Serialize};

pub use layer::SpanRecorder;
pub use otlp::otlp_json;

/// A span, as it stands in the file: one JSON object a line, one line when it opens and one when it closes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedSpan {
    /// 32 hex digits.
    pub trace_id: String,
    /// 16 hex digits.
    pub span_id: String,
    /// 16 hex digits; zeros for the root.
    pub parent_span_id: String,
    /// Such as `execute_tool drive_fetch`.
    pub name: String,
    /// Nanoseconds since 1970.
    pub start: i64,
    /// Start plus what the monotonic clock measured. Of a span that never closed: the last sign of life of what ran in it.
    pub end: i64,
    /// False where its process was killed.
    pub closed: bool,
    /// Names of OpenTelemetry or `forge.…`, masked.
    pub attributes: BTreeMap<String, String>,
}

impl RecordedSpan {
    /// Whose it is.
    pub fn is_of(&self, tenant: &TenantId) -> bool {
        self.attributes.get("forge.tenant").is_some_and(|t| t == tenant.as_str())
    }
}

/// Reads a recorder's file. A line that a crash cut off is left out, wherever it is: the next process goes on below it. A span that
/// was opened again after a crash counts once, from its first start; one that never closed is there with the attribute `error.type`
/// = `interrupted`.
///
/// # Errors
/// `Unavailable` if the file cannot be read; `Corrupt` if a whole line is no span.
pub fn read_spans(path: impl AsRef<Path>) -> Result<Vec<RecordedSpan>> {
    let unreadable = |e: std::io::Error| {
        Error::new(ErrorKind::Unavailable, "spans.read", "the file of spans cannot be read; check path, owner and mode")
            .with_source(e)
    };
    let file = std::fs::File::open(path).map_err(unreadable)?;
    let mut order = Vec::new();
    let mut spans: BTreeMap<(String, String), RecordedSpan> = BTreeMap::new();
    // bytes, not text: a line may be cut inside a letter
    for (n, line) in BufReader::new(file).split(b'\n').enumerate() {
        let mut span: RecordedSpan = match serde_json::from_slice(&line.map_err(unreadable)?) {
            Ok(span) => span,
            Err(e) if e.is_eof() => continue,
            Err(e) => {
                let e = Error::new(ErrorKind::Corrupt, "spans.read", "a line is not a span").with_source(e);
                return Err(e.with("line", (n + 1).to_string()));
            }
        };
        let id = (span.trace_id.clone(), span.span_id.clone());
        match spans.get(&id) {
            Some(first) => span.start = span.start.min(first.start),
            None => order.push(id.clone()),
        }
        spans.insert(id, span);
    }
    // children open after their parents: from the last to the first, each sees what ran in it
    let mut life: BTreeMap<(String, String), i64> = BTreeMap::new();
    for id in order.iter().rev() {
        let Some(span) = spans.get_mut(id) else { continue };
        if !span.closed {
            span.end = life.get(id).copied().unwrap_or(span.start).max(span.start + 1);
            span.attributes.insert("error.type".into(), "interrupted".into());
        }
        let parent = life.entry((span.trace_id.clone(), span.parent_span_id.clone())).or_insert(span.end);
        *parent = (*parent).max(span.end);
    }
    Ok(order.iter().filter_map(|id| spans.remove(id)).collect())
}

/// What [`check_trace`] found.
#[derive(Debug, Clone, Serialize)]
pub struct TraceReport {
    /// Spans looked at.
    pub spans: usize,
    /// Spans without a parent.
    pub roots: usize,
    /// Spans that never closed, because their process was killed.
    pub interrupted: usize,
    /// Spans that ended after their parent did: work that was handed on, as through a queue. The rest lies inside its parent.
    pub outlived: usize,
    /// What is wrong, one sentence each.
    pub problems: Vec<String>,
}

/// Whether spans are one trace with one root and real parents, in which nothing begins before what it is part of and everything has
/// a duration.
pub fn check_trace(spans: &[RecordedSpan]) -> TraceReport {
    let mut problems = Vec::new();
    let mut by_id: BTreeMap<&str, &RecordedSpan> = BTreeMap::new();
    for s in spans {
        if by_id.insert(&s.span_id, s).is_some() {
            problems.push(format!("`{}` shares its id with another span", s.name));
        }
    }
    let traces: std::collections::BTreeSet<&str> = spans.iter().map(|s| s.trace_id.as_str()).collect();
    if traces.len() != 1 {
        problems.push(format!("{} trace ids instead of one", traces.len()));
    }
    let root = |s: &&RecordedSpan| s.parent_span_id.bytes().all(|b| b == b'0');
    let roots = spans.iter().filter(root).count();
    if roots != 1 {
        problems.push(format!("{roots} roots instead of one"));
    }
    let mut outlived = 0;
    for s in spans {
        if s.end <= s.start {
            problems.push(format!("`{}` has no duration", s.name));
        }
        match by_id.get(s.parent_span_id.as_str()) {
            None if root(&s) => {}
            None => problems.push(format!("`{}` has a parent that was not recorded", s.name)),
            Some(p) if s.start < p.start => {
                problems.push(format!("`{}` begins before its parent `{}`", s.name, p.name))
            }
            Some(p) => outlived += usize::from(s.end > p.end),
        }
    }
    let interrupted = spans.iter().filter(|s| !s.closed).count();
    TraceReport { spans: spans.len(), roots, interrupted, outlived, problems }
}
