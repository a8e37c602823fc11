//! The calendar of the quotas: which window a moment lies in.

use forge_core::{Error, Result, Timestamp};
use jiff::tz::Offset;

use crate::limits::Window;

/// One window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    /// `2026-11` or `2026-11-25`; the names of one kind sort by time.
    pub(super) name: String,
    /// When the next one begins.
    pub(super) ends: Timestamp,
}

impl Span {
    /// The window that holds `now`.
    pub(super) fn of(window: Window, now: Timestamp) -> Result<Self> {
        let wrong = |e: jiff::Error| Error::unexpected("quota.window", "the time is out of range").with_source(e);
        let now = jiff::Timestamp::from_nanosecond(i128::from(now.as_nanos())).map_err(wrong)?;
        let day = Offset::UTC.to_datetime(now).date();
        let (name, next) = match window {
            Window::Day => (day.to_string(), day.tomorrow()),
            Window::Month => (day.strftime("%Y-%m").to_string(), day.last_of_month().tomorrow()),
        };
        let midnight = next.and_then(|d| Offset::UTC.to_timestamp(d.at(0, 0, 0, 0))).map_err(wrong)?;
        Ok(Self { name, ends: Timestamp::from_nanos(i64::try_from(midnight.as_nanosecond()).unwrap_or(i64::MAX)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_the_calendar() {
        for (window, at, name, ends) in [
            (Window::Day, "2028-02-29T23:59:59.999999999Z", "2028-02-29", "2028-03-01T00:00:00Z"),
            (Window::Month, "2026-12-31T23:59:59Z", "2026-12", "2027-01-01T00:00:00Z"),
            (Window::Month, "2027-01-01T00:00:00Z", "2027-01", "2027-02-01T00:00:00Z"),
        ] {
            let span = Span::of(window, at.parse().unwrap()).unwrap();
            assert_eq!((span.name.as_str(), span.ends.to_string().as_str()), (name, ends), "{at}");
        }
    }
}
