//! Where the queue is, as a parent tells it to its workers.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forge_core::fake::FakeKeyring;
use forge_core::secret::Secrets;
use forge_core::{ExecutionContext, Principal, Slug, SystemClock};
use forge_queue::redis::{Options, RedisBroker};
use forge_redis::{Redis, RedisConfig};
use serde::{Deserialize, Serialize};

pub(crate) const PREFIX: &str = "{t}:";
const SHARED: &str = "shared";
pub(crate) const TENANTS: [&str; 3] = ["acme", "globex", "umbrella"];

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Place {
    pub(crate) url: String,
    pub(crate) ca: Option<PathBuf>,
    /// How many replicas a write waits for, and how many ms.
    pub(crate) replicas: Option<(usize, u64)>,
}

impl Place {
    pub(crate) fn at(url: String) -> Self {
        Self { url, ca: None, replicas: None }
    }

    /// A connection that gives up soon, so that a round is short.
    pub(crate) fn redis(&self) -> Redis {
        let mut config = self.url.parse::<RedisConfig>().unwrap().with_prefix(PREFIX);
        config.ca_file.clone_from(&self.ca);
        (config.timeout, config.connect_timeout) = (Duration::from_millis(800), Duration::from_millis(1500));
        Redis::new(config, Secrets::standard(), Arc::new(SystemClock)).unwrap()
    }

    pub(crate) fn broker(&self) -> RedisBroker {
        let mut options = Options::default();
        options.replicas = self.replicas.map(|(count, ms)| (count, Duration::from_millis(ms)));
        let broker = RedisBroker::new(self.redis(), Arc::new(FakeKeyring), Arc::new(SystemClock)).with_options(options);
        // one tenant's tasks go through the keys that workers of Celery would read
        let shared = broker.bind(SHARED, Principal::employee("umbrella", "ana", "analyst").unwrap()).unwrap();
        shared.route(&name_of("umbrella"), SHARED).unwrap()
    }
}

pub(crate) fn ctx(tenant: &str) -> ExecutionContext {
    forge_core::testing::context(tenant, "ana", "analyst")
}

/// What the tasks of the tests are called.
pub(crate) fn name() -> Slug {
    name_of("acme")
}

/// What a tenant's tasks are called.
pub(crate) fn name_of(tenant: &str) -> Slug {
    Slug::parse(format!("work.{tenant}")).unwrap()
}

/// Looks until it is so.
pub(crate) async fn until(what: &str, at_most: Duration, mut look: impl AsyncFnMut() -> bool) {
    let began = std::time::Instant::now();
    while !look().await {
        assert!(began.elapsed() < at_most, "{what}: not within {at_most:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
