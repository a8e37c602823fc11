//! What things cost, as dated data: a price is never in code, and never a float.
//!
//! ```
//! use forge_core::usage::{Pricing, Quantity, Resource};
//! use forge_metering::PriceBook;
//! let book = PriceBook::parse(r#"
//! [[price]]
//! resource = "model:gpt-x"
//! effective_from = "2026-01-01T00:00:00Z"
//! currency = "USD"
//! per_1k_tokens_in = "0.0025"
//! per_1k_tokens_out = "0.01"
//! "#)?;
//! let used = Quantity { tokens_in: 1_234, tokens_out: 10, ..Quantity::default() };
//! let at = "2026-11-25T08:30:00Z".parse()?;
//! let cost = book.quote(&Resource::Model("gpt-x".into()), &used, at)?.unwrap();
//! assert_eq!(cost.to_string(), "0.003185 USD");
//! assert_eq!(book.quote(&Resource::Model("other".into()), &used, at)?, None);
//! # Ok::<(), forge_core::Error>(())
//! ```

use std::cmp::Reverse;

use forge_core::usage::{Pricing, Quantity, Resource};
use forge_core::{Currency, Error, ErrorKind, Money, Result, Timestamp};
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer};

use crate::exact;

/// Decimals of a price at most: with the six of `per_1m_chars` a cost stays far from the 28 that a decimal has.
const MAX_SCALE: u32 = 16;

/// One row of a book.
///
/// What is used but has no price in the row is unpriced: write `"0"` for what is free.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct Price {
    /// `tool:<name>`, `model:<name>`, or a prefix of one that ends in `*`.
    pub resource: String,
    /// From when it holds, until a later row of the same resource begins; by default always.
    #[serde(default = "always")]
    pub effective_from: Timestamp,
    /// In which currency.
    pub currency: Currency,
    /// For one call of a tool; models have none, since a quantity does not count their calls.
    #[serde(default, deserialize_with = "exact_text")]
    pub per_call: Option<Decimal>,
    /// For a thousand tokens that a model reads.
    #[serde(default, deserialize_with = "exact_text")]
    pub per_1k_tokens_in: Option<Decimal>,
    /// For a thousand tokens that a model writes.
    #[serde(default, deserialize_with = "exact_text")]
    pub per_1k_tokens_out: Option<Decimal>,
    /// For a million characters, read and written.
    #[serde(default, deserialize_with = "exact_text")]
    pub per_1m_chars: Option<Decimal>,
}

/// Prices by resource and date. The row with the longest matching name holds, of those the latest that has begun.
#[derive(Debug, Clone)]
pub struct PriceBook(Vec<Price>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    price: Vec<Price>,
}

