//! The circuit of each handler: one whose far side is down is left alone for a while, with its tasks where they are.
//!
//! It is the handler's and not a tenant's, since a worker asks for names. Tenants are served in turn, so where one tenant's tasks fail and
//! another's do not, the failures are not in a row, and the circuit stays closed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forge_core::guard::{Breaker, Circuit};
use forge_core::{ErrorKind, Slug};

/// By handler; one that never failed has none.
#[derive(Debug, Default)]
pub(super) struct Circuits(Mutex<HashMap<Slug, Breaker>>);

impl Circuits {
    fn all(&self) -> MutexGuard<'_, HashMap<Slug, Breaker>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn of(&self, name: &Slug, now: Duration) -> Circuit {
        self.all().get(name).map_or(Circuit::Closed, |breaker| breaker.circuit(now))
    }

    /// Lets a task begin; of a half-open circuit it is the trial.
    pub(super) fn admit(&self, name: &Slug, now: Duration) -> Result<(), Duration> {
        self.all().get_mut(name).map_or(Ok(()), |breaker| breaker.admit(now))
    }

    /// Whether it is closed now and was not before: its tasks may be asked for again.
    pub(super) fn learn(
        &self,
        name: &Slug,
        now: Duration,
        outcome: Result<(), ErrorKind>,
        new: impl FnOnce() -> Breaker,
    ) -> bool {
        let mut all = self.all();
        let breaker = match all.get_mut(name) {
            Some(breaker) => breaker,
            None if outcome.is_ok() => return false,
            None => all.entry(name.clone()).or_insert_with(new),
        };
        let before = breaker.circuit(now);
        breaker.learn(now, outcome);
        match (before, breaker.circuit(now)) {
            (Circuit::Closed, Circuit::Open(left)) => {
                tracing::warn!(task = %name, for_ms = left.as_millis(), "a handler failed too often in a row; its tasks are left for a while");
            }
            (Circuit::Open(_) | Circuit::HalfOpen, Circuit::Closed) => {
                tracing::info!(task = %name, "a handler works again");
                return true;
            }
            _ => {}
        }
        false
    }
}
