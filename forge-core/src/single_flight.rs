//! Values that are computed once, however many miss them at the same time.
//!
//! Who finds nothing puts a mark in the value's place, with [`PutMode::Create`], and computes; who finds a mark waits for the value. The
//! mark is a lease: its holder renews it, one that lost its process runs out, and a value is kept only over the mark of who computed it,
//! so that one that was invalidated meanwhile does not come back. In one process the callers of a place stand in line without a call to
//! the store.

use std::collections::HashMap;
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;

use crate::kv::{KeyValue, PutMode, PutOptions};
use crate::{Clock, Error, ErrorKind, EventId, ExecutionContext, Namespace, Result};

const OP: &str = "kv.get_or_compute";
/// Between two looks for the value that another process computes.
const LOOK: Duration = Duration::from_millis(50);
/// The first byte of what is stored.
const VALUE: u8 = b'v';
const MARK: u8 = b'm';

/// Computes what is missing from a store, once for all who ask at the same time: in this process, and in all that share the store.
///
/// What it keeps has a byte of its own before the value, so its namespaces are written by nothing else. Tenants share nothing: every
/// caller first asks the store, which refuses a namespace of another tenant, and a place has its tenant in it.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
/// use std::{sync::Arc, time::Duration};
/// use forge_core::{Namespace, Slug, SystemClock, fake::FakeKeyValue, kv::SingleFlight, testing::context};
///
/// let answers = SingleFlight::new(Arc::new(FakeKeyValue::default()), Arc::new(SystemClock));
/// let ctx = context("acme", "ana", "analyst");
/// let space = Namespace::of(&ctx, Slug::parse("answers")?);
/// let minute = Some(Duration::from_secs(60));
/// let dear = async || answers.get_or_compute(&ctx, &space, "q7", minute, async { Ok("42".into()) }).await;
/// let (first, second) = futures::join!(dear(), dear()); // computed by one of them
/// assert_eq!((first?, second?), ("42".into(), "42".into()));
/// # Ok::<(), forge_core::Error>(()) }).unwrap();
/// ```
pub struct SingleFlight {
    store: Arc<dyn KeyValue>,
    clock: Arc<dyn Clock>,
    lease: Duration,
    /// In our marks, so that one that a dropped call left is known as ours.
    id: EventId,
    lines: Mutex<HashMap<(Namespace, String), Line>>,
}

/// The callers of one place in this process.
#[derive(Default)]
struct Line {
    callers: usize,
    turn: Arc<tokio::sync::Mutex<()>>,
}

/// Where a value is and who asks.
#[derive(Clone, Copy)]
struct Place<'a> {
    ctx: &'a ExecutionContext,
    namespace: &'a Namespace,
    key: &'a str,
}

enum Found {
    Value(Bytes),
    Nothing,
    /// A mark, its version, and whether it is ours.
    Mark(u64, bool),
}

impl SingleFlight {
    /// Over this store, which may be behind the guard.
    pub fn new(store: Arc<dyn KeyValue>, clock: Arc<dyn Clock>) -> Self {
        let id = EventId::random(clock.now());
        Self { store, clock, lease: Duration::from_secs(5), id, lines: Mutex::default() }
    }

    /// Sets how long others wait for a process that is gone; 5 seconds by default. Who computes renews it at each third of it.
    #[must_use]
    pub fn with_lease(mut self, lease: Duration) -> Self {
        self.lease = lease;
        self
    }

    /// The value that is there, or the one that `compute` gives, which is kept for `ttl` (`None`: until it is invalidated).
    ///
    /// `compute` is polled only if nobody else has the value or computes it, and it must not ask for the same place. An error is the
    /// caller's alone and is not kept: the next caller computes, as after a call that was dropped. What was computed is returned also if it
    /// could not be kept, which is logged. Ends by the context's deadline and cancellation.
    ///
    /// # Errors
    /// Those of `compute`; those of the store's `get` and `put` before it; `Corrupt` if something else wrote in this place; `Timeout` and
    /// `Cancelled` by the context.
    pub async fn get_or_compute(
        &self,
        ctx: &ExecutionContext,
        namespace: &Namespace,
        key: &str,
        ttl: Option<Duration>,
        compute: impl Future<Output = Result<Bytes>> + Send,
    ) -> Result<Bytes> {
        let place = Place { ctx, namespace, key };
        let work = async {
            if let Found::Value(value) = self.find(place).await? {
                return Ok(value);
            }
            let seat = self.sit(place);
            let _turn = seat.turn.lock().await;
            let mark = loop {
                let mode = match self.find(place).await? {
                    Found::Value(value) => return Ok(value),
                    Found::Nothing => PutMode::Create,
                    // nobody else in this process has the turn: its holder was dropped
                    Found::Mark(version, true) => PutMode::Match(version),
                    Found::Mark(_, false) => {
                        self.clock.sleep(LOOK).await;
                        continue;
                    }
                };
                match self.mark(place, mode).await {
                    Ok(version) => break version,
                    Err(e) if e.kind() == ErrorKind::Conflict => {}
                    Err(e) => return Err(e),
                }
            };
            self.compute(place, mark, ttl, compute).await
        };
        ctx.within(OP, self.clock.as_ref(), work).await
    }

