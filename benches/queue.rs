//! What the queue on Redis costs. One measurement as a line of JSON, for `scripts/rivals.sh queue`, which runs others beside it:
//!
//! ```sh
//! cargo bench --features queue-redis --bench queue -- consume redis://127.0.0.1:6379 20000 64
//! ```
//!
//! Modes: `enqueue` (sealed messages, without the guard), `guarded` (through a host: policy, redaction, audit), `consume` (a host whose worker
//! leases, opens the seal, asks the policy, runs a handler that does nothing, audits, keeps the result), `broker` (lease and acknowledge alone),
//! `latency` (20 tasks a second, from the call of enqueue to the handler in a host).

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program that prints a line"
)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use forge::core::queue::{Broker, Lease, LeaseRequest, NewTask, TaskHandler, TaskQueue};
use forge::core::secret::{Secret, Secrets};
use forge::core::{Clock, ExecutionContext, RequestId, Result, Slug, SystemClock};
use forge::dlp::FileKeyring;
use forge::queue::redis::RedisBroker;
use forge::{Config, Forge, Principal};
use forge_redis::Redis;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::Notify;

/// Every process of the bench has the same keys.
const MASTER: &str = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
const NOOP: &str = "noop";

struct Bench {
    url: String,
    broker: RedisBroker,
    ctx: ExecutionContext,
    clock: Arc<dyn Clock>,
    dir: tempfile::TempDir,
}

/// Does nothing, and counts.
#[derive(Debug, Clone, Default)]
struct Nothing(Arc<Counted>);

#[derive(Debug, Default)]
struct Counted {
    done: AtomicUsize,
    wanted: usize,
    all: Notify,
}

#[async_trait]
impl TaskHandler for Nothing {
    async fn handle(&self, _: &ExecutionContext, task: &Lease) -> Result<Value> {
        if self.0.done.fetch_add(1, Ordering::Relaxed) + 1 == self.0.wanted {
            self.0.all.notify_one();
        }
        Ok(task.payload.get("n").cloned().unwrap_or_default())
    }
}

/// Notes how long ago it was queued, in microseconds.
#[derive(Debug)]
struct Clocked(Arc<dyn Clock>, tokio::sync::mpsc::UnboundedSender<Duration>);

#[async_trait]
impl TaskHandler for Clocked {
    async fn handle(&self, _: &ExecutionContext, task: &Lease) -> Result<Value> {
        let then = Duration::from_nanos(task.payload.get("at").and_then(Value::as_u64).unwrap_or(0));
        let _ = self.1.send(self.0.monotonic().saturating_sub(then));
        Ok(Value::Null)
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let [mode, url, n, concurrency] = args.as_slice() else {
        println!("give: enqueue|guarded|consume|broker|latency URL N CONCURRENCY");
        return Ok(());
    };
    let (n, concurrency): (usize, usize) = (n.parse()?, concurrency.parse()?);
    let bench = Bench::new(url).await?;
    // what is queued before or set up first is not measured
    let (mut cpu, mut began) = (cpu_seconds(), bench.clock.monotonic());
    let mut start = || (cpu, began) = (cpu_seconds(), bench.clock.monotonic());
    let mut delays = Vec::new();
    match mode.as_str() {
        "enqueue" => bench.enqueue(n, concurrency).await,
        "guarded" => bench.guarded(n, concurrency, &mut start).await?,
        "consume" => bench.consume(n, concurrency, &mut start).await?,
        "broker" => bench.drain(n, concurrency).await?,
        "latency" => delays = bench.latency(n, concurrency).await?,
        other => return Err(format!("unknown mode {other}").into()),
    }
    let (seconds, cpu) = ((bench.clock.monotonic() - began).as_secs_f64(), cpu_seconds() - cpu);
    delays.sort_unstable();
    let at = |share: usize| delays.get(delays.len() * share / 100).map(|d| d.as_secs_f64() * 1000.0);
    println!(
        "{}",
        json!({"rival": "forge", "mode": mode, "n": n, "concurrency": concurrency, "seconds": seconds,
            "per_second": n as f64 / seconds, "cpu_seconds": cpu, "p50_ms": at(50), "p99_ms": at(99)})
    );
    Ok(())
}

impl Bench {
    async fn new(url: &str) -> std::result::Result<Self, Box<dyn std::error::Error>> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let dir = tempfile::tempdir()?;
        let keyring = Arc::new(FileKeyring::open(dir.path().join("bare"), Some(Secret::new(MASTER))).await?);
        let redis = Redis::new(url.parse()?, Secrets::standard(), clock.clone())?;
        let broker = RedisBroker::new(redis, keyring, clock.clone());
        let ana = Principal::employee("acme", "ana", "analyst")?;
        let ctx = ExecutionContext::issue(ana, RequestId::random(clock.now()));
        Ok(Self { url: url.to_owned(), broker, ctx, clock, dir })
    }

