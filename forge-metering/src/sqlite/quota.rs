//! Quotas: what is reserved counts as used until it is settled, or until its process is known to be dead.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_core::usage::{Actual, Permit, Quota, QuotaCapability, QuotaRequest, QuotaState, Resource};
use forge_core::{Clock, Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Result, Slot, Timestamp};
use forge_sqlite::rusqlite::{Connection, Transaction, params};
use forge_sqlite::{Database, corrupt, error};
use rust_decimal::Decimal;

use crate::{Limit, Limits};

/// Limits by tenant and employee, in the ledger's file.
#[derive(Debug, Clone)]
pub struct SqliteQuota {
    db: Database,
    limits: Limits,
    clock: Arc<dyn Clock>,
}

impl SqliteQuota {
    pub(super) fn new(db: Database, limits: Limits, clock: Arc<dyn Clock>) -> Self {
        Self { db, limits, clock }
    }
}

#[async_trait]
impl HealthCheck for SqliteQuota {
    async fn check(&self, depth: Depth) -> Health {
        self.db.check(depth).await
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Used {
    calls: u64,
    tokens: u64,
    money: Decimal,
}

#[async_trait]
impl Quota for SqliteQuota {
    async fn peek(&self, ctx: &ExecutionContext, _: &Resource) -> Result<QuotaState> {
        let (tenant, employee) = (ctx.tenant().to_string(), ctx.employee().to_string());
        let now = self.clock.now();
        let (window, resets) = self.limits.window.around(now)?;
        let limits = self.limits;
        self.db
            .read("quota.peek", move |c| {
                let all = used(c, &tenant, None, window, stale(&limits, now))?;
                let own = used(c, &tenant, Some(&employee), window, stale(&limits, now))?;
                let left = |of: fn(&Limit) -> Option<u64>, by: fn(&Used) -> u64| {
                    let one = |l: &Limit, u: &Used| of(l).map(|n| n.saturating_sub(by(u)));
                    smaller(one(&limits.tenant, &all), one(&limits.employee, &own))
                };
                let money = |l: &Limit, u: &Used| l.money.map(|m| (m - u.money).max(Decimal::ZERO));
                Ok(QuotaState {
                    calls_left: left(|l| l.calls, |u| u.calls),
                    tokens_left: left(|l| l.tokens, |u| u.tokens),
                    money_left: smaller(money(&limits.tenant, &all), money(&limits.employee, &own)),
                    resets: Some(resets),
                })
            })
            .await
    }

    async fn reserve(&self, ctx: &ExecutionContext, request: QuotaRequest) -> Result<Permit> {
        let (tenant, employee) = (ctx.tenant().to_string(), ctx.employee().to_string());
        let operation = request.operation.to_string();
        let now = self.clock.now();
        let (window, resets) = self.limits.window.around(now)?;
        let limits = self.limits;
        // the way back first: what was taken can then always be given back
        let settle = {
            let (tenant, operation) = (tenant.clone(), operation.clone());
            let write = move |tx: &Transaction<'_>, actual| settle(tx, &tenant, window, &operation, actual);
            self.db.reserve_write("quota.settle", write).await?
        };
        let asked = Used {
            calls: 1,
            tokens: request.quantity.tokens_in.saturating_add(request.quantity.tokens_out),
            money: request.cost.map_or(Decimal::ZERO, |m| m.amount),
        };
        self.db
            .write("quota.reserve", move |tx| {
                let known = taken(tx, &tenant, window, &operation)?;
                let add = if known { Used::default() } else { asked };
                let all = used(tx, &tenant, None, window, stale(&limits, now))?;
                fits(&limits.tenant, &all, &add, "tenant", resets)?;
                let own = used(tx, &tenant, Some(&employee), window, stale(&limits, now))?;
                fits(&limits.employee, &own, &add, "employee", resets)?;
                if known {
                    return Ok(());
                }
                tx.prepare_cached(
                    "INSERT INTO quota (tenant, operation, employee, window, at, settled, calls, tokens, money)
                     VALUES (?1, ?2, ?3, ?4, ?5, 0, ?6, ?7, ?8)",
                )
                .and_then(|mut s| {
                    let money = add.money.to_string();
                    s.execute(params![
                        tenant,
                        operation,
                        employee,
                        window.as_nanos(),
                        now.as_nanos(),
                        signed(add.calls),
                        signed(add.tokens),
                        money
                    ])
                })
                .map(|_| ())
                .map_err(error("quota.reserve"))
            })
            .await?;
        Ok(Permit::new(Slot::new(move |actual| settle.fill(actual))))
    }

    fn capability(&self) -> QuotaCapability {
        QuotaCapability::new(false)
    }
}

/// Reservations from before this time that nobody settled belong to a process that died.
fn stale(limits: &Limits, now: Timestamp) -> Timestamp {
    let nanos = i64::try_from(Duration::from_secs(limits.reservation_s).as_nanos()).unwrap_or(i64::MAX);
    Timestamp::from_nanos(now.as_nanos().saturating_sub(nanos))
}

fn taken(tx: &Transaction<'_>, tenant: &str, window: Timestamp, operation: &str) -> Result<bool> {
    tx.prepare_cached("SELECT EXISTS (SELECT 1 FROM quota WHERE tenant = ?1 AND window = ?2 AND operation = ?3)")
        .and_then(|mut s| s.query_row(params![tenant, window.as_nanos(), operation], |r| r.get(0)))
        .map_err(error("quota.reserve"))
}

fn used(c: &Connection, tenant: &str, employee: Option<&str>, window: Timestamp, stale: Timestamp) -> Result<Used> {
    let failed = error("quota.used");
    let mut select = c
        .prepare_cached(
            "SELECT calls, tokens, money FROM quota WHERE tenant = ?1 AND window = ?2 AND (?3 IS NULL OR employee = ?3) AND (settled = 1 OR at > ?4)",
        )
        .map_err(&failed)?;
    let mut rows = select.query(params![tenant, window.as_nanos(), employee, stale.as_nanos()]).map_err(&failed)?;
    let mut sum = Used::default();
    while let Some(row) = rows.next().map_err(&failed)? {
        let count = |i| row.get::<_, i64>(i).map(|n| u64::try_from(n).unwrap_or(0)).map_err(&failed);
        let money: String = row.get(2).map_err(&failed)?;
        let money: Decimal = money.parse().map_err(|_| corrupt("quota.used", "money"))?;
        sum.calls = sum.calls.saturating_add(count(0)?);
        sum.tokens = sum.tokens.saturating_add(count(1)?);
        sum.money = sum
            .money
            .checked_add(money)
            .ok_or_else(|| Error::invalid("quota.used", "the sum of money is too large"))?;
    }
    Ok(sum)
}

fn fits(limit: &Limit, used: &Used, add: &Used, whose: &'static str, resets: Timestamp) -> Result<()> {
    let refuse = |what: &'static str, limit: String, used: String| {
        Err(Error::new(ErrorKind::QuotaExceeded, "quota.reserve", "the limit of this window is used up")
            .with("limit_of", whose)
            .with("what", what)
            .with("limit", limit)
            .with("used", used)
            .with("resets", resets.to_string()))
    };
    if let Some(n) = limit.calls
        && used.calls.saturating_add(add.calls) > n
    {
        return refuse("calls", n.to_string(), used.calls.to_string());
    }
    if let Some(n) = limit.tokens
        && used.tokens.saturating_add(add.tokens) > n
    {
        return refuse("tokens", n.to_string(), used.tokens.to_string());
    }
    if let Some(n) = limit.money
        && used.money.checked_add(add.money).is_none_or(|sum| sum > n)
    {
        return refuse("money", n.to_string(), used.money.to_string());
    }
    Ok(())
}

/// What was really used takes the place of what was reserved; nothing used gives everything back.
fn settle(tx: &Transaction<'_>, tenant: &str, window: Timestamp, operation: &str, actual: Actual) -> Result<()> {
    let q = actual.quantity;
    let calls = u64::from(q != Default::default());
    let tokens = q.tokens_in.saturating_add(q.tokens_out);
    let money = actual.cost.map_or(Decimal::ZERO, |m| m.amount).to_string();
    tx.prepare_cached(
        "UPDATE quota SET settled = 1, calls = ?4, tokens = ?5, money = ?6 WHERE tenant = ?1 AND window = ?2 AND operation = ?3",
    )
    .and_then(|mut s| s.execute(params![tenant, window.as_nanos(), operation, signed(calls), signed(tokens), money]))
    .map(|_| ())
    .map_err(error("quota.settle"))
}

fn signed(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn smaller<T: Ord>(a: Option<T>, b: Option<T>) -> Option<T> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
