//! Exact money: a decimal with its currency, never a float.

use std::fmt;

use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// An ISO 4217 code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

impl Currency {
    /// US dollar.
    pub const USD: Self = Self(*b"USD");
    /// Euro.
    pub const EUR: Self = Self(*b"EUR");

    /// Parses three capital letters.
    ///
    /// # Errors
    /// `InvalidInput` for anything else.
    pub fn parse(code: &str) -> Result<Self> {
        match code.as_bytes() {
            [a, b, c] if code.bytes().all(|b| b.is_ascii_uppercase()) => Ok(Self([*a, *b, *c])),
            _ => Err(Error::invalid("currency.parse", "expected three capital letters such as EUR")),
        }
    }

    /// The code.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or("XXX")
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl TryFrom<String> for Currency {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        Self::parse(&s)
    }
}

impl From<Currency> for String {
    fn from(c: Currency) -> String {
        c.as_str().to_owned()
    }
}

/// An amount of one currency. There is no `Add`: [`checked_add`](Money::checked_add) refuses two currencies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Money {
    /// How much; a string in JSON.
    pub amount: Decimal,
    /// Of what.
    pub currency: Currency,
}

impl Money {
    /// An amount.
    pub const fn new(amount: Decimal, currency: Currency) -> Self {
        Self { amount, currency }
    }

    /// Nothing.
    pub const fn zero(currency: Currency) -> Self {
        Self { amount: Decimal::ZERO, currency }
    }

    /// The sum.
    ///
    /// # Errors
    /// `InvalidInput` for two currencies or a sum beyond 28 digits.
    pub fn checked_add(self, other: Self) -> Result<Self> {
        if self.currency != other.currency {
            return Err(Error::new(ErrorKind::InvalidInput, "money.add", "two currencies do not add")
                .with("left", self.currency.to_string())
                .with("right", other.currency.to_string()));
        }
        let amount =
            self.amount.checked_add(other.amount).ok_or_else(|| Error::invalid("money.add", "the sum is too large"))?;
        Ok(Self { amount, currency: self.currency })
    }

    /// So many times this.
    ///
    /// # Errors
    /// `InvalidInput` for a product beyond 28 digits.
    pub fn checked_mul(self, times: Decimal) -> Result<Self> {
        let amount =
            self.amount.checked_mul(times).ok_or_else(|| Error::invalid("money.mul", "the product is too large"))?;
        Ok(Self { amount, currency: self.currency })
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.amount, self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_currencies_do_not_add() {
        let one = Money::new(Decimal::ONE, Currency::USD);
        assert!(one.checked_add(Money::new(Decimal::ONE, Currency::EUR)).is_err());
        assert_eq!(one.checked_add(one).unwrap().to_string(), "2 USD");
        assert_eq!(serde_json::to_string(&one).unwrap(), r#"{"amount":"1","currency":"USD"}"#);
    }
}
