//! One lease: whose turn it is, and which of its tasks.
//!
//! Tenants are served by start-time fair queueing (Goyal, Vin, Cheng: "Start-time Fair Queueing", SIGCOMM 1996): the tenant with
//! the lowest virtual time is next, its task starts at the later of that and the queue's virtual time, and ends a stride
//! further, which is shorter the more the tenant weighs. So who floods waits for the others, and who was idle has no credit
//! to flood with.
//!
//! Only tenants that are in line are looked at. Who has nothing due, is paused, at its cap or out of tokens is asleep, until a time
//! or until what it waits for happens: a thousand of them cost nothing.

use std::collections::{BTreeMap, VecDeque};

use forge_core::queue::{Lease, LeaseRequest, Priority};
use forge_core::{Digest, Error, ErrorKind, Result, Slug, TaskId, TenantId, Timestamp};
use forge_sqlite::rusqlite::{OptionalExtension, ToSql, Transaction, params};
use forge_sqlite::{corrupt, error};
use tokio_util::sync::CancellationToken;

use super::line::{Held, Tenant};
use super::queue::{payload, queue_of};
use super::row::{at, from_json, parsed, signed, unsigned};
use super::schema::{DEAD, LEASED, NEVER};

const LEASE: &str = "queue.lease";

/// What one call got.
pub(super) struct Served {
    pub(super) leases: Vec<Lease>,
    /// Somebody else may get something too.
    pub(super) more: bool,
}

/// Takes what is due, for one caller; nothing if there is more to clear away first than one transaction should.
pub(super) fn serve(tx: &Transaction<'_>, request: &LeaseRequest, now: Timestamp) -> Result<Option<Served>> {
    if bury_expired(tx, LEASE, now.as_nanos())? == SOME || take_back_lost(tx, now.as_nanos())? == SOME {
        return Ok(None);
    }
    Serving::new(tx, request, now)?.run().map(Some)
}

/// Tasks that one transaction clears away.
const SOME: usize = 512;

/// Gives up what nobody took in time, of all tenants, some at a time; returns how many that were.
pub(super) fn bury_expired(tx: &Transaction<'_>, operation: &'static str, now: i64) -> Result<usize> {
    tx.prepare_cached(
        "UPDATE tasks SET state = ?1, reason = 'expired', updated = ?2
         WHERE rowid IN (SELECT rowid FROM tasks WHERE state = 0 AND expires <= ?2 LIMIT ?3)",
    )
    .and_then(|mut s| s.execute(params![DEAD, now, signed(SOME)]))
    .map_err(error(operation))
}

/// Puts tasks back whose lease ran out; those without a try or without time left are dead.
fn take_back_lost(tx: &Transaction<'_>, now: i64) -> Result<usize> {
    tx.prepare_cached(
        "UPDATE tasks SET state = iif(attempt > max_retries OR expires <= ?1, 3, 0),
         reason = iif(attempt > max_retries OR expires <= ?1, 'lost', NULL), updated = ?1
         WHERE rowid IN (SELECT rowid FROM tasks WHERE state = 1 AND due <= ?1 LIMIT ?2)",
    )
    .and_then(|mut s| s.execute(params![now, signed(SOME)]))
    .map_err(error(LEASE))
}

/// One lease in its transaction. Virtual times are kept here and written at the end; nobody else can change them meanwhile.
struct Serving<'a> {
    tx: &'a Transaction<'a>,
    request: &'a LeaseRequest,
    now: Timestamp,
    /// Virtual time of the queue.
    vtime: i64,
    /// By virtual time; of two with the same, the one read first.
    line: BTreeMap<(i64, usize), Tenant>,
    /// Those in `line` that were not served yet; when none is left, more are read.
    fresh: usize,
    read: usize,
    /// The last one read.
    last: Option<(i64, String)>,
}

impl<'a> Serving<'a> {
    fn new(tx: &'a Transaction<'a>, request: &'a LeaseRequest, now: Timestamp) -> Result<Self> {
        let vtime = tx
            .prepare_cached("SELECT vtime FROM turn WHERE one = 1")
            .and_then(|mut s| s.query_row([], |r| r.get(0)))
            .map_err(error(LEASE))?;
        // whose time has come is in line again
        tx.prepare_cached(
            "UPDATE queues SET wakes = 0, blocked = 0 WHERE wakes > 0 AND wakes < 9223372036854775807 AND wakes <= ?1",
        )
        .and_then(|mut s| s.execute([now.as_nanos()]))
        .map_err(error(LEASE))?;
        let last = Some((i64::MIN, String::new()));
        Ok(Self { tx, request, now, vtime, line: BTreeMap::new(), fresh: 0, read: 0, last })
    }

