//! Limits by tenant and employee, kept over restarts.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_core::usage::{Actual, Permit, Quota, QuotaCapability, QuotaRequest, QuotaState, Resource};
use forge_core::{
    Clock, Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, OperationKey, Result, Timestamp,
};
use forge_sqlite::rusqlite::{Connection, Transaction};
use forge_sqlite::{Database, Options, error};
use rust_decimal::Decimal;

use super::span::Span;
use super::tally::{Amount, Place, Reservation, SCHEMA, TENANT};
use super::too_large;
use crate::exact;
use crate::limits::{Limit, Limits, Window};

/// The quotas of one process, in `quota.db`. Cheap to clone.
///
/// - A reservation is on the disk before the call is made. It counts for the employee and for the tenant, in the window
///   of the moment it was made, also where no limit is set.
/// - The operation is the unit: reserving again for the same one takes only what it does not hold or has not used yet.
///   Each settlement adds what was really used, so that the counters agree with the ledger after a repeated call.
/// - A call that used nothing at no cost (it failed, or its permit was dropped) gives its reservation back.
/// - What nobody settles, since the process died, counts until it expires. A settlement after that still counts.
/// - Where money is limited, a call in another currency is refused, and one without a price passes while money is left.
///
/// [`reserve`](Quota::reserve): dropping its future may leave a reservation behind, which expires. At most 1,024 permits
/// are open at a time; further ones wait.
#[derive(Debug, Clone)]
pub struct SqliteQuota {
    db: Database,
    limits: Arc<Limits>,
    clock: Arc<dyn Clock>,
}

impl SqliteQuota {
    /// Opens, or creates, `quota.db` in a directory that this process owns.
    ///
    /// # Errors
    /// `Config` if the limits cannot be kept, another process owns it or a newer Forge wrote it; `Corrupt`; `Unavailable`.
    pub async fn open(dir: impl AsRef<Path>, limits: Limits, clock: Arc<dyn Clock>) -> Result<Self> {
        limits.validate()?;
        let options = Options::new(dir.as_ref().join("quota.db")).migration(SCHEMA).owned();
        Ok(Self { db: Database::open(options).await?, limits: Arc::new(limits), clock })
    }

    /// What applies to a caller now.
    fn rules(&self, ctx: &ExecutionContext) -> Result<Rules> {
        let now = self.clock.now();
        let limits = self.limits.of(ctx.tenant());
        let Span { name, ends } = Span::of(limits.window, now)?;
        let place = Place { tenant: ctx.tenant().clone(), employee: ctx.employee().clone(), window: name };
        let employee = limits.of(ctx.employee());
        Ok(Rules { place, window: limits.window, ends, total: limits.total, employee, now })
    }
}

#[async_trait]
impl HealthCheck for SqliteQuota {
    async fn check(&self, depth: Depth) -> Health {
        self.db.check(depth).await
    }
}

#[async_trait]
impl Quota for SqliteQuota {
    async fn peek(&self, ctx: &ExecutionContext, _: &Resource) -> Result<QuotaState> {
        let rules = self.rules(ctx)?;
        self.db.read("quota.peek", move |c| rules.state(c)).await
    }

    async fn reserve(&self, ctx: &ExecutionContext, request: QuotaRequest) -> Result<Permit> {
        let rules = self.rules(ctx)?;
        let (place, operation) = (rules.place.clone(), request.operation.clone());
        let expires = rules.now.after(Duration::from_secs(self.limits.reservation_s));
        // first the row, then the room: who waits for the writer holds nothing that the writer's queue is made of
        self.db.write("quota.reserve", move |tx| rules.reserve(tx, &request, expires)).await?;
        let settle = move |tx: &Transaction<'_>, actual: Actual| settle(tx, &place, &operation, &actual);
        Ok(Permit::new(self.db.reserve_write("quota.settle", settle).await?))
    }

    fn capability(&self) -> QuotaCapability {
        QuotaCapability::new(false)
    }
}

struct Rules {
    place: Place,
    window: Window,
    ends: Timestamp,
    total: Limit,
    employee: Limit,
    now: Timestamp,
}

