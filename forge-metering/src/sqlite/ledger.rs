//! The durable record of usage.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use forge_core::usage::{LedgerCapability, Quantity, UsageEvent, UsageLedger, UsageQuery, UsageTotals};
use forge_core::{
    Currency, Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Money, Result, Slot, TenantId,
};
use forge_sqlite::rusqlite::types::Value;
use forge_sqlite::rusqlite::{Connection, Transaction, params, params_from_iter};
use forge_sqlite::{Database, Options, error};
use rust_decimal::Decimal;

use super::row;
use crate::exact;

/// The ledger of one process, in `ledger.db`. Cheap to clone.
///
/// Every event that [`record`](UsageLedger::record) acknowledged is on the disk; one that a drop fills into a slot is
/// there after [`flush`](UsageLedger::flush), or when the last clone is gone. A slot whose events conflict with stored
/// ones, or belong to another tenant, records nothing: that is logged, `flush` fails from then on, and the health is degraded.
///
/// At most 1,024 slots are open at a time; [`reserve`](UsageLedger::reserve) waits for room. Quantities are below 2^63.
#[derive(Debug, Clone)]
pub struct SqliteLedger(Database);

impl SqliteLedger {
    /// Opens, or creates, `ledger.db` in a directory that this process owns.
    ///
    /// # Errors
    /// `Config` if another process owns it or a newer Forge wrote it; `Corrupt`; `Unavailable`.
    pub async fn open(dir: impl AsRef<Path>) -> Result<Self> {
        let options = Options::new(dir.as_ref().join("ledger.db")).migration(row::SCHEMA).owned();
        Database::open(options).await.map(Self)
    }
}

#[async_trait]
impl HealthCheck for SqliteLedger {
    async fn check(&self, depth: Depth) -> Health {
        self.0.check(depth).await
    }
}

#[async_trait]
impl UsageLedger for SqliteLedger {
    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<Vec<UsageEvent>>> {
        let tenant = ctx.tenant().clone();
        self.0.reserve_write("usage.record", move |tx, events: Vec<UsageEvent>| record(tx, &tenant, &events)).await
    }

    async fn record(&self, ctx: &ExecutionContext, events: Vec<UsageEvent>) -> Result<()> {
        let tenant = ctx.tenant().clone();
        own(&tenant, &events)?;
        self.0.write("usage.record", move |tx| record(tx, &tenant, &events)).await
    }

    async fn events(&self, ctx: &ExecutionContext, query: &UsageQuery, limit: usize) -> Result<Vec<UsageEvent>> {
        let (condition, values) = condition(ctx.tenant(), query);
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql =
            format!("SELECT {} FROM usage_event WHERE {condition} ORDER BY at, rowid LIMIT {limit}", row::COLUMNS);
        self.0
            .read("usage.events", move |c| {
                let mut events = Vec::new();
                each(c, &sql, values, |e| {
                    events.push(e);
                    Ok(())
                })?;
                Ok(events)
            })
            .await
    }

    async fn totals(&self, ctx: &ExecutionContext, query: &UsageQuery) -> Result<UsageTotals> {
        let (condition, values) = condition(ctx.tenant(), query);
        let sql = format!("SELECT {} FROM usage_event WHERE {condition}", row::COLUMNS);
        self.0
            .read("usage.totals", move |c| {
                let mut sums = Sums::default();
                each(c, &sql, values, |e| sums.add(&e).ok_or_else(|| super::too_large("usage.totals")))?;
                Ok(sums.totals())
            })
            .await
    }

    async fn flush(&self, _: Option<&TenantId>) -> Result<()> {
        // one file, one commit for all
        self.0.flush().await
    }

    fn capability(&self) -> LedgerCapability {
        LedgerCapability::new(true)
    }
}

/// All or none: an error undoes the savepoint that this runs in.
fn record(tx: &Transaction<'_>, tenant: &TenantId, events: &[UsageEvent]) -> Result<()> {
    own(tenant, events)?;
    for event in events {
        if !row::insert(tx, event)? && stored(tx, event)? != *event {
            return Err(Error::new(ErrorKind::Conflict, "usage.record", "another event has this id")
                .with("event", event.id.to_string()));
        }
    }
    Ok(())
}

fn own(tenant: &TenantId, events: &[UsageEvent]) -> Result<()> {
    match events.iter().find(|e| e.tenant != *tenant) {
        None => Ok(()),
        Some(e) => Err(Error::new(ErrorKind::TenantMismatch, "usage.record", "the event belongs to another tenant")
            .with("event", e.id.to_string())),
    }
}

fn stored(tx: &Transaction<'_>, event: &UsageEvent) -> Result<UsageEvent> {
    let failed = error("usage.record");
    let sql = format!("SELECT {} FROM usage_event WHERE tenant = ?1 AND id = ?2", row::COLUMNS);
    let mut statement = tx.prepare_cached(&sql).map_err(&failed)?;
    statement.query_row(params![event.tenant.as_str(), event.id.to_string()], |r| Ok(row::read(r))).map_err(failed)?
}

/// The `WHERE` of a query: the tenant first, and only what was asked for, so that an index fits.
fn condition(tenant: &TenantId, query: &UsageQuery) -> (String, Vec<Value>) {
    let asked: [(&str, Option<Value>); 4] = [
        ("run =", query.run.map(|r| r.to_string().into())),
        ("employee =", query.employee.as_ref().map(|e| e.as_str().to_owned().into())),
        ("at >=", query.from.map(|t| t.as_nanos().into())),
        ("at <", query.until.map(|t| t.as_nanos().into())),
    ];
    let mut sql = String::from("tenant = ?");
    let mut values = vec![Value::from(tenant.as_str().to_owned())];
    for (test, value) in asked {
        if let Some(value) = value {
            sql.push_str(&format!(" AND {test} ?"));
            values.push(value);
        }
    }
    (sql, values)
}

fn each(c: &Connection, sql: &str, values: Vec<Value>, mut f: impl FnMut(UsageEvent) -> Result<()>) -> Result<()> {
    let failed = error("usage.events");
    let mut statement = c.prepare_cached(sql).map_err(&failed)?;
    let mut rows = statement.query(params_from_iter(values)).map_err(&failed)?;
    while let Some(r) = rows.next().map_err(&failed)? {
        f(row::read(r)?)?;
    }
    Ok(())
}

#[derive(Default)]
struct Sums {
    events: u64,
    quantity: Quantity,
    cost: BTreeMap<Currency, Decimal>,
    unpriced: u64,
}

impl Sums {
    fn add(&mut self, e: &UsageEvent) -> Option<()> {
        let (sum, q) = (&mut self.quantity, e.quantity);
        self.events += 1;
        sum.tokens_in = sum.tokens_in.checked_add(q.tokens_in)?;
        sum.tokens_out = sum.tokens_out.checked_add(q.tokens_out)?;
        sum.chars = sum.chars.checked_add(q.chars)?;
        sum.tool_calls = sum.tool_calls.checked_add(q.tool_calls)?;
        match e.cost {
            Some(m) => {
                let cost = self.cost.entry(m.currency).or_default();
                *cost = exact::add(*cost, m.amount)?;
            }
            None => self.unpriced += 1,
        }
        Some(())
    }

    fn totals(self) -> UsageTotals {
        let cost = self.cost.into_iter().map(|(currency, amount)| Money::new(amount, currency)).collect();
        UsageTotals { events: self.events, quantity: self.quantity, cost, unpriced: self.unpriced }
    }
}
