//! The consuming side: leases, fences and turns.
//!
//! Tenants are served by start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", SIGCOMM 1996) with equal
//! weights: the tenant with the lowest virtual time is next, its task starts at the later of that and the queue's virtual
//! time, and ends one further. So who floods waits for the others, and who was idle has no credit to flood with.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use forge_core::queue::{Broker, Lease, LeaseRequest, Nack};
use forge_core::{Digest, Error, ErrorKind, Result, Slug, TaskId, TenantId, Timestamp};
use forge_sqlite::error;
use forge_sqlite::rusqlite::{OptionalExtension, Transaction, params};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::SqliteStore;
use super::queue::{bury_expired, expect_at, outcome_place, payload, queue_of};
use super::row::{at, from_json, parsed, signed, to_json, unsigned};
use super::schema::{DEAD, LEASED, READY, SUCCEEDED};

/// How long a task of another process may go unnoticed.
const LOOK: Duration = Duration::from_millis(200);
const LEASE: &str = "queue.lease";

#[async_trait]
impl Broker for SqliteStore {
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Lease>> {
        if request.max == 0 || request.names.is_empty() || !self.may_be_due().await? {
            return Ok(Vec::new());
        }
        let (request, now) = (request.clone(), self.clock.now());
        self.db.write(LEASE, move |tx| Serving::new(tx, &request, now)?.run()).await
    }

    async fn renew(&self, lease: &Lease, visibility: Duration) -> Result<Timestamp> {
        let now = self.clock.now();
        let until = now.after(visibility);
        self.held("queue.renew", lease, move |tx, task| {
            let sql = "UPDATE tasks SET due = ?3, updated = ?4 WHERE tenant = ?1 AND id = ?2";
            tx.execute(sql, params![task.tenant, task.id, until.as_nanos(), now.as_nanos()])
                .map_err(error("queue.renew"))
        })
        .await?;
        Ok(until)
    }

    async fn ack(&self, lease: &Lease, result: Value) -> Result<()> {
        self.finish("queue.ack", lease, SUCCEEDED, &result).await
    }

    async fn nack(&self, lease: &Lease, nack: Nack) -> Result<()> {
        const OP: &str = "queue.nack";
        let after = match nack {
            Nack::Release => return self.release(lease).await,
            Nack::Retry { after, .. } if lease.attempt <= lease.max_retries => after,
            Nack::Retry { report, .. } | Nack::Dead { report } => return self.finish(OP, lease, DEAD, &report).await,
        };
        let now = self.clock.now();
        let due = now.after(after).as_nanos();
        self.held(OP, lease, move |tx, task| {
            let sql = "UPDATE tasks SET state = ?3, due = min(?4, expires), updated = ?5 WHERE tenant = ?1 AND id = ?2";
            let values = params![task.tenant, task.id, READY, due, now.as_nanos()];
            tx.execute(sql, values).map_err(error(OP))?;
            expect_at(tx, OP, &task.tenant, due)
        })
        .await?;
        if after.is_zero() {
            self.queued.notify_one();
        }
        Ok(())
    }

    async fn wait(&self, at_most: Duration) {
        let look = async {
            let mut left = at_most;
            loop {
                let pause = left.min(LOOK);
                self.clock.sleep(pause).await;
                left = left.saturating_sub(pause);
                // an error is for the lease that follows to tell
                if left.is_zero() || self.may_be_due().await.unwrap_or(true) {
                    return;
                }
            }
        };
        tokio::select! {
            () = self.queued.notified() => {}
            () = look => {}
        }
    }
}

/// A task that is still under the caller's fence.
struct Held {
    tenant: String,
    id: String,
}

impl SqliteStore {
    /// Whether any tenant may have something: a read, so that idle workers leave the writers alone.
    async fn may_be_due(&self) -> Result<bool> {
        let now = self.clock.now().as_nanos();
        let sql = "SELECT EXISTS (SELECT 1 FROM tenants WHERE next_due < 9223372036854775807 AND next_due <= ?1)";
        self.db
            .read(LEASE, move |c| {
                c.prepare_cached(sql).and_then(|mut s| s.query_row([now], |r| r.get(0))).map_err(error(LEASE))
            })
            .await
    }

