//! The adapters of this crate behind the guard: what a call carries is in none of their files.

use std::sync::Arc;

use crate::common::{ctx, usd};
use async_trait::async_trait;
use forge_core::fake::{FakePolicy, ManualClock};
use forge_core::guard::{CallOptions, Guard, ToolSet, Tools};
use forge_core::testing::{fake_guard, tool_env};
use forge_core::tool::{Effect, Tool, ToolCall, ToolOutput, ToolSpec};
use forge_core::usage::{Quota, Resource, UsageLedger, UsageQuery, UsageStatus};
use forge_core::{Error, ErrorKind, ExecutionContext, Result};
use forge_metering::{Limit, Limits, PriceBook, SqliteLedger, SqliteQuota, TenantLimits, report};
use serde_json::{Value, json};

const CANARY: &str = "canary-4111-1111-1111-1111";

#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    text: String,
}

/// Answers with what it was told, or fails with it.
#[derive(Debug)]
struct Echo;

#[async_trait]
impl Tool for Echo {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("echo", "says it again").input::<Args>().effect(Effect::Send)
    }

    async fn call(&self, _: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        let Args { text } = call.args()?;
        if text.starts_with("fail") {
            Err(Error::new(ErrorKind::NotFound, "echo", text))
        } else {
            Ok(json!(text).into())
        }
    }
}

struct Bench {
    dir: tempfile::TempDir,
    ledger: SqliteLedger,
    quota: SqliteQuota,
    tools: Tools,
}

async fn bench(calls: u64) -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let total = TenantLimits::default().with_total(Limit::default().with_calls(calls));
    let ledger = SqliteLedger::open(dir.path()).await.unwrap();
    let quota = SqliteQuota::open(dir.path(), Limits::default().with_default(total), clock.clone()).await.unwrap();
    let mut parts = fake_guard(FakePolicy::allow_all(), clock).parts;
    parts.ledger = Arc::new(ledger.clone());
    parts.quota = Arc::new(quota.clone());
    parts.pricing = Arc::new(PriceBook::example().unwrap());
    let tools = Tools::seal(Guard::new(parts), tool_env(), ToolSet::new().tool(Echo)).unwrap();
    Bench { dir, ledger, quota, tools }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_payload_reaches_the_disk() {
    let b = bench(10).await;
    let acme = ctx("acme", "ana");
    for (text, answered) in [(CANARY.to_owned(), true), (format!("fail {CANARY}"), false)] {
        let answer = b.tools.call(&acme, "echo", json!({ "text": text }), CallOptions::default()).await;
        assert_eq!(answer.is_ok(), answered);
    }
    b.ledger.flush(None).await.unwrap();
    let events = b.ledger.events(&acme, &UsageQuery::default(), 10).await.unwrap();
    let outcomes: Vec<_> = events.iter().map(|e| (e.status, e.cost)).collect();
    assert_eq!(outcomes, [(UsageStatus::Ok, Some(usd("0.0001"))), (UsageStatus::Failed, Some(usd("0")))]);

    let Value::Object(fields) = serde_json::to_value(&events[0]).unwrap() else { panic!("an event is an object") };
    let names: Vec<_> = fields.keys().map(String::as_str).collect();
    let known = [
        "at",
        "cost",
        "employee",
        "id",
        "latency_ms",
        "operation",
        "quantity",
        "request",
        "resource",
        "run",
        "status",
        "tenant",
    ];
    assert!(names.iter().all(|n| known.contains(n)), "a new field must not carry a payload: {names:?}");

    let mut with_tenant = 0;
    for file in std::fs::read_dir(b.dir.path()).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let has = |needle: &str| bytes.windows(needle.len()).any(|w| w == needle.as_bytes());
        assert!(!has("canary"));
        with_tenant += usize::from(has("acme"));
    }
    assert!(with_tenant >= 2, "both databases were read");
    let shown = format!("{:?} {:?}", b.ledger, b.quota);
    assert!(!shown.contains(b.dir.path().to_str().unwrap()), "{shown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_used_up_limit_stops_the_call_and_a_failed_call_does_not_count() {
    let b = bench(1).await;
    let acme = ctx("acme", "ana");
    let call = |text: &'static str| b.tools.call(&acme, "echo", json!({ "text": text }), CallOptions::default());
    assert_eq!(call("fail").await.unwrap_err().kind(), ErrorKind::NotFound);
    call("first").await.unwrap();
    assert_eq!(call("second").await.unwrap_err().kind(), ErrorKind::QuotaExceeded);
    let left = b.quota.peek(&acme, &Resource::Tool("echo".into())).await.unwrap().calls_left;
    assert_eq!(left, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_of_a_guarded_run_adds_up() {
    let b = bench(100).await;
    let acme = ctx("acme", "ana");
    for n in 0..7 {
        b.tools.call(&acme, "echo", json!({ "text": n.to_string() }), CallOptions::default()).await.unwrap();
    }
    b.ledger.flush(None).await.unwrap();
    let events = b.ledger.events(&acme, &UsageQuery::default(), usize::MAX).await.unwrap();
    let (csv, jsonl) = (report::usage_csv(&events).unwrap(), report::events_jsonl(&events).unwrap());
    let proof = report::reconcile(&csv, &jsonl).unwrap();
    let totals = b.ledger.totals(&acme, &UsageQuery::default()).await.unwrap();
    assert_eq!((proof.rows, proof.tool_calls, proof.cost), (7, 7, Some(usd("0.0007"))));
    assert_eq!((totals.events, totals.cost), (7, vec![usd("0.0007")]));
}
