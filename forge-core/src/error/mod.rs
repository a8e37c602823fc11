//! The one error type of every adapter.
//!
//! An operator needs to know what failed, where and what to do; a tenant may know much less; a dead letter needs it
//! serialised; and the retry engine needs one fact. [`Error`] serves all four and hides the driver's own error.
//!
//! ```
//! use forge_core::{Error, ErrorKind, Retryability};
//! let e = Error::new(ErrorKind::Unavailable, "kv.get", "the server closed the connection").with("host", "10.0.0.7:6379");
//! assert_eq!(e.to_string(), "kv.get: the server closed the connection (unavailable, host=10.0.0.7:6379)");
//! assert_eq!(e.retry(), Retryability::Transient);
//! assert_eq!(e.public_message(), "the service is unavailable, try again later");
//! ```

mod kind;
mod report;

use std::borrow::Cow;
use std::fmt;

pub use kind::{ErrorKind, Retryability};
pub use report::ErrorReport;

use crate::approvals::ApprovalRequest;
use crate::policy::Denial;

/// `Result` with [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

type Source = Box<dyn std::error::Error + Send + Sync + 'static>;

/// What an adapter answers when it cannot do what it was asked. One pointer wide.
///
/// `Display` is for operators and leaves the source out; walk [`source`](std::error::Error::source) for the chain.
/// Values in it must never be secrets or personal data: put ids and digests into [`with`](Error::with).
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    retry: Retryability,
    operation: &'static str,
    adapter: Option<&'static str>,
    message: Cow<'static, str>,
    context: Vec<(&'static str, String)>,
    denial: Option<Denial>,
    approval: Option<ApprovalRequest>,
    source: Option<Source>,
}

impl Error {
    /// An error of `kind` in `operation` (`trait.method` of the adapter, such as `kv.get`).
    pub fn new(kind: ErrorKind, operation: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Box::new(Inner {
            kind,
            retry: kind.default_retry(),
            operation,
            adapter: None,
            message: message.into(),
            context: Vec::new(),
            denial: None,
            approval: None,
            source: None,
        }))
    }

    /// Shorthand for [`ErrorKind::InvalidInput`].
    pub fn invalid(operation: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidInput, operation, message)
    }

    /// Shorthand for [`ErrorKind::NotFound`].
    pub fn not_found(operation: &'static str, what: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::NotFound, operation, what)
    }

    /// Shorthand for [`ErrorKind::Unexpected`].
    pub fn unexpected(operation: &'static str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Unexpected, operation, message)
    }

    /// The refusal of a policy, with its reasons.
    pub fn denied(operation: &'static str, denial: Denial) -> Self {
        let mut e = Self::new(ErrorKind::PolicyDenied, operation, "the policy does not allow it");
        e = e.with("reason", denial.reasons.join(",")).with("decision", denial.decision.to_string());
        e.0.denial = Some(denial);
        e
    }

    /// The verdict "a person must say yes", with what to approve.
    pub fn needs_approval(operation: &'static str, request: ApprovalRequest) -> Self {
        let mut e = Self::new(ErrorKind::ApprovalRequired, operation, "a person must approve it first");
        e = e.with("approval", request.id.to_string()).with("digest", request.digest.to_string());
        e.0.approval = Some(request);
        e
    }

    /// Adds a fact: an id, a count, a name. Never a secret, never a payload.
    #[must_use]
    pub fn with(mut self, key: &'static str, value: impl Into<String>) -> Self {
        self.0.context.push((key, value.into()));
        self
    }

    /// Names the backend that failed (`sqlite`, `redis`).
    #[must_use]
    pub fn with_adapter(mut self, adapter: &'static str) -> Self {
        self.0.adapter = Some(adapter);
        self
    }

    /// Overrides the retryability that the kind implies.
    #[must_use]
    pub fn with_retry(mut self, retry: Retryability) -> Self {
        self.0.retry = retry;
        self
    }

    /// Keeps the driver's error for the chain; it is not printed by `Display`.
    #[must_use]
    pub fn with_source(mut self, source: impl Into<Source>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// The class.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// Whether the same call may succeed later.
    pub fn retry(&self) -> Retryability {
        self.0.retry
    }

    /// `trait.method` of the adapter that failed.
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The backend that failed, where one is known.
    pub fn adapter(&self) -> Option<&'static str> {
        self.0.adapter
    }

    /// The operator's sentence, without kind and facts.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The facts, in the order they were added.
    pub fn context(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.context.iter().map(|(k, v)| (*k, v.as_str()))
    }

    /// The reasons, if this is a refusal by policy.
    pub fn denial(&self) -> Option<&Denial> {
        self.0.denial.as_ref()
    }

    /// What to approve, if a person must.
    pub fn approval(&self) -> Option<&ApprovalRequest> {
        self.0.approval.as_ref()
    }

    /// A sentence that a tenant may see: no host, no path, no id of anybody else.
    pub fn public_message(&self) -> &'static str {
        match self.0.kind {
            ErrorKind::ApprovalRequired => "this needs a person's approval",
            ErrorKind::Cancelled => "the work was cancelled",
            ErrorKind::Conflict => "the request conflicts with what is stored",
            ErrorKind::InvalidInput => "the request is not valid",
            ErrorKind::NotFound | ErrorKind::TenantMismatch => "there is no such thing",
            ErrorKind::PolicyDenied => "you are not allowed to do this",
            ErrorKind::QuotaExceeded | ErrorKind::RateLimited => "a limit is used up, try again later",
            ErrorKind::Timeout => "it took too long",
            ErrorKind::Unavailable => "the service is unavailable, try again later",
            ErrorKind::UnknownOutcome => "it is not known whether this happened; a person will look",
            _ => "something went wrong on our side",
        }
    }

    /// A serialisable copy for dead letters and journals; the source chain becomes text.
    pub fn report(&self) -> ErrorReport {
        ErrorReport::of(self)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let i = &*self.0;
        write!(f, "{}: {} ({}", i.operation, i.message, i.kind)?;
        if let Some(adapter) = i.adapter {
            write!(f, ", adapter={adapter}")?;
        }
        for (k, v) in &i.context {
            write!(f, ", {k}={v}")?;
        }
        f.write_str(")")
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        let mut source = std::error::Error::source(self);
        while let Some(s) = source {
            write!(f, "\n  caused by: {s}")?;
            source = s.source();
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.source {
            Some(s) => Some(s.as_ref()),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn display_leaves_the_source_out_and_debug_shows_the_chain() {
        let e = Error::new(ErrorKind::Timeout, "tool.call", "no answer in time")
            .with("tool", "weather")
            .with_source(std::io::Error::other("socket closed"));
        assert_eq!(e.to_string(), "tool.call: no answer in time (timeout, tool=weather)");
        assert!(format!("{e:?}").contains("caused by: socket closed"));
        assert_eq!(size_of::<Error>(), size_of::<usize>());
    }

    #[test]
    fn a_tenant_cannot_tell_a_foreign_thing_from_a_missing_one() {
        let foreign = Error::new(ErrorKind::TenantMismatch, "x", "");
        assert_eq!(foreign.public_message(), Error::not_found("x", "").public_message());
    }
}
