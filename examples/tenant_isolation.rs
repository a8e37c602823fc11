//! Two tenants, the same names everywhere: neither sees, touches nor pays for the other, and each attempt is in the books.
//!
//! ```sh
//! cargo run --example tenant_isolation
//! ```

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a program that prints what it shows, and asserts it"
)]

use std::time::Duration;

use forge::core::kv::PutOptions;
use forge::core::usage::UsageQuery;
use forge::core::{Namespace, Slug};
use forge::memory::Passage;
use forge::prelude::*;
use serde_json::{Value, json};

#[derive(Debug)]
struct Echo;

#[async_trait]
impl Tool for Echo {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("echo", "says it again").input::<Value>().effect(Effect::Read)
    }

    async fn call(&self, _: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        Ok(call.args::<Value>()?.into())
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let grants = json!({ "grants": { "analyst": ["tool.call:*", "memory.read:*", "memory.write:*", "usage.read:*", "audit.read:*"] } });
    let forge = Forge::builder()
        .config(Config::in_dir(dir.path()))
        .tenant("acme", grants.clone())
        .tenant("globex", grants)
        .tool(Echo)
        .build()
        .await?;
    // the same employee, role and names in both houses
    let acme = forge.context(Principal::employee("acme", "ana", "analyst")?);
    let globex = forge.context(Principal::employee("globex", "ana", "analyst")?);
    let notes = |ctx: &ExecutionContext| -> Result<Namespace> { Ok(Namespace::of(ctx, Slug::parse("notes")?)) };

    forge.scope(&acme).call("echo", json!({ "secret": "the merger" })).await?;
    forge.scope(&acme).remember(&notes(&acme)?, vec![Passage::new("1", "Deal", "The merger closes in May.")]).await?;
    forge.key_values().put(&acme, &notes(&acme)?, "deal", "merger".into(), PutOptions::default()).await?;

    let found = forge.scope(&globex).recall(&notes(&globex)?, "merger", 5).await?;
    println!("globex recalls {} passages about the merger", found.len());
    assert!(found.is_empty());
    let value = forge.key_values().get(&globex, &notes(&globex)?, "deal").await?;
    println!("globex reads {value:?} under the same key");
    assert!(value.is_none());
    let used = forge.scope(&globex).usage_totals(globex.tenant(), &UsageQuery::default()).await?;
    println!("globex pays for {} calls", used.events);
    assert_eq!(used.events, 0);

    // a reference to another tenant's things is refused wherever it comes from, and leaves a row in the chain of who tried
    let reached = [
        forge.scope(&globex).recall(&notes(&acme)?, "merger", 5).await.map(|_| ()),
        forge.scope(&globex).usage(acme.tenant(), &UsageQuery::default(), 5).await.map(|_| ()),
        forge.scope(&globex).audit(acme.tenant(), 1, 5).await.map(|_| ()),
    ];
    for refused in reached {
        let error = refused.expect_err("another tenant's things are out of reach");
        println!("globex reaches out: {error}");
        assert_eq!(error.kind(), ErrorKind::TenantMismatch);
    }
    let rows = forge.scope(&globex).audit(globex.tenant(), 1, 100).await?;
    let tried = rows.iter().filter(|r| format!("{:?}", r.record.event).contains("tenant_mismatch")).count();
    println!("{tried} attempts in globex's own audit log");
    assert_eq!(tried, 3);
    forge.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