impl PriceBook {
    /// The rows of a TOML text, a `[[price]]` each. Unknown keys and floats are refused.
    ///
    /// # Errors
    /// `Config`, with the place and what is expected there.
    pub fn parse(text: &str) -> Result<Self> {
        let file: File = toml::from_str(text).map_err(|e| {
            let before = e.span().and_then(|s| text.get(..s.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            wrong(format!("the price book does not parse: {}", e.message())).with("line", line.to_string())
        })?;
        Self::new(file.price)
    }

    /// The rows of a JSON text, `{"price": [{...}]}`. Unknown keys and floats are refused.
    ///
    /// # Errors
    /// `Config`, with the place and what is expected there.
    pub fn from_json(text: &str) -> Result<Self> {
        let file: File =
            serde_json::from_str(text).map_err(|e| wrong(format!("the price book does not parse: {e}")))?;
        Self::new(file.price)
    }

    /// The embedded book: an example with a small price for every tool call and free `local/` models, in US dollars.
    ///
    /// # Errors
    /// None, in a build that passed its tests.
    pub fn example() -> Result<Self> {
        Self::parse(include_str!("../prices.toml"))
    }

    fn new(mut rows: Vec<Price>) -> Result<Self> {
        for row in &rows {
            row.validate().map_err(|e| e.with("resource", row.resource.clone()))?;
        }
        // the first that fits is then the one that holds
        rows.sort_by(|a, b| a.rank().cmp(&b.rank()).then_with(|| a.resource.cmp(&b.resource)));
        let twice =
            |w: &&[Price]| matches!(w, [a, b] if a.resource == b.resource && a.effective_from == b.effective_from);
        if let Some([row, _]) = rows.windows(2).find(twice) {
            return Err(
                wrong("two rows have the same resource and date; leave one").with("resource", row.resource.clone())
            );
        }
        Ok(Self(rows))
    }

    /// The row that holds for a resource at a time.
    pub fn price(&self, resource: &Resource, at: Timestamp) -> Option<&Price> {
        let name = match resource {
            Resource::Tool(name) => format!("tool:{name}"),
            Resource::Model(name) => format!("model:{name}"),
        };
        self.0.iter().find(|p| p.effective_from <= at && p.matches(&name))
    }
}

impl Pricing for PriceBook {
    fn quote(&self, resource: &Resource, quantity: &Quantity, at: Timestamp) -> Result<Option<Money>> {
        let Some(row) = self.price(resource, at) else { return Ok(None) };
        // exhaustive on purpose: a new kind of quantity must be priced here or the build fails
        let Quantity { tokens_in, tokens_out, chars, tool_calls } = *quantity;
        let parts = [
            (tool_calls, row.per_call, 0),
            (tokens_in, row.per_1k_tokens_in, 3),
            (tokens_out, row.per_1k_tokens_out, 3),
            (chars, row.per_1m_chars, 6),
        ];
        let mut sum = Decimal::ZERO;
        for (count, price, shift) in parts.into_iter().filter(|(count, ..)| *count > 0) {
            let Some(price) = price else { return Ok(None) };
            sum = exact::times(price, count, shift)
                .and_then(|cost| exact::add(sum, cost))
                .ok_or_else(|| Error::invalid("pricing.quote", "the cost does not fit in 28 digits"))?;
        }
        Ok(Some(Money::new(sum, row.currency)))
    }
}

impl Price {
    fn validate(&self) -> Result<()> {
        let (stem, _) = self.pattern();
        let named = stem.strip_prefix("tool:").or_else(|| stem.strip_prefix("model:"));
        if named.is_none() || stem.contains('*') || self.resource == "tool:" || self.resource == "model:" {
            return Err(wrong("resource must be tool:<name> or model:<name>, with `*` at the end only"));
        }
        if stem.starts_with("model:") && self.per_call.is_some() {
            return Err(wrong("a model has no per_call; price its tokens or characters"));
        }
        let all = [self.per_call, self.per_1k_tokens_in, self.per_1k_tokens_out, self.per_1m_chars];
        if all.iter().all(Option::is_none) {
            return Err(wrong("the row has no price; write \"0\" for what is free"));
        }
        if all.iter().flatten().any(|p| *p < Decimal::ZERO || p.normalize().scale() > MAX_SCALE) {
            return Err(wrong("a price must not be negative and has at most 16 decimals"));
        }
        Ok(())
    }

    /// The name without its `*`, and whether it had none.
    fn pattern(&self) -> (&str, bool) {
        self.resource.strip_suffix('*').map_or((self.resource.as_str(), true), |stem| (stem, false))
    }

    fn matches(&self, name: &str) -> bool {
        match self.pattern() {
            (whole, true) => whole == name,
            (stem, false) => name.starts_with(stem),
        }
    }

    /// Longest first, a whole name before a prefix of its length, then latest first.
    fn rank(&self) -> Reverse<(usize, bool, Timestamp)> {
        let (stem, whole) = self.pattern();
        Reverse((stem.len(), whole, self.effective_from))
    }
}

fn always() -> Timestamp {
    Timestamp::from_nanos(i64::MIN)
}

fn wrong(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, "pricing.load", message)
}

/// A decimal in quotes: a bare number would pass through a float and lose cents.
fn exact_text<'de, D: Deserializer<'de>>(d: D) -> Result<Option<Decimal>, D::Error> {
    let text = String::deserialize(d)?;
    Decimal::from_str_exact(&text)
        .map(Some)
        .map_err(|_| serde::de::Error::custom("expected a decimal in quotes such as \"0.0025\""))
}

#[cfg(test)]
mod tests;
