//! The acceptance lines: what was promised, whether it held, and the file that shows it.

use std::path::{Path, PathBuf};

use serde::Serialize;

/// One line of `summary.json`.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// What was promised.
    pub name: String,
    /// Whether it held.
    pub passed: bool,
    /// The file that shows it, below the output directory, and what to look at.
    pub proof: String,
}

/// The lines so far.
#[derive(Debug, Default)]
pub struct Proof(Vec<Line>);

impl Proof {
    /// Adds a line and shows it.
    pub fn line(&mut self, name: impl Into<String>, passed: bool, proof: impl Into<String>) {
        let line = Line { name: name.into(), passed, proof: proof.into() };
        println!("  {} {}  ({})", if passed { "ok  " } else { "FAIL" }, line.name, line.proof);
        self.0.push(line);
    }

    /// Whether every line passed, and there are some.
    pub fn all_passed(&self) -> bool {
        !self.0.is_empty() && self.0.iter().all(|l| l.passed)
    }

    /// Writes `summary.json`.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(&self, out: &Path) -> std::io::Result<()> {
        std::fs::write(out.join("summary.json"), serde_json::to_string_pretty(&self.0)? + "\n")
    }
}

/// Values that must not rest in clear: found in the raw bytes of the host's own files, with the file's name.
///
/// # Errors
/// If a file cannot be read.
pub fn canary(out: &Path, planted: &[String]) -> std::io::Result<Vec<String>> {
    let mut files = Vec::new();
    collect(&out.join("data"), &mut files)?;
    let names = [
        "host.log",
        "metrics.txt",
        "trace.json",
        "spans.jsonl",
        "audit.jsonl",
        "audit.globex.jsonl",
        "usage.csv",
        "usage-events.jsonl",
    ];
    files.extend(names.iter().map(|n| out.join(n)).filter(|p| p.exists()));
    let mut hits = Vec::new();
    for file in files {
        let bytes = std::fs::read(&file)?;
        for value in planted {
            if !value.is_empty() && bytes.windows(value.len()).any(|w| w == value.as_bytes()) {
                hits.push(file.strip_prefix(out).unwrap_or(&file).display().to_string());
            }
        }
    }
    Ok(hits)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() { collect(&path, files)? } else { files.push(path) }
    }
    Ok(())
}
