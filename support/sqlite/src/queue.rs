//! What waits for the writer. A job that somebody waits for wakes it; one that nobody waits for lets it sleep a little, so that
//! many of them share one wake-up and one commit.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::writer::Job;

/// At most so many jobs in one transaction, so that no caller waits for an endless one.
const MAX_BATCH: usize = 512;
/// How long jobs that nobody waits for may rest in memory.
const LINGER: Duration = Duration::from_millis(5);

/// Whether somebody waits for a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Urgency {
    /// Somebody waits for its commit.
    Now,
    /// It may wait for others, for 5 ms at most.
    Soon,
}

/// The queue of one writer. Unbounded itself: what is in it holds a permit, or is bounded by who submits it.
#[derive(Default)]
pub(crate) struct Queue {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    jobs: Vec<Job>,
    urgent: bool,
    writer: Writer,
    closed: bool,
}

/// What the writer's thread does, and so whether it must be woken.
#[derive(Default, PartialEq, Eq)]
enum Writer {
    #[default]
    Works,
    /// There is nothing to do.
    Sleeps,
    /// There are jobs that nobody waits for.
    Lingers,
}

impl Queue {
    /// Queues a job; gives it back if the writer has ended.
    pub(crate) fn push(&self, job: Job, urgency: Urgency) -> Result<(), Job> {
        let mut state = self.lock();
        if state.closed {
            return Err(job);
        }
        state.jobs.push(job);
        state.urgent |= urgency == Urgency::Now;
        let wake = match state.writer {
            Writer::Works => false,
            Writer::Sleeps => true,
            Writer::Lingers => state.urgent || state.jobs.len() >= MAX_BATCH,
        };
        if wake {
            state.writer = Writer::Works;
            drop(state);
            self.wake.notify_one();
        }
        Ok(())
    }

    /// No more jobs: the writer ends once it has written what is here.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.wake.notify_one();
    }

    /// The next jobs for one transaction, in their order; empty when the queue is closed and written. Blocks.
    pub(crate) fn next(&self) -> Vec<Job> {
        let mut state = self.lock();
        while state.jobs.is_empty() && !state.closed {
            state.writer = Writer::Sleeps;
            state = self.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.urgent && !state.closed && state.jobs.len() < MAX_BATCH {
            state.writer = Writer::Lingers;
            let more = |s: &mut State| !s.urgent && !s.closed && s.jobs.len() < MAX_BATCH;
            state = self.wake.wait_timeout_while(state, LINGER, more).unwrap_or_else(PoisonError::into_inner).0;
        }
        state.writer = Writer::Works;
        let now = state.jobs.len().min(MAX_BATCH);
        let more = state.jobs.split_off(now);
        // what is left over is written at once, whoever waits for it
        state.urgent = !more.is_empty();
        std::mem::replace(&mut state.jobs, more)
    }

    /// Takes no more, and drops what is here: the writer has ended, for whatever reason.
    pub(crate) fn abandon(&self) {
        let left = {
            let mut state = self.lock();
            state.closed = true;
            std::mem::take(&mut state.jobs)
        };
        // whoever waits for one of them learns that its sender is gone
        drop(left);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
