//! The chain as a file of lines, and its verification by the documented rule alone.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufWriter, Read, Write};
use std::path::Path;

use forge_core::audit::ChainReport;
use forge_core::{Digest, Error, ErrorKind, Result};
use forge_sqlite::rusqlite::Connection;
use forge_sqlite::{corrupt, error};
use serde_json::{Map, Value};

use super::chain::canonical;
use super::digest;
use super::rows::Raw;
use super::verify::Links;

/// A longer line is no row.
const MAX_LINE: u64 = 4 * 1024 * 1024;

/// Writes every row. Blocks.
pub(super) fn write(c: &Connection, path: &Path) -> Result<u64> {
    whole(path, |file| {
        let failed = error("audit.export");
        let mut statement = c.prepare("SELECT seq, prev, hash, record, id FROM rows ORDER BY seq").map_err(&failed)?;
        let mut rows = statement.query([]).map_err(&failed)?;
        let mut count = 0;
        while let Some(row) = rows.next().map_err(&failed)? {
            let raw = Raw::of(row)?;
            let mut line: Map<String, Value> =
                serde_json::from_str(&raw.record).map_err(|e| corrupt("audit.export", "record").with_source(e))?;
            line.insert("seq".into(), raw.seq.into());
            line.insert("prev".into(), digest(&raw.prev, "prev")?.to_string().into());
            line.insert("hash".into(), digest(&raw.hash, "hash")?.to_string().into());
            writeln!(file, "{}", canonical(&Value::Object(line))?).map_err(unwritable)?;
            count += 1;
        }
        Ok(count)
    })
}

/// The file of a tenant without rows.
pub(super) fn empty(path: &Path) -> Result<()> {
    whole(path, |_| Ok(()))
}

/// Checks an exported file by the rule of `docs/formats.md`, without the log that it came from. The report names the first
/// broken line, counted from 1; rows missing at the end show only in the head, which must be compared with one known from
/// elsewhere.
///
/// # Errors
/// `Unavailable` if the reader fails.
pub fn verify_jsonl(mut reader: impl BufRead) -> Result<ChainReport> {
    let mut links = Links::default();
    loop {
        let mut line = Vec::new();
        let read = reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut line);
        read.map_err(|e| Error::new(ErrorKind::Unavailable, "audit.verify", "the file cannot be read").with_source(e))?;
        if line.is_empty() {
            return Ok(ChainReport { rows: links.rows, broken: None, head: links.head });
        }
        if let Err(why) = check(&line, &mut links) {
            return Ok(links.broken(why));
        }
    }
}

fn check(line: &[u8], links: &mut Links) -> Result<(), String> {
    let row = parse(line);
    let Some((seq, prev, hash, record)) = row else {
        links.rows += 1;
        return Err("the line is not a row in canonical form".to_owned());
    };
    links.add(seq, prev.as_bytes(), hash.as_bytes(), &record)
}

/// A line must be the canonical text of what it holds: with a key given twice, two readers would see two records.
fn parse(line: &[u8]) -> Option<(u64, Digest, Digest, String)> {
    let text = std::str::from_utf8(line.strip_suffix(b"\n")?).ok()?;
    let mut row: Map<String, Value> = serde_json::from_str(text).ok()?;
    if canonical(&Value::Object(row.clone())).ok()? != text {
        return None;
    }
    let seq = row.remove("seq")?.as_u64()?;
    let mut hash = |key: &str| Digest::try_from(row.remove(key)?.as_str()?.to_owned()).ok();
    let (prev, hash) = (hash("prev")?, hash("hash")?);
    Some((seq, prev, hash, canonical(&Value::Object(row)).ok()?))
}

/// Writes under another name, and renames what is complete and on the disk.
fn whole<T>(path: &Path, fill: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<T> {
    let mut part = path.as_os_str().to_owned();
    part.push(".part");
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = BufWriter::new(options.open(&part).map_err(unwritable)?);
    let filled = fill(&mut file).and_then(|value| {
        file.flush()
            .and_then(|()| file.get_ref().sync_all())
            .and_then(|()| fs::rename(&part, path))
            .map_err(unwritable)?;
        Ok(value)
    });
    if filled.is_err() {
        // what is half written helps nobody; the error that matters is the first
        let _ = fs::remove_file(&part);
    }
    filled
}

fn unwritable(e: std::io::Error) -> Error {
    Error::new(
        ErrorKind::Unavailable,
        "audit.export",
        "the file cannot be written; check directory, owner and free space",
    )
    .with_source(e)
}
