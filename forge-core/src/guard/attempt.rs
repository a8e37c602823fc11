//! The attempt loop: breaker, time limit, cancellation, panic, classification, backoff. The only retry engine.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

use super::breaker::Breaker;
use super::settings::Settings;
use crate::context::span;
use crate::time::Clock;
use crate::{Error, ErrorKind, ExecutionContext, Result, Retryability, TenantId};

/// The operation that an open circuit names.
const BREAKER: &str = "guard.breaker";

/// How often to try.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tries {
    /// Tries in all; 3 by default.
    pub max: u32,
    /// Backoff after the first; 1 second by default. Doubles, with full jitter.
    pub base: Duration,
    /// The longest backoff; 60 seconds by default.
    pub cap: Duration,
}

impl Default for Tries {
    fn default() -> Self {
        Self { max: 3, base: Duration::from_secs(1), cap: Duration::from_secs(60) }
    }
}

impl Tries {
    /// One try: for a workflow, whose journal schedules the next.
    pub const ONCE: Self = Self { max: 1, base: Duration::from_secs(1), cap: Duration::from_secs(60) };

    /// How long to wait after try number `n` failed with `error`; `None`: do not try again.
    ///
    /// `Retry-After` wins over the backoff, which is full jitter over `min(cap, base * 2^(n-1))`
    /// (<https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/>).
    pub fn backoff(&self, n: u32, error: &Error) -> Option<Duration> {
        if n >= self.max {
            return None;
        }
        match error.retry() {
            Retryability::Never | Retryability::Exhausted => None,
            // longer than any backoff, or an open circuit: the caller is told instead of kept waiting
            Retryability::After(d) if d > self.cap || error.operation() == BREAKER => None,
            Retryability::After(d) => Some(d),
            Retryability::Transient => {
                let ceiling = self.base.saturating_mul(1_u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(self.cap);
                Some(ceiling.mul_f64(fastrand::f64()))
            }
        }
    }
}

/// What is remembered between calls, by tenant and resource, so that one tenant's trouble is not another's.
#[derive(Debug)]
pub(super) struct Resilience {
    settings: Settings,
    tenants: Mutex<HashMap<TenantId, Tenant>>,
}

#[derive(Debug)]
struct Tenant {
    permits: Arc<Semaphore>,
    resources: HashMap<String, Lane>,
}

/// One tool, model or task of one tenant.
#[derive(Debug)]
struct Lane {
    permits: Arc<Semaphore>,
    breaker: Breaker,
    /// Retries that are left, and when that was so.
    budget: f64,
    counted: Duration,
}

/// A place among the calls of a tenant and of one tool, model or task; dropped, it is free.
#[derive(Debug)]
pub(super) struct Place {
    _tenant: OwnedSemaphorePermit,
    _lane: OwnedSemaphorePermit,
}

/// A retry comes back after so long, and after so many calls.
const RETRY_EVERY: Duration = Duration::from_secs(10);
const RETRY_PER_CALL: f64 = 0.2;

impl Resilience {
    pub(super) fn new(settings: Settings) -> Self {
        Self { settings, tenants: Mutex::default() }
    }

    /// Waits for a place: first one of the resource's, so that a slow tool does not fill the tenant's.
    pub(super) async fn place(&self, tenant: &TenantId, resource: &str) -> Result<Place> {
        let (all, lane) = self.with(tenant, resource, |all, lane| (all.clone(), lane.permits.clone()));
        let closed = |_| Error::unexpected("guard.permit", "the semaphore is closed");
        let lane = lane.acquire_owned().await.map_err(closed)?;
        Ok(Place { _lane: lane, _tenant: all.acquire_owned().await.map_err(closed)? })
    }

    fn admit(&self, tenant: &TenantId, resource: &str, now: Duration) -> Result<()> {
        self.with(tenant, resource, |_, lane| lane.breaker.admit(now)).map_err(|left| {
            Error::new(ErrorKind::Unavailable, BREAKER, "too many failures in a row; the circuit is open")
                .with("resource", resource.to_owned())
                .with_retry(Retryability::After(left))
        })
    }