    async fn held<T: Send + 'static>(
        &self,
        operation: &'static str,
        lease: &Lease,
        change: impl FnOnce(&Transaction<'_>, &Held) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (task, fence) = (Held { tenant: lease.tenant.to_string(), id: lease.id.to_string() }, signed(lease.fence));
        let work = move |tx: &Transaction<'_>| {
            let sql = "SELECT 1 FROM tasks WHERE tenant = ?1 AND id = ?2 AND fence = ?3 AND state = ?4";
            let held = tx
                .prepare_cached(sql)
                .and_then(|mut s| s.query_row(params![task.tenant, task.id, fence, LEASED], |_| Ok(())).optional());
            match held.map_err(error(operation))? {
                Some(()) => change(tx, &task),
                None => {
                    let why = "the task is with another worker, finished or cancelled";
                    Err(Error::new(ErrorKind::LeaseLost, operation, why).with("task", task.id))
                }
            }
        };
        self.db.write(operation, work).await
    }

    /// Before what was queued after it: its place is its age.
    async fn release(&self, lease: &Lease) -> Result<()> {
        const OP: &str = "queue.nack";
        let now = self.clock.now().as_nanos();
        self.held(OP, lease, move |tx, task| {
            let sql = "UPDATE tasks SET state = ?3, due = created, attempt = attempt - 1, updated = ?4
                       WHERE tenant = ?1 AND id = ?2";
            tx.execute(sql, params![task.tenant, task.id, READY, now]).map_err(error(OP))?;
            expect_at(tx, OP, &task.tenant, now)
        })
        .await?;
        self.queued.notify_one();
        Ok(())
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
        self.held(operation, lease, move |tx, task| {
            let sql = "UPDATE tasks SET state = ?3, outcome = ?4, updated = ?5 WHERE tenant = ?1 AND id = ?2";
            tx.execute(sql, params![task.tenant, task.id, state, outcome, now]).map(|_| ()).map_err(error(operation))
        })
        .await
    }
}

/// One lease in its transaction. Virtual times are kept here and written at the end; nobody else can change them meanwhile.
struct Serving<'a> {
    tx: &'a Transaction<'a>,
    request: &'a LeaseRequest,
    now: Timestamp,
    /// Virtual time of the queue.
    vtime: i64,
    /// Whose turn it is: the lowest first.
    turns: BTreeSet<(i64, String)>,
    /// Those of `turns` that were not served yet; when none is left, more are read.
    fresh: usize,
    /// The last one read.
    last: Option<(i64, String)>,
    served: BTreeMap<String, i64>,
}

impl<'a> Serving<'a> {
    fn new(tx: &'a Transaction<'a>, request: &'a LeaseRequest, now: Timestamp) -> Result<Self> {
        let vtime = tx.query_row("SELECT vtime FROM turn WHERE one = 1", [], |r| r.get(0)).map_err(error(LEASE))?;
        let (turns, served) = (BTreeSet::new(), BTreeMap::new());
        Ok(Self { tx, request, now, vtime, turns, fresh: 0, last: Some((i64::MIN, String::new())), served })
    }

    fn run(mut self) -> Result<Vec<Lease>> {
        let mut leases = Vec::new();
        while leases.len() < self.request.max {
            if self.fresh == 0 {
                self.read_turns()?;
            }
            let Some((vtime, tenant)) = self.turns.pop_first() else { break };
            let first = !self.served.contains_key(&tenant);
            if first {
                self.fresh = self.fresh.saturating_sub(1);
                bury_expired(self.tx, LEASE, &tenant, self.now.as_nanos())?;
            }
            match self.take(&tenant, &leases)? {
                None => self.rest(&tenant)?,
                Some(lease) => {
                    let start = vtime.max(self.vtime);
                    self.vtime = start;
                    self.served.insert(tenant.clone(), start.saturating_add(1));
                    self.turns.insert((start.saturating_add(1), tenant));
                    leases.push(lease);
                }
            }
        }
        self.write_turns()?;
        Ok(leases)
    }

    /// The next tenants in order of their virtual time. Those not read are no lower than those read.
    fn read_turns(&mut self) -> Result<()> {
        let Some((vtime, tenant)) = self.last.take() else { return Ok(()) };
        let page = self.request.max.clamp(16, 1024);
        let sql = "SELECT vtime, tenant FROM tenants WHERE next_due < 9223372036854775807 AND next_due <= ?1
                   AND (vtime, tenant) > (?2, ?3) ORDER BY vtime, tenant LIMIT ?4";
        let values = params![self.now.as_nanos(), vtime, tenant, signed(page)];
        let read: Vec<(i64, String)> = self
            .tx
            .prepare_cached(sql)
            .and_then(|mut s| s.query_map(values, |r| Ok((r.get(0)?, r.get(1)?)))?.collect())
            .map_err(error(LEASE))?;
        if read.len() == page {
            self.last = read.last().cloned();
        }
        self.fresh = read.len();
        self.turns.extend(read);
        Ok(())
    }

    fn write_turns(&self) -> Result<()> {
        for (tenant, vtime) in &self.served {
            self.tx
                .prepare_cached("UPDATE tenants SET vtime = ?2 WHERE tenant = ?1")
                .and_then(|mut s| s.execute(params![tenant, vtime]))
                .map_err(error(LEASE))?;
        }
        if self.served.is_empty() {
            return Ok(());
        }
        self.tx.execute("UPDATE turn SET vtime = ?1 WHERE one = 1", [self.vtime]).map(|_| ()).map_err(error(LEASE))
    }

