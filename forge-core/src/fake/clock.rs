//! A clock that stands still until a test moves it.

use std::sync::Mutex;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::Notify;

use crate::time::{Clock, Timestamp};

/// Begins at 2026-01-01T00:00:00Z. `sleep` ends when the clock was moved far enough; nobody waits in real time.
#[derive(Debug)]
pub struct ManualClock {
    elapsed: Mutex<Duration>,
    moved: Notify,
}

const START: Timestamp = Timestamp::from_nanos(1_767_225_600_000_000_000);

impl Default for ManualClock {
    fn default() -> Self {
        Self { elapsed: Mutex::new(Duration::ZERO), moved: Notify::new() }
    }
}

impl ManualClock {
    /// Moves it on and wakes the sleepers.
    pub fn advance(&self, by: Duration) {
        if let Ok(mut elapsed) = self.elapsed.lock() {
            *elapsed = elapsed.saturating_add(by);
        }
        self.moved.notify_waiters();
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        START.after(self.monotonic())
    }

    fn monotonic(&self) -> Duration {
        self.elapsed.lock().map_or(Duration::ZERO, |e| *e)
    }

    async fn sleep(&self, duration: Duration) {
        let until = self.monotonic().saturating_add(duration);
        loop {
            let moved = self.moved.notified();
            if self.monotonic() >= until {
                return;
            }
            moved.await;
        }
    }
}

/// A clock that jumps over every sleep: for tests of backoff that need no order in time.
#[derive(Debug, Default)]
pub struct SkippingClock(ManualClock);

#[async_trait]
impl Clock for SkippingClock {
    fn now(&self) -> Timestamp {
        self.0.now()
    }

    fn monotonic(&self) -> Duration {
        self.0.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        self.0.advance(duration);
        tokio::task::yield_now().await;
    }
}
