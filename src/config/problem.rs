//! What is wrong with a configuration, and where it was written.

use std::fmt;

use forge_core::{Error, ErrorKind};

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// A line of a file; none for the file as a whole.
    File {
        /// Its name.
        name: String,
        /// Counted from one.
        line: Option<usize>,
    },
    /// An environment variable.
    Variable(String),
    /// The host's own code.
    Code,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { name, line: Some(line) } => write!(f, "{name}:{line}"),
            Self::File { name, line: None } => f.write_str(name),
            Self::Variable(name) => f.write_str(name),
            Self::Code => f.write_str("the host's code"),
        }
    }
}

/// One problem: what, where and what to do. Values are not repeated, they may be secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ConfigProblem {
    /// The key; empty where a file as a whole is wrong.
    pub key: String,
    /// What is wrong with it.
    pub what: String,
    /// Who gave it.
    pub origin: Origin,
}

impl ConfigProblem {
    pub(super) fn of_file(name: &str, line: Option<usize>, what: impl Into<String>) -> Self {
        Self { key: String::new(), what: what.into(), origin: Origin::File { name: name.to_owned(), line } }
    }
}

impl From<ConfigProblem> for Error {
    fn from(p: ConfigProblem) -> Self {
        let e = Error::new(ErrorKind::Config, "config.check", p.what);
        let e = if p.key.is_empty() { e } else { e.with("key", p.key) };
        e.with("from", p.origin.to_string())
    }
}

/// More are counted, not printed.
const SHOWN: usize = 50;

/// Every problem of a configuration at once.
#[derive(Clone, PartialEq, Eq)]
pub struct ConfigError(pub(super) Vec<ConfigProblem>);

impl ConfigError {
    /// The problems.
    pub fn problems(&self) -> &[ConfigProblem] {
        &self.0
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.0.len();
        write!(f, "the configuration has {n} problem{}:", if n == 1 { "" } else { "s" })?;
        let shown = self.0.get(..SHOWN).unwrap_or(&self.0);
        let wide = |of: fn(&ConfigProblem) -> &str| shown.iter().map(|p| of(p).chars().count()).max().unwrap_or(0);
        let (keys, whats) = (wide(|p| &p.key), wide(|p| &p.what));
        for p in shown {
            let gap = if keys == 0 { "" } else { "  " };
            write!(f, "\n  {:<keys$}{gap}{:<whats$}  ({})", p.key, p.what, p.origin)?;
        }
        if n > shown.len() { write!(f, "\n  and {} more", n - shown.len()) } else { Ok(()) }
    }
}

impl fmt::Debug for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::error::Error for ConfigError {}

impl From<ConfigError> for Error {
    fn from(e: ConfigError) -> Self {
        Error::new(ErrorKind::Config, "config.load", e.to_string())
    }
}