    fn learn(&self, tenant: &TenantId, resource: &str, now: Duration, outcome: Result<(), ErrorKind>) {
        self.with(tenant, resource, |_, lane| lane.breaker.learn(now, outcome));
    }

    /// Adds what time and a call bring back, and takes a retry if there is one.
    fn spend(&self, tenant: &TenantId, resource: &str, now: Duration, retry: bool) -> bool {
        self.with(tenant, resource, |_, lane| {
            let back = now.saturating_sub(lane.counted).as_secs_f64() / RETRY_EVERY.as_secs_f64();
            let call = if retry { 0.0 } else { RETRY_PER_CALL };
            lane.budget = (lane.budget + back + call).min(f64::from(self.settings.retry_budget));
            lane.counted = now;
            let there = lane.budget >= 1.0;
            if retry && there {
                lane.budget -= 1.0;
            }
            there
        })
    }

    fn with<T>(&self, tenant: &TenantId, resource: &str, look: impl FnOnce(&Arc<Semaphore>, &mut Lane) -> T) -> T {
        let mut tenants = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        let of = match tenants.get_mut(tenant) {
            Some(of) => of,
            None => tenants.entry(tenant.clone()).or_insert_with(|| Tenant::new(&self.settings)),
        };
        // names are copied the first time only
        let lane = match of.resources.get_mut(resource) {
            Some(lane) => lane,
            None => of.resources.entry(resource.to_owned()).or_insert_with(|| Lane::new(&self.settings)),
        };
        look(&of.permits, lane)
    }
}

impl Tenant {
    fn new(settings: &Settings) -> Self {
        Self { permits: Arc::new(Semaphore::new(permits(settings.tenant_concurrency))), resources: HashMap::new() }
    }
}

impl Lane {
    fn new(settings: &Settings) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(permits(settings.tool_concurrency))),
            breaker: Breaker::new(settings.breaker_failures, settings.breaker_open),
            budget: f64::from(settings.retry_budget),
            counted: Duration::ZERO,
        }
    }
}

/// None would wait for ever, and a semaphore has a most.
fn permits(of: usize) -> usize {
    of.clamp(1, Semaphore::MAX_PERMITS)
}

/// What bounds the attempts of one call.
pub(super) struct Bounds<'a> {
    pub(super) clock: &'a dyn Clock,
    pub(super) resilience: &'a Resilience,
    pub(super) tenant: &'a TenantId,
    pub(super) resource: &'a str,
    pub(super) tries: Tries,
    pub(super) timeout: Duration,
    /// False where a second effect would be a second message: a time limit is then `UnknownOutcome`.
    pub(super) repeatable: bool,
}

