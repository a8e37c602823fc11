//! Queue and key-values on Redis, in the layout that Celery reads and writes.
//!
//! A task is a message of Celery's, a tenant's queue is the Celery queue `<tenant>.default`, a result is a result of Celery's. So a Python
//! worker can serve a queue of Forge's (`celery -A app worker -Q acme.default`), and a worker of Forge's a queue that Python pushes to
//! ([`RedisBroker::bind`]). What Celery does not have lies in keys beside, below `forge:`: whose turn it is, leases that are renewed and
//! fenced, what waits for its time, limits, dead letters.
//!
//! | key, behind the prefix | what |
//! |---|---|
//! | `<queue>`, `<queue>\x06\x16{3,6,9}` | lists of messages, one for each step of priority; kombu's |
//! | `unacked`, `unacked_index` | what workers hold, and since when; kombu's |
//! | `celery-task-meta-<id>` | results; Celery's |
//! | `celery-taskset-meta-<group>`, and behind it `.j .t .s .d .c` | chords; Celery's |
//! | `forge:chord:<the same>` | whose the chord is |
//! | `forge:leases` | leases by the time at which they run out |
//! | `forge:ready`, `forge:vtime`, `forge:v` | start-time fair queueing: tenants by virtual time |
//! | `forge:due`, `forge:throttled`, `forge:blocked` | tenants that wait for a time, for a token, for something else |
//! | `forge:held` | the messages of leases, of queues that no Celery worker serves |
//! | `forge:<tenant>:{open, run, delayed, unique:<key>, config, ended, dead, letters, schedules}` | what belongs to one tenant |
//! | `forge:schedules` | schedules by the time at which they are looked at |
//!
//! Every change is one script, so a worker that dies between two lines loses nothing: a message is in a list, in a lease, in the delayed
//! set or among the dead letters, and never in two of them. What was answered outlives a crash of the server as far as its `appendfsync`
//! goes, and a failover if [`Options::replicas`] asks for it. A server that is out of memory refuses tasks and lets those that wait be done.

mod batch;
mod canvas;
mod consume;
mod control;
mod held;
mod kv;
mod letters;
mod message;
pub mod presence;
mod produce;
mod queues;
mod reap;
mod restore;
mod schedule;
mod script;
mod settle;
mod watch;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_core::keyring::Keyring;
use forge_core::{Clock, Depth, Error, Health, HealthCheck, Principal, Result, Slug, TenantId, Timestamp};
use forge_redis::Redis;
use forge_redis::redis::{FromRedisValue, ScriptInvocation, cmd};

use crate::celery::Limits;
use batch::Batcher;
use held::HeldTasks;
use presence::{Exchanges, Presences};
use queues::Queues;
use script::Scripts;
use watch::Watch;

pub use kv::RedisKeyValue;

/// Tasks of one script call: a longer script would keep Redis from everybody else.
const BATCH: usize = 64;

/// `TaskQueue` and `Broker` on Redis. Cheap to clone; nothing connects before the first call.
#[derive(Clone)]
pub struct RedisBroker {
    shared: Arc<Shared>,
    enqueues: Arc<Batcher<produce::Queued, Option<String>>>,
    settlements: Arc<Batcher<settle::Settlement, bool>>,
    renewals: Arc<Batcher<(String, Duration), Timestamp>>,
    watch: Arc<Watch>,
}

/// What every part of the broker needs.
struct Shared {
    redis: Redis,
    keyring: Arc<dyn Keyring>,
    clock: Arc<dyn Clock>,
    scripts: Scripts,
    queues: Queues,
    options: Options,
    held: Arc<HeldTasks>,
    presences: Presences,
    /// Names this process in its leases, for whoever looks at them.
    who: String,
}

/// How long things stay, and how large they may be.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Options {
    /// How long a result stays; a day, as in Celery.
    pub result_ttl: Duration,
    /// How long a dead letter stays; 30 days.
    pub dead_letter_ttl: Duration,
    /// Dead letters of one tenant; beyond 10,000 the oldest goes.
    pub dead_letters_max: usize,
    /// How long a worker of Celery may hold a message before it is given back to its queue: `visibility_timeout` of the Python side's
    /// `broker_transport_options`, and no less; an hour, as in kombu. Leases of our own have their own length.
    pub visibility_timeout: Duration,
    /// How much a message may hold.
    pub limits: Limits,
    /// Where the workers of Celery listen.
    pub exchanges: Exchanges,
    /// A task that is queued, and how a lease ends, is answered once so many replicas have it, and an error after so long (`WAIT`): that is
    /// `Unavailable`, and the outcome is not known, for the master has it. So what was answered outlives a failover to one of them; it costs
    /// a journey to the replicas for each batch. The time is to be shorter than the connection's `timeout`. None by default: replication
    /// is asynchronous, and a failover loses what the new master did not have.
    pub replicas: Option<(usize, Duration)>,
    /// Times follow the clock of the process instead of the server's. For tests: the clocks of two machines differ.
    pub local_time: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            result_ttl: Duration::from_secs(24 * 3600),
            dead_letter_ttl: Duration::from_secs(30 * 24 * 3600),
            dead_letters_max: 10_000,
            visibility_timeout: Duration::from_secs(3600),
            limits: Limits::default(),
            exchanges: Exchanges::default(),
            replicas: None,
            local_time: false,
        }
    }
}