    fn run(mut self) -> Result<Served> {
        let mut leases = Vec::new();
        while leases.len() < self.request.max {
            if self.fresh == 0 {
                self.read_line()?;
            }
            let Some((_, mut tenant)) = self.line.pop_first() else { break };
            if tenant.served == 0 {
                self.fresh = self.fresh.saturating_sub(1);
            }
            if let Some(Held { why, wakes }) = tenant.held(self.now.as_nanos()) {
                self.write(&tenant, wakes, why)?;
                continue;
            }
            if !self.has_room(&tenant.name, &leases) {
                // it keeps its place
                if tenant.served > 0 {
                    self.write(&tenant, 0, 0)?;
                }
                continue;
            }
            match self.take(&mut tenant, &leases)? {
                None => self.rest(&tenant)?,
                Some(lease) => {
                    self.vtime = tenant.took(self.vtime, self.now.as_nanos());
                    leases.push(lease);
                    if tenant.drained && tenant.found.is_empty() {
                        self.rest(&tenant)?;
                        continue;
                    }
                    self.line.insert((tenant.vtime, tenant.order), tenant);
                }
            }
        }
        for tenant in self.line.values().filter(|t| t.served > 0) {
            self.write(tenant, 0, 0)?;
        }
        if !leases.is_empty() {
            self.execute("UPDATE turn SET vtime = ?1 WHERE one = 1", &[&self.vtime])?;
        }
        Ok(Served { leases, more: !self.line.is_empty() || self.last.is_some() })
    }

    /// Whether the worker can start one more of this tenant's.
    fn has_room(&self, tenant: &str, taken: &[Lease]) -> bool {
        // a damaged name is found where the row is read
        let most = TenantId::parse(tenant).ok().and_then(|tenant| self.request.room.of_tenant(&tenant));
        most.is_none_or(|most| taken.iter().filter(|l| l.tenant == *tenant).count() < most)
    }

    /// The next tenants in order of their virtual time. Those not read are no lower than those read.
    fn read_line(&mut self) -> Result<()> {
        let Some((vtime, tenant)) = self.last.take() else { return Ok(()) };
        let page = self.request.max.clamp(16, 1024);
        let sql = "SELECT tenant, vtime, calls, leased, weight, running, rate, burst, full_at FROM queues
                   WHERE wakes = 0 AND (vtime, tenant) > (?1, ?2) ORDER BY vtime, tenant LIMIT ?3";
        let read: Vec<Tenant> = self
            .tx
            .prepare_cached(sql)
            .and_then(|mut s| s.query_map(params![vtime, tenant, signed(page)], Tenant::read)?.collect())
            .map_err(error(LEASE))?;
        if read.len() == page {
            self.last = read.last().map(|t| (t.vtime, t.name.clone()));
        }
        self.fresh = read.len();
        for mut tenant in read {
            tenant.order = self.read;
            self.read += 1;
            self.line.insert((tenant.vtime, tenant.order), tenant);
        }
        Ok(())
    }

    fn write(&self, tenant: &Tenant, wakes: i64, blocked: i64) -> Result<()> {
        if tenant.served == 0 {
            let sql = "UPDATE queues SET wakes = ?2, blocked = ?3 WHERE tenant = ?1";
            return self.execute(sql, &[&tenant.name, &wakes, &blocked]);
        }
        let full_at = tenant.full_at();
        if wakes == 0 {
            let sql = "UPDATE queues SET vtime = ?2, calls = calls + 1, full_at = ?3 WHERE tenant = ?1";
            return self.execute(sql, &[&tenant.name, &tenant.vtime, &full_at]);
        }
        let sql =
            "UPDATE queues SET vtime = ?2, calls = calls + 1, full_at = ?3, wakes = ?4, blocked = ?5 WHERE tenant = ?1";
        self.execute(sql, &[&tenant.name, &tenant.vtime, &full_at, &wakes, &blocked])
    }

    /// The tenant has nothing for this worker.
    fn rest(&self, tenant: &Tenant) -> Result<()> {
        let next = self.next_due(tenant)?;
        if next == NEVER {
            // true by the triggers, unless somebody changed the file by hand
            self.execute("UPDATE queues SET waiting = 0 WHERE tenant = ?1 AND waiting <> 0", &[&tenant.name])?;
        }
        self.write(tenant, next, 0)
    }

