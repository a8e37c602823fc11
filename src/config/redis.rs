//! Where the queue is when it is on Redis.

use std::path::PathBuf;
use std::time::Duration;

use forge_core::secret::SecretRef;
use forge_core::{Error, ErrorKind, Principal, Result, Slug};

/// A queue on Redis in Celery's layout; needs the feature `queue-redis`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct RedisQueueConfig {
    /// `redis://host:port/db`, `rediss://`, `redis+sentinel://a,b,c/master` or `redis+cluster://a,b,c`.
    pub url: String,
    /// Before every key, such as Celery's `global_keyprefix`; empty by default. In a cluster it holds a hash tag: `{forge}:`.
    pub prefix: String,
    /// The password, as a reference.
    pub password: Option<SecretRef>,
    /// PEM of the authority to trust instead of Mozilla's.
    pub ca_file: Option<PathBuf>,
    /// Connections for commands; 1 by default.
    pub connections: usize,
    /// How long a result stays; a day, as in Celery.
    pub result_ttl: Duration,
    /// How long a dead letter stays; 30 days.
    pub dead_letter_ttl: Duration,
    /// Queues that Python pushes to, each with the tenant, the employee and the role that its tasks run as:
    /// `celery=acme/mailer/service, reports=globex/reporter/service`.
    pub bind: String,
    /// Tasks that go to such a queue: `mail.send=celery`.
    pub routes: String,
    /// The name under which Celery's tools and Flower see this host's worker, `forge@host`; not seen where it is empty.
    pub worker: String,
    /// Queues among them that are sent to and not served, because a Python worker serves them: `tools, reports`.
    pub leave: String,
}

impl Default for RedisQueueConfig {
    fn default() -> Self {
        Self {
            url: String::new(),
            prefix: String::new(),
            password: None,
            ca_file: None,
            connections: 1,
            result_ttl: Duration::from_secs(24 * 3600),
            dead_letter_ttl: Duration::from_secs(30 * 24 * 3600),
            bind: String::new(),
            routes: String::new(),
            worker: String::new(),
            leave: String::new(),
        }
    }
}

fn wrong(key: &'static str, what: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, "redis.config", what).with("key", key)
}

/// `a=b, c=d`.
fn pairs(text: &str) -> impl Iterator<Item = Option<(&str, &str)>> {
    let parts = text.split(',').map(str::trim).filter(|p| !p.is_empty());
    parts.map(|pair| pair.split_once('=').map(|(a, b)| (a.trim(), b.trim())))
}

impl RedisQueueConfig {
    /// The queues that are bound, each with the principal that its tasks without a seal run as.
    ///
    /// # Errors
    /// `Config`, with `bind` under `key`.
    pub fn bindings(&self) -> Result<Vec<(String, Principal)>> {
        let read = |pair: Option<(&str, &str)>| {
            let (queue, principal) = pair?;
            let mut parts = principal.split('/');
            let (tenant, employee, role) = (parts.next()?, parts.next()?, parts.next()?);
            let principal = Principal::employee(tenant, employee, role).ok()?;
            parts.next().is_none().then(|| (queue.to_owned(), principal))
        };
        pairs(&self.bind)
            .map(|p| read(p).ok_or_else(|| wrong("bind", "expected queue=tenant/employee/role, with commas between")))
            .collect()
    }

    /// The tasks that go to a queue that is bound.
    ///
    /// # Errors
    /// `Config`, with `routes` under `key`.
    pub fn task_routes(&self) -> Result<Vec<(Slug, String)>> {
        let read = |pair: Option<(&str, &str)>| {
            let (task, queue) = pair?;
            Some((Slug::parse(task).ok()?, queue.to_owned()))
        };
        pairs(&self.routes)
            .map(|p| read(p).ok_or_else(|| wrong("routes", "expected task=queue, with commas between")))
            .collect()
    }

    /// The bound queues that others serve.
    pub fn left(&self) -> impl Iterator<Item = &str> {
        self.leave.split(',').map(str::trim).filter(|queue| !queue.is_empty())
    }

    pub(super) fn check(&self, has_master_key: bool) -> Result<()> {
        if !has_master_key {
            return Err(wrong("url", "needs `master_key`: hosts that share a queue accept each other's seals by it"));
        }
        let bound = self.bindings()?;
        self.task_routes()?;
        if self.left().any(|queue| bound.iter().all(|(name, _)| name != queue)) {
            return Err(wrong("leave", "expected names of `bind`, with commas between"));
        }
        #[cfg(feature = "queue-redis")]
        self.connection()?;
        Ok(())
    }
}

#[cfg(feature = "queue-redis")]
impl RedisQueueConfig {
    /// How Redis is connected to.
    pub(crate) fn connection(&self) -> Result<forge_redis::RedisConfig> {
        let told = |key: &'static str| move |e: Error| wrong(key, e.message().to_owned());
        let mut config: forge_redis::RedisConfig = self.url.parse().map_err(told("url"))?;
        config = config.with_prefix(&self.prefix).with_connections(self.connections);
        config.password.clone_from(&self.password);
        config.ca_file.clone_from(&self.ca_file);
        config.check().map_err(told("prefix"))?;
        Ok(config)
    }

    /// The queue; nothing is connected before its first call. A host has it from [`Forge::builder`](crate::Forge::builder); this is for tools
    /// beside a host, such as `examples/queue_ctl.rs`.
    ///
    /// # Errors
    /// `Config` if it does not fit.
    pub fn broker(
        &self,
        secrets: &forge_core::secret::Secrets,
        keyring: std::sync::Arc<dyn forge_core::keyring::Keyring>,
        clock: std::sync::Arc<dyn forge_core::Clock>,
    ) -> Result<forge_queue::redis::RedisBroker> {
        use forge_queue::redis::{Options, RedisBroker};
        let redis = forge_redis::Redis::new(self.connection()?, secrets.clone(), clock.clone())?;
        let mut options = Options::default();
        (options.result_ttl, options.dead_letter_ttl) = (self.result_ttl, self.dead_letter_ttl);
        let mut broker = RedisBroker::new(redis, keyring, clock).with_options(options);
        for (queue, principal) in self.bindings()? {
            broker = broker.bind(&queue, principal)?;
        }
        for (task, queue) in self.task_routes()? {
            broker = broker.route(&task, &queue)?;
        }
        for queue in self.left() {
            broker = broker.leave(queue)?;
        }
        Ok(broker)
    }
}