impl RedisBroker {
    /// A queue of every tenant's own tasks.
    pub fn new(redis: Redis, keyring: Arc<dyn Keyring>, clock: Arc<dyn Clock>) -> Self {
        Self::with_parts(redis, keyring, clock, Queues::default(), Options::default())
    }

    fn with_parts(
        redis: Redis,
        keyring: Arc<dyn Keyring>,
        clock: Arc<dyn Clock>,
        queues: Queues,
        options: Options,
    ) -> Self {
        let held = Arc::<HeldTasks>::default();
        let who = format!("{:016x}", fastrand::u64(..));
        let presences = Presences::new(clock.clone());
        let shared =
            Arc::new(Shared { presences, redis, keyring, clock, scripts: Scripts::new(), queues, options, held, who });
        let watch = Arc::new(Watch::new(shared.clone()));
        let (a, b, c) = (shared.clone(), shared.clone(), shared.clone());
        Self {
            enqueues: Arc::new(Batcher::new(BATCH, move |items| produce::push(a.clone(), items))),
            settlements: Arc::new(Batcher::new(BATCH, move |items| settle::settle(b.clone(), items))),
            renewals: Arc::new(Batcher::new(BATCH, move |items| consume::renew(c.clone(), items))),
            shared,
            watch,
        }
    }

    fn rebuilt(&self, queues: Queues, options: Options) -> Self {
        let s = &self.shared;
        Self::with_parts(s.redis.clone(), s.keyring.clone(), s.clock.clone(), queues, options)
    }

    /// Serves a queue that others push to, as this principal: its tasks without a seal run in this tenant and with no more rights. Nothing
    /// in a message can choose another. A queue that is not bound is not served.
    ///
    /// # Errors
    /// `Config` if the queue's name does not fit, is another tenant's own, or is bound already.
    pub fn bind(&self, queue: &str, principal: Principal) -> Result<Self> {
        Ok(self.rebuilt(self.shared.queues.bound(queue, principal)?, self.shared.options.clone()))
    }

    /// Sends tasks of this name to a queue that is bound to the tenant instead of to the tenant's own, so that the workers of a Python
    /// program get them.
    ///
    /// # Errors
    /// `Config` if no such queue is bound.
    pub fn route(&self, task: &Slug, queue: &str) -> Result<Self> {
        Ok(self.rebuilt(self.shared.queues.routed(task, queue)?, self.shared.options.clone()))
    }

    /// Leaves a bound queue to the workers of another program: tasks are sent to it, and none is taken from it.
    ///
    /// # Errors
    /// `Config` if no such queue is bound.
    pub fn leave(&self, queue: &str) -> Result<Self> {
        Ok(self.rebuilt(self.shared.queues.left(queue)?, self.shared.options.clone()))
    }

    /// Sets how long things stay, and how large they may be.
    #[must_use]
    pub fn with_options(&self, options: Options) -> Self {
        self.rebuilt(self.shared.queues.clone(), options)
    }

    /// Refuses a server that is too old or may throw tasks away.
    ///
    /// # Errors
    /// `Config`, `Unavailable`.
    pub async fn verify(&self) -> Result<()> {
        self.shared.redis.verify().await
    }
}

impl Shared {
    /// A script, with the prefix and the time before its arguments.
    fn call<'a>(&self, script: &'a forge_redis::redis::Script) -> ScriptInvocation<'a> {
        let mut call = script.prepare_invoke();
        call.key(self.redis.config().prefix.as_str());
        match self.options.local_time {
            true => call.arg(self.clock.now().as_millis()),
            false => call.arg(""),
        };
        call
    }

    /// Runs a script whose answer is a promise, as far as the options say.
    async fn run<T: FromRedisValue>(&self, operation: &'static str, call: &ScriptInvocation<'_>) -> Result<T> {
        match self.options.replicas {
            None => self.redis.script(operation, call).await,
            Some(replicas) => self.redis.replicated_script(operation, call, replicas).await,
        }
    }

    /// A key that belongs to one tenant.
    fn key(&self, tenant: &TenantId, what: impl fmt::Display) -> String {
        self.redis.key(format_args!("forge:{tenant}:{what}"))
    }
}

/// From the milliseconds of a script.
fn at(millis: i64) -> Timestamp {
    Timestamp::from_nanos(millis.saturating_mul(1_000_000))
}

fn millis(d: Duration) -> u64 {
    u64::try_from(d.as_millis()).unwrap_or(u64::MAX)
}

fn seconds(d: Duration) -> u64 {
    d.as_secs().max(1)
}

/// What cannot happen unless another program writes below `forge:`.
fn corrupt(operation: &'static str, what: &'static str) -> Error {
    Error::new(forge_core::ErrorKind::Corrupt, operation, "a stored value does not parse").with("what", what)
}

#[async_trait]
impl HealthCheck for RedisBroker {
    async fn check(&self, depth: Depth) -> Health {
        if depth == Depth::Shallow {
            return Health::up();
        }
        let ping = cmd("PING");
        let answer = self.shared.redis.query::<String>("queue.check", &ping);
        match tokio::time::timeout(Duration::from_secs(2), answer).await {
            Ok(Ok(_)) => Health::up(),
            Ok(Err(e)) => Health::down(e.to_string()),
            Err(_) => Health::down("redis does not answer"),
        }
    }
}

impl fmt::Debug for RedisBroker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisBroker")
            .field("redis", &self.shared.redis)
            .field("queues", &self.shared.queues)
            .finish_non_exhaustive()
    }
}
