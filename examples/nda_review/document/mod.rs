//! Reads an NDA: bytes in, plain text out, with the limits that a file from a stranger needs.
//!
//! The kind of the file is told from its first bytes and never from its name. What comes out is text in reading order, one
//! paragraph a line, and a list of warnings that a reviewer should see (hidden text, tracked changes, pages without text).
//! Everything here is synchronous CPU work: call it on a blocking thread.

mod docx;
mod error;
mod font;
mod layout;
mod pdf;
mod plain;

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

pub use error::ParseError;

/// What one document may cost before it is refused.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The largest file, in bytes.
    pub max_bytes: usize,
    /// The most pages that a PDF may have.
    pub max_pages: u32,
    /// The most Unicode code points that its text may have.
    pub max_characters: usize,
    /// The longest that parsing may take, checked between pages and parts.
    pub max_time: Duration,
}

impl Default for Limits {
    /// 25 MB, 500 pages, 4,000,000 characters, 20 seconds.
    fn default() -> Self {
        Self {
            max_bytes: 25 * 1024 * 1024,
            max_pages: 500,
            max_characters: 4_000_000,
            max_time: Duration::from_secs(20),
        }
    }
}

/// The kind of a file, as its first bytes tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum Format {
    /// Portable Document Format.
    Pdf,
    /// Office Open XML word processing (`word/document.xml` in a ZIP).
    Docx,
    /// Plain text.
    Txt,
}

/// A document as it was read.
#[derive(Clone, Serialize, Deserialize)]
pub struct Document {
    /// The name that the file came with; never used to decide anything.
    pub name: String,
    /// What the file turned out to be.
    pub format: Format,
    /// SHA-256 of the file's bytes, in hex.
    pub sha256: String,
    /// Pages; for DOCX as its page breaks say, for TXT one more than its form feeds.
    pub pages: u32,
    /// The text; all offsets of a review count its Unicode code points.
    pub text: String,
    /// What a reviewer should know about the reading; holds no text of the document.
    pub warnings: Vec<String>,
}

impl Document {
    /// The length of the text in Unicode code points.
    #[must_use]
    pub fn characters(&self) -> usize {
        self.text.chars().count()
    }
}

impl fmt::Debug for Document {
    /// Everything but the text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, format, sha256, pages, text, warnings } = self;
        f.debug_struct("Document")
            .field("name", name)
            .field("format", format)
            .field("sha256", sha256)
            .field("pages", pages)
            .field("text_bytes", &text.len())
            .field("warnings", warnings)
            .finish()
    }
}

/// Reads `bytes` within `limits`.
///
/// A TXT in UTF-8 keeps every byte, a byte order mark included. The PDF library's panics become errors.
///
/// # Errors
/// [`ParseError`] when the file is too large, too long or too slow to read, is a scan, is encrypted, is of a kind that is not
/// read here, or is broken.
pub fn parse(name: &str, bytes: &[u8], limits: &Limits) -> Result<Document, ParseError> {
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place where a real clock enters; parse_with takes it injected"
    )]
    let start = std::time::Instant::now();
    parse_with(name, bytes, limits, &|| start.elapsed())
}

/// [`parse`] with the time since the start given by `elapsed`.
///
/// # Errors
/// As [`parse`].
pub fn parse_with(
    name: &str,
    bytes: &[u8],
    limits: &Limits,
    elapsed: &dyn Fn() -> Duration,
) -> Result<Document, ParseError> {
    if bytes.len() > limits.max_bytes {
        return Err(ParseError::TooLarge { name: name.into(), bytes: bytes.len(), max_bytes: limits.max_bytes });
    }
    let budget = Budget { name, limits, elapsed };
    let (format, parsed) = match sniff(name, bytes)? {
        Format::Pdf => {
            let read = catch_unwind(AssertUnwindSafe(|| pdf::read(bytes, &budget)));
            (Format::Pdf, read.unwrap_or_else(|_| Err(budget.malformed("the PDF reader gave up on it")))?)
        }
        Format::Docx => (Format::Docx, docx::read(bytes, &budget)?),
        Format::Txt => (Format::Txt, plain::read(bytes, &budget)?),
    };
    let Parsed { text, pages, warnings } = parsed;
    budget.check_characters(text.chars().count())?;
    if text.trim().is_empty() {
        return Err(budget.malformed("it holds no text"));
    }
    Ok(Document { name: name.into(), format, sha256: hex(&Sha256::digest(bytes)), pages, text, warnings })
}

