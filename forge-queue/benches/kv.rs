//! What key-values cost: on a real Redis beside the bare client with the same bytes, and in a SQLite file; and what more connections
//! give 64 callers at once, in calls a second and in CPU time, here and at the server.
//!
//! ```sh
//! cargo bench -p forge-queue --features redis --bench kv
//! ```
//!
//! Rounds are interleaved and the middle one counts. Values are encrypted by the keyring of the tests, whose cost is printed. The SQLite
//! file waits for its disk with every write; this Redis keeps nothing.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::indexing_slicing, reason = "a program that prints a table")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forge_core::fake::FakeKeyring;
use forge_core::keyring::Keyring;
use forge_core::kv::{KeyValue, PutMode, PutOptions};
use forge_core::secret::Secrets;
use forge_core::testing::context;
use forge_core::{Clock, ExecutionContext, Namespace, Result, Slug, SystemClock};
use forge_queue::redis::RedisKeyValue;
use forge_queue::sqlite::SqliteStore;
use forge_redis::redis::aio::MultiplexedConnection;
use forge_redis::redis::io::tcp::TcpSettings;
use forge_redis::redis::{Client, IntoConnectionInfo, Script, cmd};
use forge_redis::{Redis, RedisConfig};
use forge_testkit::servers::RedisServer;
use futures::future::try_join_all;

const ROUNDS: usize = 15;
const CALLS: usize = 200;
const AT_ONCE: usize = 16;
const CALLERS: usize = 64;
const VALUE: usize = 1024;
const MINUTE: Duration = Duration::from_secs(60);
const WHAT: [&str; 5] = ["get", "16 gets at once", "set", "set with a time to live", "set over a version"];

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir()?);
    let file = SqliteStore::open(dir.path().join("queue.db"), Arc::new(SystemClock), Arc::new(FakeKeyring)).await?;
    let stores = [Ours::new(Arc::new(open(&server, 1))), Ours::new(Arc::new(file))];
    let mut bare = Bare::connect(&server).await?;
    let mut rates = [[[0.0; ROUNDS]; 3]; WHAT.len()];
    for round in 0..ROUNDS {
        for (n, rates) in rates.iter_mut().enumerate() {
            rates[0][round] = bare.rate(n).await?;
            rates[1][round] = stores[0].rate(n).await?;
            rates[2][round] = stores[1].rate(n).await?;
        }
    }
    println!("calls a second, values of {VALUE} bytes, middle of {ROUNDS} interleaved rounds of {CALLS}");
    println!("  {:<26}{:>14}{:>10}{:>8}{:>10}", "", "bare client", "Redis", "", "SQLite");
    for (what, [bare, redis, sqlite]) in WHAT.iter().zip(rates) {
        let paired: [f64; ROUNDS] = std::array::from_fn(|n| redis[n] / bare[n]);
        let (bare, redis, sqlite, ratio) = (middle(bare), middle(redis), middle(sqlite), middle(paired));
        println!("  {what:<26}{bare:>14.0}{redis:>10.0}{ratio:>7.2}x{sqlite:>10.0}");
    }
    println!("  of a call the keyring of the tests takes {:.1?}", keyring_cost()?);

    println!("{CALLERS} callers at once, a set for each get, middle and mean of {ROUNDS} interleaved rounds");
    println!("  {:<26}{:>14}{:>20}{:>20}", "", "calls a second", "CPU a call, here", "and at the server");
    let connections = [1, 4, 10];
    for (size, calls) in [(VALUE, 200), (64 * 1024, 20)] {
        let stores = connections.map(|n| Ours::new(Arc::new(open(&server, n))));
        let mut loads: [Vec<Load>; 3] = Default::default();
        for store in &stores {
            store.load(&server, size, calls).await?;
        }
        for _ in 0..ROUNDS {
            for (store, loads) in stores.iter().zip(&mut loads) {
                loads.push(store.load(&server, size, calls).await?);
            }
        }
        for (n, loads) in connections.iter().zip(loads) {
            let what = format!("{} KiB, {n} connection{}", size / 1024, if *n == 1 { "" } else { "s" });
            let rate = middle(std::array::from_fn(|round| loads[round].rate));
            let mean = |of: fn(&Load) -> Duration| {
                loads.iter().map(of).sum::<Duration>().as_secs_f64() * 1e6 / (ROUNDS * CALLERS * calls) as f64
            };
            let (here, there) = (mean(|l| l.here), mean(|l| l.there));
            println!("  {what:<26}{rate:>14.0}{here:>17.1} µs{there:>17.1} µs");
        }
    }
    Ok(())
}

fn open(server: &RedisServer, connections: usize) -> RedisKeyValue {
    let config: RedisConfig = server.url().parse().unwrap();
    let redis = Redis::new(config.with_connections(connections), Secrets::standard(), Arc::new(SystemClock)).unwrap();
    RedisKeyValue::new(redis, Arc::new(FakeKeyring))
}

/// A store under the trait.
#[derive(Clone)]
struct Ours {
    store: Arc<dyn KeyValue>,
    ctx: ExecutionContext,
    space: Namespace,
}

/// What many callers got, and the CPU time that it took.
struct Load {
    rate: f64,
    here: Duration,
    there: Duration,
}

impl Ours {
    fn new(store: Arc<dyn KeyValue>) -> Self {
        let ctx = context("acme", "ana", "analyst");
        Self { store, space: Namespace::of(&ctx, Slug::parse("notes").unwrap()), ctx }
    }

    async fn get(&self, key: &str) -> Result<()> {
        self.store.get(&self.ctx, &self.space, key).await.map(|entry| drop(black_box(entry)))
    }

