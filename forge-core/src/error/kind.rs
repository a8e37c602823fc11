//! What went wrong, as a closed word that code may match on.

use std::fmt;
use std::time::Duration;

/// The class of an [`Error`](super::Error). Each kind has a default [`Retryability`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorKind {
    /// The policy asks for a person's yes; [`Error::approval`](super::Error::approval) names what to approve.
    ApprovalRequired,
    /// The caller, or the host's shutdown, cancelled the work.
    Cancelled,
    /// The configuration does not fit; said at `build()`, never later.
    Config,
    /// The stored state and the request disagree: same key with another payload, or a lost compare-and-set.
    Conflict,
    /// Stored bytes do not parse, do not decrypt or do not match their digest.
    Corrupt,
    /// A stored run was made by another definition of its workflow.
    DefinitionChanged,
    /// The arguments are wrong; the message says which and what is expected.
    InvalidInput,
    /// A lease or a fencing token is no longer the current one: another worker owns the work.
    LeaseLost,
    /// There is no such thing, or none that this tenant may know of.
    NotFound,
    /// The policy said no; [`Error::denial`](super::Error::denial) has the reasons. A refusal, not a failure.
    PolicyDenied,
    /// A limit of the tenant, employee or resource is used up. A refusal, not a failure.
    QuotaExceeded,
    /// The far side asks for fewer calls.
    RateLimited,
    /// A text could not be scanned or replaced, so it may not cross its boundary.
    Redaction,
    /// A resource belongs to another tenant. Audited, never retried.
    TenantMismatch,
    /// The deadline or the time limit of an attempt passed.
    Timeout,
    /// The far side does not accept who we are.
    Unauthenticated,
    /// The far side or a local resource does not answer now.
    Unavailable,
    /// A bug, or an answer that no contract allows.
    Unexpected,
    /// An effect may or may not have happened and nobody can tell; it is parked, never re-sent blindly.
    UnknownOutcome,
    /// The backend does not have this ability.
    Unsupported,
}

impl ErrorKind {
    /// The word used in logs, metrics, audit rows and reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ApprovalRequired => "approval_required",
            Self::Cancelled => "cancelled",
            Self::Config => "config",
            Self::Conflict => "conflict",
            Self::Corrupt => "corrupt",
            Self::DefinitionChanged => "definition_changed",
            Self::InvalidInput => "invalid_input",
            Self::LeaseLost => "lease_lost",
            Self::NotFound => "not_found",
            Self::PolicyDenied => "policy_denied",
            Self::QuotaExceeded => "quota_exceeded",
            Self::RateLimited => "rate_limited",
            Self::Redaction => "redaction",
            Self::TenantMismatch => "tenant_mismatch",
            Self::Timeout => "timeout",
            Self::Unauthenticated => "unauthenticated",
            Self::Unavailable => "unavailable",
            Self::Unexpected => "unexpected",
            Self::UnknownOutcome => "unknown_outcome",
            Self::Unsupported => "unsupported",
        }
    }

    /// True for the kinds that are a decision rather than a failure: they are never retried and map to HTTP 403 or 429.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::ApprovalRequired | Self::PolicyDenied | Self::QuotaExceeded | Self::TenantMismatch)
    }

    pub(super) fn default_retry(self) -> Retryability {
        match self {
            Self::RateLimited | Self::Timeout | Self::Unavailable => Retryability::Transient,
            _ => Retryability::Never,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether the same call may succeed later. One engine obeys it: [`guard`](crate::guard).
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Retryability {
    /// Trying again cannot help.
    Never,
    /// Trying again may help, after the caller's own backoff.
    Transient,
    /// Trying again may help, not before this long (a server's `Retry-After`).
    After(Duration),
    /// It was transient and all tries are used: an outer layer must not start over.
    Exhausted,
}