    /// The tenant has nothing for this worker: notes when it may have something for anybody.
    fn rest(&self, tenant: &str) -> Result<()> {
        let sql = "UPDATE tenants SET next_due = coalesce((SELECT min(due) FROM tasks WHERE tenant = ?1
                   AND state IN (0, 1)), 9223372036854775807) WHERE tenant = ?1";
        self.tx.prepare_cached(sql).and_then(|mut s| s.execute([tenant])).map(|_| ()).map_err(error(LEASE))
    }

    /// The tenant's oldest due task that this worker has a handler and room for, beside those that were taken.
    fn take(&self, tenant: &str, taken: &[Lease]) -> Result<Option<Lease>> {
        // a damaged name is found where the row is read
        let whose = TenantId::parse(tenant).ok();
        let fits = |name: &&Slug| whose.as_ref().is_none_or(|whose| self.request.room.fits(whose, name, taken));
        let names: Vec<&Slug> = self.request.names.iter().filter(fits).collect();
        while let Some(found) = self.oldest(tenant, &names)? {
            if let Some(reason) = found.dead(self.now) {
                self.bury(tenant, found.rowid, reason)?;
                continue;
            }
            match self.hand_out(tenant, found.rowid) {
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    // one damaged row must not stop everybody's queue
                    tracing::error!(tenant, error = %e, "a stored task is damaged; it is a dead letter now");
                    self.bury(tenant, found.rowid, "damaged")?;
                }
                outcome => return outcome.map(Some),
            }
        }
        Ok(None)
    }

    fn oldest(&self, tenant: &str, names: &[&Slug]) -> Result<Option<Found>> {
        let sql = "SELECT due, rowid, state, attempt, max_retries, expires FROM tasks
                   WHERE tenant = ?1 AND name = ?2 AND state IN (0, 1) AND due <= ?3 ORDER BY due, rowid LIMIT 1";
        let mut statement = self.tx.prepare_cached(sql).map_err(error(LEASE))?;
        let mut oldest: Option<Found> = None;
        for name in names {
            let values = params![tenant, name.as_str(), self.now.as_nanos()];
            let found = statement.query_row(values, Found::read).optional().map_err(error(LEASE))?;
            if let Some(found) = found
                && oldest.as_ref().is_none_or(|o| (found.due, found.rowid) < (o.due, o.rowid))
            {
                oldest = Some(found);
            }
        }
        Ok(oldest)
    }

    fn bury(&self, tenant: &str, rowid: i64, reason: &str) -> Result<()> {
        let sql = "UPDATE tasks SET state = ?3, reason = ?4, updated = ?5 WHERE tenant = ?1 AND rowid = ?2";
        let values = params![tenant, rowid, DEAD, reason, self.now.as_nanos()];
        self.tx.prepare_cached(sql).and_then(|mut s| s.execute(values)).map(|_| ()).map_err(error(LEASE))
    }

    fn hand_out(&self, tenant: &str, rowid: i64) -> Result<Lease> {
        let until = self.now.after(self.request.visibility);
        let sql = "UPDATE tasks SET state = ?3, due = ?4, attempt = attempt + 1, fence = fence + 1, updated = ?5
                   WHERE tenant = ?1 AND rowid = ?2
                   RETURNING id, name, payload, context, attempt, max_retries, fence";
        let values = params![tenant, rowid, LEASED, until.as_nanos(), self.now.as_nanos()];
        let mut statement = self.tx.prepare_cached(sql).map_err(error(LEASE))?;
        let mut rows = statement.query(values).map_err(error(LEASE))?;
        let row = rows.next().map_err(error(LEASE))?.ok_or_else(|| Error::unexpected(LEASE, "the task went away"))?;
        let text = |i: usize| row.get::<_, String>(i).map_err(error(LEASE));
        let tenant = parsed(LEASE, "tenant", TenantId::parse(tenant))?;
        Ok(Lease {
            id: parsed(LEASE, "id", TaskId::parse(&text(0)?))?,
            name: parsed(LEASE, "name", Slug::parse(text(1)?))?,
            queue: queue_of(&tenant),
            payload: payload(&text(2)?)?,
            body: Digest::of(text(2)?.as_bytes()),
            context: from_json(LEASE, "context", &text(3)?)?,
            attempt: row.get(4).map_err(error(LEASE))?,
            max_retries: row.get(5).map_err(error(LEASE))?,
            fence: unsigned(row.get(6).map_err(error(LEASE))?),
            until: at(until.as_nanos()),
            lost: CancellationToken::new(),
            soft_time_limit: None,
            time_limit: None,
            tenant,
        })
    }
}

/// A task that is due.
struct Found {
    due: i64,
    rowid: i64,
    state: i64,
    attempt: u32,
    max_retries: u32,
    expires: i64,
}

impl Found {
    fn read(r: &forge_sqlite::rusqlite::Row<'_>) -> forge_sqlite::rusqlite::Result<Self> {
        Ok(Self {
            due: r.get(0)?,
            rowid: r.get(1)?,
            state: r.get(2)?,
            attempt: r.get(3)?,
            max_retries: r.get(4)?,
            expires: r.get(5)?,
        })
    }

    /// Why it may not be tried again, if it may not.
    fn dead(&self, now: Timestamp) -> Option<&'static str> {
        let lost = self.state == LEASED;
        match () {
            () if lost && (self.attempt > self.max_retries || self.expires <= now.as_nanos()) => Some("lost"),
            () if self.expires <= now.as_nanos() => Some("expired"),
            () => None,
        }
    }
}
