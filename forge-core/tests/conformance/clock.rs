//! Clocks.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use forge_core::fake::{ManualClock, SkippingClock};
use forge_core::testing::{Fixture, clock};
use forge_core::{Clock, SystemClock, Timestamp};
use futures::FutureExt;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_machines_clock() {
    clock(async || SystemClock).await;
}

#[tokio::test]
async fn a_clock_that_is_moved_by_hand() {
    clock(async || {
        let manual = Arc::new(ManualClock::default());
        let moved: Arc<dyn Clock> = manual.clone();
        Fixture::new(moved).with_clock(manual)
    })
    .await;
}

#[tokio::test]
async fn a_clock_that_skips() {
    clock(async || SkippingClock::default()).await;
}

/// Wakes before the time is over.
#[derive(Debug, Default)]
struct Early(AtomicU64);

#[async_trait]
impl Clock for Early {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_millis(10 * self.0.fetch_add(1, Ordering::Relaxed) / 10)
    }

    async fn sleep(&self, _: Duration) {}
}

#[tokio::test]
async fn a_clock_that_wakes_early_is_found() {
    let suite = clock(async || Early::default());
    let panic = std::panic::AssertUnwindSafe(suite).catch_unwind().await.unwrap_err();
    let message = panic.downcast_ref::<String>().cloned().unwrap();
    assert!(message.contains("no earlier"), "{message}");
}
