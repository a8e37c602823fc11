//! Limits as configuration: how much, in which window.

use forge_core::{Error, Result, Timestamp};
use jiff::ToSpan;
use jiff::tz::TimeZone;
use rust_decimal::Decimal;
use serde::Deserialize;

/// When a limit begins anew. Windows are of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Window {
    /// At midnight.
    #[default]
    Day,
    /// On the first of the month.
    Month,
}

impl Window {
    /// The window that `now` lies in: its first moment, and the first one after it.
    ///
    /// # Errors
    /// `InvalidInput` for a time that no calendar has.
    pub fn around(self, now: Timestamp) -> Result<(Timestamp, Timestamp)> {
        let bounds = || -> std::result::Result<(i128, i128), jiff::Error> {
            let now = jiff::Timestamp::from_nanosecond(i128::from(now.as_nanos()))?;
            let today = TimeZone::UTC.to_datetime(now).date();
            let (begin, end) = match self {
                Self::Day => (today, today.checked_add(1.day())?),
                Self::Month => (today.first_of_month(), today.first_of_month().checked_add(1.month())?),
            };
            let midnight =
                |d: jiff::civil::Date| TimeZone::UTC.to_timestamp(d.at(0, 0, 0, 0)).map(|t| t.as_nanosecond());
            Ok((midnight(begin)?, midnight(end)?))
        };
        let nanos = |n: i128| Timestamp::from_nanos(i64::try_from(n).unwrap_or(i64::MAX));
        let (begin, end) = bounds()
            .map_err(|e| Error::invalid("quota.window", "the clock shows no time of the calendar").with_source(e))?;
        Ok((nanos(begin), nanos(end)))
    }
}

/// How much of each. What is not set is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limit {
    /// Calls of tools and models.
    pub calls: Option<u64>,
    /// Tokens in and out.
    pub tokens: Option<u64>,
    /// Money, in the currency of the price book.
    pub money: Option<Decimal>,
}

impl Limit {
    /// At most so many calls.
    #[must_use]
    pub fn with_calls(mut self, calls: u64) -> Self {
        self.calls = Some(calls);
        self
    }

    /// At most so many tokens.
    #[must_use]
    pub fn with_tokens(mut self, tokens: u64) -> Self {
        self.tokens = Some(tokens);
        self
    }

    /// At most so much money.
    #[must_use]
    pub fn with_money(mut self, money: Decimal) -> Self {
        self.money = Some(money);
        self
    }
}

/// The limits that hold for every tenant, and inside it for every employee.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
#[non_exhaustive]
pub struct Limits {
    /// When they begin anew; by default at midnight UTC.
    pub window: Window,
    /// Of each tenant.
    pub tenant: Limit,
    /// Of each employee.
    pub employee: Limit,
    /// Seconds after which a reservation that nobody settled counts no more, because its process died; default 900.
    pub reservation_s: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { window: Window::Day, tenant: Limit::default(), employee: Limit::default(), reservation_s: 900 }
    }
}

impl Limits {
    /// Limits of each tenant.
    #[must_use]
    pub fn with_tenant(mut self, limit: Limit) -> Self {
        self.tenant = limit;
        self
    }

    /// Limits of each employee.
    #[must_use]
    pub fn with_employee(mut self, limit: Limit) -> Self {
        self.employee = limit;
        self
    }

    /// When they begin anew.
    #[must_use]
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_have_the_lengths_of_the_calendar() {
        let now: Timestamp = "2028-02-29T23:59:59.5Z".parse().unwrap();
        let text = |w: Window| {
            let (a, b) = w.around(now).unwrap();
            format!("{a} {b}")
        };
        assert_eq!(text(Window::Day), "2028-02-29T00:00:00Z 2028-03-01T00:00:00Z");
        assert_eq!(text(Window::Month), "2028-02-01T00:00:00Z 2028-03-01T00:00:00Z");
    }
}
