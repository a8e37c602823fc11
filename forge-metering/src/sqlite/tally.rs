//! What the quotas keep: a counter for each scope and window, and a row for each operation that reserved.
//!
//! A counter is what was settled plus what is held. A row remembers what it holds, so that settling, expiring and
//! reserving again each change the counters by the difference. All runs inside one writer, so nothing races.

use forge_core::usage::{Actual, Quantity, QuotaRequest};
use forge_core::{Currency, EmployeeId, Money, OperationKey, Result, TenantId, Timestamp};
use forge_sqlite::rusqlite::{Connection, OptionalExtension, Row, params};
use forge_sqlite::{corrupt, error};
use rust_decimal::Decimal;

use super::{decimal, too_large};
use crate::exact;

pub(super) const SCHEMA: &str = "
CREATE TABLE quota_use (
    tenant TEXT NOT NULL,
    scope TEXT NOT NULL,
    window TEXT NOT NULL,
    calls INTEGER NOT NULL,
    tokens INTEGER NOT NULL,
    PRIMARY KEY (tenant, scope, window)
) STRICT, WITHOUT ROWID;
CREATE TABLE quota_money (
    tenant TEXT NOT NULL,
    scope TEXT NOT NULL,
    window TEXT NOT NULL,
    currency TEXT NOT NULL,
    amount TEXT NOT NULL,
    PRIMARY KEY (tenant, scope, window, currency)
) STRICT, WITHOUT ROWID;
CREATE TABLE reservation (
    tenant TEXT NOT NULL,
    operation TEXT NOT NULL,
    employee TEXT NOT NULL,
    window TEXT NOT NULL,
    expires INTEGER,
    held_calls INTEGER NOT NULL,
    held_tokens INTEGER NOT NULL,
    held_money TEXT,
    used_calls INTEGER NOT NULL,
    used_tokens INTEGER NOT NULL,
    used_money TEXT,
    PRIMARY KEY (tenant, operation)
) STRICT, WITHOUT ROWID;
CREATE INDEX reservation_by_expiry ON reservation (tenant, expires) WHERE expires IS NOT NULL;
CREATE INDEX reservation_by_window ON reservation (tenant, window) WHERE expires IS NULL;
";

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

    fn negated(&self) -> Self {
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

/// Where an amount counts: for an employee and for the tenant, in one window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) tenant: TenantId,
    pub(super) employee: EmployeeId,
    pub(super) window: String,
}

/// The scope of the tenant as a whole; no employee has this name.
pub(super) const TENANT: &str = "";

