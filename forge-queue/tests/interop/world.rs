//! A Redis, a worker of Celery, and a worker of Rust that is a loop.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use forge_core::error::ErrorReport;
use forge_core::fake::FakeKeyring;
use forge_core::keyring::Keyring;
use forge_core::queue::{Broker, Lease, LeaseRequest, Nack};
use forge_core::secret::Secrets;
use forge_core::{Clock, Error, ErrorKind, ExecutionContext, Principal, SealedFor, Slug, SystemClock};
use forge_queue::celery::untyped;
use forge_queue::redis::{Options, RedisBroker};
use forge_redis::{Redis, RedisConfig};
use forge_testkit::servers::{Celery, Process, RedisServer};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

pub(crate) const PREFIX: &str = "{t}:";

/// What Rust serves.
const NAMES: [&str; 9] =
    ["rs.add", "rs.tsum", "rs.echo", "rs.fail", "rs.flaky", "rs.whoami", "rs.who", "both.add", "both.slow"];
/// What Python serves.
const THEIRS: [&str; 7] = ["py.add", "py.tsum", "py.fail", "py.errback", "py.asks", "py.pass", "py.forward"];

pub(crate) struct World {
    pub(crate) server: RedisServer,
    pub(crate) broker: RedisBroker,
    dir: tempfile::TempDir,
}

pub(crate) fn slug(name: &str) -> Slug {
    Slug::parse(name).unwrap()
}

pub(crate) fn program(tenant: &str) -> Principal {
    Principal::employee(tenant, "celery", "worker").unwrap()
}

pub(crate) fn context(tenant: &str) -> ExecutionContext {
    forge_core::testing::context(tenant, "ana", "analyst")
}

impl World {
    pub(crate) fn new() -> Self {
        Self::with_keyring(Arc::new(FakeKeyring))
    }

    pub(crate) fn with_keyring(keyring: Arc<dyn Keyring>) -> Self {
        let server = RedisServer::start();
        let broker = Self::connect_with(&server, &Options::default(), keyring);
        Self { server, broker, dir: tempfile::tempdir().unwrap() }
    }

    /// A broker as another process has it: tasks of Python's names go to Python's queue, and are left there.
    pub(crate) fn connect(server: &RedisServer, options: &Options) -> RedisBroker {
        Self::connect_with(server, options, Arc::new(FakeKeyring))
    }

    fn connect_with(server: &RedisServer, options: &Options, keyring: Arc<dyn Keyring>) -> RedisBroker {
        let mut config: RedisConfig = server.url().parse().unwrap();
        config.timeout = Duration::from_secs(5);
        let clock = Arc::new(SystemClock);
        let redis = Redis::new(config.with_prefix(PREFIX), Secrets::standard(), clock.clone()).unwrap();
        let mut broker = RedisBroker::new(redis, keyring, clock).with_options(options.clone());
        for queue in ["pyq", "rsq", "both"] {
            broker = broker.bind(queue, program("acme")).unwrap();
        }
        broker = broker.bind("globexq", program("globex")).unwrap().leave("pyq").unwrap();
        for task in THEIRS {
            broker = broker.route(&slug(task), "pyq").unwrap();
        }
        for task in NAMES.iter().filter(|n| n.starts_with("rs.")) {
            broker = broker.route(&slug(task), "rsq").unwrap();
        }
        broker
    }

    fn app(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop").join(name)
    }

    /// A worker of Celery for these queues.
    pub(crate) fn celery(&self, queues: &str) -> Process {
        self.start("app.py", queues)
    }

    /// One that takes back what others held for a second.
    pub(crate) fn impatient(&self, queues: &str) -> Process {
        self.start("impatient.py", queues)
    }

    /// One that has the host's key of seals.
    pub(crate) fn sealing(&self, queues: &str) -> Process {
        self.start("sealed.py", queues)
    }

    fn start(&self, app: &str, queues: &str) -> Process {
        let log = self.dir.path().join("celery.log");
        let extra = ["--pool", "threads", "--concurrency", "2", "--without-gossip", "--without-mingle"];
        Celery::worker(&Self::app(app), &self.server.url(), queues, &log, &extra)
    }

    /// What a piece of Python prints, as JSON.
    pub(crate) async fn python(&self, code: &str) -> Value {
        let (url, code) = (self.server.url(), format!("import json, time\nfrom app import *\n{code}"));
        let run = tokio::task::spawn_blocking(move || Celery::python(&Self::app("app.py"), &url, &code)).await.unwrap();
        let (out, errors) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success(), "{out}\n{errors}");
        serde_json::from_str(out.lines().last().unwrap_or_default()).unwrap_or_else(|e| panic!("{e}: {out}\n{errors}"))
    }

    /// Serves everything that Rust has, until it is dropped.
    pub(crate) fn serve(&self) -> AbortOnDropHandle<()> {
        serve(self.broker.clone())
    }

    /// Puts a message where a producer would.
    pub(crate) fn push(&self, queue: &str, message: &[u8]) {
        let message = String::from_utf8(message.to_vec()).unwrap();
        self.server.cli(&["LPUSH", &format!("{PREFIX}{queue}"), &message]);
    }

    pub(crate) fn key(&self, command: &str, key: &str) -> String {
        self.server.cli(&[command, &format!("{PREFIX}{key}")]).trim().to_owned()
    }
}

pub(crate) fn request() -> LeaseRequest {
    let names = NAMES.iter().map(|n| slug(n)).collect();
    LeaseRequest::new(names, 8, Duration::from_secs(30))
}

pub(crate) fn serve(broker: RedisBroker) -> AbortOnDropHandle<()> {
    AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            let leases = broker.lease(&request()).await.unwrap();
            if leases.is_empty() {
                broker.wait(Duration::from_millis(500)).await;
            }
            for lease in leases {
                let _ = match run(&lease) {
                    Ok(result) => broker.ack(&lease, result).await,
                    Err(report) if lease.name.as_str() == "rs.flaky" => {
                        broker.nack(&lease, Nack::Retry { after: Duration::from_millis(700), report }).await
                    }
                    Err(report) => broker.nack(&lease, Nack::Dead { report }).await,
                };
            }
        }
    }))
}

/// The handlers; each first opens the seal, as a worker does.
fn run(lease: &Lease) -> Result<Value, ErrorReport> {
    let bound = SealedFor {
        id: lease.id.to_string(),
        name: lease.name.to_string(),
        queue: lease.queue.clone(),
        body: lease.body,
    };
    let ctx = lease.context.open(&bound, &FakeKeyring, SystemClock.now()).map_err(|e| e.report())?;
    let args = untyped(lease.payload.clone()).unwrap();
    let sum = |v: &Value| v.as_array().unwrap().iter().map(|n| n.as_i64().unwrap()).sum::<i64>();
    match lease.name.as_str() {
        "rs.add" => Ok(sum(&args).into()),
        "rs.tsum" => Ok(sum(&args[0]).into()),
        "rs.echo" => Ok(args),
        "rs.whoami" => Ok(json!([ctx.tenant().as_str(), ctx.employee().as_str()])),
        "rs.flaky" if lease.attempt > 1 => Ok(lease.attempt.into()),
        "both.add" => Ok(json!(["rust", sum(&args)])),
        "both.slow" => Ok("rust".into()),
        _ => Err(Error::new(ErrorKind::InvalidInput, "rs.fail", "no luck").report()),
    }
}

/// Looks until it is there.
#[expect(clippy::disallowed_methods, reason = "the real time of other processes")]
pub(crate) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = std::time::Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < Duration::from_secs(30), "{what}: not within 30 seconds");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
