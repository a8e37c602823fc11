//! The file of what was received.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::fault::{Fault, Play};

/// One request, as it was received; credentials are left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recorded {
    /// As the server names it.
    pub route: String,
    /// Which request to that route, from 1.
    pub nth: u64,
    /// Who asked: an account or a workspace, if the credentials were good.
    pub who: Option<String>,
    /// What was asked.
    pub request: Value,
    /// What became of it: `ok`, an error's name, or `fault` where a fault kept it from being done.
    pub outcome: String,
    /// The effect that was made, if one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effect: Option<Value>,
}

/// Appends and remembers.
pub(crate) struct Record(Mutex<Inner>);

struct Inner {
    file: File,
    all: Vec<Recorded>,
    counts: BTreeMap<String, u64>,
    faults: Vec<Fault>,
}

impl Record {
    /// Opens a file and reads what earlier processes wrote; a torn last line is left out.
    pub(crate) fn open(path: &Path, faults: Vec<Fault>) -> std::io::Result<Self> {
        if let Some(dir) = path.parent() {
            std::fs::create_dir_all(dir)?;
        }
        // bytes, since a line may be torn inside a character
        let old = match std::fs::read(path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => Vec::new(),
            Err(e) => return Err(e),
        };
        let all: Vec<Recorded> = old.split(|b| *b == b'\n').filter_map(|l| serde_json::from_slice(l).ok()).collect();
        let mut counts = BTreeMap::new();
        for r in &all {
            let n = counts.entry(r.route.clone()).or_insert(0);
            *n = r.nth.max(*n);
        }
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        if !old.is_empty() && !old.ends_with(b"\n") {
            (&file).write_all(b"\n")?;
        }
        Ok(Self(Mutex::new(Inner { file, all, counts, faults })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the next request to a route, and the fault that it gets.
    pub(crate) fn next(&self, route: &'static str) -> (u64, Option<Play>) {
        let mut inner = self.inner();
        let n = inner.counts.entry(route.to_owned()).or_insert(0);
        *n += 1;
        let nth = *n;
        let play = inner.faults.iter().find_map(|f| f.of(route, nth));
        (nth, play)
    }

    /// On the disk before the answer goes out.
    pub(crate) fn append(&self, recorded: Recorded) {
        let mut inner = self.inner();
        let mut line = serde_json::to_string(&recorded).expect("a record is JSON");
        line.push('\n');
        inner
            .file
            .write_all(line.as_bytes())
            .and_then(|()| inner.file.sync_data())
            .expect("the stand-in's file can be written");
        inner.all.push(recorded);
    }

    pub(crate) fn all(&self) -> Vec<Recorded> {
        self.inner().all.clone()
    }

    /// How many requests a route got.
    pub(crate) fn count(&self, route: &str) -> usize {
        self.inner().all.iter().filter(|r| r.route == route).count()
    }
}
