//! Schedules on each backend: ticks that are due are tasks that are queued, whatever dies and whatever the clock does.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

/// Each scenario on each backend, in a world of its own.
macro_rules! on_each_backend {
    ($($scenario:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                super::$scenario(&$crate::world::World::sqlite().await).await;
            })*
        }
        #[cfg(feature = "redis")]
        mod on_redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $scenario() {
                super::$scenario(&$crate::world::World::redis().await).await;
            })*
        }
    };
}

mod kills;
mod seals;
mod tenants;
mod ticks;
mod world;
