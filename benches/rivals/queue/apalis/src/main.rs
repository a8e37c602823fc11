//! apalis on Redis, measured. The command line and the line that it prints are those of `benches/rivals/README.md`.
//!
//! `push_bulk` of 500; a worker that fetches 100 at a time and keeps its results, as it does by default. A push wakes nobody: an
//! idle worker looks again at its heartbeat, which is 30 s by default and `RIVAL_POLL_MS` here.

use std::error::Error;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use apalis::prelude::*;
use apalis_redis::{Config, RedisStorage};
use cpu_time::ProcessTime;
use serde::{Deserialize, Serialize};
use serde_json::json;

const BULK: usize = 500;
const FETCH: usize = 100;
const QUEUE: &str = "rival";

type Storage = RedisStorage<Job>;
type Failure = Box<dyn Error + Send + Sync>;

/// When it was enqueued, in seconds of the epoch; zero for the task that warms up.
#[derive(Clone, Serialize, Deserialize)]
struct Job {
    at: f64,
}

#[derive(Default)]
struct Probe {
    began: OnceLock<(Instant, ProcessTime)>,
    done: AtomicUsize,
    waited_ms: Mutex<Vec<f64>>,
}

struct Spent {
    wall: Duration,
    cpu: Duration,
    waited_ms: Vec<f64>,
}

impl Spent {
    fn since((wall, cpu): (Instant, ProcessTime)) -> Self {
        Self { wall: wall.elapsed(), cpu: cpu.elapsed(), waited_ms: Vec::new() }
    }
}

#[tokio::main]
async fn main() -> Result<(), Failure> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [mode, url, n, concurrency] = args.as_slice() else {
        return Err("usage: rival-apalis enqueue|consume|latency REDIS_URL N CONCURRENCY".into());
    };
    let (n, concurrency) = (n.parse::<usize>()?, concurrency.parse::<usize>()?);
    let poll = std::env::var("RIVAL_POLL_MS").ok().map(|ms| ms.parse().map(Duration::from_millis)).transpose()?;
    let Spent { wall, cpu, mut waited_ms } = match mode.as_str() {
        "enqueue" => enqueue(url, n, concurrency).await?,
        "consume" => consume(url, n, concurrency, poll).await?,
        "latency" => latency(url, n, concurrency, poll).await?,
        other => return Err(format!("no such mode: {other}").into()),
    };
    waited_ms.sort_by(f64::total_cmp);
    let at = |percent: usize| waited_ms.get(waited_ms.len() * percent / 100);
    println!(
        "{}",
        json!({
            "rival": "apalis", "mode": mode, "n": n, "concurrency": concurrency,
            "seconds": wall.as_secs_f64(), "per_second": n as f64 / wall.as_secs_f64(), "cpu_seconds": cpu.as_secs_f64(),
            "p50_ms": at(50), "p99_ms": at(99),
        })
    );
    Ok(())
}

async fn enqueue(url: &str, n: usize, concurrency: usize) -> Result<Spent, Failure> {
    let connection = apalis_redis::connect(url).await?;
    let next = Arc::new(AtomicUsize::new(0));
    let began = (Instant::now(), ProcessTime::now());
    let pushers = (0..concurrency).map(|_| {
        let (mut storage, next) = (storage(connection.clone(), None), next.clone());
        tokio::spawn(async move {
            loop {
                let from = next.fetch_add(BULK, Ordering::Relaxed);
                if from >= n {
                    return Ok::<_, Failure>(());
                }
                storage.push_bulk(vec![Job { at: 1.0 }; BULK.min(n - from)]).await.map_err(|e| e.to_string())?;
            }
        })
    });
    for pusher in pushers.collect::<Vec<_>>() {
        pusher.await??;
    }
    Ok(Spent::since(began))
}

async fn consume(url: &str, n: usize, concurrency: usize, poll: Option<Duration>) -> Result<Spent, Failure> {
    let probe = work(url, concurrency, poll).await?;
    while probe.done.load(Ordering::Relaxed) < n {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    stored(url, n).await?;
    Ok(Spent::since(*probe.began.get().ok_or("no task was begun")?))
}

async fn latency(url: &str, n: usize, concurrency: usize, poll: Option<Duration>) -> Result<Spent, Failure> {
    let mut producer = storage(apalis_redis::connect(url).await?, None);
    let probe = work(url, concurrency, poll).await?;
    let mut push = async |at| producer.push(Job { at }).await.map_err(|e| Failure::from(e.to_string()));
    push(0.0).await?;
    while probe.done.load(Ordering::Relaxed) < 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let mut pace = tokio::time::interval(Duration::from_millis(50));
    let began = (Instant::now(), ProcessTime::now());
    for _ in 0..n {
        pace.tick().await;
        push(now()).await?;
    }
    while probe.done.load(Ordering::Relaxed) < n + 1 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let spent = Spent::since(began);
    let waited_ms = std::mem::take(&mut *probe.waited_ms.lock().map_err(|e| e.to_string())?);
    Ok(Spent { waited_ms, ..spent })
}

/// Starts a worker with connections of its own and returns what it writes down.
async fn work(url: &str, concurrency: usize, poll: Option<Duration>) -> Result<Arc<Probe>, Failure> {
    let probe = Arc::new(Probe::default());
    let worker = WorkerBuilder::new("rival")
        .backend(storage(apalis_redis::connect(url).await?, poll))
        .data(probe.clone())
        .concurrency(concurrency)
        .build(handle);
    tokio::spawn(async move {
        if let Err(error) = worker.run().await {
            eprintln!("the worker ended: {error}");
            std::process::exit(1);
        }
    });
    Ok(probe)
}

async fn handle(job: Job, probe: Data<Arc<Probe>>) -> Result<(), BoxDynError> {
    probe.began.get_or_init(|| (Instant::now(), ProcessTime::now()));
    if job.at > 1.0 {
        let waited = (now() - job.at) * 1e3;
        probe.waited_ms.lock().map_err(|e| e.to_string())?.push(waited);
    }
    probe.done.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Returns when the results of all are stored.
async fn stored(url: &str, n: usize) -> Result<(), Failure> {
    let mut connection = apalis_redis::connect(url).await?;
    let done = Config::default().queue(QUEUE).done_jobs_set();
    while redis::cmd("SCARD").arg(&done).query_async::<usize>(&mut connection).await? < n {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(())
}

fn storage(connection: redis::aio::ConnectionManager, poll: Option<Duration>) -> Storage {
    let mut config = Config::default().queue(QUEUE).batch_size(FETCH);
    if let Some(poll) = poll {
        // a worker counts as dead after as long as by default
        let missed = config.orphaned_duration().as_millis() / poll.as_millis().max(1);
        config = config.heartbeat_interval(poll).missed_heartbeats(missed as usize);
    }
    RedisStorage::new(connection).with_config(config)
}

fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}
