#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc = include_str!("../README.md")]

mod config;
mod connect;
mod error;
mod slot;
mod tls;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forge_core::secret::Secrets;
use forge_core::{Clock, Error, ErrorKind, Result};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, Pipeline, PushInfo, RedisResult, ScriptInvocation, cmd};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

pub use config::{Node, RedisConfig, Topology};
pub use error::error;
pub use redis;

use connect::{Connected, Connector};
use slot::{Live, Slot};

/// Connections to one Redis. Cheap to clone; nothing connects before the first call.
///
/// A call is one attempt. It connects where there is no connection, and one whose server went away, or is not the master any more,
/// is left: the next call looks for the master again. After a failure to connect, or when a new connection is turned away, calls fail
/// at once for a pause with jitter, so that a server that comes back is not run over. Dropped in the middle, a call may have been done;
/// the others on its connection go on. The last clone dropped, the connections close.
#[derive(Clone)]
pub struct Redis {
    shared: Arc<Shared>,
}

struct Shared {
    connector: Connector,
    clock: Arc<dyn Clock>,
    slots: Vec<Slot>,
    turn: AtomicUsize,
}

/// A connection of its own for what a server pushes: invalidations and messages. Dropped, it closes.
///
/// It does not follow a failover: [`next`](Self::next) ends with its server, and one that only stopped answering is found by a
/// [`query`](Self::query) that times out. Then another is made by [`Redis::pushes`].
#[derive(Debug)]
pub struct Pushes {
    connected: Connected,
    pushed: UnboundedReceiver<PushInfo>,
}

impl Redis {
    /// Prepares connections.
    ///
    /// # Errors
    /// `Config` if the configuration does not fit or the authority's file cannot be read.
    pub fn new(config: RedisConfig, secrets: Secrets, clock: Arc<dyn Clock>) -> Result<Self> {
        let slots = (0..config.connections.max(1)).map(|_| Slot::default()).collect();
        let connector = Connector::new(config, secrets)?;
        Ok(Self { shared: Arc::new(Shared { connector, clock, slots, turn: AtomicUsize::new(0) }) })
    }

    /// How it is configured.
    pub fn config(&self) -> &RedisConfig {
        &self.shared.connector.config
    }

    /// A key, with the prefix.
    pub fn key(&self, key: impl fmt::Display) -> String {
        format!("{}{key}", self.config().prefix)
    }

    /// Runs a command once.
    ///
    /// # Errors
    /// `Unavailable`, `Timeout` (it may have been done), `Unauthenticated`; see [`error()`].
    pub async fn query<T: FromRedisValue>(&self, operation: &'static str, command: &Cmd) -> Result<T> {
        self.once(operation, async |c| command.query_async(c).await).await
    }

