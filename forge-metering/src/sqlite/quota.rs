//! Limits by tenant and employee: decided in memory, kept over restarts.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use forge_core::audit::Durability;
use forge_core::usage::{Actual, Permit, Quota, QuotaCapability, QuotaRequest, QuotaState, Resource};
use forge_core::{
    Clock, Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, OperationKey, Result, Slot, TenantId,
    Timestamp,
};
use forge_sqlite::rusqlite::Transaction;
use forge_sqlite::{Database, Options, Urgency};
use rust_decimal::Decimal;
use tokio::sync::{OnceCell, oneshot};

use super::amount::Amount;
use super::book::{Book, REMEMBERED, TENANT};
use super::rows::{self, Place, Reservation, SCHEMA};
use super::span::Span;
use super::too_large;
use crate::exact;
use crate::limits::{Limit, Limits, Window};

/// The quotas of one process, in `quota.db`. Cheap to clone.
///
/// - A reservation counts for the employee and for the tenant, in the window of the moment it was made, also where no limit
///   is set. It is decided in memory, under a lock of the tenant's own; of a `Durable` one (for a write or a send) a row is
///   on the disk before [`reserve`](Quota::reserve) returns. What was used follows within a commit, or where that
///   fails, with the next.
/// - The operation is the unit: reserving again for the same one takes only what it does not hold, and for an effect, has not
///   used yet (the last 4,096 of the window are remembered). Each settlement adds what was really used, so that the counters
///   agree with the ledger after a repeated call.
/// - A call that used nothing at no cost (it failed, or its permit was dropped) gives its reservation back.
/// - What nobody settles, since the process died, counts until it expires. A settlement after that still counts.
/// - Where money is limited, a call in another currency is refused, and one without a price passes while money is left.
///
/// Dropping the future of `reserve` may leave a reservation behind, which expires.
#[derive(Clone)]
pub struct SqliteQuota {
    db: Database,
    limits: Arc<Limits>,
    clock: Arc<dyn Clock>,
    tenants: Arc<Mutex<HashMap<TenantId, Arc<OnceCell<Shared>>>>>,
}

/// A tenant's book; the writer holds it too.
type Shared = Arc<Mutex<Book>>;

impl SqliteQuota {
    /// Opens, or creates, `quota.db` in a directory that this process owns.
    ///
    /// # Errors
    /// `Config` if the limits cannot be kept, another process owns it or a newer Forge wrote it; `Corrupt`; `Unavailable`.
    pub async fn open(dir: impl AsRef<Path>, limits: Limits, clock: Arc<dyn Clock>) -> Result<Self> {
        limits.validate()?;
        let options = Options::new(dir.as_ref().join("quota.db")).migration(SCHEMA).owned();
        Ok(Self { db: Database::open(options).await?, limits: Arc::new(limits), clock, tenants: Arc::default() })
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

    /// The tenant's book; read from the file when the tenant is first met.
    async fn book(&self, rules: &Rules) -> Result<Shared> {
        let tenant = &rules.place.tenant;
        let cell = {
            let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
            match tenants.get(tenant) {
                Some(cell) => cell.clone(),
                None => tenants.entry(tenant.clone()).or_default().clone(),
            }
        };
        let load = || async {
            let (tenant, window) = (tenant.clone(), rules.place.window.clone());
            let load = move |tx: &Transaction<'_>| {
                let (sums, operations) = rows::load(tx, &tenant, &window, REMEMBERED)?;
                Book::load(&window, sums, operations)
            };
            self.db.write("quota.load", load).await.map(|book| Arc::new(Mutex::new(book)))
        };
        cell.get_or_try_init(load).await.cloned()
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
        let book = self.book(&rules).await?;
        let mut book = lock(&book);
        book.turn(&rules.place.window, rules.now)?;
        rules.state(&book)
    }

