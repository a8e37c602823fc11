//! The operator's hand on a queue on Redis, beside the hosts that run: who waits, who is bounded, what was given up.
//!
//! ```sh
//! cargo run --features queue-redis --example queue_ctl -- --config forge.toml stats
//! cargo run --features queue-redis --example queue_ctl -- --config forge.toml --tenant acme dead
//! cargo run --features queue-redis --example queue_ctl -- --config forge.toml --tenant acme --as pat/operator replay ID
//! ```

#![allow(clippy::print_stdout, clippy::future_not_send, reason = "a command-line program")]

use std::path::PathBuf;
use std::sync::Arc;

use forge::core::keyring::Keyring;
use forge::core::secret::Secrets;
use forge::core::{Clock, ExecutionContext, RequestId, Slug, SystemClock, TaskId, TenantId};
use forge::dlp::FileKeyring;
use forge::prelude::*;
use forge::queue::dead::{DeadLetters, LetterFilter, replay_all};
use forge::queue::limits::{QueueControl, QueueLimits};
use forge::queue::redis::RedisBroker;

const USAGE: &str = "usage: queue_ctl [--config FILE] [--tenant T] [--as EMPLOYEE/ROLE] COMMAND
  stats                                    every tenant: waiting, running, dead, limits
  limits [weight=W] [running=N] [rate=R] [burst=N] [length=N]    bounds the tenant; what is not given is not bounded
  pause | resume                           of the tenant
  drop                                     takes away what waits, for good
  dead [name=NAME] [reason=WORD]           dead letters, the last first
  show ID                                  one of them
  replay ID                                queues one again; it runs as --as
  replay all [name=NAME] [reason=WORD] [rate=PER_SECOND]         the oldest first
  purge ID                                 deletes one
The file is that of a host: queue.redis, master_key and data_dir are read, nothing else is opened.";

struct Tool {
    broker: RedisBroker,
    clock: Arc<dyn Clock>,
    tenant: Option<String>,
    who: (String, String),
}

type Done = std::result::Result<(), Box<dyn std::error::Error>>;

#[tokio::main]
async fn main() -> Done {
    let (mut config, mut tenant, mut who) =
        (PathBuf::from("forge.toml"), None, ("queue-ctl".to_owned(), "operator".to_owned()));
    let mut command = Vec::new();
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or_else(|| format!("{word} needs a value\n{USAGE}"));
        match word.as_str() {
            "--config" => config = value()?.into(),
            "--tenant" => tenant = Some(value()?),
            "--as" => {
                let as_whom = value()?;
                let (employee, role) = as_whom.split_once('/').ok_or("--as is EMPLOYEE/ROLE")?;
                who = (employee.to_owned(), role.to_owned());
            }
            _ => command.push(word),
        }
    }
    let config = Config::load(config)?;
    let redis = config.queue.redis.as_ref().ok_or("the file has no section queue.redis")?;
    let (secrets, clock): (_, Arc<dyn Clock>) = (Secrets::standard(), Arc::new(SystemClock));
    let master = match &config.master_key {
        Some(reference) => Some(secrets.fetch(reference).await?),
        None => None,
    };
    let keyring: Arc<dyn Keyring> = Arc::new(FileKeyring::open(config.data_dir.join("keys"), master).await?);
    let broker = redis.broker(&secrets, keyring, clock.clone())?;
    let tool = Tool { broker, clock, tenant, who };
    let words: Vec<&str> = command.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["stats"] => tool.stats().await,
        ["limits", settings @ ..] => tool.limits(settings).await,
        ["pause"] => Ok(tool.broker.pause(&tool.tenant()?).await?),
        ["resume"] => Ok(tool.broker.resume(&tool.tenant()?).await?),
        ["drop"] => {
            println!("{} tasks", tool.broker.drop_waiting(&tool.tenant()?).await?);
            Ok(())
        }
        ["dead", filter @ ..] => tool.dead(filter).await,
        ["show", id] => tool.show(id).await,
        ["replay", "all", filter @ ..] => tool.replay_all(filter).await,
        ["replay", id] => Ok(tool.broker.replay(&tool.ctx()?, TaskId::parse(id)?).await?),
        ["purge", id] => {
            println!(
                "{}",
                if tool.broker.purge(&tool.ctx()?, TaskId::parse(id)?).await? { "deleted" } else { "not there" }
            );
            Ok(())
        }
        _ => Err(USAGE.into()),
    }
}

