//! The suite of [`HealthCheck`](crate::HealthCheck): small, since the suite of every adapter asks for its health where it matters.

use std::sync::Arc;

use futures::FutureExt;

use super::fixture::{Fixture, prints_no_secret};
use crate::health::{Adapter, Depth, Health, Status};

impl<A: Adapter> From<A> for Fixture<dyn Adapter> {
    fn from(adapter: A) -> Self {
        Self::new(Arc::new(adapter))
    }
}

/// Runs every scenario on fresh adapters that `fresh` makes.
///
/// # Panics
/// With the scenario's name, where the adapter does not keep the [contract](crate::HealthCheck).
pub async fn health_check<A: Into<Fixture<dyn Adapter>>>(fresh: impl AsyncFn() -> A) {
    let mut f: Fixture<dyn Adapter> = fresh().await.into();
    for depth in [Depth::Shallow, Depth::Deep] {
        let health = looked(&f, depth).await;
        assert_eq!(health.status, Status::Up, "healthy when fresh, {depth:?}: {}", health.detail);
        for _ in 0..8 {
            let _dropped = f.adapter.check(depth).now_or_never();
        }
        let all = futures::future::join_all((0..8).map(|_| f.adapter.check(depth))).await;
        assert!(all.iter().all(|h| h.status == Status::Up), "many who look change nothing, nor does one who stops");
    }
    prints_no_secret(f.adapter.as_ref(), &f.secrets);
    if f.lose_server().await {
        let health = looked(&f, Depth::Deep).await;
        assert_eq!(health.status, Status::Down, "server gone: health says so");
        assert!(!health.detail.is_empty(), "server gone: the detail says why");
    }
}

/// One look, whose answer may be shown to operators.
async fn looked(f: &Fixture<dyn Adapter>, depth: Depth) -> Health {
    let health = f.adapter.check(depth).await;
    let text = serde_json::to_string(&health).expect("health serialises");
    assert!(!f.secrets.iter().any(|s| text.contains(s)), "secret absent from the health: it prints a secret");
    health
}
