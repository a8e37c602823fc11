//! One guarded tool: allowed for an analyst, denied for everybody else, paid for and audited either way.
//!
//! ```sh
//! cargo run --example hello
//! ```

#![allow(clippy::print_stdout, reason = "a command-line program")]

use std::time::Duration;

use forge::core::usage::UsageQuery;
use forge::prelude::*;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

#[derive(Debug)]
struct Weather;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct WeatherArgs {
    /// The city's name.
    city: String,
}

#[async_trait]
impl Tool for Weather {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("weather", "current weather of a city").input::<WeatherArgs>().effect(Effect::Read)
    }

    async fn call(&self, _: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        let WeatherArgs { city } = call.args()?;
        Ok(json!({ "city": city, "sky": "clear" }).into())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let forge = Forge::builder()
        .config(Config::in_dir(dir.path()))
        .tenant(
            "acme",
            json!({ "grants": { "analyst": ["tool.call:weather", "usage.read:usage", "audit.read:audit"] } }),
        )
        .tool(Weather)
        .build()
        .await?;

    let ana = forge.context(Principal::employee("acme", "ana", "analyst")?);
    let answer = forge.scope(&ana).call("weather", json!({ "city": "Lisbon" })).await?;
    println!("ana asks:    {}", answer.content());

    let bo = forge.context(Principal::employee("acme", "bo", "visitor")?);
    if let Err(e) = forge.scope(&bo).call("weather", json!({ "city": "Lisbon" })).await {
        println!("bo asks:     {} because {:?}", e.public_message(), e.denial().map(|d| &d.reasons));
    }

    let totals = forge.scope(&ana).usage_totals(ana.tenant(), &UsageQuery::default()).await?;
    println!(
        "acme pays:   {} for {} call",
        totals.cost.first().map(ToString::to_string).unwrap_or_default(),
        totals.quantity.tool_calls
    );
    for row in forge.scope(&ana).audit(ana.tenant(), 1, 10).await? {
        println!(
            "audit {:>2}:    {} {} {}",
            row.seq,
            row.record.employee,
            row.record.event.name(),
            row.record.resource
        );
    }
    forge.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