/// What a reader hands back.
struct Parsed {
    text: String,
    pages: u32,
    warnings: Vec<String>,
}

/// The limits and the clock of one parse, with the name for messages.
struct Budget<'a> {
    name: &'a str,
    limits: &'a Limits,
    elapsed: &'a dyn Fn() -> Duration,
}

impl Budget<'_> {
    fn check_time(&self, at: impl fmt::Display) -> Result<(), ParseError> {
        if (self.elapsed)() <= self.limits.max_time {
            return Ok(());
        }
        Err(ParseError::TimedOut { name: self.name.into(), at: at.to_string(), max_time: self.limits.max_time })
    }

    fn check_pages(&self, pages: usize) -> Result<u32, ParseError> {
        match u32::try_from(pages) {
            Ok(count) if count <= self.limits.max_pages => Ok(count),
            _ => Err(ParseError::TooManyPages { name: self.name.into(), pages, max_pages: self.limits.max_pages }),
        }
    }

    fn check_characters(&self, characters: usize) -> Result<(), ParseError> {
        if characters <= self.limits.max_characters {
            return Ok(());
        }
        Err(ParseError::TooManyCharacters { name: self.name.into(), max_characters: self.limits.max_characters })
    }

    fn malformed(&self, what: impl Into<String>) -> ParseError {
        ParseError::Malformed { name: self.name.into(), what: what.into() }
    }
}