    async fn put(&self, key: &str, value: Bytes, options: PutOptions) -> Result<u64> {
        self.store.put(&self.ctx, &self.space, key, value, options).await
    }

    /// Calls a second of one caller.
    async fn rate(&self, what: usize) -> Result<f64> {
        let (value, any) = (Bytes::from(vec![b'x'; VALUE]), PutOptions::default());
        let mut version = self.put("k", value.clone(), any).await?;
        let began = SystemClock.monotonic();
        for _ in 0..CALLS / if what == 1 { AT_ONCE } else { 1 } {
            match what {
                0 => self.get("k").await?,
                1 => drop(try_join_all((0..AT_ONCE).map(|_| self.get("k"))).await?),
                2 => drop(self.put("k", value.clone(), any).await?),
                3 => drop(self.put("k", value.clone(), any.with_ttl(MINUTE)).await?),
                _ => version = self.put("k", value.clone(), any.with_mode(PutMode::Match(version))).await?,
            }
        }
        Ok(rate(what, began))
    }

    /// Many callers, each on a key of its own.
    async fn load(&self, server: &RedisServer, size: usize, calls: usize) -> Result<Load> {
        let value = Bytes::from(vec![b'x'; size]);
        let (there, here, began) = (cpu_of(server), cpu_here(), SystemClock.monotonic());
        let callers = (0..CALLERS).map(|n| {
            let (value, ours) = (value.clone(), self.clone());
            tokio::spawn(async move {
                let key = format!("k{n}");
                for _ in 0..calls / 2 {
                    ours.put(&key, value.clone(), PutOptions::default()).await?;
                    ours.get(&key).await?;
                }
                Ok::<_, forge_core::Error>(())
            })
        });
        for caller in callers.collect::<Vec<_>>() {
            caller.await.unwrap()?;
        }
        let rate = (CALLERS * calls) as f64 / (SystemClock.monotonic() - began).as_secs_f64();
        Ok(Load { rate, here: cpu_here() - here, there: cpu_of(server) - there })
    }
}

/// The driver alone, with as many bytes.
struct Bare {
    connection: MultiplexedConnection,
    stored: Vec<u8>,
    over: Script,
}

impl Bare {
    async fn connect(server: &RedisServer) -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let info = server.url().into_connection_info()?;
        let info = info.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let tenant = context("acme", "ana", "analyst").tenant().clone();
        let blob = FakeKeyring.encrypt(&tenant, b"", &[b'x'; VALUE])?;
        let over = Script::new(
            "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end redis.call('SET', KEYS[1], ARGV[2]) return 1",
        );
        let connection = Client::open(info)?.get_multiplexed_async_connection().await?;
        Ok(Self { connection, stored: [b"1700000000000000:", blob.as_slice()].concat(), over })
    }

    async fn rate(&mut self, what: usize) -> forge_redis::redis::RedisResult<f64> {
        let (key, connection) = ("forge:acme:kv:ana:notes:bare", &mut self.connection);
        let mut set = cmd("SET");
        set.arg(key).arg(&self.stored);
        set.query_async::<()>(connection).await?;
        set.arg("PX").arg(60_000);
        let began = SystemClock.monotonic();
        for _ in 0..CALLS / if what == 1 { AT_ONCE } else { 1 } {
            match what {
                0 => drop(black_box(cmd("GET").arg(key).query_async::<Vec<u8>>(connection).await?)),
                1 => {
                    let gets = (0..AT_ONCE).map(|_| {
                        let mut connection = connection.clone();
                        async move { cmd("GET").arg(key).query_async::<Vec<u8>>(&mut connection).await }
                    });
                    drop(black_box(try_join_all(gets).await?));
                }
                2 => cmd("SET").arg(key).arg(&self.stored).query_async(connection).await?,
                3 => set.query_async(connection).await?,
                _ => self.over.key(key).arg(&self.stored).arg(&self.stored).invoke_async(connection).await?,
            }
        }
        Ok(rate(what, began))
    }
}

fn rate(what: usize, began: Duration) -> f64 {
    let calls = if what == 1 { CALLS / AT_ONCE * AT_ONCE } else { CALLS };
    calls as f64 / (SystemClock.monotonic() - began).as_secs_f64()
}

/// Encrypts and decrypts a value, each counted as one.
fn keyring_cost() -> Result<Duration> {
    const TIMES: u32 = 2000;
    let tenant = context("acme", "ana", "analyst").tenant().clone();
    let began = SystemClock.monotonic();
    for _ in 0..TIMES / 2 {
        let blob = FakeKeyring.encrypt(&tenant, b"place", black_box(&[b'x'; VALUE]))?;
        black_box(FakeKeyring.decrypt(&tenant, b"place", &blob)?);
    }
    Ok((SystemClock.monotonic() - began) / TIMES)
}

/// CPU time of this process, in ticks of a hundredth of a second. Zero elsewhere than on Linux.
fn cpu_here() -> Duration {
    let text = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks = fields.skip(11).take(2).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
    Duration::from_millis(ticks * 10)
}

/// CPU time of the server, as it says.
fn cpu_of(server: &RedisServer) -> Duration {
    let info = server.cli(&["INFO", "cpu"]);
    let seconds =
        |name: &str| info.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<f64>().ok());
    let both = seconds("used_cpu_user").zip(seconds("used_cpu_sys")).map(|(user, sys)| user + sys);
    Duration::from_secs_f64(both.unwrap_or_default())
}

fn middle(mut of: [f64; ROUNDS]) -> f64 {
    of.sort_by(f64::total_cmp);
    of[ROUNDS / 2]
}