impl Place {
    pub(super) fn add(&self, c: &Connection, amount: &Amount) -> Result<()> {
        for scope in [TENANT, self.employee.as_str()] {
            let key = (self.tenant.as_str(), scope, self.window.as_str());
            let used = load_use(c, key, amount.money.map(|m| m.currency))?;
            let sum = used.plus(amount)?;
            let sql = "INSERT INTO quota_use VALUES (?1, ?2, ?3, ?4, ?5)
                ON CONFLICT DO UPDATE SET calls = excluded.calls, tokens = excluded.tokens";
            let mut put = c.prepare_cached(sql).map_err(error(OP))?;
            put.execute(params![key.0, key.1, key.2, sum.calls, sum.tokens]).map_err(error(OP))?;
            if let Some(m) = sum.money {
                let sql = "INSERT INTO quota_money VALUES (?1, ?2, ?3, ?4, ?5)
                    ON CONFLICT DO UPDATE SET amount = excluded.amount";
                let mut put = c.prepare_cached(sql).map_err(error(OP))?;
                put.execute(params![key.0, key.1, key.2, m.currency.as_str(), m.amount.to_string()])
                    .map_err(error(OP))?;
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self, c: &Connection, amount: &Amount) -> Result<()> {
        self.add(c, &amount.negated())
    }

    /// What counts in one of its scopes, with the money of one currency.
    pub(super) fn used(&self, c: &Connection, scope: &str, currency: Option<Currency>) -> Result<Amount> {
        load_use(c, (self.tenant.as_str(), scope, self.window.as_str()), currency)
    }
}

fn load_use(c: &Connection, key: (&str, &str, &str), currency: Option<Currency>) -> Result<Amount> {
    let failed = error(OP);
    let sql = "SELECT calls, tokens FROM quota_use WHERE tenant = ?1 AND scope = ?2 AND window = ?3";
    let mut get = c.prepare_cached(sql).map_err(&failed)?;
    let counts = get.query_row(key, |r| Ok((r.get(0)?, r.get(1)?))).optional().map_err(&failed)?;
    let (calls, tokens) = counts.unwrap_or((0, 0));
    let Some(currency) = currency else { return Ok(Amount { calls, tokens, money: None }) };
    let sql = "SELECT amount FROM quota_money WHERE tenant = ?1 AND scope = ?2 AND window = ?3 AND currency = ?4";
    let mut get = c.prepare_cached(sql).map_err(&failed)?;
    let text: Option<String> =
        get.query_row((key.0, key.1, key.2, currency.as_str()), |r| r.get(0)).optional().map_err(failed)?;
    let amount = text.map_or(Ok(Decimal::ZERO), |t| decimal(OP, &t))?;
    Ok(Amount { calls, tokens, money: Some(Money::new(amount, currency)) })
}

/// One operation's row.
#[derive(Debug, Clone)]
pub(super) struct Reservation {
    pub(super) place: Place,
    pub(super) operation: String,
    /// `None` once nothing is held.
    pub(super) expires: Option<Timestamp>,
    pub(super) held: Amount,
    pub(super) used: Amount,
}

const COLUMNS: &str = "tenant, operation, employee, window, expires, held_calls, held_tokens, held_money, used_calls, used_tokens, used_money";

impl Reservation {
    pub(super) fn new(place: &Place, operation: &OperationKey) -> Self {
        let (held, used) = (Amount::default(), Amount::default());
        Self { place: place.clone(), operation: operation.as_str().to_owned(), expires: None, held, used }
    }

    pub(super) fn load(c: &Connection, tenant: &TenantId, operation: &OperationKey) -> Result<Option<Self>> {
        let sql = format!("SELECT {COLUMNS} FROM reservation WHERE tenant = ?1 AND operation = ?2");
        let mut get = c.prepare_cached(&sql).map_err(error(OP))?;
        let row = get.query_row((tenant.as_str(), operation.as_str()), |r| Ok(Self::read(r)));
        row.optional().map_err(error(OP))?.transpose()
    }

    /// Those of a tenant that nobody settled in time.
    pub(super) fn expired(c: &Connection, tenant: &TenantId, now: Timestamp) -> Result<Vec<Self>> {
        let sql = format!("SELECT {COLUMNS} FROM reservation WHERE tenant = ?1 AND expires <= ?2");
        let mut get = c.prepare_cached(&sql).map_err(error(OP))?;
        let rows = get.query_map((tenant.as_str(), now.as_nanos()), |r| Ok(Self::read(r))).map_err(error(OP))?;
        rows.map(|r| r.map_err(error(OP))?).collect()
    }

    /// Drops some rows of windows before this one: they hold nothing, and their use stays in the counters.
    pub(super) fn prune(c: &Connection, place: &Place) -> Result<()> {
        let sql = "DELETE FROM reservation WHERE tenant = ?1 AND operation IN (
            SELECT operation FROM reservation WHERE tenant = ?1 AND expires IS NULL AND window < ?2 LIMIT 32)";
        let mut delete = c.prepare_cached(sql).map_err(error(OP))?;
        delete.execute((place.tenant.as_str(), place.window.as_str())).map(drop).map_err(error(OP))
    }

    /// Gives back what is held; the counters are right again.
    pub(super) fn release(&mut self, c: &Connection) -> Result<()> {
        self.place.remove(c, &self.held)?;
        (self.held, self.expires) = (Amount::default(), None);
        Ok(())
    }

    pub(super) fn save(&self, c: &Connection) -> Result<()> {
        let sql = format!(
            "INSERT OR REPLACE INTO reservation ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
        );
        let values = params![
            self.place.tenant.as_str(),
            self.operation,
            self.place.employee.as_str(),
            self.place.window,
            self.expires.map(Timestamp::as_nanos),
            self.held.calls,
            self.held.tokens,
            self.held.money.map(|m| m.to_string()),
            self.used.calls,
            self.used.tokens,
            self.used.money.map(|m| m.to_string()),
        ];
        c.prepare_cached(&sql).and_then(|mut s| s.execute(values)).map(drop).map_err(error(OP))
    }

    fn read(r: &Row<'_>) -> Result<Self> {
        let text = |i: usize| r.get::<_, String>(i).map_err(error(OP));
        let amount = |i: usize| -> Result<Amount> {
            let money: Option<String> = r.get(i + 2).map_err(error(OP))?;
            Ok(Amount {
                calls: r.get(i).map_err(error(OP))?,
                tokens: r.get(i + 1).map_err(error(OP))?,
                money: money.map(|m| parse_money(&m)).transpose()?,
            })
        };
        let place = Place {
            tenant: TenantId::parse(text(0)?).map_err(|e| corrupt(OP, "tenant").with_source(e))?,
            employee: EmployeeId::parse(text(2)?).map_err(|e| corrupt(OP, "employee").with_source(e))?,
            window: text(3)?,
        };
        let expires: Option<i64> = r.get(4).map_err(error(OP))?;
        let expires = expires.map(Timestamp::from_nanos);
        Ok(Self { place, operation: text(1)?, expires, held: amount(5)?, used: amount(8)? })
    }
}

/// The text of `Money`: amount, space, currency.
fn parse_money(text: &str) -> Result<Money> {
    let (amount, currency) = text.split_once(' ').ok_or_else(|| corrupt(OP, "money"))?;
    let currency = Currency::parse(currency).map_err(|e| corrupt(OP, "currency").with_source(e))?;
    Ok(Money::new(decimal(OP, amount)?, currency))
}
