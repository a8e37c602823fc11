//! A worker of Celery's that is written in Rust: it serves queues that Python programs push to.
//!
//! ```sh
//! redis-server --port 6379 &
//! cargo run --features queue-redis --example celery_worker -- --redis redis://127.0.0.1:6379 --queues celery --concurrency 4
//! celery -A proj call forge.add --args '[2, 3]'       # or from Python: app.send_task("forge.add", (2, 3)).get()
//! ```

#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::path::PathBuf;
use std::time::Duration;

use forge::core::queue::{Lease, TaskHandler};
use forge::prelude::*;
use serde_json::{Value, json};

const USAGE: &str =
    "usage: celery_worker [--redis URL] [--prefix P] [--queues a,b] [--tenant T] [--concurrency N] [--data-dir DIR]
  --redis URL        where Celery's broker is; redis://127.0.0.1:6379/0 by default
  --prefix P         Celery's global_keyprefix, if it has one
  --queues a,b       the queues to serve; celery by default
  --tenant T         whose they are; acme by default
  --concurrency N    tasks at a time; 4 by default
  --name NAME        how Celery's tools and Flower call it; forge@localhost by default
  --data-dir DIR     where this process keeps its state; target/celery_worker by default";

/// The four tasks that the tests of a Celery installation begin with.
#[derive(Debug, Clone, Copy)]
enum Task {
    Echo,
    Add,
    Sleep,
    Fail,
}

#[async_trait]
impl TaskHandler for Task {
    async fn handle(&self, ctx: &ExecutionContext, task: &Lease) -> Result<Value> {
        // Python's arguments are an array, its keyword arguments an object
        let first = task.payload.get(0).or_else(|| task.payload.as_object()?.values().next());
        let number = |v: Option<&Value>| {
            v.and_then(Value::as_f64).ok_or_else(|| Error::invalid("forge.task", "expected a number"))
        };
        match self {
            Self::Echo => Ok(first.unwrap_or(&task.payload).clone()),
            Self::Add => {
                let all: Vec<&Value> = match &task.payload {
                    Value::Array(numbers) => numbers.iter().collect(),
                    Value::Object(numbers) => numbers.values().collect(),
                    _ => return Err(Error::invalid("forge.add", "expected numbers")),
                };
                if let Some(whole) = all.iter().map(|n| n.as_i64()).try_fold(0_i64, |sum, n| sum.checked_add(n?)) {
                    return Ok(whole.into());
                }
                let sum: f64 = all.into_iter().map(|n| number(Some(n))).sum::<Result<f64>>()?;
                Ok(sum.into())
            }
            Self::Sleep => {
                let seconds = number(first)?.clamp(0.0, 3600.0);
                tokio::select! {
                    () = tokio::time::sleep(Duration::from_secs_f64(seconds)) => Ok(seconds.into()),
                    () = ctx.cancellation().cancelled() => Err(Error::new(forge::ErrorKind::Cancelled, "forge.sleep", "woken")),
                }
            }
            Self::Fail => Err(Error::invalid("forge.fail", "asked to fail")),
        }
    }
}

struct Args {
    redis: String,
    prefix: String,
    queues: String,
    tenant: String,
    concurrency: usize,
    name: String,
    data_dir: PathBuf,
}

fn args() -> std::result::Result<Args, String> {
    let mut args = Args {
        redis: "redis://127.0.0.1:6379/0".into(),
        prefix: String::new(),
        queues: "celery".into(),
        tenant: "acme".into(),
        concurrency: 4,
        name: "forge@localhost".into(),
        data_dir: "target/celery_worker".into(),
    };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            "--redis" => args.redis = value()?,
            "--prefix" => args.prefix = value()?,
            "--queues" => args.queues = value()?,
            "--tenant" => args.tenant = value()?,
            "--concurrency" => args.concurrency = value()?.parse().map_err(|_| USAGE.to_owned())?,
            "--name" => args.name = value()?,
            "--data-dir" => args.data_dir = value()?.into(),
            _ => return Err(USAGE.to_owned()),
        }
    }
    Ok(args)
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let args = args()?;
    // hosts that share a queue share a master key; a real one comes from a reference that all of them have
    std::fs::create_dir_all(&args.data_dir)?;
    let master = args.data_dir.join("example-master.key");
    if !master.exists() {
        let mut key = [0_u8; 32];
        ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut key).map_err(|_| "no randomness")?;
        std::fs::write(&master, base64::Engine::encode(&base64::engine::general_purpose::STANDARD, key))?;
    }
    let bind: Vec<String> =
        args.queues.split(',').map(|queue| format!("{queue}={}/celery/service", args.tenant)).collect();
    let prefix = if args.prefix.is_empty() { String::new() } else { format!("prefix = {:?}\n", args.prefix) };
    let config = Config::parse(&format!(
        "data_dir = {:?}\nmaster_key = {:?}\n[queue]\nconcurrency = {}\n[queue.redis]\nurl = {:?}\n{prefix}bind = {:?}\nworker = {:?}\n",
        args.data_dir,
        format!("file:{}", master.display()),
        args.concurrency,
        args.redis,
        bind.join(", "),
        args.name,
    ))?;
    let mut host =
        Forge::builder().config(config).tenant(&args.tenant, json!({ "grants": { "service": ["task.run:*"] } }));
    for (name, task) in [("echo", Task::Echo), ("add", Task::Add), ("sleep", Task::Sleep), ("fail", Task::Fail)] {
        host = host.task(format!("forge.{name}"), task);
    }
    let forge = host.build().await?;
    println!("serving {} for {} at {}; ctrl-c ends it", args.queues, args.tenant, args.redis);
    tokio::signal::ctrl_c().await?;
    println!("letting {} tasks at most finish", args.concurrency);
    forge.shutdown(Duration::from_secs(10)).await?;
    Ok(())
}
