//! Time as a value that arrives, never one that is read from the air.
//!
//! ```
//! use forge_core::Timestamp;
//! let t: Timestamp = "2026-11-25T08:30:00.5Z".parse()?;
//! assert_eq!(t.to_string(), "2026-11-25T08:30:00.5Z");
//! # Ok::<(), forge_core::Error>(())
//! ```

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, Result};

/// A point in time: nanoseconds since 1970-01-01T00:00:00Z, UTC; RFC 3339 in text and in JSON. Reaches the year 2262.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Timestamp(i64);

impl Timestamp {
    /// From nanoseconds since the epoch.
    pub const fn from_nanos(nanos: i64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the epoch, rounded down.
    pub const fn as_millis(self) -> i64 {
        self.0.div_euclid(1_000_000)
    }

    /// This time plus `d`, held at the end of the range.
    #[must_use]
    pub fn after(self, d: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(d.as_nanos()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after it.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_nanosecond(i128::from(self.0)) {
            Ok(t) => write!(f, "{t}"),
            Err(_) => write!(f, "{}ns", self.0),
        }
    }
}

impl FromStr for Timestamp {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        let wrong = || Error::invalid("timestamp.parse", "expected RFC 3339 such as 2026-11-25T08:30:00Z");
        let t: jiff::Timestamp = s.parse().map_err(|_| wrong())?;
        i64::try_from(t.as_nanosecond()).map(Self).map_err(|_| wrong())
    }
}

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Where time comes from.
///
/// # Contract
/// - `monotonic` never goes back, whatever the wall clock does, on no thread.
/// - `sleep` ends no earlier than its duration on `monotonic`; one of zero ends without waiting for anything, one of any length may be
///   asked for. A sleep that is dropped leaves nothing behind, and others go on.
#[async_trait]
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The wall clock, for records and for deadlines that cross processes.
    fn now(&self) -> Timestamp;
    /// Time since an arbitrary origin, for measuring.
    fn monotonic(&self) -> Duration;
    /// Waits. Dropping the future is safe.
    async fn sleep(&self, duration: Duration);
}

/// The machine's clock. Its `sleep` is tokio's, so tokio's paused time works in tests: then `monotonic` stands still beside it.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the wall clock")]
    fn now(&self) -> Timestamp {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        Timestamp(i64::try_from(since.as_nanos()).unwrap_or(i64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "the one place that reads the monotonic clock")]
    fn monotonic(&self) -> Duration {
        static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
        let now = std::time::Instant::now();
        now.saturating_duration_since(*ORIGIN.get_or_init(|| now))
    }

    async fn sleep(&self, duration: Duration) {
        tokio::time::sleep(duration).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_value_agree() {
        let t = Timestamp::from_nanos(1_764_059_400_123_456_789);
        assert_eq!(t.to_string().parse::<Timestamp>().unwrap(), t);
        assert!("yesterday".parse::<Timestamp>().is_err());
        assert_eq!(t.since(t.after(Duration::from_secs(1))), Duration::ZERO);
    }
}
