//! Why a document could not be read.

use std::fmt;
use std::time::Duration;

/// Why a document could not be read; never holds a word of its text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ParseError {
    /// The file has more bytes than allowed.
    TooLarge {
        /// File name.
        name: String,
        /// Size of the file.
        bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// The file has more pages than allowed.
    TooManyPages {
        /// File name.
        name: String,
        /// Pages of the file.
        pages: usize,
        /// The limit.
        max_pages: u32,
    },
    /// The text, or a part of the file once unpacked, is longer than allowed.
    TooManyCharacters {
        /// File name.
        name: String,
        /// The limit.
        max_characters: usize,
    },
    /// Reading took longer than allowed.
    TimedOut {
        /// File name.
        name: String,
        /// Where reading stopped.
        at: String,
        /// The limit.
        max_time: Duration,
    },
    /// The pages are pictures: there is no text to read.
    NeedsOcr {
        /// File name.
        name: String,
        /// Pages without text.
        pages: u32,
    },
    /// The file is protected by a password.
    Encrypted {
        /// File name.
        name: String,
    },
    /// The file is of a kind that is not read here.
    Unsupported {
        /// File name.
        name: String,
        /// What it is.
        what: String,
    },
    /// The file is broken or empty.
    Malformed {
        /// File name.
        name: String,
        /// What is wrong with it.
        what: String,
    },
}

impl ParseError {
    /// A stable word for logs and metrics.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::TooLarge { .. } => "too_large",
            Self::TooManyPages { .. } => "too_many_pages",
            Self::TooManyCharacters { .. } => "too_many_characters",
            Self::TimedOut { .. } => "timed_out",
            Self::NeedsOcr { .. } => "needs_ocr",
            Self::Encrypted { .. } => "encrypted",
            Self::Unsupported { .. } => "unsupported",
            Self::Malformed { .. } => "malformed",
        }
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge { name, bytes, max_bytes } => {
                write!(f, "{name}: {bytes} bytes are more than the {max_bytes} allowed; split it or raise max_bytes")
            }
            Self::TooManyPages { name, pages, max_pages } => {
                write!(f, "{name}: {pages} pages are more than the {max_pages} allowed; split it or raise max_pages")
            }
            Self::TooManyCharacters { name, max_characters } => {
                write!(f, "{name}: its text is longer than the {max_characters} characters allowed; split it")
            }
            Self::TimedOut { name, at, max_time } => {
                write!(
                    f,
                    "{name}: not read within {max_time:?}, stopped at {at}; try again or print it to a simpler PDF"
                )
            }
            Self::NeedsOcr { name, pages } => {
                write!(f, "{name}: needs OCR, {pages} pages are pictures without text; send it with a text layer")
            }
            Self::Encrypted { name } => write!(f, "{name}: protected by a password; send it without one"),
            Self::Unsupported { name, what } => write!(f, "{name}: is {what}; send it as PDF, DOCX or plain text"),
            Self::Malformed { name, what } => write!(f, "{name}: cannot be read, {what}; save it again and resend"),
        }
    }
}

impl std::error::Error for ParseError {}
