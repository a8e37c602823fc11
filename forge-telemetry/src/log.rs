//! Log lines pass the redactor before they reach the disk.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use forge_core::redact::{RedactOptions, Redactor};
use forge_core::{Error, ErrorKind, Result, TenantId};
use tracing_subscriber::fmt::MakeWriter;

/// A writer for `tracing_subscriber::fmt`: each event is masked as a whole, then written with one call. A line that cannot be
/// scanned is replaced by a word that says so. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RedactingWriter(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: Mutex<File>,
    redactor: Arc<dyn Redactor>,
    /// Masks need no key; the redactor's interface names a tenant all the same.
    nobody: TenantId,
}

impl RedactingWriter {
    /// Appends to a file.
    ///
    /// # Errors
    /// `Unavailable` if it cannot be opened.
    pub fn to_file(path: impl AsRef<Path>, redactor: Arc<dyn Redactor>) -> Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(|e| {
            Error::new(
                ErrorKind::Unavailable,
                "log.open",
                "the log file cannot be opened; check directory, owner and mode",
            )
            .with_source(e)
        })?;
        Ok(Self(Arc::new(Inner { file: Mutex::new(file), redactor, nobody: TenantId::parse("log")? })))
    }
}

impl<'a> MakeWriter<'a> for RedactingWriter {
    type Writer = Line<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        Line { to: &self.0, text: Vec::new() }
    }
}

/// One event: collected, and written when it is complete.
#[derive(Debug)]
pub struct Line<'a> {
    to: &'a Inner,
    text: Vec<u8>,
}

impl Write for Line<'_> {
    fn write(&mut self, part: &[u8]) -> io::Result<usize> {
        self.text.extend_from_slice(part);
        Ok(part.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let text = String::from_utf8_lossy(&self.text).into_owned();
        self.text.clear();
        if text.is_empty() {
            return Ok(());
        }
        let masked = self.to.redactor.redact(&self.to.nobody, text.as_str().into(), &RedactOptions::mask_all());
        let line = masked.as_deref().unwrap_or("[a line that could not be scanned was withheld]\n");
        self.to.file.lock().unwrap_or_else(PoisonError::into_inner).write_all(line.as_bytes())
    }
}

impl Drop for Line<'_> {
    fn drop(&mut self) {
        // a log has nobody to tell that it cannot be written
        let _ = self.flush();
    }
}
