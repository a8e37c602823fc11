//! A store and a queue of its own, a wall clock that jumps, and beats over them.

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use forge_core::fake::{ManualClock, StrictKeyring};
use forge_core::queue::{Broker, LeaseRequest, NewTask, TaskQueue};
use forge_core::testing::{WholeQueue, context};
use forge_core::{Clock, ExecutionContext, Slug, Timestamp};
use forge_queue::schedule::{CatchUp, Recurrence, Schedule, ScheduleStatus, ScheduleStore, Scheduler, Schedules};
use forge_queue::sqlite::SqliteStore;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);
pub(crate) const HOUR: Duration = Duration::from_secs(3600);
pub(crate) const DAY: Duration = Duration::from_secs(86_400);

/// A clock whose wall jumps while its monotonic side does not.
#[derive(Debug, Default)]
pub(crate) struct Wall {
    manual: ManualClock,
    ahead: AtomicI64,
}

impl Wall {
    pub(crate) fn advance(&self, by: Duration) {
        self.manual.advance(by);
    }

    pub(crate) fn jump(&self, seconds: i64) {
        self.ahead.fetch_add(seconds * 1_000_000_000, Ordering::SeqCst);
    }
}

#[async_trait]
impl Clock for Wall {
    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.manual.now().as_nanos() + self.ahead.load(Ordering::SeqCst))
    }

    fn monotonic(&self) -> Duration {
        self.manual.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        self.manual.sleep(duration).await;
    }
}

/// A clock of one beat, which tells when it has nothing to do: it looks again within a second, and nothing else sleeps so short.
#[derive(Debug)]
struct Idle {
    wall: Arc<Wall>,
    idle: Notify,
}

#[async_trait]
impl Clock for Idle {
    fn now(&self) -> Timestamp {
        self.wall.now()
    }

    fn monotonic(&self) -> Duration {
        self.wall.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        if !duration.is_zero() && duration <= Duration::from_secs(1) {
            self.idle.notify_one();
        }
        self.wall.sleep(duration).await;
    }
}

pub(crate) trait Backend: ScheduleStore + WholeQueue + Clone {}

impl<B: ScheduleStore + WholeQueue + Clone> Backend for B {}

pub(crate) struct World {
    pub(crate) clock: Arc<Wall>,
    pub(crate) keys: StrictKeyring,
    /// Two hosts' handles on one store.
    pub(crate) stores: [Arc<dyn ScheduleStore>; 2],
    pub(crate) queue: Arc<dyn TaskQueue>,
    broker: Arc<dyn Broker>,
    _kept: Box<dyn Any + Send + Sync>,
}

impl World {
    pub(crate) async fn sqlite() -> Self {
        let (dir, clock, keys) = (tempfile::tempdir().unwrap(), Arc::new(Wall::default()), StrictKeyring::default());
        let open = async || {
            SqliteStore::open(dir.path().join("queue.db"), clock.clone(), Arc::new(keys.clone())).await.unwrap()
        };
        let (one, two) = (open().await, open().await);
        Self::on(one, two, clock, keys, dir)
    }

    #[cfg(feature = "redis")]
    pub(crate) async fn redis() -> Self {
        use forge_core::secret::Secrets;
        use forge_queue::redis::{Options, RedisBroker};
        use forge_redis::{Redis, RedisConfig};
        let server = forge_testkit::servers::RedisServer::start();
        let (clock, keys) = (Arc::new(Wall::default()), StrictKeyring::default());
        let open = || {
            let mut config: RedisConfig = server.url().parse().unwrap();
            config.timeout = Duration::from_secs(10);
            let system = Arc::new(forge_core::SystemClock);
            let redis = Redis::new(config.with_prefix("{t}:"), Secrets::standard(), system).unwrap();
            let mut options = Options::default();
            options.local_time = true;
            RedisBroker::new(redis, Arc::new(keys.clone()), clock.clone()).with_options(options)
        };
        let (one, two) = (open(), open());
        Self::on(one, two, clock, keys, server)
    }

    fn on<B: Backend>(one: B, two: B, clock: Arc<Wall>, keys: StrictKeyring, kept: impl Any + Send + Sync) -> Self {
        let (queue, broker) = (Arc::new(one.clone()), Arc::new(one.clone()));
        Self { clock, keys, stores: [Arc::new(one), Arc::new(two)], queue, broker, _kept: Box::new(kept) }
    }

    pub(crate) fn schedules(&self) -> Schedules {
        self.over(self.stores[0].clone())
    }

    pub(crate) fn over(&self, store: Arc<dyn ScheduleStore>) -> Schedules {
        Schedules::new(store, Arc::new(self.keys.clone()))
    }

    pub(crate) async fn put(&self, tenant: &str, schedule: Schedule) {
        self.schedules().put(&ctx(tenant), schedule).await.unwrap();
    }

    /// The one schedule of a tenant.
    pub(crate) async fn one(&self, tenant: &str) -> ScheduleStatus {
        let mut all = self.schedules().list(&ctx(tenant)).await.unwrap();
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    /// Runs a beat until it has nothing to do.
    pub(crate) async fn beat(&self) {
        self.beat_over(self.stores[0].clone(), self.queue.clone()).await;
    }

    pub(crate) async fn beat_over(&self, store: Arc<dyn ScheduleStore>, queue: Arc<dyn TaskQueue>) {
        let clock = Arc::new(Idle { wall: self.clock.clone(), idle: Notify::new() });
        let cancel = CancellationToken::new();
        let beat = Scheduler::new(self.over(store), queue, clock.clone());
        let until_idle = async {
            clock.idle.notified().await;
            cancel.cancel();
        };
        tokio::join!(beat.run(cancel.clone()), until_idle);
    }

    /// Takes every task, does it, and says how often each payload of each tenant came.
    pub(crate) async fn drain(&self) -> BTreeMap<(String, String), usize> {
        let mut done = BTreeMap::new();
        loop {
            let request = LeaseRequest::new(vec![slug("index")], 64, HOUR);
            let leases = self.broker.lease(&request).await.unwrap();
            if leases.is_empty() {
                return done;
            }
            for lease in leases {
                self.broker.ack(&lease, json!(null)).await.unwrap();
                *done.entry((lease.tenant.to_string(), lease.payload.to_string())).or_default() += 1;
            }
        }
    }

    /// Tasks that waited, of all tenants.
    pub(crate) async fn drained(&self) -> usize {
        self.drain().await.values().sum()
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }
}

pub(crate) fn ctx(tenant: &str) -> ExecutionContext {
    context(tenant, "ana", "analyst")
}

pub(crate) fn slug(name: &str) -> Slug {
    Slug::parse(name).unwrap()
}

pub(crate) fn index(payload: Value) -> NewTask {
    NewTask::new(slug("index"), payload)
}

pub(crate) fn cron(text: &str) -> Recurrence {
    Recurrence::cron(text, "UTC").unwrap()
}

pub(crate) fn minutely(catch_up: CatchUp) -> Schedule {
    Schedule::new(slug("s"), cron("* * * * *"), index(json!("tick"))).with_catch_up(catch_up)
}

pub(crate) const ALL: CatchUp = CatchUp::All { at_most: 100 };
