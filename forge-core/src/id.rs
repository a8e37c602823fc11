//! Ids that cannot be wrong: each is a newtype with a closed character set, made by parsing and nothing else.
//!
//! `..`, separators, control characters, empty and over-long ids cannot be constructed, so no store, key, path or topic
//! ever has to check again.
//!
//! ```
//! use forge_core::TenantId;
//! assert!(TenantId::parse("acme").is_ok());
//! assert!(TenantId::parse("acme/../globex").is_err());
//! ```

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::{Error, Result};

/// A text id: its rule, and everything that such an id needs.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $rule:expr, $expected:literal) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Arc<str>);

        impl $name {
            /// Parses the id.
            ///
            /// # Errors
            /// `InvalidInput` if it does not follow the rule of the type; the message repeats the rule, not the id.
            pub fn parse(id: impl AsRef<str>) -> Result<Self> {
                let id = id.as_ref();
                let rule: fn(&str) -> bool = $rule;
                if rule(id) {
                    return Ok(Self(id.into()));
                }
                Err(Error::invalid("id.parse", concat!(stringify!($name), " must be ", $expected))
                    .with("length", id.len().to_string()))
            }

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0)
            }
        }

        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(s: String) -> Result<Self> {
                Self::parse(s)
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.as_str().to_owned()
            }
        }

        impl PartialEq<str> for $name {
            fn eq(&self, other: &str) -> bool {
                self.as_str() == other
            }
        }

        impl PartialEq<&str> for $name {
            fn eq(&self, other: &&str) -> bool {
                self.as_str() == *other
            }
        }
    };
}

text_id!(
    /// The one who is served, charged and kept apart: `[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?`, so that it fits a DNS label,
    /// a Weaviate tenant, a Redis hash tag and a Grafana folder.
    TenantId,
    |s| s.len() <= 40
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !s.is_empty()
        && !s.starts_with('-')
        && !s.ends_with('-'),
    "1 to 40 of a-z, 0-9 and inner hyphens"
);
text_id!(
    /// Who acts, inside one tenant: `[a-z0-9][a-z0-9_.-]{0,63}` without `..`. Names that begin with `system.` belong to
    /// [`Principal::system`](crate::Principal::system).
    EmployeeId,
    slug,
    "1 to 64 of a-z, 0-9, `_`, `.` and `-`, beginning with a letter or digit, without `..`"
);
text_id!(
    /// The signed-in person behind an employee, where there is one: the rule of [`EmployeeId`], upper case and `@` too.
    UserId,
    |s| (1..=128).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'@' | b'+'))
        && !s.contains(".."),
    "1 to 128 of letters, digits, `_`, `.`, `-`, `+` and `@`, without `..`"
);
text_id!(
    /// What somebody is allowed to be, as policies know it.
    Role,
    slug,
    "1 to 64 of a-z, 0-9, `_`, `.` and `-`, beginning with a letter or digit"
);
text_id!(
    /// A tool's name, as policies, spans, prices and audit rows know it.
    ToolName,
    slug,
    "1 to 64 of a-z, 0-9, `_`, `.` and `-`, beginning with a letter or digit"
);
text_id!(
    /// A short name of the host's own: a collection, a memory type, a queue, a stage, a step, a compliance flag.
    Slug,
    slug,
    "1 to 64 of a-z, 0-9, `_`, `.` and `-`, beginning with a letter or digit"
);
text_id!(
    /// A matter that several requests belong to.
    CaseId,
    token,
    "1 to 128 of letters, digits, `_`, `.` and `-`, without `..`"
);
text_id!(
    /// A conversation that several requests belong to.
    SessionId,
    token,
    "1 to 128 of letters, digits, `_`, `.` and `-`, without `..`"
);

fn slug(s: &str) -> bool {
    (1..=64).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'.' | b'-'))
        && s.starts_with(|c: char| c.is_ascii_alphanumeric())
        && !s.contains("..")
}

fn token(s: &str) -> bool {
    (1..=128).contains(&s.len())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !s.contains("..")
}

