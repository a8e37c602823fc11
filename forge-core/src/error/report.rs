//! An error that crosses a wire or rests in a journal.

use serde::{Deserialize, Serialize};

use super::{Error, ErrorKind, Retryability};

/// The serialisable copy of an [`Error`], for dead letters, journals and results.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// The class.
    pub kind: ErrorKind,
    /// Whether trying again may help.
    pub retry: Retryability,
    /// `trait.method` that failed.
    pub operation: String,
    /// The operator's sentence.
    pub message: String,
    /// Facts, in order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub context: Vec<(String, String)>,
    /// `Display` of each source, outermost first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub chain: Vec<String>,
}

impl ErrorReport {
    pub(super) fn of(e: &Error) -> Self {
        let mut chain = Vec::new();
        let mut source = std::error::Error::source(e);
        while let Some(s) = source {
            chain.push(s.to_string());
            source = s.source();
        }
        Self {
            kind: e.kind(),
            retry: e.retry(),
            operation: e.operation().to_owned(),
            message: e.message().to_owned(),
            context: e.context().map(|(k, v)| (k.to_owned(), v.to_owned())).collect(),
            chain,
        }
    }

    /// An error again, on the other side; `operation` is where it is raised now.
    pub fn into_error(self, operation: &'static str) -> Error {
        let mut e =
            Error::new(self.kind, operation, self.message).with_retry(self.retry).with("reported_by", self.operation);
        for (k, v) in self.context {
            e = e.with("fact", format!("{k}={v}"));
        }
        e
    }
}
