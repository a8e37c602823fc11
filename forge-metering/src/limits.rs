//! How much a tenant and its employees may use: plain data, which a host's configuration fills in.
//!
//! ```
//! use forge_metering::{Limit, Limits, TenantLimits, Window};
//! use forge_core::TenantId;
//! let acme = TenantLimits::default()
//!     .with_window(Window::Day)
//!     .with_total(Limit::default().with_calls(1_000))
//!     .with_each_employee(Limit::default().with_calls(100));
//! let limits = Limits::default().with_tenant(TenantId::parse("acme")?, acme);
//! limits.validate()?;
//! # Ok::<(), forge_core::Error>(())
//! ```

use std::collections::BTreeMap;
use std::time::Duration;

use forge_core::{EmployeeId, Error, ErrorKind, Money, Result, TenantId};
use rust_decimal::Decimal;

/// The limits of a host. Without any, all is allowed, and counted all the same.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// For each tenant that [`tenants`](Self::tenants) does not name.
    pub default: TenantLimits,
    /// For named tenants; replaces the default as a whole.
    pub tenants: BTreeMap<TenantId, TenantLimits>,
    /// When a reservation that nobody settled stops counting; after 15 minutes by default. Longer than the longest call.
    pub reservation: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { default: TenantLimits::default(), tenants: BTreeMap::new(), reservation: Duration::from_secs(15 * 60) }
    }
}

impl Limits {
    /// Limits each tenant that is not named.
    #[must_use]
    pub fn with_default(mut self, limits: TenantLimits) -> Self {
        self.default = limits;
        self
    }

    /// Limits one tenant.
    #[must_use]
    pub fn with_tenant(mut self, tenant: TenantId, limits: TenantLimits) -> Self {
        self.tenants.insert(tenant, limits);
        self
    }

    /// Says when a reservation that nobody settled stops counting.
    #[must_use]
    pub fn with_reservation(mut self, expires_after: Duration) -> Self {
        self.reservation = expires_after;
        self
    }

    /// The limits of one tenant.
    pub fn of(&self, tenant: &TenantId) -> &TenantLimits {
        self.tenants.get(tenant).unwrap_or(&self.default)
    }

    /// Looks for what cannot be kept: two currencies for one tenant, money below zero, reservations that expire at once.
    ///
    /// # Errors
    /// `Config`.
    pub fn validate(&self) -> Result<()> {
        let wrong = |message| Error::new(ErrorKind::Config, "limits.validate", message);
        if self.reservation.is_zero() {
            return Err(wrong("reservations must not expire at once"));
        }
        let named = self.tenants.iter().map(|(t, l)| (t.as_str(), l));
        for (tenant, limits) in named.chain([("default", &self.default)]) {
            let money: Vec<Money> = limits.all().filter_map(|l| l.money).collect();
            if money.iter().any(|m| m.amount < Decimal::ZERO) {
                return Err(wrong("a limit of money must not be negative").with("tenant", tenant));
            }
            if money.windows(2).any(|w| matches!(w, [a, b] if a.currency != b.currency)) {
                return Err(wrong("the limits of one tenant must share one currency").with("tenant", tenant));
            }
        }
        Ok(())
    }
}

/// The limits of one tenant. Both that of the tenant and that of the employee must hold.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct TenantLimits {
    /// When counting begins anew.
    pub window: Window,
    /// For the tenant as a whole.
    pub total: Limit,
    /// For each employee that [`employees`](Self::employees) does not name.
    pub each_employee: Limit,
    /// For named employees; replaces `each_employee` as a whole.
    pub employees: BTreeMap<EmployeeId, Limit>,
}

impl TenantLimits {
    /// Says when counting begins anew.
    #[must_use]
    pub fn with_window(mut self, window: Window) -> Self {
        self.window = window;
        self
    }

    /// Limits the tenant as a whole.
    #[must_use]
    pub fn with_total(mut self, limit: Limit) -> Self {
        self.total = limit;
        self
    }

    /// Limits each employee that is not named.
    #[must_use]
    pub fn with_each_employee(mut self, limit: Limit) -> Self {
        self.each_employee = limit;
        self
    }

    /// Limits one employee.
    #[must_use]
    pub fn with_employee(mut self, employee: EmployeeId, limit: Limit) -> Self {
        self.employees.insert(employee, limit);
        self
    }

    /// The limit of one employee.
    pub fn of(&self, employee: &EmployeeId) -> Limit {
        *self.employees.get(employee).unwrap_or(&self.each_employee)
    }

    fn all(&self) -> impl Iterator<Item = &Limit> {
        [&self.total, &self.each_employee].into_iter().chain(self.employees.values())
    }
}

/// At most so much in a window; what is `None` is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct Limit {
    /// Calls of tools and models.
    pub calls: Option<u64>,
    /// Tokens, read and written together.
    pub tokens: Option<u64>,
    /// Money.
    pub money: Option<Money>,
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
    pub fn with_money(mut self, money: Money) -> Self {
        self.money = Some(money);
        self
    }
}

/// A stretch of the calendar, in UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Window {
    /// From midnight to midnight.
    Day,
    /// From the first to the first.
    #[default]
    Month,
}

impl Window {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::Day, Self::Month];

    /// Its name in configuration and in refusals.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

#[cfg(test)]
mod tests {
    use forge_core::Currency;

    use super::*;

    #[test]
    fn what_cannot_be_kept_is_refused_at_once() {
        let of = |total, each| {
            Limits::default().with_default(TenantLimits::default().with_total(total).with_each_employee(each))
        };
        let usd = Limit::default().with_money(Money::new(Decimal::ONE, Currency::USD));
        let eur = Limit::default().with_money(Money::new(Decimal::ONE, Currency::EUR));
        assert!(of(usd, usd).validate().is_ok());
        assert_eq!(of(usd, eur).validate().unwrap_err().kind(), ErrorKind::Config);
        let debt = Limit::default().with_money(Money::new(-Decimal::ONE, Currency::USD));
        assert_eq!(of(debt, Limit::default()).validate().unwrap_err().kind(), ErrorKind::Config);
        assert!(Limits::default().with_reservation(Duration::ZERO).validate().is_err());
        let acme = TenantId::parse("acme").unwrap();
        let limits = Limits::default()
            .with_tenant(acme.clone(), TenantLimits::default().with_total(Limit::default().with_calls(3)));
        assert_eq!(limits.of(&acme).total.calls, Some(3));
        assert_eq!(limits.of(&TenantId::parse("globex").unwrap()).total.calls, None);
    }
}
