//! Between columns and the words of forge-core.

use std::time::Duration;

use forge_core::{Error, Result, Timestamp};
use forge_sqlite::corrupt;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// A stored text that a newtype parses; what does not parse is a damaged row.
pub(super) fn parsed<T>(operation: &'static str, what: &'static str, parsed: Result<T>) -> Result<T> {
    parsed.map_err(|e| corrupt(operation, what).with_source(e))
}

pub(super) fn from_json<T: DeserializeOwned>(operation: &'static str, what: &'static str, text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|e| corrupt(operation, what).with_source(e))
}

pub(super) fn to_json<T: Serialize>(operation: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::unexpected(operation, "the record does not serialise").with_source(e))
}

/// The word of a plain enum, as serde spells it, in a column of its own.
pub(super) fn word<T: Serialize>(operation: &'static str, value: &T) -> Result<String> {
    Ok(to_json(operation, value)?.trim_matches('"').to_owned())
}

pub(super) fn from_word<T: DeserializeOwned>(operation: &'static str, what: &'static str, word: &str) -> Result<T> {
    serde_json::from_value(serde_json::Value::String(word.to_owned()))
        .map_err(|e| corrupt(operation, what).with_source(e))
}

pub(super) fn nanos(d: Duration) -> i64 {
    i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)
}

pub(super) fn span(nanos: i64) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
}

pub(super) fn at(nanos: i64) -> Timestamp {
    Timestamp::from_nanos(nanos)
}

/// A count, a fence or a limit for SQLite, which knows signed numbers only.
pub(super) fn signed(n: impl TryInto<i64>) -> i64 {
    n.try_into().unwrap_or(i64::MAX)
}

/// A stored count or fence; never negative.
pub(super) fn unsigned(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}
