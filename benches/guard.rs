//! What the guard costs: a no-op read tool with a 1 KB argument, bare and through every phase on the embedded backends, in one run.
//!
//! ```sh
//! cargo bench --bench guard
//! ```
//!
//! Prints, for each, the wall time as the best of interleaved rounds, since the machine's other work only adds, and the CPU time of
//! the calling thread over all rounds (on Linux, where it is counted in ticks of the scheduler). The argument is doubled twice, to show that the cost is linear in it. The write waits for
//! the disk, so it is printed in units of one `fsync` of this disk.

#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use forge::core::{Clock, SystemClock};
use forge::prelude::*;
use serde_json::{Value, json};

const ROUNDS: usize = 25;
const CALLS: u32 = 200;

#[derive(Debug)]
struct Noop(Effect);

#[async_trait]
impl Tool for Noop {
    fn spec(&self) -> ToolSpec {
        let name = if self.0 == Effect::Read { "look" } else { "change" };
        ToolSpec::new(name, "does nothing").input::<Value>().effect(self.0).idempotent()
    }

    async fn call(&self, _: &ExecutionContext, _: ToolCall) -> Result<ToolOutput> {
        Ok(json!(null).into())
    }
}

/// The wall time of a call, and the CPU time that its thread spent on it.
#[derive(Clone, Copy)]
struct Cost {
    wall: Duration,
    cpu: Duration,
}

// one thread: the main future and the guard's own work run where the CPU time is read
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let forge = Forge::builder()
        .config(Config::in_dir(dir.path()))
        .tenant("acme", json!({ "grants": { "analyst": ["tool.call:*"] } }))
        .tool(Noop(Effect::Read))
        .tool(Noop(Effect::Write))
        .build()
        .await?;
    let ctx = forge.context(Principal::employee("acme", "ana", "analyst")?);
    let scope = forge.scope(&ctx);
    let argument = |kb: usize| json!({ "text": "the receiving party shall keep it secret ".repeat(25 * kb) });
    let (small, medium, large) = (argument(1), argument(2), argument(4));
    let bare = Noop(Effect::Read);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let mut file = std::fs::File::create(dir.path().join("fsync"))?;
    let mut rows: [Vec<Cost>; 6] = Default::default();
    for _ in 0..ROUNDS {
        let [none, look, twice, four, change, sync] = &mut rows;
        // bare: the argument is cloned and the spec read, as a registry without a guard would
        none.push(timed(&clock, CALLS, || async { std::hint::black_box((small.clone(), bare.spec())) }).await);
        look.push(timed(&clock, CALLS, || scope.call("look", small.clone())).await);
        twice.push(timed(&clock, CALLS, || scope.call("look", medium.clone())).await);
        four.push(timed(&clock, CALLS, || scope.call("look", large.clone())).await);
        change.push(timed(&clock, CALLS / 10, || scope.call("change", small.clone())).await);
        let mut synced = || file.write_all(&[7; 4096]).and_then(|()| file.sync_data());
        sync.push(timed(&clock, CALLS / 10, || std::future::ready(synced())).await);
    }
    let [none, look, twice, four, change, sync] = rows.map(best);
    println!("per call, {ROUNDS} interleaved rounds             wall, best  CPU of the caller, mean");
    let line = |name: &str, cost: Cost| println!("  {name:<36} {:>10.1?} {:>10.1?}", cost.wall, cost.cpu);
    line("bare, 1 KB", none);
    line("guarded read, 1 KB (audit enqueued)", look);
    line("guarded read, 2 KB", twice);
    line("guarded read, 4 KB", four);
    line("guarded write, 1 KB (audit durable)", change);
    line("one fsync of 4 KB", sync);
    println!("guarded write in fsyncs: {:.1}", change.wall.as_secs_f64() / sync.wall.as_secs_f64());
    forge.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

async fn timed<T, F: Future<Output = T>>(clock: &Arc<dyn Clock>, calls: u32, mut call: impl FnMut() -> F) -> Cost {
    let (began, spent) = (clock.monotonic(), on_cpu());
    for _ in 0..calls {
        let _ = std::hint::black_box(call().await);
    }
    Cost { wall: (clock.monotonic() - began) / calls, cpu: on_cpu().saturating_sub(spent) / calls }
}

/// CPU time of this thread so far: the first field of its `schedstat`, in nanoseconds. Zero elsewhere than on Linux.
fn on_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default())
}

fn best(of: Vec<Cost>) -> Cost {
    let rounds = u32::try_from(of.len()).unwrap_or(u32::MAX).max(1);
    Cost {
        wall: of.iter().map(|c| c.wall).min().unwrap_or_default(),
        cpu: of.iter().map(|c| c.cpu).sum::<Duration>() / rounds,
    }
}
