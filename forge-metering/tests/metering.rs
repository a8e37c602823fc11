//! The books are exact, apart by tenant, and hold after a crash.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use forge_core::fake::ManualClock;
use forge_core::testing::context;
use forge_core::usage::{
    Actual, Quantity, Quota, QuotaRequest, Resource, UsageEvent, UsageLedger, UsageQuery, UsageStatus,
};
use forge_core::{Clock, Currency, ErrorKind, EventId, ExecutionContext, Money, OperationKey, Timestamp};
use forge_metering::report::{events_jsonl, reconcile, usage_csv};
use forge_metering::{Limit, Limits, SqliteLedger};
use proptest::prelude::*;
use rust_decimal::Decimal;

fn event(ctx: &ExecutionContext, n: u8, cost: Decimal) -> UsageEvent {
    UsageEvent {
        id: EventId::derived(&[&[n]]),
        at: Timestamp::from_nanos(i64::from(n)),
        tenant: ctx.tenant().clone(),
        employee: ctx.employee().clone(),
        request: ctx.request_id(),
        run: None,
        operation: OperationKey::derived(&[&[n]]),
        resource: Resource::Model("gpt \"x\", large".into()),
        quantity: Quantity { tokens_in: 3, tokens_out: 2, ..Quantity::default() },
        latency_ms: 7,
        cost: Some(Money::new(cost, Currency::USD)),
        status: UsageStatus::Ok,
    }
}

fn ana() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

#[tokio::test]
async fn an_event_counts_once_and_another_under_its_id_is_a_conflict() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(dir.path()).await.unwrap();
    let ctx = ana();
    let e = event(&ctx, 1, Decimal::new(1, 4));
    ledger.record(&ctx, vec![e.clone(), e.clone()]).await.unwrap();
    ledger.record(&ctx, vec![e.clone()]).await.unwrap();
    let other = UsageEvent { latency_ms: 8, ..e };
    let batch = vec![event(&ctx, 2, Decimal::ONE), other];
    assert_eq!(ledger.record(&ctx, batch).await.unwrap_err().kind(), ErrorKind::Conflict);
    let totals = ledger.totals(&ctx, &UsageQuery::default()).await.unwrap();
    assert_eq!((totals.events, totals.cost[0].to_string().as_str()), (1, "0.0001 USD"), "all of a batch or none of it");
}

#[tokio::test]
async fn tenants_do_not_see_or_write_each_others_usage() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(dir.path()).await.unwrap();
    let (acme, globex) = (ana(), context("globex", "ana", "analyst"));
    ledger.record(&acme, vec![event(&acme, 1, Decimal::ONE)]).await.unwrap();
    ledger.record(&globex, vec![event(&globex, 1, Decimal::TWO)]).await.unwrap();
    let foreign = ledger.record(&globex, vec![event(&acme, 2, Decimal::ONE)]).await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::TenantMismatch);
    let seen = ledger.events(&globex, &UsageQuery::default(), 10).await.unwrap();
    assert!(seen.len() == 1 && seen[0].tenant == "globex");
    assert_eq!(ledger.totals(&acme, &UsageQuery::default()).await.unwrap().cost[0].amount, Decimal::ONE);
}

#[tokio::test]
async fn what_was_recorded_or_filled_is_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let ctx = ana();
    {
        let ledger = SqliteLedger::open(dir.path()).await.unwrap();
        ledger.record(&ctx, vec![event(&ctx, 1, Decimal::ONE)]).await.unwrap();
        ledger.reserve(&ctx).await.unwrap().fill(vec![event(&ctx, 2, Decimal::ONE)]);
        ledger.flush().await.unwrap();
    }
    let ledger = loop {
        // the old owner's writer ends with its last handle
        match SqliteLedger::open(dir.path()).await {
            Ok(l) => break l,
            Err(e) => assert_eq!(e.kind(), ErrorKind::Config),
        }
    };
    assert_eq!(ledger.events(&ctx, &UsageQuery::default(), 10).await.unwrap().len(), 2);
}

