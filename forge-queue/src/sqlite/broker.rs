//! The consuming side: leases, fences, waiting for work.

use std::time::Duration;

use async_trait::async_trait;
use forge_core::queue::{Broker, Lease, LeaseRequest, Nack};
use forge_core::{Error, ErrorKind, Result, Timestamp};
use forge_sqlite::error;
use forge_sqlite::rusqlite::types::Value as Column;
use forge_sqlite::rusqlite::{Connection, OptionalExtension, Transaction, params_from_iter};
use serde_json::Value;

use super::SqliteStore;
use super::queue::outcome_place;
use super::row::{at, signed, to_json};
use super::schema::{DEAD, SUCCEEDED};
use super::serve::{Served, serve};

/// How long a task of another process may go unnoticed.
const LOOK: Duration = Duration::from_millis(200);
const LEASE: &str = "queue.lease";

#[async_trait]
impl Broker for SqliteStore {
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Lease>> {
        if request.max == 0 || request.names.is_empty() || self.next_look().await? > self.clock.now() {
            return Ok(Vec::new());
        }
        loop {
            let (request, now) = (request.clone(), self.clock.now());
            if let Some(Served { leases, more }) = self.db.write(LEASE, move |tx| serve(tx, &request, now)).await? {
                if more {
                    // for whoever else waits here
                    self.queued.notify_one();
                }
                return Ok(leases);
            }
        }
    }

    async fn renew(&self, lease: &Lease, visibility: Duration) -> Result<Timestamp> {
        let now = self.clock.now();
        let until = now.after(visibility);
        let sql = "UPDATE tasks SET due = ?4, updated = ?5 WHERE tenant = ?1 AND id = ?2 AND fence = ?3 AND state = 1";
        self.held("queue.renew", lease, sql, vec![until.as_nanos().into(), now.as_nanos().into()]).await?;
        Ok(until)
    }

    async fn ack(&self, lease: &Lease, result: Value) -> Result<()> {
        self.finish("queue.ack", lease, SUCCEEDED, &result).await
    }

    async fn nack(&self, lease: &Lease, nack: Nack) -> Result<()> {
        const OP: &str = "queue.nack";
        let after = match nack {
            Nack::Release => {
                // before what was queued after it: its place is its age
                let sql = "UPDATE tasks SET state = 0, due = created, attempt = attempt - 1, updated = ?4
                           WHERE tenant = ?1 AND id = ?2 AND fence = ?3 AND state = 1";
                self.held(OP, lease, sql, vec![self.clock.now().as_nanos().into()]).await?;
                self.queued.notify_one();
                return Ok(());
            }
            Nack::Retry { after, .. } if lease.attempt <= lease.max_retries => after,
            Nack::Retry { report, .. } | Nack::Dead { report } => return self.finish(OP, lease, DEAD, &report).await,
        };
        let now = self.clock.now();
        let due = now.after(after).as_nanos();
        let sql = "UPDATE tasks SET state = 0, due = min(?4, expires), updated = ?5
                   WHERE tenant = ?1 AND id = ?2 AND fence = ?3 AND state = 1";
        self.held(OP, lease, sql, vec![due.into(), now.as_nanos().into()]).await?;
        if after.is_zero() {
            self.queued.notify_one();
        }
        Ok(())
    }

    async fn wait(&self, at_most: Duration) {
        let look = async {
            let mut left = at_most;
            // what is due already, the caller has just looked at
            let mut seen = true;
            loop {
                // an error is for the lease that follows to tell
                let soonest = self.next_look().await.map_or(Duration::ZERO, |at| at.since(self.clock.now()));
                if left.is_zero() || soonest.is_zero() && !seen {
                    return;
                }
                let pause = if soonest.is_zero() { LOOK } else { soonest.min(LOOK) }.min(left);
                self.clock.sleep(pause).await;
                left = left.saturating_sub(pause);
                seen = false;
            }
        };
        tokio::select! {
            () = self.queued.notified() => {}
            () = look => {}
        }
    }
}

impl SqliteStore {
    /// When a tenant may have something, a lease runs out or a task expires: a read, so that idle workers leave the writers alone.
    async fn next_look(&self) -> Result<Timestamp> {
        let sql = "SELECT CASE WHEN EXISTS (SELECT 1 FROM queues WHERE wakes = 0) THEN 0 ELSE
                   min(ifnull((SELECT min(wakes) FROM queues WHERE wakes > 0 AND wakes < 9223372036854775807),
                              9223372036854775807),
                       ifnull((SELECT min(due) FROM tasks WHERE state = 1), 9223372036854775807),
                       ifnull((SELECT min(expires) FROM tasks WHERE state = 0), 9223372036854775807)) END";
        let look = move |c: &Connection| c.prepare_cached(sql).and_then(|mut s| s.query_row([], |r| r.get(0)));
        self.db.read(LEASE, move |c| look(c).map(at).map_err(error(LEASE))).await
    }

    /// Changes the task if it is still under the caller's fence, and tells a worker if that frees a slot that tasks wait for.
    async fn held(&self, operation: &'static str, lease: &Lease, sql: &'static str, set: Vec<Column>) -> Result<()> {
        let (tenant, id) = (lease.tenant.to_string(), lease.id.to_string());
        let mut values: Vec<Column> = vec![tenant.clone().into(), id.clone().into(), signed(lease.fence).into()];
        values.extend(set);
        let work = move |tx: &Transaction<'_>| {
            let capped = "SELECT 1 FROM queues WHERE tenant = ?1 AND blocked = 2";
            let capped = tx.prepare_cached(capped).and_then(|mut s| s.query_row([tenant], |_| Ok(())).optional());
            let capped = capped.map_err(error(operation))?.is_some();
            match tx
                .prepare_cached(sql)
                .and_then(|mut s| s.execute(params_from_iter(values)))
                .map_err(error(operation))?
            {
                0 => {
                    let why = "the task is with another worker, finished or cancelled";
                    Err(Error::new(ErrorKind::LeaseLost, operation, why).with("task", id))
                }
                _ => Ok(capped),
            }
        };
        match self.db.write(operation, work).await {
            Ok(capped) => {
                if capped {
                    self.queued.notify_one();
                }
                Ok(())
            }
            Err(e) => {
                if e.kind() == ErrorKind::LeaseLost {
                    lease.lost.cancel();
                }
                Err(e)
            }
        }
    }

    async fn finish<T: serde::Serialize + Sync>(
        &self,
        operation: &'static str,
        lease: &Lease,
        state: i64,
        outcome: &T,
    ) -> Result<()> {
        let (id, now) = (lease.id.to_string(), self.clock.now().as_nanos());
        let text = to_json(operation, outcome)?;
        let outcome = self.encrypt(&lease.tenant, &outcome_place(&lease.tenant, &id), text.as_bytes()).await?;
        let sql = "UPDATE tasks SET state = ?4, outcome = ?5, updated = ?6
                   WHERE tenant = ?1 AND id = ?2 AND fence = ?3 AND state = 1";
        self.held(operation, lease, sql, vec![state.into(), outcome.into(), now.into()]).await
    }
}
