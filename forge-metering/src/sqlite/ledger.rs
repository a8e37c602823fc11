//! The ledger.

use std::collections::BTreeMap;
use std::path::Path;

use async_trait::async_trait;
use forge_core::usage::{LedgerCapability, Quantity, UsageEvent, UsageLedger, UsageQuery, UsageTotals};
use forge_core::{
    Currency, Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Money, Result, Slot, TenantId,
};
use forge_sqlite::rusqlite::{Connection, OptionalExtension, Transaction, params};
use forge_sqlite::{Database, corrupt, error};

use super::quota::SqliteQuota;
use crate::Limits;

/// Usage events in SQLite, durable and exact. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SqliteLedger {
    db: Database,
}

impl SqliteLedger {
    /// Opens `<dir>/ledger.db`; one process owns it.
    ///
    /// # Errors
    /// `Config` if another process owns it; `Corrupt`; `Unavailable`.
    pub async fn open(dir: impl AsRef<Path>) -> Result<Self> {
        Ok(Self { db: super::open(dir.as_ref()).await? })
    }

    /// Quotas in the same file.
    pub fn quota(&self, limits: Limits, clock: std::sync::Arc<dyn forge_core::Clock>) -> SqliteQuota {
        SqliteQuota::new(self.db.clone(), limits, clock)
    }
}

#[async_trait]
impl HealthCheck for SqliteLedger {
    async fn check(&self, depth: Depth) -> Health {
        self.db.check(depth).await
    }
}

#[async_trait]
impl UsageLedger for SqliteLedger {
    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<Vec<UsageEvent>>> {
        let tenant = ctx.tenant().clone();
        self.db.reserve_write("usage.record", move |tx, events: Vec<UsageEvent>| insert(tx, &tenant, &events)).await
    }

    async fn record(&self, ctx: &ExecutionContext, events: Vec<UsageEvent>) -> Result<()> {
        let tenant = ctx.tenant().clone();
        self.db.write("usage.record", move |tx| insert(tx, &tenant, &events)).await
    }

    async fn events(&self, ctx: &ExecutionContext, query: &UsageQuery, limit: usize) -> Result<Vec<UsageEvent>> {
        let (tenant, query) = (ctx.tenant().clone(), query.clone());
        self.db
            .read("usage.events", move |c| {
                let mut out = Vec::new();
                each(c, &tenant, &query, limit, |e| {
                    out.push(e);
                    Ok(())
                })?;
                Ok(out)
            })
            .await
    }

    async fn totals(&self, ctx: &ExecutionContext, query: &UsageQuery) -> Result<UsageTotals> {
        let (tenant, query) = (ctx.tenant().clone(), query.clone());
        self.db.read("usage.totals", move |c| totals(c, &tenant, &query)).await
    }

    async fn flush(&self) -> Result<()> {
        self.db.flush().await
    }

    fn capability(&self) -> LedgerCapability {
        LedgerCapability::new(true)
    }
}

/// All or none: the caller's savepoint undoes what came before an error.
fn insert(tx: &Transaction<'_>, tenant: &TenantId, events: &[UsageEvent]) -> Result<()> {
    let failed = error("usage.record");
    for event in events {
        if event.tenant != *tenant {
            return Err(Error::new(ErrorKind::TenantMismatch, "usage.record", "the event belongs to another tenant"));
        }
        let text = serde_json::to_string(event)
            .map_err(|e| Error::unexpected("usage.record", "the event does not serialise").with_source(e))?;
        let stored: Option<String> = tx
            .prepare_cached("SELECT event FROM usage WHERE tenant = ?1 AND id = ?2")
            .and_then(|mut s| s.query_row(params![tenant.as_str(), event.id.as_bytes()], |r| r.get(0)).optional())
            .map_err(&failed)?;
        match stored {
            Some(same) if same == text => continue,
            Some(_) => {
                let e = Error::new(ErrorKind::Conflict, "usage.record", "another event with this id is in the ledger");
                return Err(e.with("event", event.id.to_string()));
            }
            None => {}
        }
        let run = event.run.as_ref().map(|r| r.as_bytes().to_vec());
        tx.prepare_cached("INSERT INTO usage (tenant, id, at, employee, run, event) VALUES (?1, ?2, ?3, ?4, ?5, ?6)")
            .and_then(|mut s| {
                s.execute(params![
                    tenant.as_str(),
                    event.id.as_bytes(),
                    event.at.as_nanos(),
                    event.employee.as_str(),
                    run,
                    text
                ])
            })
            .map_err(&failed)?;
    }
    Ok(())
}

fn each(
    c: &Connection,
    tenant: &TenantId,
    query: &UsageQuery,
    limit: usize,
    mut take: impl FnMut(UsageEvent) -> Result<()>,
) -> Result<()> {
    let failed = error("usage.events");
    let mut select = c
        .prepare_cached(
            "SELECT event FROM usage WHERE tenant = ?1 AND at >= ?2 AND at < ?3
             AND (?4 IS NULL OR employee = ?4) AND (?5 IS NULL OR run = ?5) ORDER BY at, id LIMIT ?6",
        )
        .map_err(&failed)?;
    let from = query.from.map_or(i64::MIN, |t| t.as_nanos());
    let until = query.until.map_or(i64::MAX, |t| t.as_nanos());
    let employee = query.employee.as_ref().map(|e| e.as_str());
    let run = query.run.as_ref().map(|r| r.as_bytes().to_vec());
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = select.query(params![tenant.as_str(), from, until, employee, run, limit]).map_err(&failed)?;
    while let Some(row) = rows.next().map_err(&failed)? {
        let text: String = row.get(0).map_err(&failed)?;
        take(serde_json::from_str(&text).map_err(|e| corrupt("usage.events", "event").with_source(e))?)?;
    }
    Ok(())
}

fn totals(c: &Connection, tenant: &TenantId, query: &UsageQuery) -> Result<UsageTotals> {
    let too_large = || Error::invalid("usage.totals", "a sum is too large");
    let add = |sum: &mut u64, n: u64| -> Result<()> {
        *sum = sum.checked_add(n).ok_or_else(too_large)?;
        Ok(())
    };
    let mut cost: BTreeMap<Currency, Money> = BTreeMap::new();
    let mut sums = UsageTotals { events: 0, quantity: Quantity::default(), cost: Vec::new(), unpriced: 0 };
    each(c, tenant, query, usize::MAX, |e| {
        add(&mut sums.events, 1)?;
        add(&mut sums.quantity.tokens_in, e.quantity.tokens_in)?;
        add(&mut sums.quantity.tokens_out, e.quantity.tokens_out)?;
        add(&mut sums.quantity.chars, e.quantity.chars)?;
        add(&mut sums.quantity.tool_calls, e.quantity.tool_calls)?;
        match e.cost {
            None => add(&mut sums.unpriced, 1),
            Some(c) => {
                let sum = cost.entry(c.currency).or_insert(Money::zero(c.currency));
                *sum = sum.checked_add(c)?;
                Ok(())
            }
        }
    })?;
    sums.cost = cost.into_values().collect();
    Ok(sums)
}