/// A random id, UUIDv7: sorts by the time it was made.
macro_rules! random_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Uuid);

        impl $name {
            /// A new id, made from the time `now` and randomness.
            pub fn random(now: crate::Timestamp) -> Self {
                let nanos = u64::try_from(now.as_nanos()).unwrap_or(0);
                let (seconds, rest) = (nanos / 1_000_000_000, u32::try_from(nanos % 1_000_000_000).unwrap_or(0));
                Self(Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, seconds, rest)))
            }

            /// An id that is the same for the same parts, for what must not happen twice.
            pub fn derived(parts: &[&[u8]]) -> Self {
                Self(Uuid::from_bytes(derive(parts)))
            }

            /// A small fixed id for tests and examples.
            pub const fn fixed(n: u128) -> Self {
                Self(Uuid::from_u128(n))
            }

            /// Parses the hyphenated form.
            ///
            /// # Errors
            /// `InvalidInput` if it is not a UUID.
            pub fn parse(s: &str) -> Result<Self> {
                Uuid::parse_str(s).map(Self).map_err(|_| Error::invalid("id.parse", concat!(stringify!($name), " must be a UUID")))
            }

            /// The sixteen bytes.
            pub fn as_bytes(&self) -> &[u8; 16] {
                self.0.as_bytes()
            }

            /// When it was made, to the millisecond, where it tells: a derived or foreign id does not.
            pub fn made(&self) -> Option<crate::Timestamp> {
                let uuid = Some(self.0).filter(|id| id.get_version_num() == 7)?;
                let (seconds, nanos) = uuid.get_timestamp()?.to_unix();
                let nanos = i64::try_from(seconds).ok()?.checked_mul(1_000_000_000)?.checked_add(nanos.into())?;
                Some(crate::Timestamp::from_nanos(nanos))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0.hyphenated())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.0.hyphenated())
            }
        }
    };
}

random_id!(
    /// One request at the host's edge; every call made for it carries it.
    RequestId
);
random_id!(
    /// One queued task.
    TaskId
);
impl TaskId {
    /// An id that is the same for the same parts and never taken for a random one: those are UUIDv7, this is UUIDv8.
    pub fn derived_v8(parts: &[&[u8]]) -> Self {
        Self(uuid::Builder::from_custom_bytes(derive(parts)).into_uuid())
    }
}

random_id!(
    /// One run of a workflow.
    RunId
);
random_id!(
    /// One decision of a policy.
    DecisionId
);
random_id!(
    /// One question to a person.
    ApprovalId
);
random_id!(
    /// One row of a ledger or an audit log. Derived from the operation, so that a repeated write is recognised.
    EventId
);

/// The first 128 bits of SHA-256 over the parts, each with its length before it, so that no two lists collide.
fn derive(parts: &[&[u8]]) -> [u8; 16] {
    let digest = Digest::of_parts(parts);
    let mut out = [0_u8; 16];
    out.copy_from_slice(digest.0.first_chunk::<16>().unwrap_or(&[0; 16]));
    out
}

/// A SHA-256 digest; lower-case hex in text.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    /// The digest of a list of parts: each part goes in behind its length (64 bits, big-endian).
    pub fn of_parts(parts: &[&[u8]]) -> Self {
        let mut h = Sha256::new();
        for p in parts {
            h.update(u64::try_from(p.len()).unwrap_or(u64::MAX).to_be_bytes());
            h.update(p);
        }
        Self(h.finalize().into())
    }

    /// From the raw bytes of a digest or a MAC of this size.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Digest({self})")
    }
}

impl From<Digest> for String {
    fn from(d: Digest) -> String {
        d.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(s: String) -> Result<Self> {
        let wrong = || Error::invalid("digest.parse", "expected 64 hex digits");
        let bytes = data_encoding::HEXLOWER.decode(s.as_bytes()).map_err(|_| wrong())?;
        bytes.try_into().map(Self).map_err(|_| wrong())
    }
}

/// The name of one operation, stable over retries and restarts: what an effect sends so that the far side can recognise it.
///
/// It does not contain the arguments (decisions, section 4): the same key with other arguments is a `Conflict`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OperationKey(Arc<str>);

impl OperationKey {
    /// 128 bits of SHA-256 over the parts, in lower-case base32.
    pub fn derived(parts: &[&[u8]]) -> Self {
        Self(data_encoding::BASE32_NOPAD.encode(&derive(parts)).to_ascii_lowercase().into())
    }

    /// The text, 26 characters of `[a-z2-7]`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for OperationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for OperationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OperationKey({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostile_ids_cannot_be_made() {
        let long = "a".repeat(200);
        for bad in ["", ".", "..", "a..b", "a/b", "a\\b", "a:b", "a b", "a\n", "\0", "A", "ä", "-a", "a-", "~a", &long]
        {
            assert!(TenantId::parse(bad).is_err(), "{bad:?}");
        }
        for bad in ["", "..", "a..b", "a/b", "a:b", "~a", ".a", &long] {
            assert!(EmployeeId::parse(bad).is_err(), "{bad:?}");
            assert!(Slug::parse(bad).is_err(), "{bad:?}");
        }
        assert!(serde_json::from_str::<TenantId>("\"a:b\"").is_err());
    }

    #[test]
    fn parts_do_not_run_into_each_other() {
        assert_ne!(OperationKey::derived(&[b"ab", b"c"]), OperationKey::derived(&[b"a", b"bc"]));
        assert_eq!(OperationKey::derived(&[b"ab"]).as_str().len(), 26);
    }
}