impl Rules {
    /// The limits, each with the scope that it counts in and the word for it.
    fn each(&self) -> [(&str, &'static str, &Limit); 2] {
        [(TENANT, "tenant", &self.total), (self.place.employee.as_str(), "employee", &self.employee)]
    }

    fn reserve(&self, c: &Connection, request: &QuotaRequest, expires: Timestamp) -> Result<()> {
        for mut old in Reservation::expired(c, &self.place.tenant, self.now)? {
            old.release(c)?;
            old.save(c)?;
        }
        Reservation::prune(c, &self.place)?;
        let fresh = || Reservation::new(&self.place, &request.operation);
        let mut row = match Reservation::load(c, &self.place.tenant, &request.operation)? {
            Some(row) if row.place == self.place => row,
            // begun in another window: what it used stays there, what it holds moves here
            Some(mut old) => {
                old.release(c)?;
                fresh()
            }
            None => fresh(),
        };
        let asked = Amount::asked(request);
        if row.held.money.zip(asked.money).is_some_and(|(held, asked)| held.currency != asked.currency) {
            // repriced: a row holds one currency
            row.release(c)?;
        }
        let more = asked.beyond(&row.held.plus(&row.used)?)?;
        if !more.is_zero() {
            self.check(c, &more)?;
            self.place.add(c, &more)?;
            row.held = row.held.plus(&more)?;
        }
        row.expires = Some(expires);
        row.save(c)
    }

    fn check(&self, c: &Connection, more: &Amount) -> Result<()> {
        for (scope, word, limit) in self.each() {
            let used = self.place.used(c, scope, limit.money.map(|m| m.currency))?;
            let refuse = |what, used, asked, allowed| Err(self.refusal(word, what, [used, asked, allowed]));
            for (what, used, more, limit) in
                [("calls", used.calls, more.calls, limit.calls), ("tokens", used.tokens, more.tokens, limit.tokens)]
            {
                if let Some(limit) = limit
                    && more > 0
                    && i128::from(used) + i128::from(more) > i128::from(limit)
                {
                    return refuse(what, used.to_string(), more.to_string(), limit.to_string());
                }
            }
            let Some(limit) = limit.money else { continue };
            let used = used.money.map_or(Decimal::ZERO, |m| m.amount);
            let fits = match more.money {
                Some(m) if m.amount.is_zero() => true,
                Some(m) if m.currency != limit.currency => false,
                Some(m) => exact::add(used, m.amount).ok_or_else(|| too_large("quota.reserve"))? <= limit.amount,
                None => used < limit.amount,
            };
            if !fits {
                let asked = more.money.map_or("unpriced".to_owned(), |m| m.to_string());
                return refuse("money", used.to_string(), asked, limit.to_string());
            }
        }
        Ok(())
    }

    fn refusal(&self, scope: &str, what: &'static str, [used, asked, allowed]: [String; 3]) -> Error {
        Error::new(
            ErrorKind::QuotaExceeded,
            "quota.reserve",
            "the limit is used up; wait for the next window or raise it",
        )
        .with_adapter("sqlite")
        .with("scope", scope)
        .with("limit", what)
        .with("allowed", allowed)
        .with("used", used)
        .with("asked", asked)
        .with("window", self.window.as_str())
        .with("resets", self.ends.to_string())
    }

    fn state(&self, c: &Connection) -> Result<QuotaState> {
        // one snapshot: between two, a writer may move what expired
        let snapshot = c.unchecked_transaction().map_err(error("quota.peek"))?;
        let expired = Reservation::expired(&snapshot, &self.place.tenant, self.now)?;
        let mut state = QuotaState { calls_left: None, tokens_left: None, money_left: None, resets: None };
        for (scope, _, limit) in self.each() {
            let mut used = self.place.used(&snapshot, scope, limit.money.map(|m| m.currency))?;
            let counted = |r: &&Reservation| {
                r.place.window == self.place.window && (scope == TENANT || r.place.employee == *scope)
            };
            for r in expired.iter().filter(counted) {
                used = used.beyond(&r.held)?;
            }
            let left = |limit: u64, used: i64| limit.saturating_sub(u64::try_from(used).unwrap_or(0));
            least(&mut state.calls_left, limit.calls.map(|l| left(l, used.calls)));
            least(&mut state.tokens_left, limit.tokens.map(|l| left(l, used.tokens)));
            if let Some(limit) = limit.money {
                let used = used.money.map_or(Decimal::ZERO, |m| m.amount);
                let left = exact::add(limit.amount, -used).ok_or_else(|| too_large("quota.peek"))?;
                least(&mut state.money_left, Some(left.max(Decimal::ZERO)));
            }
            if *limit != Limit::default() {
                state.resets = Some(self.ends);
            }
        }
        Ok(state)
    }
}

/// What is held becomes what was used.
fn settle(c: &Connection, place: &Place, operation: &OperationKey, actual: &Actual) -> Result<()> {
    let used = Amount::used(actual);
    if let Some(mut row) = Reservation::load(c, &place.tenant, operation)?
        && row.place == *place
    {
        row.release(c)?;
        row.used = row.used.plus(&used)?;
        row.save(c)?;
    }
    // also where the row expired, moved to another window or is gone: it was used
    place.add(c, &used)
}

fn least<T: Ord>(state: &mut Option<T>, left: Option<T>) {
    *state = match (state.take(), left) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}