impl Tool {
    fn tenant(&self) -> std::result::Result<TenantId, Box<dyn std::error::Error>> {
        Ok(TenantId::parse(self.tenant.as_ref().ok_or("say whose: --tenant T")?)?)
    }

    fn ctx(&self) -> std::result::Result<ExecutionContext, Box<dyn std::error::Error>> {
        let who = Principal::employee(self.tenant()?.as_str(), &self.who.0, &self.who.1)?;
        Ok(ExecutionContext::issue(who, RequestId::random(self.clock.now())))
    }

    async fn stats(&self) -> Done {
        println!("{:<40} {:>9} {:>9} {:>9}  limits", "tenant", "waiting", "running", "dead");
        for t in self.broker.tenants().await? {
            let l = &t.limits;
            let of = |what: &str, n: Option<String>| n.map(|n| format!(" {what}={n}")).unwrap_or_default();
            let limits = [
                of("weight", (l.weight - 1.0).abs().gt(&f64::EPSILON).then(|| l.weight.to_string())),
                of("running", l.running.map(|n| n.to_string())),
                of("rate", l.rate.map(|n| n.to_string())),
                of("burst", l.burst.map(|n| n.to_string())),
                of("length", l.length.map(|n| n.to_string())),
                if t.paused { " paused".to_owned() } else { String::new() },
            ];
            let d = t.depth;
            println!("{:<40} {:>9} {:>9} {:>9} {}", t.tenant, d.ready, d.leased, d.dead, limits.concat());
        }
        Ok(())
    }

    async fn limits(&self, settings: &[&str]) -> Done {
        let mut limits = QueueLimits::default();
        for setting in settings {
            limits = match setting.split_once('=') {
                Some(("weight", n)) => limits.with_weight(n.parse()?),
                Some(("running", n)) => limits.with_running(n.parse()?),
                Some(("rate", n)) => limits.with_rate(n.parse()?),
                Some(("burst", n)) => limits.with_burst(n.parse()?),
                Some(("length", n)) => limits.with_length(n.parse()?),
                _ => return Err(USAGE.into()),
            };
        }
        Ok(self.broker.set_limits(&self.tenant()?, limits).await?)
    }

    async fn dead(&self, filter: &[&str]) -> Done {
        let (filter, _) = read(filter)?;
        for l in self.broker.dead_letters(&self.ctx()?, &filter, 1000).await? {
            println!(
                "{}  {}  {:<24} {:<20} tries {}  {}",
                l.id, l.died, l.name, l.reason, l.attempts, l.report.message
            );
        }
        Ok(())
    }

    async fn show(&self, id: &str) -> Done {
        let id = TaskId::parse(id)?;
        let letters = self.broker.dead_letters(&self.ctx()?, &LetterFilter::default(), usize::MAX).await?;
        let letter = letters.into_iter().find(|l| l.id == id).ok_or("no such dead letter")?;
        println!(
            "task     {} {}\nqueue    {}\nreason   {}\ntries    {}\ndied     {}",
            letter.id, letter.name, letter.queue, letter.reason, letter.attempts, letter.died
        );
        println!(
            "trace    {}\nerror    {} in {}",
            letter.trace.as_deref().unwrap_or("none"),
            letter.report.message,
            letter.report.operation
        );
        for (key, value) in &letter.report.context {
            println!("         {key} = {value}");
        }
        Ok(())
    }

    async fn replay_all(&self, filter: &[&str]) -> Done {
        let (filter, rate) = read(filter)?;
        let done = replay_all(&self.broker, &self.ctx()?, &filter, usize::MAX, rate, self.clock.as_ref()).await?;
        println!("{} queued again, {} left", done.replayed, done.left);
        Ok(())
    }
}

fn read(words: &[&str]) -> std::result::Result<(LetterFilter, f64), Box<dyn std::error::Error>> {
    let (mut filter, mut rate) = (LetterFilter::default(), 10.0);
    for word in words {
        match word.split_once('=') {
            Some(("name", name)) => filter = filter.with_name(Slug::parse(name)?),
            Some(("reason", reason)) => filter = filter.with_reason(reason),
            Some(("rate", per_second)) => rate = per_second.parse()?,
            _ => return Err(USAGE.into()),
        }
    }
    Ok((filter, rate))
}
