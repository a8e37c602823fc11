//! The place of one connection: which is there, and when the next may be made.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forge_core::{ErrorKind, Timestamp};

use crate::connect::Connected;

/// The first pause after a failed connection is at most twice this; each further failure doubles it.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// Failures further apart are not in a row.
const APART: Duration = Duration::from_secs(30);

#[derive(Default)]
pub(crate) struct Slot {
    state: Mutex<State>,
    /// One connects, the others wait for it.
    pub(crate) connecting: tokio::sync::Mutex<()>,
}

/// A connection and its number, so that a late error of an old one does not close the new one.
#[derive(Clone)]
pub(crate) struct Live {
    pub(crate) number: u64,
    pub(crate) connected: Connected,
}

#[derive(Default)]
struct State {
    live: Option<Live>,
    made: u64,
    made_at: Option<Timestamp>,
    in_a_row: u32,
    failed_at: Option<Timestamp>,
    not_before: Option<(Timestamp, ErrorKind)>,
}

impl Slot {
    pub(crate) fn live(&self) -> Option<Live> {
        self.state().live.as_ref().filter(|live| !live.connected.is_over()).cloned()
    }

    pub(crate) fn fill(&self, connected: Connected, now: Timestamp) -> Live {
        let mut state = self.state();
        state.made += 1;
        (state.made_at, state.not_before) = (Some(now), None);
        let live = Live { number: state.made, connected };
        state.live = Some(live.clone());
        live
    }

    /// Lets go of a connection, if it is still the one in use.
    pub(crate) fn leave(&self, number: u64) -> bool {
        let mut state = self.state();
        let current = state.live.as_ref().is_some_and(|live| live.number == number);
        if current {
            state.live = None;
        }
        current
    }

    /// Lets go of a connection because its server said so. To one that was made a moment ago the next would be told the same.
    pub(crate) fn turned_away(&self, number: u64, now: Timestamp, kind: ErrorKind) {
        let new = self.state().made_at.is_some_and(|at| now.since(at) < LONGEST_PAUSE);
        if self.leave(number) && new {
            self.failed(now, kind);
        }
    }

    /// What the pause is for, while there is one.
    pub(crate) fn pauses(&self, now: Timestamp) -> Option<ErrorKind> {
        self.state().not_before.filter(|(until, _)| now < *until).map(|(_, kind)| kind)
    }

    /// Begins a pause; the number of failures in a row.
    pub(crate) fn failed(&self, now: Timestamp, kind: ErrorKind) -> u32 {
        let mut state = self.state();
        let apart = state.failed_at.replace(now).is_some_and(|at| now.since(at) > APART);
        state.in_a_row = if apart { 1 } else { state.in_a_row.saturating_add(1) };
        let ceiling = PAUSE.saturating_mul(1 << state.in_a_row.min(6)).min(LONGEST_PAUSE);
        state.not_before = Some((now.after(ceiling.mul_f64(fastrand::f64())), kind));
        state.in_a_row
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_with_failures_in_a_row_and_say_what_they_are_for() {
        let at = |s: u64| Timestamp::from_nanos(0).after(Duration::from_secs(s));
        let slot = Slot::default();
        assert_eq!(slot.pauses(at(0)), None);
        assert_eq!([0, 1, 2].map(|s| slot.failed(at(s), ErrorKind::Timeout)), [1, 2, 3]);
        assert_eq!(slot.failed(at(32), ErrorKind::Unauthenticated), 4);
        assert_eq!(slot.pauses(at(32)), Some(ErrorKind::Unauthenticated));
        assert_eq!(slot.pauses(at(34)), None, "two seconds are the longest");
        assert_eq!(slot.failed(at(63), ErrorKind::Timeout), 1, "long after the last it is the first");
    }
}