    async fn reserve(&self, ctx: &ExecutionContext, request: QuotaRequest) -> Result<Permit> {
        let rules = self.rules(ctx)?;
        let shared = self.book(&rules).await?;
        let (place, operation) = (rules.place.clone(), request.operation.clone());
        let expires = rules.now.after(self.limits.reservation);
        let row = Reservation::new(&place, &operation, request.durability, expires);
        {
            let mut book = lock(&shared);
            book.turn(&place.window, rules.now)?;
            book.reserve(row, &Amount::asked(&request), |book, more| rules.check(book, more))?;
        }
        let settle = Settle { db: self.db.clone(), shared: shared.clone(), place, operation };
        let permit = Permit::new(Slot::new(move |actual| settle.run(&actual)));
        if request.durability == Durability::Durable {
            let (done, kept) = oneshot::channel();
            write(&self.db, Urgency::Now, rules.place.tenant, shared, move |outcome| drop(done.send(outcome)));
            let stopped = |_| Error::new(ErrorKind::Unavailable, "quota.reserve", "the writer has stopped");
            // an error drops the permit, which gives back what was taken
            kept.await.map_err(stopped)??;
        }
        Ok(permit)
    }

    fn capability(&self) -> QuotaCapability {
        QuotaCapability::new(false)
    }
}

impl std::fmt::Debug for SqliteQuota {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqliteQuota").field("db", &self.db).finish_non_exhaustive()
    }
}

/// What a permit does at its end, also in a drop.
struct Settle {
    db: Database,
    shared: Shared,
    place: Place,
    operation: OperationKey,
}

impl Settle {
    fn run(self, actual: &Actual) {
        let begun = {
            let mut book = lock(&self.shared);
            if let Err(e) = book.settle(&self.place, &self.operation, &Amount::used(actual)) {
                tracing::error!(error = %e, "what a call used could not be added to its quota");
            }
            std::mem::replace(&mut book.writing, true)
        };
        if !begun {
            write(&self.db, Urgency::Soon, self.place.tenant, self.shared, |outcome| {
                if let Err(e) = outcome {
                    tracing::error!(error = %e, "what calls used could not be written; it goes with the next");
                }
            });
        }
    }
}

/// Writes what changed since the last time. Where the statement or the commit fails, it goes with the next write, which may be
/// in the same batch.
fn write(
    db: &Database,
    urgency: Urgency,
    tenant: TenantId,
    shared: Shared,
    done: impl FnOnce(Result<()>) + Send + 'static,
) {
    let (book, flight) = (shared.clone(), Arc::new(Mutex::new(None)));
    let taken = flight.clone();
    let work = move |tx: &Transaction<'_>| {
        let changes = lock(&book).take_changes();
        let written = rows::write(tx, &tenant, &changes);
        match written {
            Ok(()) => *taken.lock().unwrap_or_else(PoisonError::into_inner) = Some(changes),
            Err(_) => lock(&book).put_back(changes),
        }
        written
    };
    db.submit(urgency, work, move |outcome| {
        let unsaved = flight.lock().unwrap_or_else(PoisonError::into_inner).take().filter(|_| outcome.is_err());
        if let Some(changes) = unsaved {
            lock(&shared).put_back(changes);
        }
        done(outcome);
    });
}

fn lock(book: &Shared) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
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

    fn check(&self, book: &Book, more: &Amount) -> Result<()> {
        for (scope, word, limit) in self.each() {
            if *limit == Limit::default() {
                continue;
            }
            let used = book.used(scope, limit.money.map(|m| m.currency));
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

    fn state(&self, book: &Book) -> Result<QuotaState> {
        let mut state = QuotaState { calls_left: None, tokens_left: None, money_left: None, resets: None };
        for (scope, _, limit) in self.each() {
            let used = book.used(scope, limit.money.map(|m| m.currency));
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

fn least<T: Ord>(state: &mut Option<T>, left: Option<T>) {
    *state = match (state.take(), left) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
}