fn request(n: u64) -> QuotaRequest {
    let quantity = Quantity { tokens_in: 10, ..Quantity::default() };
    QuotaRequest {
        operation: OperationKey::derived(&[&n.to_be_bytes()]),
        resource: Resource::Tool("t".into()),
        quantity,
        cost: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_64_that_race_for_10_calls_10_win_and_no_other_tenant_pays() {
    let dir = tempfile::tempdir().unwrap();
    let limits = Limits::default().with_tenant(Limit::default().with_calls(10));
    let quota = SqliteLedger::open(dir.path()).await.unwrap().quota(limits, Arc::new(ManualClock::default()));
    let race = (0..64).map(|n| {
        tokio::spawn({
            let q = quota.clone();
            async move { q.reserve(&ana(), request(n)).await }
        })
    });
    let mut permits = Vec::new();
    for task in race.collect::<Vec<_>>() {
        match task.await.unwrap() {
            Ok(p) => permits.push(p),
            Err(e) => assert_eq!(e.kind(), ErrorKind::QuotaExceeded),
        }
    }
    assert_eq!(permits.len(), 10);
    assert!(quota.reserve(&context("globex", "gus", "analyst"), request(1)).await.is_ok());
    drop(permits);
    let state = quota.peek(&ana(), &Resource::Tool("t".into())).await.unwrap();
    // a write behind the settlements shows that they are done
    let _ = quota.reserve(&context("globex", "gus", "analyst"), request(2)).await;
    assert!(state.calls_left.unwrap() <= 10);
    assert_eq!(
        quota.peek(&ana(), &Resource::Tool("t".into())).await.unwrap().calls_left,
        Some(10),
        "nothing used gives everything back"
    );
}

#[tokio::test]
async fn a_window_begins_anew_and_a_dead_reservation_ends() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let limits = Limits::default().with_employee(Limit::default().with_calls(1));
    let quota = SqliteLedger::open(dir.path()).await.unwrap().quota(limits, clock.clone());
    let permit = quota.reserve(&ana(), request(1)).await.unwrap();
    assert!(quota.reserve(&ana(), request(1)).await.is_ok(), "the same operation takes nothing more");
    permit.settle(Actual { quantity: Quantity::TOOL_CALL, cost: None });
    let e = quota.reserve(&ana(), request(2)).await.unwrap_err();
    assert!(e.to_string().contains("resets=2026-01-02T00:00:00Z"), "{e}");
    assert!(
        quota.reserve(&context("acme", "bo", "analyst"), request(3)).await.is_ok(),
        "another employee has a limit of their own"
    );
    clock.advance(Duration::from_secs(24 * 3600));
    // a process dies with its reservation
    std::mem::forget(quota.reserve(&ana(), request(4)).await.unwrap());
    assert!(quota.reserve(&ana(), request(5)).await.is_err());
    clock.advance(Duration::from_secs(901));
    assert!(quota.reserve(&ana(), request(6)).await.is_ok());
    assert!(clock.now() > Timestamp::from_nanos(0));
}

#[test]
fn the_report_equals_the_events_and_a_changed_one_is_found_out() {
    let ctx = ana();
    let events: Vec<_> = (1..=9).map(|n| event(&ctx, n, Decimal::new(i64::from(n) * 1_000_001, 10))).collect();
    let (csv, jsonl) = (usage_csv(&events).unwrap(), events_jsonl(&events).unwrap());
    assert!(csv.starts_with(
        "timestamp,tenant_id,employee_id,model,tokens_in,tokens_out,latency_ms,cost_estimate,tool_calls\n"
    ));
    let sums = reconcile(&csv, &jsonl).unwrap();
    assert_eq!((sums.rows, sums.cost), (9, Decimal::new(45 * 1_000_001, 10)));
    let forged = csv.replacen("0.0001000001", "0.0001000002", 1);
    assert_eq!(reconcile(&forged, &jsonl).unwrap_err().kind(), ErrorKind::Conflict);
    let mut mixed = events;
    mixed[0].cost = Some(Money::new(Decimal::ONE, Currency::EUR));
    assert_eq!(usage_csv(&mixed).unwrap_err().kind(), ErrorKind::InvalidInput);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn sums_are_exact(costs in prop::collection::vec((0_i64..i64::MAX, 0_u32..18), 1..40)) {
        let rt = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let ctx = ana();
        let costs: Vec<Decimal> = costs.into_iter().map(|(n, scale)| Decimal::new(n, scale)).collect();
        let events = costs.iter().zip(0_u8..).map(|(c, n)| event(&ctx, n, *c)).collect();
        let totals = rt.block_on(async {
            let ledger = SqliteLedger::open(dir.path()).await.unwrap();
            ledger.record(&ctx, events).await.unwrap();
            ledger.totals(&ctx, &UsageQuery::default()).await.unwrap()
        });
        let exact: Decimal = costs.iter().sum();
        prop_assert_eq!(totals.cost[0].amount, exact);
    }
}
