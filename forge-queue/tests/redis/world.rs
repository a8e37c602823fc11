//! A Redis of its own, and a broker on it whose time is the test's.

use std::sync::Arc;
use std::time::Duration;

use forge_core::fake::FakeKeyring;
use forge_core::secret::Secrets;
use forge_core::{Clock, SystemClock};
use forge_queue::redis::{Options, RedisBroker};
use forge_redis::{Redis, RedisConfig};
use forge_testkit::servers::RedisServer;

pub(crate) const PREFIX: &str = "{t}:";

pub(crate) fn connect(server: &RedisServer) -> Redis {
    let mut config: RedisConfig = server.url().parse().unwrap();
    config.timeout = Duration::from_secs(2);
    Redis::new(config.with_prefix(PREFIX), Secrets::standard(), Arc::new(SystemClock)).unwrap()
}

/// A broker that goes by the clock it is given.
pub(crate) fn broker(server: &RedisServer, clock: Arc<dyn Clock>) -> RedisBroker {
    let mut options = Options::default();
    options.local_time = true;
    RedisBroker::new(connect(server), Arc::new(FakeKeyring), clock).with_options(options)
}
