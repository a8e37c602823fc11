//! Calls, tokens and money together: what is limited.

use forge_core::usage::{Actual, Quantity, QuotaRequest};
use forge_core::{Money, Result};
use rust_decimal::Decimal;

use super::too_large;
use crate::exact;

const OP: &str = "quota.reserve";

/// An amount of everything that is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Amount {
    pub(super) calls: i64,
    pub(super) tokens: i64,
    pub(super) money: Option<Money>,
}

impl Amount {
    pub(super) fn asked(request: &QuotaRequest) -> Self {
        Self::of(&request.quantity, request.cost, 1)
    }

    /// What was really used; a call that used nothing at no cost gives itself back.
    pub(super) fn used(actual: &Actual) -> Self {
        let nothing = actual.quantity == Quantity::default() && actual.cost.is_none_or(|c| c.amount.is_zero());
        Self::of(&actual.quantity, actual.cost, i64::from(!nothing))
    }

    fn of(q: &Quantity, money: Option<Money>, calls: i64) -> Self {
        let clamp = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
        Self { calls: clamp(q.tool_calls).max(calls), tokens: clamp(q.tokens_in.saturating_add(q.tokens_out)), money }
    }

    pub(super) fn is_zero(&self) -> bool {
        self.calls == 0 && self.tokens == 0 && self.money.is_none_or(|m| m.amount.is_zero())
    }

    pub(super) fn plus(&self, other: &Self) -> Result<Self> {
        Ok(Self {
            calls: self.calls.saturating_add(other.calls),
            tokens: self.tokens.saturating_add(other.tokens),
            money: match (self.money, other.money) {
                (Some(a), Some(b)) if a.currency == b.currency => {
                    Some(Money::new(exact::add(a.amount, b.amount).ok_or_else(|| too_large(OP))?, a.currency))
                }
                (a, b) => b.or(a),
            },
        })
    }

    pub(super) fn negated(&self) -> Self {
        let money = self.money.map(|m| Money::new(-m.amount, m.currency));
        Self { calls: -self.calls, tokens: -self.tokens, money }
    }

    /// What of this goes beyond `taken`.
    pub(super) fn beyond(&self, taken: &Self) -> Result<Self> {
        let money = match (self.money, taken.money) {
            (Some(a), Some(b)) if a.currency == b.currency => {
                let rest = exact::add(a.amount, -b.amount).ok_or_else(|| too_large(OP))?;
                Some(Money::new(rest.max(Decimal::ZERO), a.currency))
            }
            (a, _) => a,
        };
        let rest = |a: i64, b: i64| a.saturating_sub(b).max(0);
        Ok(Self { calls: rest(self.calls, taken.calls), tokens: rest(self.tokens, taken.tokens), money })
    }
}
