//! A Redis of its own, and a broker on it whose time is the test's.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use forge_core::fake::{FakeKeyring, ManualClock};
use forge_core::queue::{Broker, Lease, LeaseRequest, NewTask};
use forge_core::secret::Secrets;
use forge_core::testing::context;
use forge_core::{Clock, ExecutionContext, Principal, Slug, SystemClock};
use forge_queue::redis::{Options, RedisBroker};
use forge_redis::{Redis, RedisConfig};
use forge_testkit::servers::RedisServer;
use serde_json::Value;

pub(crate) const PREFIX: &str = "{t}:";
pub(crate) const VISIBILITY: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) server: RedisServer,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) broker: RedisBroker,
}

impl World {
    pub(crate) fn new() -> Self {
        let server = RedisServer::start();
        let clock = Arc::new(ManualClock::default());
        let broker = broker(&server, clock.clone());
        Self { server, clock, broker }
    }

    /// With the queue `celery` bound to a principal of acme's.
    pub(crate) fn bound() -> Self {
        let w = Self::new();
        let broker = w.broker.bind("celery", Principal::employee("acme", "mailer", "service").unwrap()).unwrap();
        Self { broker, ..w }
    }

    pub(crate) async fn lease(&self, max: usize) -> Vec<Lease> {
        lease(&self.broker, max).await
    }

    /// Pushes a message as another program does.
    pub(crate) fn push(&self, list: &str, message: &str) {
        self.server.cli(&["LPUSH", &format!("{PREFIX}{list}"), message]);
    }
}

pub(crate) async fn lease(broker: &RedisBroker, max: usize) -> Vec<Lease> {
    let request = LeaseRequest::new(vec![slug("index")], max, VISIBILITY);
    broker.lease(&request).await.unwrap()
}

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

pub(crate) fn slug(name: &str) -> Slug {
    Slug::parse(name).unwrap()
}

pub(crate) fn ctx(tenant: &str) -> ExecutionContext {
    context(tenant, "ana", "analyst")
}

pub(crate) fn index(payload: impl Into<Value>) -> NewTask {
    NewTask::new(slug("index"), payload.into())
}

/// Everything that a server is asked, also by scripts, while it is kept.
pub(crate) struct Monitor {
    child: Child,
    file: PathBuf,
    _dir: tempfile::TempDir,
}

impl Monitor {
    pub(crate) fn of(server: &RedisServer) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("monitor");
        let url = server.url();
        let child = Command::new("redis-cli")
            .args(["-u", &url, "MONITOR"])
            .stdout(File::create(&file).unwrap())
            .stdin(Stdio::null())
            .spawn()
            .unwrap();
        let monitor = Self { child, file, _dir: dir };
        // what is asked before it listens would be missed
        while !monitor.text().starts_with("OK") {
            std::thread::yield_now();
        }
        monitor
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.file).unwrap()).into_owned()
    }

    /// The commands, each with whether a script gave it, its name and its arguments.
    pub(crate) fn commands(mut self, server: &RedisServer) -> Vec<(bool, Vec<String>)> {
        server.cli(&["ECHO", "that was all"]);
        while !self.text().contains("\"that was all\"") {
            std::thread::yield_now();
        }
        let text = self.text();
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        let words = |line: &str| line.split('"').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let lines = text.lines().filter(|l| l.contains("] \"")).map(|l| (l.contains(" lua] "), words(l)));
        lines.filter(|(_, words)| words[0] != "ECHO" && words[0] != "COMMAND").collect()
    }
}