fn sniff(name: &str, bytes: &[u8]) -> Result<Format, ParseError> {
    let head = bytes.get(..bytes.len().min(1024)).unwrap_or_default();
    let starts = |magic: &[u8]| head.starts_with(magic);
    let unsupported = |what: &str| ParseError::Unsupported { name: name.into(), what: what.into() };
    if head.windows(5).any(|window| window == b"%PDF-") {
        return Ok(Format::Pdf);
    }
    if starts(b"PK\x03\x04") {
        return Ok(Format::Docx);
    }
    if starts(&[0xd0, 0xcf, 0x11, 0xe0]) {
        // a password-protected DOCX is an OLE file with this stream name in UTF-16
        let sealed: Vec<u8> = "EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let encrypted = bytes.windows(sealed.len()).any(|window| window == sealed);
        return Err(if encrypted {
            ParseError::Encrypted { name: name.into() }
        } else {
            unsupported("an old Office file (.doc)")
        });
    }
    if starts(b"\x89PNG") || starts(&[0xff, 0xd8, 0xff]) || starts(b"II*\0") || starts(b"MM\0*") {
        return Err(ParseError::NeedsOcr { name: name.into(), pages: 1 });
    }
    if starts(b"{\\rtf") {
        return Err(unsupported("a rich text file (.rtf)"));
    }
    let word = String::from_utf8_lossy(head).trim_start().to_ascii_lowercase();
    if word.starts_with("<!doctype html") || word.starts_with("<html") {
        return Err(unsupported("a web page (.html)"));
    }
    let utf16 = starts(&[0xff, 0xfe]) || starts(&[0xfe, 0xff]);
    if head.contains(&0) && !utf16 {
        return Err(unsupported("a binary file of an unknown kind"));
    }
    Ok(Format::Txt)
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::new(), |mut out, byte| {
        // writing to a String cannot fail
        let _ = write!(out, "{byte:02x}");
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_decide_and_not_the_name() {
        let document = parse("really.pdf", b"Plain words.", &Limits::default()).unwrap();
        assert_eq!(document.format, Format::Txt);
        assert!(matches!(parse("a.txt", b"\x89PNG\r\n", &Limits::default()), Err(ParseError::NeedsOcr { .. })));
        assert!(matches!(parse("a.txt", b"{\\rtf1", &Limits::default()), Err(ParseError::Unsupported { .. })));
        assert!(matches!(parse("a.txt", b"ab\0cd", &Limits::default()), Err(ParseError::Unsupported { .. })));
    }

    #[test]
    fn a_broken_pdf_is_an_error_and_not_a_panic() {
        for bytes in [&b"%PDF-1.7"[..], b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<</Root 1 0 R>>", b"%PDF-\xff\xff"]
        {
            assert!(matches!(parse("x.pdf", bytes, &Limits::default()), Err(ParseError::Malformed { .. })));
        }
    }

    #[test]
    fn a_word_document_with_a_password_says_so() {
        let mut bytes = vec![0xd0, 0xcf, 0x11, 0xe0, 0xa1, 0xb1, 0x1a, 0xe1];
        bytes.extend([0; 504]);
        assert!(matches!(parse("a.docx", &bytes, &Limits::default()), Err(ParseError::Unsupported { .. })));
        // the stream that holds the sealed package, in the directory of the compound file (MS-OFFCRYPTO 2.3)
        bytes.extend("EncryptedPackage".encode_utf16().flat_map(u16::to_le_bytes));
        assert!(matches!(parse("a.docx", &bytes, &Limits::default()), Err(ParseError::Encrypted { .. })));
    }

    #[test]
    fn limits_are_kept() {
        let limits = Limits { max_bytes: 4, ..Limits::default() };
        assert!(matches!(parse("x", b"12345", &limits), Err(ParseError::TooLarge { bytes: 5, .. })));
        let limits = Limits { max_characters: 4, ..Limits::default() };
        assert!(matches!(parse("x", b"12345", &limits), Err(ParseError::TooManyCharacters { .. })));
    }

    #[test]
    fn the_samples_hold_what_is_planted_in_them() {
        let planted: serde_json::Value = serde_json::from_str(include_str!("../samples/planted.json")).unwrap();
        let samples: [(&str, &[u8], Format); 2] = [
            ("hartwell_mutual_nda.pdf", include_bytes!("../samples/hartwell_mutual_nda.pdf"), Format::Pdf),
            ("northwind_nda.docx", include_bytes!("../samples/northwind_nda.docx"), Format::Docx),
        ];
        for (name, bytes, format) in samples {
            let document = parse(name, bytes, &Limits::default()).unwrap();
            assert_eq!(document.format, format);
            let values = planted["files"][name].as_array().unwrap();
            assert!(values.len() >= 10);
            for planted in values {
                let value = planted["value"].as_str().unwrap();
                assert!(document.text.contains(value), "{name}: {value}");
            }
            assert!(document.text.lines().any(|line| line.starts_with("portal_password: ")), "{name}");
        }
    }

    #[test]
    fn a_slow_file_is_stopped() {
        let bytes = include_bytes!("../samples/hartwell_mutual_nda.pdf");
        let late = || Duration::from_secs(21);
        let stopped = parse_with("slow.pdf", bytes, &Limits::default(), &late);
        assert!(matches!(stopped, Err(ParseError::TimedOut { .. })));
        let limits = Limits { max_pages: 2, ..Limits::default() };
        assert!(matches!(parse("long.pdf", bytes, &limits), Err(ParseError::TooManyPages { pages: 3, .. })));
    }

    #[test]
    fn debug_and_errors_never_show_the_text() {
        let document = parse("x.txt", b"a secret sentence", &Limits::default()).unwrap();
        assert!(!format!("{document:?}").contains("secret"));
        assert_eq!(document.characters(), 17);
        assert_eq!(document.sha256.len(), 64);
    }
}
