//! What the journal costs: a step of a workflow beside one bare durable commit of the same rows; steps a second of 1, 8 and 64
//! runs at once; and a hundred runs at once in one tenant, how long each took to be accepted and what memory they hold.
//!
//! ```sh
//! cargo bench --bench journal
//! ```
//!
//! A wall time of the disk is printed beside the commit that the same disk took in the same round; only ratios mean something.

#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::indexing_slicing, reason = "a program that prints a table")]

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forge::core::{Clock, SystemClock};
use forge::prelude::*;
use rusqlite::{Connection, params};
use serde_json::json;

const ROUNDS: usize = 15;
const STEPS: usize = 40;
const AT_ONCE: usize = 100;

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (open, gate) = tokio::sync::watch::channel(false);
    let forge = Forge::builder()
        .config(Config::in_dir(dir.path()))
        .tenant("acme", json!({ "grants": { "analyst": ["workflow.start:*"] } }))
        .workflow(chain(&seen))
        .workflow(waiting(gate))
        .build()
        .await?;
    let ctx = forge.context(Principal::employee("acme", "ana", "analyst")?);
    let scope = forge.scope(&ctx);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);

    let mut bare = Bare::open(&dir.path().join("bare.db"))?;
    let (mut commits, mut steps) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        for _ in 0..STEPS {
            let began = clock.monotonic();
            bare.step()?;
            commits.push(clock.monotonic() - began);
        }
        seen.lock().unwrap().clear();
        scope.start("chain", json!({})).await?.wait().await?;
        // from the body of one step to that of the next: all that the engine and the journal do between them
        steps.extend(seen.lock().unwrap().windows(2).map(|w| w[1] - w[0]));
    }
    let (commit, step) = (middle(&mut commits), middle(&mut steps));
    println!("median of {ROUNDS} interleaved rounds of {STEPS}");
    println!("  one durable commit of a step's rows, bare SQLite {commit:>10.1?}");
    println!("  a step of a workflow                             {step:>10.1?}");
    println!("  a step in commits                                {:>10.2}", step.as_secs_f64() / commit.as_secs_f64());

    println!("steps a second, by runs at once");
    let mut alone = 0.0;
    for callers in [1, 8, 64] {
        let began = clock.monotonic();
        let runs = (0..callers).map(|_| async { scope.start("chain", json!({})).await?.wait().await });
        futures::future::try_join_all(runs).await?;
        let rate = (callers * STEPS) as f64 / (clock.monotonic() - began).as_secs_f64();
        if callers == 1 {
            alone = rate;
        }
        println!("  {callers:>3}  {rate:>8.0}   {:>5.1} x", rate / alone);
    }

    let before = resident();
    let accepted: Mutex<Vec<Duration>> = Mutex::default();
    let began = clock.monotonic();
    let starts = (0..AT_ONCE).map(|_| async {
        let called = clock.monotonic();
        let run = scope.start("waiting", json!({ "text": "x".repeat(1000) })).await?;
        accepted.lock().unwrap().push(clock.monotonic() - called);
        Ok::<_, Error>(run)
    });
    let runs = futures::future::try_join_all(starts).await?;
    let all = clock.monotonic() - began;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let each = resident().saturating_sub(before) / AT_ONCE;
    let mut accepted = accepted.into_inner().unwrap();
    accepted.sort();
    println!("{AT_ONCE} runs at once in one tenant");
    println!(
        "  accepted: median {:.1?}, p99 {:.1?}, all within {all:.1?}",
        accepted[AT_ONCE / 2],
        accepted[AT_ONCE * 99 / 100 - 1]
    );
    println!("  memory of a run that waits: {} KiB", each / 1024);
    open.send(true)?;
    futures::future::try_join_all(runs.iter().map(|r| r.wait())).await?;
    forge.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

/// Steps that do nothing but say when.
fn chain(seen: &Arc<Mutex<Vec<Duration>>>) -> Workflow {
    let steps = (0..STEPS).map(|i| {
        let seen = seen.clone();
        step(format!("s{i}"), move |_| {
            seen.lock().unwrap().push(SystemClock.monotonic());
            async { Ok(json!(null)) }
        })
    });
    Workflow::new("chain", 1).stage(stage("only").steps(steps))
}

/// A step that waits for the gate.
fn waiting(gate: tokio::sync::watch::Receiver<bool>) -> Workflow {
    let wait = step("wait", move |_| {
        let mut gate = gate.clone();
        async move {
            let _ = gate.wait_for(|open| *open).await;
            Ok(json!(null))
        }
    });
    Workflow::new("waiting", 1).stage(stage("only").steps([wait]))
}

/// The rows of a step, written by hand in one transaction: begun, done, and a line of history for each.
struct Bare {
    connection: Connection,
    n: i64,
}

impl Bare {
    fn open(path: &Path) -> rusqlite::Result<Self> {
        let connection = Connection::open(path)?;
        connection.execute_batch(
            "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA secure_delete = TRUE;
             CREATE TABLE steps (tenant TEXT, run TEXT, path TEXT, ordinal INTEGER, attempt INTEGER, state TEXT, completed INTEGER,
                 intent TEXT, output BLOB, started INTEGER, updated INTEGER, PRIMARY KEY (tenant, run, path)) STRICT;
             CREATE TABLE events (tenant TEXT, run TEXT, seq INTEGER, at INTEGER, path TEXT, what TEXT, attempt INTEGER, error TEXT,
                 PRIMARY KEY (tenant, run, seq)) STRICT, WITHOUT ROWID;",
        )?;
        Ok(Self { connection, n: 0 })
    }

    fn step(&mut self) -> rusqlite::Result<()> {
        self.n += 1;
        let (run, path) = ("0198c0de-0000-7000-8000-000000000000", format!("only/s{}", self.n));
        let tx = self.connection.transaction()?;
        let event = "INSERT INTO events VALUES ('acme', ?1, ?2, 1, ?3, ?4, 1, NULL)";
        tx.prepare_cached("INSERT INTO steps VALUES ('acme', ?1, ?2, ?3, 1, ?4, 0, NULL, NULL, 1, 1)")?
            .execute(params![run, path, self.n, r#"{"state":"running"}"#])?;
        tx.prepare_cached(event)?.execute(params![run, self.n * 2, path, "started"])?;
        tx.prepare_cached(
            "UPDATE steps SET state = ?3, completed = 1, output = ?4 WHERE tenant = 'acme' AND run = ?1 AND path = ?2",
        )?
        .execute(params![run, path, r#"{"state":"completed"}"#, [7_u8; 64]])?;
        tx.prepare_cached(event)?.execute(params![run, self.n * 2 + 1, path, "completed"])?;
        tx.commit()
    }
}

fn middle(of: &mut [Duration]) -> Duration {
    of.sort();
    of[of.len() / 2]
}

/// Bytes that the process holds in memory. Zero elsewhere than on Linux.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|pages| pages.parse::<usize>().ok()).unwrap_or_default() * 4096
}
