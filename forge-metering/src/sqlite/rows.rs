//! What the quotas keep on the disk: a sum for each scope and window, and a row for each effect that reserved.

use forge_core::audit::Durability;
use forge_core::{Currency, EmployeeId, Money, OperationKey, Result, TenantId, Timestamp};
use forge_sqlite::rusqlite::{Connection, OptionalExtension, Row, params};
use forge_sqlite::{corrupt, error};
use rust_decimal::Decimal;

use super::amount::Amount;
use super::book::{Changes, TENANT};
use super::decimal;
use super::row::operation;

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

/// Where an amount counts: for an employee and for the tenant, in one window.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Place {
    pub(super) tenant: TenantId,
    pub(super) employee: EmployeeId,
    pub(super) window: String,
}

impl Place {
    fn add(&self, c: &Connection, amount: &Amount) -> Result<()> {
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

/// One operation.
#[derive(Debug, Clone)]
pub(super) struct Reservation {
    pub(super) place: Place,
    pub(super) operation: OperationKey,
    /// `None` once nothing is held.
    pub(super) expires: Option<Timestamp>,
    pub(super) held: Amount,
    pub(super) used: Amount,
    /// `Durable` ones are rows; the others are known in memory alone.
    pub(super) durability: Durability,
}

const COLUMNS: &str = "tenant, operation, employee, window, expires, held_calls, held_tokens, held_money, used_calls, used_tokens, used_money";

/// The sums of one window by scope, and the operations that are open or were done in it.
type Kept = (Vec<(String, Amount)>, Vec<Reservation>);

/// What a tenant's window holds; of the operations that are done some, at most `limit`. Those of older windows are dropped:
/// they hold nothing, and what they used is in the sums.
pub(super) fn load(c: &Connection, tenant: &TenantId, window: &str, limit: usize) -> Result<Kept> {
    let failed = error(OP);
    let sql = "DELETE FROM reservation WHERE tenant = ?1 AND expires IS NULL AND window < ?2";
    c.execute(sql, (tenant.as_str(), window)).map_err(&failed)?;
    let mut sums = Vec::new();
    let sql = "SELECT scope, calls, tokens FROM quota_use WHERE tenant = ?1 AND window = ?2";
    let mut get = c.prepare_cached(sql).map_err(&failed)?;
    let counts = get.query_map((tenant.as_str(), window), |r| {
        Ok((r.get(0)?, Amount { calls: r.get(1)?, tokens: r.get(2)?, money: None }))
    });
    for row in counts.map_err(&failed)? {
        sums.push(row.map_err(&failed)?);
    }
    let sql = "SELECT scope, currency, amount FROM quota_money WHERE tenant = ?1 AND window = ?2";
    let mut get = c.prepare_cached(sql).map_err(&failed)?;
    let money = get.query_map((tenant.as_str(), window), |r| Ok((r.get(0)?, r.get(1)?, r.get(2)?)));
    for row in money.map_err(&failed)? {
        let (scope, currency, amount): (String, String, String) = row.map_err(&failed)?;
        let money = parse_money(&format!("{amount} {currency}"))?;
        sums.push((scope, Amount { money: Some(money), ..Amount::default() }));
    }
    let sql = format!(
        "SELECT {COLUMNS} FROM reservation WHERE tenant = ?1 AND expires IS NOT NULL
        UNION ALL SELECT * FROM (SELECT {COLUMNS} FROM reservation WHERE tenant = ?1 AND window = ?2 AND expires IS NULL LIMIT ?3)"
    );
    let mut get = c.prepare_cached(&sql).map_err(&failed)?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let rows = get.query_map((tenant.as_str(), window, limit), |r| Ok(Reservation::read(r))).map_err(&failed)?;
    let rows = rows.map(|r| r.map_err(&failed)?).collect::<Result<_>>()?;
    Ok((sums, rows))
}

/// Writes what changed, as one.
pub(super) fn write(c: &Connection, tenant: &TenantId, changes: &Changes) -> Result<()> {
    for ((place, _), amount) in &changes.sums {
        place.add(c, amount)?;
    }
    for (operation, row) in &changes.operations {
        match row {
            Some(row) => row.save(c)?,
            None => {
                let sql = "DELETE FROM reservation WHERE tenant = ?1 AND operation = ?2";
                let mut delete = c.prepare_cached(sql).map_err(error(OP))?;
                delete.execute((tenant.as_str(), operation.as_str())).map_err(error(OP))?;
            }
        }
    }
    Ok(())
}

impl Reservation {
    /// Holds nothing yet.
    pub(super) fn new(place: &Place, operation: &OperationKey, durability: Durability, expires: Timestamp) -> Self {
        let (held, used) = (Amount::default(), Amount::default());
        Self { place: place.clone(), operation: operation.clone(), expires: Some(expires), held, used, durability }
    }

    fn save(&self, c: &Connection) -> Result<()> {
        let sql = format!(
            "INSERT OR REPLACE INTO reservation ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)"
        );
        let values = params![
            self.place.tenant.as_str(),
            self.operation.as_str(),
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
        let operation = operation(text(1)?)?;
        Ok(Self { place, operation, expires, held: amount(5)?, used: amount(8)?, durability: Durability::Durable })
    }
}

/// The text of `Money`: amount, space, currency.
fn parse_money(text: &str) -> Result<Money> {
    let (amount, currency) = text.split_once(' ').ok_or_else(|| corrupt(OP, "money"))?;
    let currency = Currency::parse(currency).map_err(|e| corrupt(OP, "currency").with_source(e))?;
    Ok(Money::new(decimal(OP, amount)?, currency))
}
