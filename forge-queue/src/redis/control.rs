//! The operator's side.

use async_trait::async_trait;
use forge_core::queue::QueueDepth;
use forge_core::{Result, TenantId};
use forge_redis::redis::cmd;

use super::RedisBroker;
use crate::limits::{QueueControl, QueueLimits, TenantQueue};

/// Tasks that one call of a script takes away.
const SOME: usize = 64;

#[async_trait]
impl QueueControl for RedisBroker {
    async fn tenants(&self) -> Result<Vec<TenantQueue>> {
        const OP: &str = "queue.tenants";
        let shared = &self.shared;
        let ids: Vec<String> = shared.redis.query(OP, cmd("SMEMBERS").arg(shared.redis.key("forge:tenants"))).await?;
        let known = ids.into_iter().filter_map(|id| TenantId::parse(id).ok());
        let mut tenants: Vec<TenantId> = known.chain(shared.queues.beside().map(|(t, _)| t.clone())).collect();
        tenants.sort();
        tenants.dedup();
        let mut all = Vec::with_capacity(tenants.len());
        for tenant in tenants {
            let mut get = cmd("HMGET");
            get.arg(shared.key(&tenant, "config")).arg(&["weight", "cap", "rate", "burst", "max_length", "paused"]);
            type Set = (Option<f64>, Option<u32>, Option<f64>, Option<u32>, Option<u32>, Option<u8>);
            let (weight, running, rate, burst, length, paused): Set = shared.redis.query(OP, &get).await?;
            let limits = QueueLimits { weight: weight.unwrap_or(1.0), running, rate, burst, length };
            let depth: QueueDepth = self.depth_of(OP, &tenant).await?;
            all.push(TenantQueue::new(tenant, depth, paused == Some(1), limits));
        }
        Ok(all)
    }

    async fn set_limits(&self, tenant: &TenantId, limits: QueueLimits) -> Result<()> {
        limits.check()?;
        let optional = |n: Option<u32>| n.map(|n| n.to_string()).unwrap_or_default();
        let mut call = self.shared.call(&self.shared.scripts.limits);
        call.arg(tenant.as_str()).arg("weight").arg(limits.weight).arg("cap").arg(optional(limits.running));
        call.arg("rate").arg(limits.rate.map(|r| r.to_string()).unwrap_or_default());
        call.arg("burst").arg(optional(limits.burst)).arg("max_length").arg(optional(limits.length));
        self.shared.redis.script("queue.set_limits", &call).await
    }

    async fn pause(&self, tenant: &TenantId) -> Result<()> {
        let mut call = self.shared.call(&self.shared.scripts.limits);
        call.arg(tenant.as_str()).arg("paused").arg("1");
        self.shared.redis.script("queue.pause", &call).await
    }

    async fn resume(&self, tenant: &TenantId) -> Result<()> {
        let mut call = self.shared.call(&self.shared.scripts.limits);
        call.arg(tenant.as_str()).arg("paused").arg("");
        self.shared.redis.script::<()>("queue.resume", &call).await?;
        self.watch.wake();
        Ok(())
    }

    async fn drop_waiting(&self, tenant: &TenantId) -> Result<u64> {
        let mut dropped = 0;
        loop {
            let mut call = self.shared.call(&self.shared.scripts.drop_waiting);
            call.arg(tenant.as_str()).arg(SOME);
            let queues = self.shared.queues.beside().filter(|(t, _)| *t == tenant);
            for (_, queue) in queues {
                call.arg(queue);
            }
            let (some, taken): (u64, u64) = self.shared.redis.script("queue.drop_waiting", &call).await?;
            dropped += some;
            if taken == 0 {
                return Ok(dropped);
            }
        }
    }
}
