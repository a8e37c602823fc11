//! What a host sets for its worker, and for single handlers.

use std::time::Duration;

use forge_core::guard::{Breaker, Tries};
use forge_core::queue::Lease;
use forge_core::{Error, ErrorKind, Retryability, Timestamp};

/// How a worker treats its tasks. The defaults are those that the fields name.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Settings {
    /// Time limits of handlers that have none of their own; none.
    pub limits: Limits,
    /// How failed tasks are tried again whose handlers do not say.
    pub retry: RetryPolicy,
    /// How long a handler that was told to stop may take to end by itself; 5 seconds. Then it is dropped.
    pub grace: Duration,
    /// Tasks of one tenant at a time in this worker; zero counts as one, and there is no limit by default.
    pub per_tenant: Option<usize>,
    /// After so many failures in a row, as `Unavailable` or `Timeout`, a handler's tasks are left for a while; 5.
    pub breaker_failures: u32,
    /// How long they are left before one is tried; 30 seconds.
    pub breaker_open: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            retry: RetryPolicy::default(),
            grace: Duration::from_secs(5),
            per_tenant: None,
            breaker_failures: 5,
            breaker_open: Duration::from_secs(30),
        }
    }
}

impl Settings {
    pub(super) fn breaker(&self) -> Breaker {
        Breaker::new(self.breaker_failures, self.breaker_open)
    }
}

/// What is special about one handler.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct HandlerOptions {
    /// Its time limits; one that is not set is the worker's.
    pub limits: Limits,
    /// How its tasks are tried again; by default as the worker's settings say.
    pub retry: Option<RetryPolicy>,
    /// Its tasks at a time in this worker; zero counts as one, and there is no limit by default. A queue that is one list (Redis) puts
    /// tasks aside that find no room, for half a second at a time: a handler that is always full wants a queue of its own.
    pub concurrency: Option<usize>,
}

impl HandlerOptions {
    /// Sets the time limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Sets how its tasks are tried again.
    #[must_use]
    pub fn with_retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = Some(retry);
        self
    }

    /// Sets how many of its tasks run at a time in this worker.
    #[must_use]
    pub fn with_concurrency(mut self, concurrency: usize) -> Self {
        self.concurrency = Some(concurrency);
        self
    }
}

/// How long a try may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// After so long its context is cancelled. If it then ends with an error, the try failed as `Timeout` and is retried as others are.
    pub soft: Option<Duration>,
    /// After so long it is dropped and its task given up, as `Timeout`. It is the deadline of its context too.
    pub hard: Option<Duration>,
}

impl Limits {
    /// These, and where one is not set, that of `other`.
    pub(super) fn or(self, other: Self) -> Self {
        Self { soft: self.soft.or(other.soft), hard: self.hard.or(other.hard) }
    }

    /// These and what the sender of the task asks for: of each the shorter.
    pub(super) fn and_of(self, lease: &Lease) -> Self {
        let shorter = |a: Option<Duration>, b: Option<Duration>| a.into_iter().chain(b).min();
        Self { soft: shorter(self.soft, lease.soft_time_limit), hard: shorter(self.hard, lease.time_limit) }
    }
}

/// Whether and when a failed task is tried again. The worker is the one layer that retries plain tasks: an error whose own tries are used
/// up is not tried here again.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RetryPolicy {
    /// Retries after the first try; by default what the task says. A try whose lease ran out counts against what the task says.
    pub max_retries: Option<u32>,
    /// Backoff after the first try; 1 second. Doubles, with full jitter.
    pub base: Duration,
    /// The longest backoff; 60 seconds.
    pub cap: Duration,
    /// The kinds of error that are tried again, and no others; by default an error says itself whether that may help.
    pub retry_on: Option<Vec<ErrorKind>>,
    /// A task that was queued longer ago is not tried again; no limit by default. An id of another program's that does not tell its time
    /// (it is no UUIDv7) has no age.
    pub max_age: Option<Duration>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        let Tries { base, cap, .. } = Tries::default();
        Self { max_retries: None, base, cap, retry_on: None, max_age: None }
    }
}

impl RetryPolicy {
    /// Sets how often a task is tried after its first try, whatever the task says.
    #[must_use]
    pub fn with_max_retries(mut self, n: u32) -> Self {
        self.max_retries = Some(n);
        self
    }

    /// Sets the first and the longest backoff.
    #[must_use]
    pub fn with_backoff(mut self, base: Duration, cap: Duration) -> Self {
        (self.base, self.cap) = (base, cap);
        self
    }

    /// Sets the kinds of error that are tried again.
    #[must_use]
    pub fn with_retry_on(mut self, kinds: impl IntoIterator<Item = ErrorKind>) -> Self {
        self.retry_on = Some(kinds.into_iter().collect());
        self
    }

    /// Sets how old a task may be that is tried again.
    #[must_use]
    pub fn with_max_age(mut self, age: Duration) -> Self {
        self.max_age = Some(age);
        self
    }

