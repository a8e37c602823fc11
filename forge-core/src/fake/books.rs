//! Ledger, audit log, quota and prices in memory; what they hold can be read back, typed.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use rust_decimal::Decimal;

use crate::audit::{AuditCapability, AuditLog, AuditRecord, AuditRow, ChainReport, Durability};
use crate::usage::{
    Actual, LedgerCapability, Permit, Pricing, Quantity, Quota, QuotaCapability, QuotaRequest, QuotaState, Resource,
    UsageEvent, UsageLedger, UsageQuery, UsageTotals,
};
use crate::{
    Currency, Depth, Digest, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Money, Result, Slot, TenantId,
    Timestamp,
};

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

fn foreign(operation: &'static str) -> Error {
    Error::new(ErrorKind::TenantMismatch, operation, "the record belongs to another tenant")
}

/// Audit rows in memory, chained.
#[derive(Debug, Clone, Default)]
pub struct FakeAudit(Arc<Mutex<BTreeMap<TenantId, Vec<AuditRow>>>>);

impl FakeAudit {
    /// Every record of every tenant.
    pub fn records(&self) -> Vec<AuditRecord> {
        lock(&self.0).values().flatten().map(|r| r.record.clone()).collect()
    }

    fn push(&self, record: AuditRecord) -> Result<()> {
        let mut all = lock(&self.0);
        let rows = all.entry(record.tenant.clone()).or_default();
        if let Some(old) = rows.iter().find(|r| r.record.id == record.id) {
            let same = old.record == record;
            return if same {
                Ok(())
            } else {
                Err(Error::new(ErrorKind::Conflict, "audit.append", "another record has this id"))
            };
        }
        let seq = u64::try_from(rows.len()).unwrap_or(u64::MAX) + 1;
        let prev = rows.last().map_or(Digest::from_bytes([0; 32]), |r| r.hash);
        let hash = Digest::of_parts(&[prev.as_bytes(), &seq.to_be_bytes(), record.id.as_bytes()]);
        rows.push(AuditRow { seq, prev, hash, record });
        Ok(())
    }
}

#[async_trait]
impl HealthCheck for FakeAudit {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl AuditLog for FakeAudit {
    async fn reserve(&self, _: &ExecutionContext) -> Result<Slot<AuditRecord>> {
        let log = self.clone();
        Ok(Slot::new(move |record| drop(log.push(record))))
    }

    async fn append(&self, ctx: &ExecutionContext, record: AuditRecord, _: Durability) -> Result<()> {
        if record.tenant != *ctx.tenant() {
            return Err(foreign("audit.append"));
        }
        self.push(record)
    }

    async fn read(&self, ctx: &ExecutionContext, from_seq: u64, limit: usize) -> Result<Vec<AuditRow>> {
        let all = lock(&self.0);
        let rows = all.get(ctx.tenant()).into_iter().flatten();
        Ok(rows.filter(|r| r.seq >= from_seq).take(limit).cloned().collect())
    }

    async fn verify(&self, ctx: &ExecutionContext) -> Result<ChainReport> {
        let all = lock(&self.0);
        let rows = all.get(ctx.tenant()).map_or(&[][..], Vec::as_slice);
        let head = rows.last().map_or(Digest::from_bytes([0; 32]), |r| r.hash);
        Ok(ChainReport { rows: u64::try_from(rows.len()).unwrap_or(u64::MAX), broken: None, head })
    }

    async fn flush(&self, _: Option<&TenantId>) -> Result<()> {
        Ok(())
    }

    fn capability(&self) -> AuditCapability {
        AuditCapability::new(false, true)
    }
}

/// Usage in memory.
#[derive(Debug, Clone, Default)]
pub struct FakeLedger(Arc<Mutex<Vec<UsageEvent>>>);

impl FakeLedger {
    /// Every event of every tenant.
    pub fn all(&self) -> Vec<UsageEvent> {
        lock(&self.0).clone()
    }

    fn add(&self, events: Vec<UsageEvent>) -> Result<()> {
        let mut all = lock(&self.0);
        let known = |e: &UsageEvent| all.iter().find(|o| o.id == e.id && o.tenant == e.tenant);
        if events.iter().any(|e| known(e).is_some_and(|o| o != e)) {
            return Err(Error::new(ErrorKind::Conflict, "usage.record", "another event has this id"));
        }
        let new: Vec<_> = events.into_iter().filter(|e| known(e).is_none()).collect();
        all.extend(new);
        Ok(())
    }
}

#[async_trait]
impl HealthCheck for FakeLedger {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl UsageLedger for FakeLedger {
    async fn reserve(&self, _: &ExecutionContext) -> Result<Slot<Vec<UsageEvent>>> {
        let ledger = self.clone();
        Ok(Slot::new(move |events| drop(ledger.add(events))))
    }

