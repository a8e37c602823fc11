//! Health.

use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_trait::async_trait;
use forge_core::fake::{FakeAudit, FakeBlobs, FakeKeyValue, FakeLedger, FakeVectors, ManualClock};
use forge_core::testing::{Fixture, health_check};
use forge_core::{Adapter, Depth, Health, HealthCheck};
use futures::FutureExt;

#[tokio::test]
async fn fakes_are_well() {
    health_check(async || FakeKeyValue::new(Arc::new(ManualClock::default()))).await;
    health_check(async || FakeBlobs::default()).await;
    health_check(async || FakeVectors::default()).await;
    health_check(async || FakeAudit::default()).await;
    health_check(async || FakeLedger::default()).await;
}

/// Has a server, whose password it may or may not keep to itself.
#[derive(Default)]
struct Server {
    gone: AtomicBool,
    detail: &'static str,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Server")
    }
}

#[async_trait]
impl HealthCheck for Server {
    async fn check(&self, _: Depth) -> Health {
        if self.gone.load(Ordering::SeqCst) {
            return Health::down(self.detail);
        }
        Health::up()
    }
}

fn server(detail: &'static str) -> Fixture<dyn Adapter> {
    let server = Arc::new(Server { detail, ..Server::default() });
    let adapter: Arc<dyn Adapter> = server.clone();
    Fixture::new(adapter)
        .with_secret("hunter2")
        .server_gone(move || async move { server.gone.store(true, Ordering::SeqCst) })
}

#[tokio::test]
async fn a_server_that_is_gone_is_down_and_says_why_without_its_password() {
    health_check(async || server("connection refused")).await;
    for (detail, found) in [("", "says why"), ("redis://:hunter2@host: refused", "absent from the health")] {
        let suite = health_check(async || server(detail));
        let panic = AssertUnwindSafe(suite).catch_unwind().await.unwrap_err();
        let message = panic.downcast_ref::<String>().cloned().or(panic.downcast_ref::<&str>().map(|s| (*s).into()));
        assert!(message.as_ref().is_some_and(|m| m.contains(found)), "{message:?}");
    }
}