    /// Runs a script once, by its digest; a server that does not know it is given it.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn script<T: FromRedisValue>(&self, operation: &'static str, script: &ScriptInvocation<'_>) -> Result<T> {
        self.once(operation, async |c| script.invoke_async(c).await).await
    }

    /// Runs a script once and waits on its connection until so many replicas have what it wrote (`WAIT`); other calls on that connection
    /// wait as well. The time is to be shorter than the configured `timeout`.
    ///
    /// # Errors
    /// As [`query`](Self::query). `Unavailable` with `replicas` in its context if too few had it in time: it was written here, and is lost
    /// if one of the others becomes the master.
    pub async fn replicated_script<T: FromRedisValue>(
        &self,
        operation: &'static str,
        script: &ScriptInvocation<'_>,
        (replicas, at_most): (usize, Duration),
    ) -> Result<T> {
        let mut both = Pipeline::new();
        both.invoke_script(script).cmd("WAIT").arg(replicas);
        // 0 would be for ever
        both.arg(u64::try_from(at_most.as_millis()).unwrap_or(u64::MAX).max(1));
        let (answer, have): (T, usize) = self
            .once(operation, async |c| match both.query_async(c).await {
                Err(e) if error::is_unknown_script(&e) => {
                    script.load_async(c).await?;
                    both.query_async(c).await
                }
                answer => answer,
            })
            .await?;
        if have < replicas {
            let e = "redis wrote it, but too few replicas have it yet: a failover may lose it";
            return Err(Error::new(ErrorKind::Unavailable, operation, e)
                .with_adapter("redis")
                .with("replicas", have.to_string()));
        }
        Ok(answer)
    }

    /// Runs commands in one go; an atomic pipeline is a transaction.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn pipeline<T: FromRedisValue>(&self, operation: &'static str, commands: &Pipeline) -> Result<T> {
        self.once(operation, async |c| commands.query_async(c).await).await
    }

    async fn once<T>(
        &self,
        operation: &'static str,
        call: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<T> {
        let turn = self.shared.turn.fetch_add(1, Ordering::Relaxed);
        let slot = self.shared.slots.get(turn % self.shared.slots.len().max(1));
        let slot = slot.ok_or_else(|| Error::unexpected(operation, "there are no connections"))?;
        let Live { number, connected } = self.live(slot).await?;
        let mut connection = connected.connection.clone();
        // the driver's own limit begins when the call has a place among those in flight
        let patience = self.config().timeout.saturating_mul(2);
        let answer = tokio::time::timeout(patience, call(&mut connection)).await.map_err(|_| {
            Error::new(ErrorKind::Timeout, operation, "redis did not answer in time").with_adapter("redis")
        })?;
        answer.map_err(|e| {
            let told = error(operation, &e);
            if error::turned_away(&e) {
                slot.turned_away(number, self.shared.clock.now(), told.kind());
            } else if error::is_of_the_connection(&e) {
                slot.leave(number);
            }
            told
        })
    }

    async fn live(&self, slot: &Slot) -> Result<Live> {
        if let Some(live) = slot.live() {
            return Ok(live);
        }
        let _one = slot.connecting.lock().await;
        if let Some(live) = slot.live() {
            return Ok(live);
        }
        let now = self.shared.clock.now();
        if let Some(kind) = slot.pauses(now) {
            return Err(Error::new(kind, "redis.connect", "redis could not be connected to; trying again soon")
                .with_adapter("redis"));
        }
        match self.shared.connector.connect(None).await {
            Ok(connected) => Ok(slot.fill(connected, self.shared.clock.now())),
            Err(e) => {
                // by now: those who waited meanwhile must not each try as long again
                let failures = slot.failed(self.shared.clock.now(), e.kind());
                tracing::warn!(error = %e, failures, "redis cannot be connected to");
                Err(e)
            }
        }
    }

    /// A connection of its own, for what the server pushes.
    ///
    /// # Errors
    /// As [`query`](Self::query).
    pub async fn pushes(&self) -> Result<Pushes> {
        let (sender, pushed) = unbounded_channel();
        Ok(Pushes { connected: self.shared.connector.connect(Some(sender)).await?, pushed })
    }

    /// Refuses a server that is too old or may throw tasks away.
    ///
    /// # Errors
    /// `Config` with what to do; those of [`query`](Self::query).
    pub async fn verify(&self) -> Result<()> {
        const OP: &str = "redis.verify";
        let wrong = |what: &'static str| Error::new(ErrorKind::Config, OP, what).with_adapter("redis");
        let mut commands = Pipeline::new();
        commands.cmd("INFO").arg("server").cmd("INFO").arg("memory");
        let (server, memory): (String, String) = self.pipeline(OP, &commands).await?;
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':').map(str::to_owned));
            line.unwrap_or_default()
        };
        let version = field(&server, "redis_version");
        let mut numbers = version.split('.').map(|n| n.parse::<u32>().unwrap_or_default());
        let version_of = (numbers.next().unwrap_or_default(), numbers.next().unwrap_or_default());
        if version_of < (6, 2) {
            return Err(wrong("redis is too old; 6.2 or later is needed").with("version", version));
        }
        let policy = field(&memory, "maxmemory_policy");
        if policy != "noeviction" {
            return Err(wrong("redis may throw tasks away when its memory is full; set maxmemory-policy noeviction")
                .with("policy", policy));
        }
        Ok(())
    }
}

impl Pushes {
    /// Runs a command on this connection.
    ///
    /// # Errors
    /// As [`Redis::query`].
    pub async fn query<T: FromRedisValue>(&self, operation: &'static str, command: &Cmd) -> Result<T> {
        command.query_async(&mut self.connected.connection.clone()).await.map_err(|e| error(operation, &e))
    }

    /// Subscribes to channels.
    ///
    /// # Errors
    /// As [`Redis::query`].
    pub async fn subscribe(&self, operation: &'static str, channels: &[String]) -> Result<()> {
        self.query(operation, cmd("SUBSCRIBE").arg(channels)).await
    }

    /// What comes next; none once the connection is gone. Cancel safe.
    pub async fn next(&mut self) -> Option<PushInfo> {
        self.pushed.recv().await.filter(|p| p.kind != redis::PushKind::Disconnection)
    }
}

impl fmt::Debug for Redis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Redis").field(self.config()).finish()
    }
}

#[cfg(test)]
mod tests {
    use forge_core::SystemClock;
    use forge_testkit::servers::RedisServer;

    use super::*;

    #[tokio::test]
    async fn a_connection_that_was_cut_is_left_before_anybody_calls() {
        let server = RedisServer::start();
        let redis = Redis::new(server.url().parse().unwrap(), Secrets::standard(), Arc::new(SystemClock)).unwrap();
        let ping = async || redis.query::<String>("test.ping", &cmd("PING")).await;
        assert_eq!(ping().await.unwrap(), "PONG");
        server.cli(&["CLIENT", "KILL", "TYPE", "normal"]);
        for _ in 0..500 {
            if redis.shared.slots[0].live().is_none() {
                break;
            }
            SystemClock.sleep(Duration::from_millis(10)).await;
        }
        assert!(redis.shared.slots[0].live().is_none(), "the end of a connection is noticed");
        assert_eq!(ping().await.unwrap(), "PONG");
    }
}