    /// How long to wait before the next try of a task that failed; `None`: none.
    pub(super) fn next(&self, lease: &Lease, error: &Error, now: Timestamp) -> Option<Duration> {
        let too_old = |made| self.max_age.is_some_and(|most| now.since(made) > most);
        let listed = self.retry_on.as_ref().map(|kinds| kinds.contains(&error.kind()));
        if error.retry() == Retryability::Exhausted || listed == Some(false) || lease.id.made().is_some_and(too_old) {
            return None;
        }
        let max = self.max_retries.unwrap_or(lease.max_retries).saturating_add(1);
        let tries = Tries { max, base: self.base, cap: self.cap };
        let jittered = || tries.backoff(lease.attempt, &Error::new(ErrorKind::Unavailable, "worker.retry", ""));
        match error.retry() {
            Retryability::Never if listed.is_none() => None,
            // nobody is kept waiting, so it is waited for however long it is; not everybody comes back in the same moment
            Retryability::After(d) => jittered().map(|jitter| d.saturating_add(jitter)),
            _ => jittered(),
        }
    }
}

#[cfg(test)]
mod tests {
    use forge_core::testing::{context, lease};
    use forge_core::{Clock, TaskId, fake::ManualClock};
    use serde_json::json;

    use super::*;

    fn tried(attempt: u32) -> Lease {
        lease(&context("acme", "ana", "analyst"), TaskId::fixed(1), json!({}), attempt)
    }

    fn next(policy: &RetryPolicy, lease: &Lease, error: &Error) -> Option<Duration> {
        policy.next(lease, error, ManualClock::default().now())
    }

    #[test]
    fn a_policy_says_how_often_and_how_long() {
        let down = Error::new(ErrorKind::Unavailable, "t", "down");
        let policy = RetryPolicy::default().with_backoff(Duration::from_secs(2), Duration::from_secs(3));
        for (attempt, most) in [(1, 2), (2, 3), (5, 3)] {
            assert!(next(&policy, &tried(attempt), &down).unwrap() <= Duration::from_secs(most));
        }
        assert_eq!(next(&policy, &tried(6), &down), None, "the task says five retries");
        let policy = policy.with_max_retries(1);
        assert!(next(&policy, &tried(1), &down).is_some() && next(&policy, &tried(2), &down).is_none());
    }

    #[test]
    fn an_error_says_whether_it_is_tried_again_unless_the_policy_does() {
        let (conflict, down) =
            (Error::new(ErrorKind::Conflict, "t", "no"), Error::new(ErrorKind::Unavailable, "t", "down"));
        let own = RetryPolicy::default();
        assert!(next(&own, &tried(1), &conflict).is_none() && next(&own, &tried(1), &down).is_some());
        let listed = RetryPolicy::default().with_retry_on([ErrorKind::Conflict]);
        assert!(next(&listed, &tried(1), &conflict).is_some() && next(&listed, &tried(1), &down).is_none());
        let used_up = || Error::new(ErrorKind::Unavailable, "t", "down").with_retry(Retryability::Exhausted);
        let listed = RetryPolicy::default().with_retry_on([ErrorKind::Unavailable]);
        assert_eq!(next(&own, &tried(1), &used_up()), None, "another layer has tried it");
        assert_eq!(next(&listed, &tried(1), &used_up()), None, "listed or not");
    }

    #[test]
    fn a_time_that_the_far_side_names_is_waited_for() {
        let hour = Duration::from_secs(3600);
        let after = Error::new(ErrorKind::RateLimited, "t", "slow down").with_retry(Retryability::After(hour));
        let wait = next(&RetryPolicy::default(), &tried(1), &after).unwrap();
        assert!(wait >= hour && wait <= hour + Duration::from_secs(1), "{wait:?}");
    }

    #[test]
    fn a_task_that_is_too_old_is_not_tried_again() {
        let clock = ManualClock::default();
        let mut task = tried(1);
        task.id = TaskId::random(clock.now());
        let policy = RetryPolicy::default().with_max_age(Duration::from_secs(60));
        let down = Error::new(ErrorKind::Unavailable, "t", "down");
        clock.advance(Duration::from_secs(59));
        assert!(policy.next(&task, &down, clock.now()).is_some());
        clock.advance(Duration::from_secs(2));
        assert!(policy.next(&task, &down, clock.now()).is_none());
        assert!(policy.next(&tried(1), &down, clock.now()).is_some(), "an id that does not tell its time has no age");
    }

    #[test]
    fn the_shorter_limit_wins() {
        let mut task = tried(1);
        (task.soft_time_limit, task.time_limit) = (Some(Duration::from_secs(5)), Some(Duration::from_secs(50)));
        let of = |soft, hard| Limits { soft: Some(Duration::from_secs(soft)), hard: Some(Duration::from_secs(hard)) };
        assert_eq!(of(3, 60).and_of(&task), of(3, 50));
        assert_eq!(Limits::default().and_of(&task), of(5, 50));
        assert_eq!(Limits { soft: None, hard: of(1, 2).hard }.or(of(7, 8)), of(7, 2));
    }
}