    /// A whole host: policies in Rego, audit log and ledger on disk.
    async fn host(&self, name: &str, concurrency: usize, handler: impl TaskHandler) -> Result<Forge> {
        let master = self.dir.path().join("master");
        std::fs::write(&master, MASTER).unwrap();
        let text = format!(
            "data_dir = {:?}\nmaster_key = \"file:{}\"\n[queue]\nconcurrency = {concurrency}\n[queue.redis]\nurl = {:?}\n",
            self.dir.path().join("data"),
            Path::display(&master),
            self.url
        );
        let grants = json!({ "grants": { "analyst": ["task.enqueue:*", "task.run:*"] } });
        let host = Forge::builder().config(Config::parse(&text)?).tenant("acme", grants).task(name, handler);
        host.build().await.map_err(|e| forge::Error::unexpected("bench.host", e.to_string()))
    }

    async fn enqueue(&self, n: usize, concurrency: usize) {
        let calls = futures::stream::iter(0..n).map(|i| self.broker.enqueue(&self.ctx, task(i)));
        calls.buffer_unordered(concurrency).for_each(|r| async move { assert!(r.is_ok(), "{r:?}") }).await;
    }

    async fn guarded(&self, n: usize, concurrency: usize, start: &mut impl FnMut()) -> Result<()> {
        let forge = self.host("other", 1, Nothing::default()).await?;
        let scope = forge.scope(&self.ctx);
        start();
        let calls = futures::stream::iter(0..n).map(|i| scope.enqueue(task(i)));
        calls.buffer_unordered(concurrency).for_each(|r| async move { assert!(r.is_ok(), "{r:?}") }).await;
        forge.shutdown(Duration::from_secs(10)).await
    }

    async fn consume(&self, n: usize, concurrency: usize, start: &mut impl FnMut()) -> Result<()> {
        let counted = Arc::new(Counted { wanted: n, ..Counted::default() });
        start();
        let forge = self.host(NOOP, concurrency, Nothing(counted.clone())).await?;
        counted.all.notified().await;
        forge.shutdown(Duration::from_secs(10)).await
    }

    async fn drain(&self, n: usize, concurrency: usize) -> Result<()> {
        let names = vec![Slug::parse(NOOP)?];
        let mut done = 0;
        while done < n {
            let request = LeaseRequest { names: names.clone(), max: concurrency, visibility: Duration::from_secs(30) };
            let leases = self.broker.lease(&request).await?;
            done += leases.len();
            let acks = leases.iter().map(|l| self.broker.ack(l, json!(1)));
            futures::future::try_join_all(acks).await?;
        }
        Ok(())
    }

    async fn latency(&self, n: usize, concurrency: usize) -> Result<Vec<Duration>> {
        let (sender, mut delays) = tokio::sync::mpsc::unbounded_channel();
        let name = Slug::parse("clocked")?;
        let forge = self.host(name.as_str(), concurrency, Clocked(self.clock.clone(), sender)).await?;
        self.clock.sleep(Duration::from_millis(300)).await;
        let mut all = Vec::new();
        for _ in 0..n {
            let at = u64::try_from(self.clock.monotonic().as_nanos()).unwrap_or(0);
            self.broker.enqueue(&self.ctx, NewTask::new(name.clone(), json!({ "at": at }))).await?;
            all.extend(delays.recv().await);
            self.clock.sleep(Duration::from_millis(50)).await;
        }
        forge.shutdown(Duration::from_secs(10)).await?;
        Ok(all)
    }
}

fn task(n: usize) -> NewTask {
    NewTask::new(Slug::parse(NOOP).unwrap(), json!({"n": n, "text": "a short line of text for the task"}))
}

/// User and system time of this process.
fn cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: Vec<f64> = after.split_whitespace().skip(11).take(2).filter_map(|t| t.parse().ok()).collect();
    ticks.iter().sum::<f64>() / 100.0
}
