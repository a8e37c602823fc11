//! The operator's side: limits, pauses, who has how much.

use async_trait::async_trait;
use forge_core::queue::QueueDepth;
use forge_core::{Result, TenantId};
use forge_sqlite::error;
use forge_sqlite::rusqlite::{Connection, Row, Transaction, params};

use super::SqliteStore;
use super::queue::depth_at;
use super::row::{parsed, signed, unsigned};
use super::schema::{CANCELLED, NEVER, PAUSED};
use crate::limits::{QueueControl, QueueLimits, TenantQueue};

/// Tasks that one transaction takes away, so that no other caller waits for long.
const SOME: usize = 512;

#[async_trait]
impl QueueControl for SqliteStore {
    async fn tenants(&self) -> Result<Vec<TenantQueue>> {
        const OP: &str = "queue.tenants";
        let all = |c: &Connection| {
            let sql = "SELECT tenant, waiting, leased, dead, blocked, weight, running, rate, burst, length
                       FROM queues ORDER BY tenant";
            c.prepare_cached(sql)
                .and_then(|mut s| s.query_map([], |r| Ok((r.get::<_, String>(0)?, read(r)?)))?.collect())
                .map_err(error(OP))
        };
        let rows: Vec<(String, Counted)> = self.db.read(OP, all).await?;
        let tenant = |(id, (depth, paused, limits)): (String, Counted)| {
            Ok(TenantQueue::new(parsed(OP, "tenant", TenantId::parse(id))?, depth, paused, limits))
        };
        rows.into_iter().map(tenant).collect()
    }

    async fn set_limits(&self, tenant: &TenantId, limits: QueueLimits) -> Result<()> {
        limits.check()?;
        // what held it may hold it no more: its next turn finds out. Tokens of another rate are no measure of this one's
        let sql = "INSERT INTO queues (tenant, weight, running, rate, burst, length) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
                   ON CONFLICT (tenant) DO UPDATE SET weight = excluded.weight, running = excluded.running,
                   full_at = iif(rate IS excluded.rate AND burst IS excluded.burst, full_at, 0), rate = excluded.rate,
                   burst = excluded.burst, length = excluded.length, wakes = iif(blocked = 1, wakes, 0),
                   blocked = iif(blocked = 1, 1, 0)";
        let QueueLimits { weight, running, rate, burst, length } = limits;
        self.control("queue.set_limits", tenant, move |tx, tenant| {
            tx.execute(sql, params![tenant, weight, running, rate, burst, length])
        })
        .await
    }

    async fn pause(&self, tenant: &TenantId) -> Result<()> {
        let sql = "INSERT INTO queues (tenant, blocked, wakes) VALUES (?1, ?2, ?3)
                   ON CONFLICT (tenant) DO UPDATE SET blocked = excluded.blocked, wakes = excluded.wakes";
        self.control("queue.pause", tenant, move |tx, tenant| tx.execute(sql, params![tenant, PAUSED, NEVER])).await
    }

    async fn resume(&self, tenant: &TenantId) -> Result<()> {
        let sql = "UPDATE queues SET blocked = 0, wakes = 0 WHERE tenant = ?1 AND blocked = ?2";
        self.control("queue.resume", tenant, move |tx, tenant| tx.execute(sql, params![tenant, PAUSED])).await
    }

    async fn drop_waiting(&self, tenant: &TenantId) -> Result<u64> {
        const OP: &str = "queue.drop_waiting";
        let mut dropped = 0;
        loop {
            let (tenant, now) = (tenant.to_string(), self.clock.now().as_nanos());
            let some = move |tx: &Transaction<'_>| {
                // the sign keeps the outer statement off the tenant's index: it goes by the few rows found
                let sql = "UPDATE tasks SET state = ?2, updated = ?3 WHERE +tenant = ?1 AND rowid IN
                           (SELECT rowid FROM tasks WHERE tenant = ?1 AND state = 0 LIMIT ?4)";
                tx.execute(sql, params![tenant, CANCELLED, now, signed(SOME)]).map_err(error(OP))
            };
            let some = self.db.write(OP, some).await?;
            dropped += unsigned(signed(some));
            if some < SOME {
                return Ok(dropped);
            }
        }
    }
}

impl SqliteStore {
    /// Sets something of a tenant, and lets a worker see what that changes.
    async fn control(
        &self,
        operation: &'static str,
        tenant: &TenantId,
        set: impl FnOnce(&Transaction<'_>, &str) -> forge_sqlite::rusqlite::Result<usize> + Send + 'static,
    ) -> Result<()> {
        let tenant = tenant.to_string();
        self.db.write(operation, move |tx| set(tx, &tenant).map(|_| ()).map_err(error(operation))).await?;
        self.queued.notify_one();
        Ok(())
    }
}

type Counted = (QueueDepth, bool, QueueLimits);

fn read(r: &Row<'_>) -> forge_sqlite::rusqlite::Result<Counted> {
    let limits =
        QueueLimits { weight: r.get(5)?, running: r.get(6)?, rate: r.get(7)?, burst: r.get(8)?, length: r.get(9)? };
    Ok((depth_at(r, 1)?, r.get::<_, i64>(4)? == PAUSED, limits))
}