/// Runs the attempts; returns the answer and how many there were.
pub(super) async fn attempts<T, F, Fut>(ctx: &ExecutionContext, bounds: &Bounds<'_>, mut call: F) -> (Result<T>, u32)
where
    F: FnMut(ExecutionContext, u32) -> Fut,
    Fut: Future<Output = Result<T>> + Send,
{
    let spend = |retry| bounds.resilience.spend(bounds.tenant, bounds.resource, bounds.clock.monotonic(), retry);
    spend(false);
    let mut n = 1;
    loop {
        let outcome = one(ctx, bounds, n, &mut call).await;
        let Err(error) = outcome else { return (outcome, n) };
        let Some(wait) = bounds.tries.backoff(n, &error) else {
            let last = if n > 1 && error.retry() != Retryability::Never {
                error.with_retry(Retryability::Exhausted)
            } else {
                error
            };
            return (Err(last), n);
        };
        let late = ctx.deadline().is_some_and(|d| bounds.clock.now().after(wait) >= d);
        if late {
            return (Err(error), n);
        }
        if !spend(true) {
            return (Err(error.with_retry(Retryability::Exhausted).with("retry_budget", "used up")), n);
        }
        tokio::select! {
            () = bounds.clock.sleep(wait) => {}
            () = ctx.cancellation().cancelled() => return (Err(error), n),
        }
        n += 1;
    }
}

async fn one<T, F, Fut>(ctx: &ExecutionContext, bounds: &Bounds<'_>, n: u32, call: &mut F) -> Result<T>
where
    F: FnMut(ExecutionContext, u32) -> Fut,
    Fut: Future<Output = Result<T>> + Send,
{
    ctx.check("guard.attempt", bounds.clock.now())?;
    bounds.resilience.admit(bounds.tenant, bounds.resource, bounds.clock.monotonic())?;
    let limit = ctx.deadline().map_or(bounds.timeout, |d| bounds.timeout.min(d.since(bounds.clock.now())));
    let (inner, attempt_span) = span(ctx, "attempt");
    attempt_span.record("attempt", n);
    let work = AssertUnwindSafe(call(inner, n)).catch_unwind().instrument(attempt_span.clone());
    let outcome = tokio::select! {
        // an answer that is there wins over a limit that has just passed
        biased;
        outcome = work => outcome.unwrap_or_else(|_| Err(cut_off(bounds, ErrorKind::Unexpected, "the call panicked"))),
        () = bounds.clock.sleep(limit) => Err(cut_off(bounds, ErrorKind::Timeout, "no answer within the time limit")
            .with("limit_ms", limit.as_millis().to_string())),
        () = ctx.cancellation().cancelled() => Err(cut_off(bounds, ErrorKind::Cancelled, "the request was cancelled")),
    };
    if let Err(e) = &outcome {
        attempt_span.record("error", e.kind().as_str());
    }
    let learnt = outcome.as_ref().map(|_| ()).map_err(Error::kind);
    bounds.resilience.learn(bounds.tenant, bounds.resource, bounds.clock.monotonic(), learnt);
    outcome
}

/// The error for an attempt that did not end by itself: of an effect that cannot be repeated, nobody knows.
fn cut_off(bounds: &Bounds<'_>, kind: ErrorKind, why: &'static str) -> Error {
    let kind = if bounds.repeatable { kind } else { ErrorKind::UnknownOutcome };
    Error::new(kind, "guard.attempt", why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fake::{ManualClock, SkippingClock};
    use crate::testing::context;

    struct Bench {
        clock: SkippingClock,
        resilience: Resilience,
    }

    impl Bench {
        fn new(settings: Settings) -> Self {
            Self { clock: SkippingClock::default(), resilience: Resilience::new(settings) }
        }

        fn bounds<'a>(&'a self, ctx: &'a ExecutionContext) -> Bounds<'a> {
            Bounds {
                clock: &self.clock,
                resilience: &self.resilience,
                tenant: ctx.tenant(),
                resource: "t",
                tries: Tries::default(),
                timeout: Duration::from_secs(30),
                repeatable: true,
            }
        }
    }

    fn unavailable() -> Error {
        Error::new(ErrorKind::Unavailable, "t", "down")
    }

    #[tokio::test]
    async fn three_tries_in_all_and_a_refusal_is_not_tried_again() {
        let (b, ctx) = (Bench::new(Settings::default()), context("acme", "ana", "analyst"));
        // a sleeping clock that skips would end every attempt at once, so the answers are ready
        let (r, n) = attempts(&ctx, &b.bounds(&ctx), |_, _| async { Err::<(), _>(unavailable()) }).await;
        assert_eq!((r.unwrap_err().retry(), n), (Retryability::Exhausted, 3));
        let refused = || Error::new(ErrorKind::PolicyDenied, "t", "no");
        let (_, n) = attempts(&ctx, &b.bounds(&ctx), |_, _| async { Err::<(), _>(refused()) }).await;
        assert_eq!(n, 1);
    }

    #[tokio::test]
    async fn the_circuit_opens_for_the_tenant_that_fails_and_for_no_other() {
        let settings = Settings::default();
        let b = Bench::new(settings);
        let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "bo", "analyst"));
        for _ in 0..settings.breaker_failures {
            b.resilience.learn(acme.tenant(), "t", b.clock.monotonic(), Err(ErrorKind::Unavailable));
        }
        let once = |ctx| Bounds { tries: Tries::ONCE, ..b.bounds(ctx) };
        let (r, _) = attempts(&acme, &once(&acme), |_, _| async { Ok(()) }).await;
        assert_eq!(r.unwrap_err().operation(), BREAKER);
        assert!(attempts(&globex, &once(&globex), |_, _| async { Ok(()) }).await.0.is_ok());
        b.clock.sleep(settings.breaker_open).await;
        let (r, _) = attempts(&acme, &once(&acme), |_, _| async { Err::<(), _>(unavailable()) }).await;
        assert_eq!(r.unwrap_err().operation(), "t", "half open lets one through");
        let (r, _) = attempts(&acme, &once(&acme), |_, _| async { Ok(()) }).await;
        assert_eq!(r.unwrap_err().operation(), BREAKER, "the trial failed, so it is open again");
        b.clock.sleep(settings.breaker_open).await;
        for _ in 0..2 {
            let (r, _) = attempts(&acme, &once(&acme), |_, _| async { Ok(()) }).await;
            assert!(r.is_ok(), "the trial went well, so it is closed");
        }
    }

    #[tokio::test]
    async fn retries_are_a_budget_of_the_tenant_that_fills_again() {
        let b = Bench::new(Settings { retry_budget: 2, breaker_failures: u32::MAX, ..Settings::default() });
        let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "bo", "analyst"));
        // no pause between tries, so that no time passes that would bring a retry back
        let fail = async |ctx: &ExecutionContext| {
            let tries = Tries { base: Duration::ZERO, ..Tries::default() };
            attempts(ctx, &Bounds { tries, ..b.bounds(ctx) }, |_, _| async { Err::<(), _>(unavailable()) }).await
        };
        assert_eq!(fail(&acme).await.1, 3);
        let (r, n) = fail(&acme).await;
        assert_eq!((r.unwrap_err().retry(), n), (Retryability::Exhausted, 1), "the budget is used up");
        assert_eq!(fail(&globex).await.1, 3, "another tenant has its own");
        b.clock.sleep(RETRY_EVERY).await;
        assert_eq!(fail(&acme).await.1, 2, "time brings one back");
    }

    #[tokio::test]
    async fn retry_after_wins_over_backoff_and_is_not_waited_for_without_end() {
        let (b, ctx) = (Bench::new(Settings::default()), context("acme", "ana", "analyst"));
        let after = |s| unavailable().with_retry(Retryability::After(Duration::from_secs(s)));
        let (_, n) =
            attempts(&ctx, &b.bounds(&ctx), |_, n| async move { if n == 1 { Err(after(17)) } else { Ok(()) } }).await;
        assert_eq!((n, b.clock.monotonic().as_secs()), (2, 17));
        let (_, n) = attempts(&ctx, &b.bounds(&ctx), |_, _| async { Err::<(), _>(after(61)) }).await;
        assert_eq!(n, 1, "longer than any backoff: the caller is told");
    }

    #[tokio::test]
    async fn a_tenant_waits_for_its_own_places_alone() {
        let b = Bench::new(Settings { tool_concurrency: 2, tenant_concurrency: 3, ..Settings::default() });
        let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "bo", "analyst"));
        let now = |t: &ExecutionContext, tool| futures::FutureExt::now_or_never(b.resilience.place(t.tenant(), tool));
        let held = [now(&acme, "a"), now(&acme, "a")];
        assert!(now(&acme, "a").is_none(), "the third call of one tool waits");
        let third = now(&acme, "b");
        assert!(third.is_some() && now(&acme, "b").is_none(), "the fourth call of one tenant waits");
        assert!(now(&globex, "a").is_some(), "another tenant does not");
        drop(held);
        assert!(now(&acme, "a").is_some());
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let (b, clock, ctx) =
            (Bench::new(Settings::default()), ManualClock::default(), context("acme", "ana", "analyst"));
        let bounds = Bounds { clock: &clock, tries: Tries::ONCE, ..b.bounds(&ctx) };
        let (r, _) = attempts(&ctx, &bounds, |_, _| async { if true { panic!("bug") } else { Ok(()) } }).await;
        assert_eq!(r.unwrap_err().kind(), ErrorKind::Unexpected);
    }
}
