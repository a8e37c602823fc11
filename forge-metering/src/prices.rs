//! What things cost: data, with the day from which each price holds.

use forge_core::usage::{Pricing, Quantity, Resource};
use forge_core::{Currency, Error, ErrorKind, Money, Result, Timestamp};
use rust_decimal::Decimal;
use serde::Deserialize;

/// Prices by resource. Of those that match, the most exact name wins, then the latest that holds already.
#[derive(Debug, Clone)]
pub struct PriceBook(Vec<Price>);

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Price {
    /// `tool:<name>` or `model:<name>`; a `*` at the end matches any rest.
    resource: String,
    #[serde(default = "always")]
    effective_from: Timestamp,
    currency: Currency,
    #[serde(default)]
    per_call: Decimal,
    #[serde(default)]
    per_1k_tokens_in: Decimal,
    #[serde(default)]
    per_1k_tokens_out: Decimal,
    #[serde(default)]
    per_1m_chars: Decimal,
}

fn always() -> Timestamp {
    Timestamp::from_nanos(i64::MIN)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    price: Vec<Price>,
}

impl PriceBook {
    /// The example prices that Forge ships: 0.0001 USD a tool call, nothing for local models. A host replaces them with its own.
    ///
    /// # Errors
    /// None that can happen: a test parses the file.
    pub fn example() -> Result<Self> {
        Self::parse(include_str!("../prices.toml"))
    }

    /// Reads TOML: `[[price]]` tables with `resource`, `currency`, and any of `effective_from`, `per_call`,
    /// `per_1k_tokens_in`, `per_1k_tokens_out`, `per_1m_chars` (decimals as strings).
    ///
    /// # Errors
    /// `Config` with the line.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|e| {
            let line = e.span().map_or(0, |s| text.get(..s.start).unwrap_or(text).lines().count().max(1));
            Error::new(ErrorKind::Config, "prices.parse", e.message().to_owned()).with("line", line.to_string())
        })?;
        for price in &file.price {
            let wrong = |what: &'static str| {
                Err(Error::new(ErrorKind::Config, "prices.parse", what).with("resource", price.resource.clone()))
            };
            if !price.resource.starts_with("tool:") && !price.resource.starts_with("model:") {
                return wrong("a resource begins with `tool:` or `model:`");
            }
            let amounts = [price.per_call, price.per_1k_tokens_in, price.per_1k_tokens_out, price.per_1m_chars];
            if amounts.iter().any(Decimal::is_sign_negative) {
                return wrong("a price is not negative");
            }
        }
        Ok(Self(file.price))
    }

    fn find(&self, name: &str, at: Timestamp) -> Option<&Price> {
        let fits = |p: &&Price| match p.resource.strip_suffix('*') {
            Some(head) => name.starts_with(head),
            None => p.resource == name,
        };
        let held = self.0.iter().filter(|p| p.effective_from <= at).filter(fits);
        held.max_by_key(|p| (!p.resource.ends_with('*'), p.resource.len(), p.effective_from))
    }
}

impl Pricing for PriceBook {
    fn quote(&self, resource: &Resource, quantity: &Quantity, at: Timestamp) -> Result<Option<Money>> {
        let (name, calls) = match resource {
            Resource::Tool(name) => (format!("tool:{name}"), quantity.tool_calls),
            // a model call that used nothing costs nothing
            Resource::Model(name) => (format!("model:{name}"), u64::from(*quantity != Quantity::default())),
        };
        let Some(price) = self.find(&name, at) else { return Ok(None) };
        let thousands = |n: u64| Decimal::from(n) / Decimal::ONE_THOUSAND;
        let parts = [
            (price.per_call, Decimal::from(calls)),
            (price.per_1k_tokens_in, thousands(quantity.tokens_in)),
            (price.per_1k_tokens_out, thousands(quantity.tokens_out)),
            (price.per_1m_chars, thousands(quantity.chars) / Decimal::ONE_THOUSAND),
        ];
        let mut sum = Money::zero(price.currency);
        for (each, times) in parts {
            sum = sum.checked_add(Money::new(each, price.currency).checked_mul(times)?)?;
        }
        sum.amount = sum.amount.normalize();
        Ok(Some(sum))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOOK: &str = r#"
        [[price]]
        resource = "tool:*"
        currency = "USD"
        per_call = "0.0001"
        [[price]]
        resource = "model:gpt-*"
        currency = "USD"
        per_1k_tokens_in = "0.0025"
        per_1k_tokens_out = "0.01"
        [[price]]
        resource = "model:gpt-*"
        effective_from = "2026-06-01T00:00:00Z"
        currency = "USD"
        per_1k_tokens_in = "0.002"
    "#;

    fn quote(resource: Resource, quantity: Quantity, at: &str) -> Option<String> {
        PriceBook::parse(BOOK).unwrap().quote(&resource, &quantity, at.parse().unwrap()).unwrap().map(|m| m.to_string())
    }

    #[test]
    fn the_price_of_the_time_holds_and_none_is_not_zero() {
        let q = Quantity { tokens_in: 850, tokens_out: 320, ..Quantity::default() };
        let model = || Resource::Model("gpt-x".into());
        assert_eq!(quote(model(), q, "2026-01-01T00:00:00Z").unwrap(), "0.005325 USD");
        assert_eq!(quote(model(), q, "2026-06-01T00:00:00Z").unwrap(), "0.0017 USD");
        assert_eq!(
            quote(Resource::Tool("any".into()), Quantity::TOOL_CALL, "2026-01-01T00:00:00Z").unwrap(),
            "0.0001 USD"
        );
        assert_eq!(quote(Resource::Model("other".into()), q, "2026-01-01T00:00:00Z"), None);
    }

    #[test]
    fn a_wrong_book_is_refused_with_its_line() {
        let e =
            PriceBook::parse("[[price]]\nresource = \"tool:x\"\ncurrency = \"USD\"\nper_cal = \"1\"\n").unwrap_err();
        assert!(e.to_string().contains("per_call") && e.to_string().contains("line"), "{e}");
        assert!(PriceBook::parse("[[price]]\nresource = \"x\"\ncurrency = \"USD\"\n").is_err());
        assert!(PriceBook::example().is_ok());
    }
}