    async fn record(&self, ctx: &ExecutionContext, events: Vec<UsageEvent>) -> Result<()> {
        if events.iter().any(|e| e.tenant != *ctx.tenant()) {
            return Err(foreign("usage.record"));
        }
        self.add(events)
    }

    async fn events(&self, ctx: &ExecutionContext, query: &UsageQuery, limit: usize) -> Result<Vec<UsageEvent>> {
        let fits = |e: &&UsageEvent| {
            e.tenant == *ctx.tenant()
                && query.from.is_none_or(|t| e.at >= t)
                && query.until.is_none_or(|t| e.at < t)
                && query.employee.as_ref().is_none_or(|x| e.employee == *x)
                && query.run.is_none_or(|x| e.run == Some(x))
        };
        let mut found: Vec<UsageEvent> = lock(&self.0).iter().filter(fits).cloned().collect();
        found.sort_by_key(|e| e.at);
        found.truncate(limit);
        Ok(found)
    }

    async fn totals(&self, ctx: &ExecutionContext, query: &UsageQuery) -> Result<UsageTotals> {
        let events = self.events(ctx, query, usize::MAX).await?;
        let mut cost: BTreeMap<Currency, Money> = BTreeMap::new();
        let mut quantity = Quantity::default();
        for e in &events {
            quantity.tokens_in += e.quantity.tokens_in;
            quantity.tokens_out += e.quantity.tokens_out;
            quantity.chars += e.quantity.chars;
            quantity.tool_calls += e.quantity.tool_calls;
            if let Some(c) = e.cost {
                let sum = cost.get(&c.currency).map_or(Ok(c), |s| s.checked_add(c))?;
                cost.insert(c.currency, sum);
            }
        }
        let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
        let unpriced = count(events.iter().filter(|e| e.cost.is_none()).count());
        Ok(UsageTotals { events: count(events.len()), quantity, cost: cost.into_values().collect(), unpriced })
    }

    async fn flush(&self, _: Option<&TenantId>) -> Result<()> {
        Ok(())
    }

    fn capability(&self) -> LedgerCapability {
        LedgerCapability::new(false)
    }
}

/// So many calls for each tenant.
#[derive(Debug, Clone)]
pub struct FakeQuota {
    calls: u64,
    used: Arc<Mutex<BTreeMap<TenantId, Used>>>,
}

#[derive(Debug, Default)]
struct Used {
    /// Reservations that are not settled.
    open: u64,
    /// Calls that used something.
    calls: u64,
}

impl Default for FakeQuota {
    fn default() -> Self {
        Self::calls(u64::MAX)
    }
}

impl FakeQuota {
    /// So many calls a tenant.
    pub fn calls(calls: u64) -> Self {
        Self { calls, used: Arc::default() }
    }

    /// Reservations that are not settled, over all tenants.
    pub fn open(&self) -> usize {
        usize::try_from(lock(&self.used).values().map(|used| used.open).sum::<u64>()).unwrap_or(usize::MAX)
    }
}

#[async_trait]
impl HealthCheck for FakeQuota {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl Quota for FakeQuota {
    async fn peek(&self, ctx: &ExecutionContext, _: &Resource) -> Result<QuotaState> {
        let used = lock(&self.used).get(ctx.tenant()).map_or(0, |used| used.open + used.calls);
        Ok(QuotaState { calls_left: Some(self.calls - used), tokens_left: None, money_left: None, resets: None })
    }

    async fn reserve(&self, ctx: &ExecutionContext, _: QuotaRequest) -> Result<Permit> {
        let mut all = lock(&self.used);
        let mine = all.entry(ctx.tenant().clone()).or_default();
        if mine.open + mine.calls >= self.calls {
            return Err(Error::new(ErrorKind::QuotaExceeded, "quota.reserve", "no calls left")
                .with("limit", self.calls.to_string()));
        }
        mine.open += 1;
        let (used, tenant) = (self.used.clone(), ctx.tenant().clone());
        Ok(Permit::new(Slot::new(move |actual: Actual| {
            if let Some(mine) = lock(&used).get_mut(&tenant) {
                mine.open -= 1;
                mine.calls += u64::from(actual != Actual::default());
            }
        })))
    }

    fn capability(&self) -> QuotaCapability {
        QuotaCapability::new(false)
    }
}

/// One cent a call of a tool, one a thousand tokens.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakePricing;

impl Pricing for FakePricing {
    fn quote(&self, _: &Resource, quantity: &Quantity, _: Timestamp) -> Result<Option<Money>> {
        let tokens = Decimal::from(quantity.tokens_in + quantity.tokens_out) / Decimal::ONE_THOUSAND;
        let units = Decimal::from(quantity.tool_calls) + tokens;
        Ok(Some(Money::new(units * Decimal::new(1, 2), Currency::USD)))
    }
}