    /// When the tenant may have something for anybody: of each name and priority the first task is asked.
    fn next_due(&self, tenant: &Tenant) -> Result<i64> {
        let sql =
            "SELECT name, priority, due FROM tasks WHERE tenant = ?1 AND state = 0 AND (name, priority) > (?2, ?3)
                   ORDER BY name, priority, due LIMIT 1";
        let mut statement = self.tx.prepare_cached(sql).map_err(error(LEASE))?;
        let (mut next, mut name, mut priority) = (NEVER, String::new(), -1_i64);
        loop {
            let values = params![tenant.name, name, priority];
            let found = statement.query_row(values, |r| Ok((r.get(0)?, r.get(1)?, r.get::<_, i64>(2)?))).optional();
            let Some(found) = found.map_err(error(LEASE))? else { return Ok(next) };
            next = next.min(found.2);
            (name, priority) = (found.0, found.1);
        }
    }

    /// The tenant's next due task that this worker has a handler and room for, beside those that were taken.
    fn take(&self, tenant: &mut Tenant, taken: &[Lease]) -> Result<Option<Lease>> {
        let busy = |name: &Slug| {
            let most = self.request.room.names.get(name);
            most.is_some_and(|most| taken.iter().filter(|l| l.name == *name).count() >= *most)
        };
        let mut passed = false;
        loop {
            if tenant.found.is_empty() && !tenant.drained && !passed {
                // twice what it had so far: few for who is one of many, many for who is alone
                let most = (2 * tenant.served).clamp(2, self.request.max.max(2));
                tenant.found = self.find(tenant, most)?;
                tenant.drained = tenant.found.len() < most;
            }
            let Some((rowid, name)) = tenant.found.pop_front() else { return Ok(None) };
            if self.request.names.get(name).is_some_and(busy) {
                passed = true;
                continue;
            }
            match self.hand_out(&tenant.name, rowid) {
                Err(e) if e.kind() == ErrorKind::Corrupt => {
                    // one damaged row must not stop everybody's queue
                    tracing::error!(tenant = tenant.name, error = %e, "a stored task is damaged; it is a dead letter now");
                    self.bury(&tenant.name, rowid)?;
                }
                outcome => return outcome.map(Some),
            }
        }
    }

    /// The first due ones, in the order of priority and time.
    fn find(&self, tenant: &Tenant, most: usize) -> Result<VecDeque<(i64, usize)>> {
        let sql = "SELECT due, rowid FROM tasks WHERE tenant = ?1 AND name = ?2 AND priority = ?3 AND state = 0
                   AND due <= ?4 ORDER BY due, rowid LIMIT ?5";
        let mut statement = self.tx.prepare_cached(sql).map_err(error(LEASE))?;
        let mut steps = Priority::ALL.map(Priority::step);
        if tenant.lowest_first() {
            steps.reverse();
        }
        let mut found = VecDeque::new();
        for step in steps {
            let left = most.saturating_sub(found.len());
            if left == 0 {
                break;
            }
            let mut some: Vec<(i64, i64, usize)> = Vec::new();
            for (place, name) in self.request.names.iter().enumerate() {
                if self.request.room.names.get(name) == Some(&0) {
                    continue;
                }
                let values = params![tenant.name, name.as_str(), step, self.now.as_nanos(), signed(left)];
                let rows = statement.query_map(values, |r| Ok((r.get(0)?, r.get(1)?, place))).map_err(error(LEASE))?;
                for row in rows {
                    some.push(row.map_err(error(LEASE))?);
                }
            }
            some.sort_unstable();
            // a name that was given twice
            some.dedup_by_key(|(_, rowid, _)| *rowid);
            found.extend(some.into_iter().take(left).map(|(_, rowid, place)| (rowid, place)));
        }
        Ok(found)
    }

    fn bury(&self, tenant: &str, rowid: i64) -> Result<()> {
        let sql = "UPDATE tasks SET state = ?3, reason = 'damaged', updated = ?4 WHERE tenant = ?1 AND rowid = ?2";
        self.execute(sql, &[&tenant, &rowid, &DEAD, &self.now.as_nanos()])
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
        let text = |i: usize| {
            row.get_ref(i).map_err(error(LEASE))?.as_str().map_err(|e| corrupt(LEASE, "text").with_source(e))
        };
        let tenant = parsed(LEASE, "tenant", TenantId::parse(tenant))?;
        let body = text(2)?;
        Ok(Lease {
            id: parsed(LEASE, "id", TaskId::parse(text(0)?))?,
            name: parsed(LEASE, "name", Slug::parse(text(1)?))?,
            queue: queue_of(&tenant),
            payload: payload(body)?,
            body: Digest::of(body.as_bytes()),
            context: from_json(LEASE, "context", text(3)?)?,
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

    fn execute(&self, sql: &str, values: &[&dyn ToSql]) -> Result<()> {
        self.tx.prepare_cached(sql).and_then(|mut s| s.execute(values)).map(|_| ()).map_err(error(LEASE))
    }
}