    /// Forgets the value; one that is being computed is not kept. Returns whether one of the two was there.
    ///
    /// # Errors
    /// Those of the store's `delete`.
    pub async fn invalidate(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<bool> {
        self.store.delete(ctx, namespace, key).await
    }

    /// Computes under a mark, which is renewed meanwhile, and writes over it.
    async fn compute(
        &self,
        place: Place<'_>,
        mark: u64,
        ttl: Option<Duration>,
        compute: impl Future<Output = Result<Bytes>> + Send,
    ) -> Result<Bytes> {
        let mut compute = pin!(compute);
        let mut held = Some(mark);
        let outcome = loop {
            tokio::select! {
                biased;
                outcome = &mut compute => break outcome,
                () = self.clock.sleep(self.lease / 3) => {}
            }
            let Some(version) = held else { continue };
            let mut renewal = pin!(self.mark(place, PutMode::Match(version)));
            let (outcome, renewed) = tokio::select! {
                biased;
                outcome = &mut compute => (Some(outcome), renewal.await),
                renewed = &mut renewal => (None, renewed),
            };
            held = match renewed {
                Ok(version) => Some(version),
                Err(e) if e.kind() == ErrorKind::Conflict => None,
                // the next renewal may succeed
                Err(_) => Some(version),
            };
            if let Some(outcome) = outcome {
                break outcome;
            }
        };
        if let Some(version) = held {
            let over = PutOptions::default().with_mode(PutMode::Match(version));
            let (stored, options) = match &outcome {
                Ok(value) => ([&[VALUE], value.as_ref()].concat(), PutOptions { ttl, ..over }),
                Err(_) => (vec![MARK], over.with_ttl(Duration::ZERO)),
            };
            match self.store.put(place.ctx, place.namespace, place.key, stored.into(), options).await {
                Ok(_) => {}
                // it was invalidated; a mark that could not be taken away runs out
                Err(e) if e.kind() == ErrorKind::Conflict || outcome.is_err() => {}
                Err(e) => tracing::warn!(error = %e, "what was computed could not be kept"),
            }
        }
        outcome
    }

    async fn find(&self, place: Place<'_>) -> Result<Found> {
        let Some(entry) = self.store.get(place.ctx, place.namespace, place.key).await? else {
            return Ok(Found::Nothing);
        };
        match entry.value.first() {
            Some(&VALUE) => Ok(Found::Value(entry.value.slice(1..))),
            Some(&MARK) => Ok(Found::Mark(entry.version, entry.value.get(1..) == Some(self.id.as_bytes()))),
            _ => Err(Error::new(ErrorKind::Corrupt, OP, "something else writes in this namespace; give it its own")),
        }
    }

    async fn mark(&self, place: Place<'_>, mode: PutMode) -> Result<u64> {
        let mark = [&[MARK], self.id.as_bytes().as_slice()].concat();
        let options = PutOptions::default().with_mode(mode).with_ttl(self.lease);
        self.store.put(place.ctx, place.namespace, place.key, mark.into(), options).await
    }

    fn sit(&self, place: Place<'_>) -> Seat<'_> {
        let place = (place.namespace.clone(), place.key.to_owned());
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        let line = lines.entry(place.clone()).or_default();
        line.callers += 1;
        Seat { flight: self, place, turn: line.turn.clone() }
    }
}

impl fmt::Debug for SingleFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SingleFlight").field("store", &self.store).field("lease", &self.lease).finish_non_exhaustive()
    }
}

/// One caller's place in a line; the last to leave takes the line away.
struct Seat<'a> {
    flight: &'a SingleFlight,
    place: (Namespace, String),
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut lines = self.flight.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = lines.get_mut(&self.place) {
            line.callers -= 1;
            if line.callers == 0 {
                lines.remove(&self.place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;
    use crate::fake::FakeKeyValue;
    use crate::testing::context;
    use crate::{Slug, SystemClock};

    #[tokio::test]
    async fn nobody_in_line_is_no_line() {
        let flight = SingleFlight::new(Arc::new(FakeKeyValue::default()), Arc::new(SystemClock));
        let acme = context("acme", "ana", "analyst");
        let space = Namespace::of(&acme, Slug::parse("answers").unwrap());
        let ask = |key| flight.get_or_compute(&acme, &space, key, None, std::future::pending());
        let (mut first, mut second, mut other) = (Box::pin(ask("k")), Box::pin(ask("k")), Box::pin(ask("l")));
        for call in [&mut first, &mut second, &mut other] {
            assert!(call.now_or_never().is_none());
        }
        let lines = || flight.lines.lock().unwrap().values().map(|line| line.callers).sum::<usize>();
        assert_eq!((lines(), flight.lines.lock().unwrap().len()), (3, 2));
        drop(first);
        assert_eq!((lines(), flight.lines.lock().unwrap().len()), (2, 2));
        drop((second, other));
        assert!(flight.lines.lock().unwrap().is_empty());
    }
}
