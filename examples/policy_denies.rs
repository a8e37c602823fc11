//! Denied unless a rule says yes: what a refusal says, and that it is in the books and nowhere else.
//!
//! ```sh
//! cargo run --example policy_denies
//! ```

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a program that prints what it shows, and asserts it"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use forge::core::OperationKey;
use forge::core::audit::AuditEvent;
use forge::core::usage::UsageQuery;
use forge::prelude::*;
use serde_json::{Value, json};

/// Counts how often it is really called.
#[derive(Debug, Default)]
struct Pay(Arc<AtomicU32>);

#[async_trait]
impl Tool for Pay {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("pay", "pays an invoice").input::<Value>().effect(Effect::Write)
    }

    async fn call(&self, _: &ExecutionContext, _: ToolCall) -> Result<ToolOutput> {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(json!({ "paid": true }).into())
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (dir, pay) = (tempfile::tempdir()?, Pay::default());
    let paid = pay.0.clone();
    let forge = Forge::builder()
        .config(Config::in_dir(dir.path()))
        .tenant(
            "acme",
            json!({
                "employees": { "ana": { "role": "clerk" } },
                "grants": { "clerk": ["usage.read:*", "audit.read:*"], "treasurer": ["tool.call:pay", "approval.decide:pay"] },
                "always_approve": ["pay"], "approvers": ["treasurer"],
            }),
        )
        .tool(pay)
        .build()
        .await?;
    let invoice = json!({ "invoice": 7 });
    let act_as = |employee, role| -> Result<ExecutionContext> {
        Ok(forge.context(Principal::employee("acme", employee, role)?))
    };

    for (employee, role) in [("ana", "clerk"), ("ana", "treasurer"), ("bo", "visitor")] {
        let refused = forge.scope(&act_as(employee, role)?).call("pay", invoice.clone()).await;
        let error = refused.expect_err("no rule says yes");
        let denial = error.denial().ok_or("a policy denied it")?;
        println!("{employee} as {role}: {} (policy {})", denial.reasons.join(", "), denial.policy);
    }

    // even the treasurer needs a second pair of eyes: the question is bound to exactly these arguments
    let (tess, theo) = (act_as("tess", "treasurer")?, act_as("theo", "treasurer")?);
    let options = || CallOptions::default().with_key(OperationKey::derived(&[b"invoice-7"]));
    let held = forge.scope(&tess).call_with("pay", invoice.clone(), options()).await.expect_err("it is held");
    let asked = held.approval().cloned().ok_or("a person is asked")?;
    println!("tess as treasurer: {held}");
    assert!(forge.scope(&tess).approve(asked.id, asked.digest).await.is_err(), "not by the one who asks");
    forge.scope(&theo).approve(asked.id, asked.digest).await?;
    let changed = forge.scope(&tess).call_with("pay", json!({ "invoice": 8 }), options()).await;
    assert!(changed.is_err(), "the yes was to another invoice");
    assert_eq!(paid.load(Ordering::SeqCst), 0, "nothing was paid so far");
    println!("after theo's yes: {}", forge.scope(&tess).call_with("pay", invoice, options()).await?.content());
    assert_eq!(paid.load(Ordering::SeqCst), 1);

    let ana = act_as("ana", "clerk")?;
    let rows = forge.scope(&ana).audit(ana.tenant(), 1, 100).await?;
    let decisions = rows.iter().filter(|r| matches!(r.record.event, AuditEvent::Decision { .. })).count();
    let usage = forge.scope(&ana).usage_totals(ana.tenant(), &UsageQuery::default()).await?;
    println!("{decisions} decisions in the audit log, {} call paid for", usage.events);
    assert_eq!(usage.events, 1);
    forge.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
