//! A tenant in line: what its next task costs it, and what keeps it from having one.

use std::collections::VecDeque;

use forge_sqlite::rusqlite::Row;

use super::schema::{CAPPED, NEVER, THROTTLED};

/// Virtual time that a task of a tenant of weight 1 takes; small enough for the heaviest to have whole numbers.
const STRIDE: f64 = 1_000_000.0;
/// Of so many calls that a tenant is served in, one begins with its lowest priority.
const LOWEST_EVERY: i64 = 8;

/// A tenant that may be served.
pub(super) struct Tenant {
    pub(super) name: String,
    pub(super) order: usize,
    /// When its next task starts, unless the queue is further already.
    pub(super) vtime: i64,
    /// Tasks that it was given in this call.
    pub(super) served: usize,
    /// Rows of due tasks, in its own order, each with the place of its name in the request.
    pub(super) found: VecDeque<(i64, usize)>,
    /// There are no others.
    pub(super) drained: bool,
    stride: i64,
    calls: i64,
    /// Tasks that may run beside those that do.
    slots: i64,
    bucket: Option<Bucket>,
}

/// Why a tenant gets nothing now, and when it is looked at again.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Held {
    pub(super) why: i64,
    pub(super) wakes: i64,
}

/// A token bucket, kept as the time at which it is full again, in nanoseconds: whole numbers, and nothing to do while it fills.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    /// Between two tokens.
    interval: i64,
    /// From empty to full.
    depth: i64,
    full_at: i64,
}

impl Tenant {
    /// From a row of `tenant, vtime, calls, leased, weight, running, rate, burst, full_at`.
    pub(super) fn read(r: &Row<'_>) -> forge_sqlite::rusqlite::Result<Self> {
        let (leased, running): (i64, Option<i64>) = (r.get(3)?, r.get(5)?);
        let (rate, burst): (Option<f64>, Option<i64>) = (r.get(6)?, r.get(7)?);
        let full_at = r.get(8)?;
        Ok(Self {
            name: r.get(0)?,
            order: 0,
            vtime: r.get(1)?,
            served: 0,
            found: VecDeque::new(),
            drained: false,
            stride: whole(STRIDE / r.get::<_, f64>(4)?),
            calls: r.get(2)?,
            slots: running.map_or(i64::MAX, |most| most - leased),
            bucket: rate.map(|rate| Bucket::new(rate, burst, full_at)),
        })
    }

    /// Whether this call begins with the lowest priority.
    pub(super) fn lowest_first(&self) -> bool {
        self.calls % LOWEST_EVERY == LOWEST_EVERY - 1
    }

    /// What keeps it from having a task now.
    pub(super) fn held(&self, now: i64) -> Option<Held> {
        if self.slots <= 0 {
            return Some(Held { why: CAPPED, wakes: NEVER });
        }
        let wakes = self.bucket.and_then(|b| b.wait(now))?;
        Some(Held { why: THROTTLED, wakes })
    }

    /// Has taken a task; returns the virtual time at which it started.
    pub(super) fn took(&mut self, queue: i64, now: i64) -> i64 {
        let start = self.vtime.max(queue);
        self.vtime = start.saturating_add(self.stride);
        self.served += 1;
        self.slots -= 1;
        if let Some(bucket) = &mut self.bucket {
            bucket.full_at = bucket.full_at.max(now).saturating_add(bucket.interval);
        }
        start
    }

    /// When its bucket is full again.
    pub(super) fn full_at(&self) -> i64 {
        self.bucket.map_or(0, |b| b.full_at)
    }
}

impl Bucket {
    fn new(rate: f64, burst: Option<i64>, full_at: i64) -> Self {
        let interval = whole(1e9 / rate);
        let burst = burst.unwrap_or_else(|| whole(rate.floor()));
        Self { interval, depth: interval.saturating_mul(burst.max(1)), full_at }
    }

    /// Until when there is no token; none if there is one.
    fn wait(&self, now: i64) -> Option<i64> {
        let until = self.full_at.saturating_sub(self.depth - self.interval);
        Some(until).filter(|until| *until > now)
    }
}

/// What is between 1 and the largest number, as limits are checked to be.
fn whole(n: f64) -> i64 {
    #[expect(clippy::cast_possible_truncation, reason = "a cast of a float stops at the ends of the type")]
    let n = n.round() as i64;
    n.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenant(slots: i64, bucket: Option<Bucket>) -> Tenant {
        let found = VecDeque::new();
        let (order, vtime, served, drained, stride, calls) = (0, 0, 0, false, 1, 0);
        Tenant { name: "a".into(), order, vtime, served, found, drained, stride, calls, slots, bucket }
    }

    #[test]
    fn a_bucket_gives_its_burst_and_then_one_token_after_another() {
        let mut t = tenant(i64::MAX, Some(Bucket::new(10.0, Some(2), 0)));
        let second = 1_000_000_000;
        for _ in 0..2 {
            assert_eq!(t.held(second), None);
            t.took(0, second);
        }
        let next = second + second / 10;
        assert_eq!(t.held(second), Some(Held { why: THROTTLED, wakes: next }));
        assert_eq!(t.held(next), None);
        t.took(0, next);
        assert!(t.held(next).is_some());
        // it fills to its burst and no further
        let later = 100 * second;
        for _ in 0..2 {
            assert_eq!(t.held(later), None);
            t.took(0, later);
        }
        assert!(t.held(later).is_some());
    }

    #[test]
    fn a_bucket_of_extremes_does_not_overflow() {
        for (rate, burst) in [(0.001, Some(i64::from(u32::MAX))), (1e6, None), (1e6, Some(1)), (0.001, None)] {
            let mut t = tenant(1, Some(Bucket::new(rate, burst, i64::MAX - 1)));
            t.held(0);
            t.took(i64::MAX, i64::MAX);
            t.held(i64::MAX);
        }
    }

    #[test]
    fn a_tenant_starts_where_the_queue_is_and_ends_a_stride_further() {
        let mut t = tenant(1, None);
        assert_eq!(t.took(40, 0), 40);
        assert_eq!((t.vtime, t.took(2, 0)), (41, 41));
        assert_eq!(t.held(0), Some(Held { why: CAPPED, wakes: NEVER }));
    }
}
