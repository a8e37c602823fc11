//! Who is woken by what, within a process: each handle by its own run, the relay by what is owed.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forge_core::RunId;
use tokio::sync::Notify;

/// The bells of the runs that somebody listens to, and that of the relay.
#[derive(Debug, Default)]
pub(super) struct Bells {
    runs: Mutex<HashMap<RunId, Arc<Bell>>>,
    pub(super) owed: Notify,
}

#[derive(Debug, Default)]
pub(super) struct Bell {
    /// Something was journalled.
    pub(super) changed: Notify,
    /// The run moved, or its driver left.
    pub(super) rested: Notify,
}

impl Bells {
    /// Listens to a run until it is dropped.
    pub(super) fn listen(&self, run: RunId) -> Listener<'_> {
        let bell = self.runs().entry(run).or_default().clone();
        Listener { bells: self, run, bell }
    }

    /// Something was journalled of this run.
    pub(super) fn changed(&self, run: RunId) {
        if let Some(bell) = self.runs().get(&run) {
            bell.changed.notify_waiters();
        }
    }

    /// The run moved, or its driver left.
    pub(super) fn rested(&self, run: RunId) {
        if let Some(bell) = self.runs().get(&run) {
            bell.changed.notify_waiters();
            bell.rested.notify_waiters();
        }
    }

    /// Everybody looks again.
    pub(super) fn all(&self) {
        for bell in self.runs().values() {
            bell.changed.notify_waiters();
            bell.rested.notify_waiters();
        }
        self.owed.notify_waiters();
    }

    fn runs(&self) -> MutexGuard<'_, HashMap<RunId, Arc<Bell>>> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who listens to a run. The last one takes the bell down.
pub(super) struct Listener<'a> {
    bells: &'a Bells,
    run: RunId,
    pub(super) bell: Arc<Bell>,
}

impl Drop for Listener<'_> {
    fn drop(&mut self) {
        let mut runs = self.bells.runs();
        // the map's and this one
        if Arc::strong_count(&self.bell) <= 2 {
            runs.remove(&self.run);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bell_hangs_as_long_as_somebody_listens() {
        let bells = Bells::default();
        let run = RunId::fixed(1);
        let (first, second) = (bells.listen(run), bells.listen(run));
        assert!(Arc::ptr_eq(&first.bell, &second.bell));
        drop(first);
        assert_eq!(bells.runs().len(), 1);
        drop(second);
        assert!(bells.runs().is_empty());
        bells.rested(run);
    }
}
