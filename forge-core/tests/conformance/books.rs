//! Audit logs, ledgers, quotas and policies.

use std::sync::Arc;

use async_trait::async_trait;
use forge_core::audit::{AuditCapability, AuditLog, AuditRecord, AuditRow, ChainReport, Durability};
use forge_core::fake::{FakeAudit, FakeLedger, FakePolicy, FakeQuota};
use forge_core::policy::{Decision, Obligations, PolicyCapability, PolicyEngine, PolicyInput, Verdict};
use forge_core::testing::{Fixture, audit_log, policy_engine, quota, usage_ledger};
use forge_core::usage::{
    LedgerCapability, Permit, Quota, QuotaCapability, QuotaRequest, QuotaState, Resource, UsageEvent, UsageLedger,
    UsageQuery, UsageTotals,
};
use forge_core::{Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Result, Slot, TenantId};

use crate::{everybody, finds_the_leak};

#[tokio::test]
async fn audit_logs() {
    audit_log(|| async { Fixture::new(Arc::new(FakeAudit::default()) as Arc<dyn AuditLog>) }).await;
}

#[tokio::test]
async fn usage_ledgers() {
    usage_ledger(|| async { Fixture::new(Arc::new(FakeLedger::default()) as Arc<dyn UsageLedger>) }).await;
}

#[tokio::test]
async fn quotas() {
    quota(|calls| async move { Fixture::new(Arc::new(FakeQuota::calls(calls)) as Arc<dyn Quota>) }).await;
}

#[tokio::test]
async fn policy_engines() {
    policy_engine(|| async { Fixture::new(Arc::new(FakePolicy::by(rule)) as Arc<dyn PolicyEngine>) }).await;
}

fn rule(input: &PolicyInput) -> (Verdict, Obligations) {
    let granted = input.tenant_id == "acme"
        && input.role == "analyst"
        && input.action == "tool.call"
        && input.tool_name == "index";
    (if granted { Verdict::Allow } else { Verdict::Deny }, Obligations::default())
}

#[tokio::test]
async fn those_that_forget_the_tenant_are_found() {
    finds_the_leak(audit_log(|| async {
        Fixture::new(Arc::new(Forgetful(FakeAudit::default())) as Arc<dyn AuditLog>)
    }))
    .await;
    finds_the_leak(usage_ledger(|| async {
        Fixture::new(Arc::new(Forgetful(FakeLedger::default())) as Arc<dyn UsageLedger>)
    }))
    .await;
    finds_the_leak(quota(|calls| async move {
        Fixture::new(Arc::new(Forgetful(FakeQuota::calls(calls))) as Arc<dyn Quota>)
    }))
    .await;
    finds_the_leak(policy_engine(|| async {
        Fixture::new(Arc::new(Forgetful(FakePolicy::by(rule))) as Arc<dyn PolicyEngine>)
    }))
    .await;
}

/// Checks the tenant at the door, and then keeps everybody's things in one place.
#[derive(Debug)]
struct Forgetful<T>(T);

fn at_the_door(ctx: &ExecutionContext, tenant: &TenantId) -> Result<()> {
    let foreign = Error::new(ErrorKind::TenantMismatch, "forgetful", "it belongs to another tenant");
    if tenant == ctx.tenant() { Ok(()) } else { Err(foreign) }
}

#[async_trait]
impl<T: HealthCheck> HealthCheck for Forgetful<T> {
    async fn check(&self, depth: Depth) -> Health {
        self.0.check(depth).await
    }
}

#[async_trait]
impl AuditLog for Forgetful<FakeAudit> {
    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<AuditRecord>> {
        let (slot, all) = (self.0.reserve(ctx).await?, everybody(ctx));
        Ok(Slot::new(move |mut record: AuditRecord| {
            record.tenant = all.tenant().clone();
            slot.fill(record);
        }))
    }

    async fn append(&self, ctx: &ExecutionContext, mut record: AuditRecord, how: Durability) -> Result<()> {
        at_the_door(ctx, &record.tenant)?;
        let ctx = everybody(ctx);
        record.tenant = ctx.tenant().clone();
        self.0.append(&ctx, record, how).await
    }

    async fn read(&self, ctx: &ExecutionContext, from_seq: u64, limit: usize) -> Result<Vec<AuditRow>> {
        let mut rows = self.0.read(&everybody(ctx), from_seq, limit).await?;
        for row in &mut rows {
            row.record.tenant = ctx.tenant().clone();
        }
        Ok(rows)
    }

    async fn verify(&self, ctx: &ExecutionContext) -> Result<ChainReport> {
        self.0.verify(&everybody(ctx)).await
    }

    async fn flush(&self, tenant: Option<&TenantId>) -> Result<()> {
        self.0.flush(tenant).await
    }

    fn capability(&self) -> AuditCapability {
        self.0.capability()
    }
}

#[async_trait]
impl UsageLedger for Forgetful<FakeLedger> {
    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<Vec<UsageEvent>>> {
        let slot = self.0.reserve(ctx).await?;
        let all = everybody(ctx);
        Ok(Slot::new(move |mut events: Vec<UsageEvent>| {
            events.iter_mut().for_each(|e| e.tenant = all.tenant().clone());
            slot.fill(events);
        }))
    }

    async fn record(&self, ctx: &ExecutionContext, mut events: Vec<UsageEvent>) -> Result<()> {
        let all = everybody(ctx);
        for event in &mut events {
            at_the_door(ctx, &event.tenant)?;
            event.tenant = all.tenant().clone();
        }
        self.0.record(&all, events).await
    }

    async fn events(&self, ctx: &ExecutionContext, query: &UsageQuery, limit: usize) -> Result<Vec<UsageEvent>> {
        let mut events = self.0.events(&everybody(ctx), query, limit).await?;
        events.sort_by_key(|e| e.at);
        events.iter_mut().for_each(|e| e.tenant = ctx.tenant().clone());
        Ok(events)
    }

    async fn totals(&self, ctx: &ExecutionContext, query: &UsageQuery) -> Result<UsageTotals> {
        self.0.totals(&everybody(ctx), query).await
    }

    async fn flush(&self, tenant: Option<&TenantId>) -> Result<()> {
        self.0.flush(tenant).await
    }

    fn capability(&self) -> LedgerCapability {
        self.0.capability()
    }
}

#[async_trait]
impl Quota for Forgetful<FakeQuota> {
    async fn peek(&self, ctx: &ExecutionContext, resource: &Resource) -> Result<QuotaState> {
        self.0.peek(&everybody(ctx), resource).await
    }

    async fn reserve(&self, ctx: &ExecutionContext, request: QuotaRequest) -> Result<Permit> {
        self.0.reserve(&everybody(ctx), request).await
    }

    fn capability(&self) -> QuotaCapability {
        self.0.capability()
    }
}

/// Believes the input.
#[async_trait]
impl PolicyEngine for Forgetful<FakePolicy> {
    async fn decide(&self, ctx: &ExecutionContext, input: &PolicyInput) -> Result<Decision> {
        let claimed = forge_core::testing::context(input.tenant_id.as_str(), "ana", ctx.role().as_str());
        self.0.decide(&claimed, input).await
    }

    fn capability(&self) -> PolicyCapability {
        self.0.capability()
    }
}
