//! A Redis, a broker whose queue `celery` is acme's, for `t.add` too, and `other` globex's, a worker loop, and Python beside.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use forge_core::fake::FakeKeyring;
use forge_core::queue::{Broker, Lease, LeaseRequest};
use forge_core::secret::Secrets;
use forge_core::{Clock, Principal, Slug, SystemClock, TenantId};
use forge_queue::redis::RedisBroker;
use forge_redis::{Redis, RedisConfig};
use forge_testkit::servers::{Celery, RedisServer};
use serde_json::{Value, json};
use tokio::sync::mpsc;

pub(crate) const PREFIX: &str = "{t}:";
pub(crate) const NAME: &str = "forge1@test";

pub(crate) struct World {
    pub(crate) server: Arc<RedisServer>,
    pub(crate) broker: RedisBroker,
}

impl World {
    pub(crate) fn start() -> Self {
        let server = Arc::new(RedisServer::start());
        let config: RedisConfig = server.url().parse().unwrap();
        let redis = Redis::new(config.with_prefix(PREFIX), Secrets::standard(), Arc::new(SystemClock)).unwrap();
        let bound = |tenant| Principal::employee(tenant, "celery", "worker").unwrap();
        let broker = RedisBroker::new(redis, Arc::new(FakeKeyring), Arc::new(SystemClock));
        let broker = broker.bind("celery", bound("acme")).unwrap().bind("other", bound("globex")).unwrap();
        let broker = broker.route(&Slug::parse("t.add").unwrap(), "celery").unwrap();
        Self { server, broker }
    }

    /// Runs code with the application of `app.py`; the JSON that it prints.
    pub(crate) async fn python(&self, code: &str) -> Value {
        let code = format!("import json\nfrom app import app, cli, keys, results\n{code}");
        let url = self.server.url();
        let output = tokio::task::spawn_blocking(move || Celery::python(&app(), &url, &code)).await.unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}\n{err}"))
    }

    /// Takes tasks until the world ends: adds numbers, hands `t.hold` over to the test and leaves it unfinished.
    pub(crate) fn work(&self) -> mpsc::UnboundedReceiver<Lease> {
        let (held, holding) = mpsc::unbounded_channel();
        let broker = self.broker.clone();
        tokio::spawn(async move {
            let request = LeaseRequest::new(
                ["t.add", "t.fail", "t.hold"].map(|name| Slug::parse(name).unwrap()).to_vec(),
                4,
                Duration::from_secs(30),
            );
            while !held.is_closed() {
                for lease in broker.lease(&request).await.unwrap_or_default() {
                    match lease.name.as_str() {
                        "t.hold" => held.send(lease).unwrap(),
                        "t.fail" => {
                            let e = forge_core::Error::invalid("t.fail", "it does not fit");
                            let nack = forge_core::queue::Nack::Dead { report: e.report() };
                            broker.nack(&lease, nack).await.unwrap();
                        }
                        _ => {
                            let sum = lease.payload.as_array().map(|n| n.iter().filter_map(Value::as_i64).sum::<i64>());
                            broker.ack(&lease, json!(sum)).await.unwrap();
                        }
                    }
                }
                broker.wait(Duration::from_millis(200)).await;
            }
        });
        holding
    }
}

pub(crate) fn app() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/control/app.py"))
}

pub(crate) fn acme() -> TenantId {
    TenantId::parse("acme").unwrap()
}

/// Asks until the answer is some, at most half a minute.
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = SystemClock.monotonic();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(SystemClock.monotonic() - began < Duration::from_secs(30), "waited too long for {what}");
        SystemClock.sleep(Duration::from_millis(20)).await;
    }
}

/// The next task that is held, within half a minute.
pub(crate) async fn next(holding: &mut mpsc::UnboundedReceiver<Lease>) -> Lease {
    tokio::time::timeout(Duration::from_secs(30), holding.recv()).await.expect("a task is taken").unwrap()
}
