//! The attempt loop: breaker, time limit, cancellation, panic, classification, backoff. The only retry engine.

use std::collections::HashMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::Instrument;

use crate::context::span;
use crate::time::Clock;
use crate::{Error, ErrorKind, ExecutionContext, Result, Retryability, TenantId};

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
            Retryability::After(d) if d > self.cap || error.operation() == "guard.breaker" => None,
            Retryability::After(d) => Some(d),
            Retryability::Transient => {
                let ceiling = self.base.saturating_mul(1_u32.checked_shl(n - 1).unwrap_or(u32::MAX)).min(self.cap);
                Some(ceiling.mul_f64(fastrand::f64()))
            }
        }
    }
}

type Key = (TenantId, String);

/// What is remembered between calls, by tenant and resource, so that one tenant's trouble is not another's.
#[derive(Debug, Default)]
pub(super) struct Resilience {
    breakers: Mutex<HashMap<Key, Breaker>>,
    permits: Mutex<HashMap<Key, Arc<Semaphore>>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Breaker {
    failures: u32,
    open_until: Duration,
}

const BREAK_AFTER: u32 = 5;
const HALF_OPEN_AFTER: Duration = Duration::from_secs(30);
/// Calls of one tool by one tenant at a time; the next waits.
const CONCURRENCY: usize = 64;

impl Resilience {
    pub(super) async fn permit(&self, key: &Key) -> Result<OwnedSemaphorePermit> {
        let semaphore = {
            let mut permits = self.permits.lock().unwrap_or_else(PoisonError::into_inner);
            permits.entry(key.clone()).or_insert_with(|| Arc::new(Semaphore::new(CONCURRENCY))).clone()
        };
        semaphore.acquire_owned().await.map_err(|_| Error::unexpected("guard.permit", "the semaphore is closed"))
    }

    fn admit(&self, key: &Key, now: Duration) -> Result<()> {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(b) = breakers.get_mut(key) else { return Ok(()) };
        if b.failures < BREAK_AFTER {
            return Ok(());
        }
        if now < b.open_until {
            return Err(Error::new(
                ErrorKind::Unavailable,
                "guard.breaker",
                "too many failures in a row; the circuit is open",
            )
            .with("resource", key.1.clone())
            .with_retry(Retryability::After(b.open_until - now)));
        }
        // half open: this call is the trial, the next one waits for its result
        b.open_until = now + HALF_OPEN_AFTER;
        Ok(())
    }

    fn learn(&self, key: &Key, now: Duration, outcome: Result<(), ErrorKind>) {
        let mut breakers = self.breakers.lock().unwrap_or_else(PoisonError::into_inner);
        match outcome {
            Err(ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::UnknownOutcome) => {
                let b = breakers.entry(key.clone()).or_default();
                b.failures = b.failures.saturating_add(1);
                b.open_until = now + HALF_OPEN_AFTER;
            }
            // an answer, even a refusal, shows that the far side lives
            _ => {
                breakers.remove(key);
            }
        }
    }
}

/// What bounds the attempts of one call.
pub(super) struct Bounds<'a> {
    pub(super) clock: &'a dyn Clock,
    pub(super) resilience: &'a Resilience,
    pub(super) key: &'a Key,
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
    bounds.resilience.admit(bounds.key, bounds.clock.monotonic())?;
    let limit = ctx.deadline().map_or(bounds.timeout, |d| bounds.timeout.min(d.since(bounds.clock.now())));
    let (inner, attempt_span) = span(ctx, "attempt");
    attempt_span.record("attempt", n);
    let work = AssertUnwindSafe(call(inner, n)).catch_unwind().instrument(attempt_span.clone());
    let outcome = tokio::select! {
        outcome = work => outcome.unwrap_or_else(|_| Err(cut_off(bounds, ErrorKind::Unexpected, "the call panicked"))),
        () = bounds.clock.sleep(limit) => Err(cut_off(bounds, ErrorKind::Timeout, "no answer within the time limit")
            .with("limit_ms", limit.as_millis().to_string())),
        () = ctx.cancellation().cancelled() => Err(cut_off(bounds, ErrorKind::Cancelled, "the request was cancelled")),
    };
    if let Err(e) = &outcome {
        attempt_span.record("error", e.kind().as_str());
    }
    bounds.resilience.learn(bounds.key, bounds.clock.monotonic(), outcome.as_ref().map(|_| ()).map_err(Error::kind));
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
    use crate::fake::SkippingClock;
    use crate::testing::context;

    fn bounds<'a>(clock: &'a SkippingClock, resilience: &'a Resilience, key: &'a Key) -> Bounds<'a> {
        Bounds { clock, resilience, key, tries: Tries::default(), timeout: Duration::from_secs(30), repeatable: true }
    }

    fn unavailable() -> Error {
        Error::new(ErrorKind::Unavailable, "t", "down")
    }

    #[tokio::test]
    async fn three_tries_in_all_and_a_refusal_is_not_tried_again() {
        let (clock, resilience, ctx) =
            (SkippingClock::default(), Resilience::default(), context("acme", "ana", "analyst"));
        let key = (ctx.tenant().clone(), "t".to_owned());
        let b = bounds(&clock, &resilience, &key);
        // a sleeping clock that skips would end every attempt at once, so the answers are ready
        let (r, n) = attempts(&ctx, &b, |_, _| async { Err::<(), _>(unavailable()) }).await;
        assert_eq!((r.unwrap_err().retry(), n), (Retryability::Exhausted, 3));
        let refused = || Error::new(ErrorKind::PolicyDenied, "t", "no");
        let (_, n) = attempts(&ctx, &b, |_, _| async { Err::<(), _>(refused()) }).await;
        assert_eq!(n, 1);
    }

    #[tokio::test]
    async fn the_circuit_opens_for_the_tenant_that_fails_and_for_no_other() {
        let (clock, resilience) = (SkippingClock::default(), Resilience::default());
        let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "bo", "analyst"));
        let (ka, kg) = ((acme.tenant().clone(), "t".to_owned()), (globex.tenant().clone(), "t".to_owned()));
        for _ in 0..BREAK_AFTER {
            resilience.learn(&ka, clock.monotonic(), Err(ErrorKind::Unavailable));
        }
        let once = |key| Bounds { tries: Tries::ONCE, ..bounds(&clock, &resilience, key) };
        let (r, _) = attempts(&acme, &once(&ka), |_, _| async { Ok(()) }).await;
        assert_eq!(r.unwrap_err().operation(), "guard.breaker");
        assert!(attempts(&globex, &once(&kg), |_, _| async { Ok(()) }).await.0.is_ok());
        clock.sleep(HALF_OPEN_AFTER).await;
        assert!(attempts(&acme, &once(&ka), |_, _| async { Ok(()) }).await.0.is_ok(), "half open lets one through");
    }

    #[tokio::test]
    async fn a_panic_is_an_error() {
        let (clock, resilience, ctx) =
            (crate::fake::ManualClock::default(), Resilience::default(), context("acme", "ana", "analyst"));
        let key = (ctx.tenant().clone(), "t".to_owned());
        let b = Bounds {
            clock: &clock,
            resilience: &resilience,
            key: &key,
            tries: Tries::ONCE,
            timeout: Duration::from_secs(1),
            repeatable: true,
        };
        let (r, _) = attempts(&ctx, &b, |_, _| async { if true { panic!("bug") } else { Ok(()) } }).await;
        assert_eq!(r.unwrap_err().kind(), ErrorKind::Unexpected);
    }
}
