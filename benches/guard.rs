//! What the guard costs: a no-op read tool with a 1 KB argument, bare and through every phase on the embedded backends, in one run.
//!
//! ```sh
//! cargo bench --bench guard
//! ```
//!
//! Prints the median of interleaved rounds and the ratio; wall time, so compare within one run only.

#![allow(clippy::print_stdout, reason = "a program that prints a table")]

use std::sync::Arc;
use std::time::Duration;

use forge::core::{Clock, SystemClock};
use forge::prelude::*;
use serde_json::{Value, json};

const ROUNDS: usize = 15;
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

#[tokio::main]
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
    let argument = json!({ "text": "the receiving party shall keep it secret ".repeat(25) });
    let bare = Noop(Effect::Read);
    let (mut none, mut look, mut change) = (Vec::new(), Vec::new(), Vec::new());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    for _ in 0..ROUNDS {
        // bare: the argument is cloned and the spec read, as a registry without a guard would
        none.push(timed(&clock, CALLS, || async { std::hint::black_box((argument.clone(), bare.spec())) }).await);
        look.push(timed(&clock, CALLS, || scope.call("look", argument.clone())).await);
        change.push(timed(&clock, CALLS / 10, || scope.call("change", argument.clone())).await);
    }
    let (none, look, change) = (median(none), median(look), median(change));
    println!("per call, median of {ROUNDS} interleaved rounds");
    println!("  bare                             {none:>10.1?}");
    println!(
        "  guarded read (audit enqueued)    {look:>10.1?}   {:>7.1} x bare",
        look.as_secs_f64() / none.as_secs_f64()
    );
    println!(
        "  guarded write (audit durable)    {change:>10.1?}   {:>7.1} x guarded read",
        change.as_secs_f64() / look.as_secs_f64()
    );
    forge.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}

async fn timed<T, F: Future<Output = T>>(clock: &Arc<dyn Clock>, calls: u32, mut call: impl FnMut() -> F) -> Duration {
    let began = clock.monotonic();
    for _ in 0..calls {
        let _ = std::hint::black_box(call().await);
    }
    (clock.monotonic() - began) / calls
}

fn median(mut of: Vec<Duration>) -> Duration {
    of.sort();
    of.get(of.len() / 2).copied().unwrap_or_default()
}
