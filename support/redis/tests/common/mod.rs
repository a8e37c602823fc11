//! What the tests of real servers share.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use forge_core::secret::{Secret, Secrets, StaticSecrets};
use forge_core::{Error, SystemClock};
use forge_redis::redis::cmd;
use forge_redis::{Redis, RedisConfig};

/// Connections whose password, if the configuration names `mem:redis`, is this one.
pub(crate) fn open(config: RedisConfig, password: &str) -> Redis {
    let secrets = Secrets::standard().with(StaticSecrets::default().with("redis", Secret::new(password)));
    Redis::new(config, secrets, Arc::new(SystemClock)).unwrap()
}

/// Waits for it, at most 20 seconds.
pub(crate) async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let reached = async {
        while !reached().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(20), reached).await.is_err() {
        panic!("never: {what}");
    }
}

/// Waits until a key can be written.
pub(crate) async fn writes(redis: &Redis) {
    let key = redis.key("written");
    until("a key is written", async || redis.query::<()>("test.set", cmd("SET").arg(&key).arg("x")).await.is_ok())
        .await;
}

/// The server's word in an error.
pub(crate) fn code(e: &Error) -> &str {
    e.context().find(|(key, _)| *key == "code").map_or("", |(_, code)| code)
}
