//! The suite of [`UsageLedger`].

use std::sync::Arc;

use futures::FutureExt;
use rust_decimal::Decimal;

use super::context;
use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use crate::usage::{
    LedgerCapability, Quantity, Resource, UsageEvent, UsageLedger, UsageQuery, UsageStatus, UsageTotals,
};
use crate::{
    Currency, Depth, ErrorKind, EventId, ExecutionContext, Money, OperationKey, Result, RunId, Slot, Status, TenantId,
    Timestamp,
};

spy! { UsageLedger:
    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<Vec<UsageEvent>>>;
    async fn record(&self, ctx: &ExecutionContext, events: Vec<UsageEvent>) -> Result<()>;
    async fn events(&self, ctx: &ExecutionContext, query: &UsageQuery, limit: usize) -> Result<Vec<UsageEvent>>;
    async fn totals(&self, ctx: &ExecutionContext, query: &UsageQuery) -> Result<UsageTotals>;
    async fn flush(&self, tenant: Option<&TenantId>) -> Result<()>;
    fn capability(&self) -> LedgerCapability;
}

/// Runs every scenario on fresh ledgers that `fresh` makes.
///
/// # Panics
/// With the scenario's name, where the ledger does not keep the [contract](UsageLedger).
pub async fn usage_ledger(fresh: impl AsyncFn() -> Fixture<dyn UsageLedger>) {
    let called = Called::default();
    let made = async || fresh().await.map(|ledger| Arc::new(Spy::new(ledger, &called)));
    counts_an_event_once(&made().await).await;
    records_all_or_none(&made().await).await;
    sums_exactly(&made().await).await;
    answers_what_is_asked(&made().await).await;
    fills_a_slot_without_waiting(&made().await).await;
    keeps_tenants_apart(&made().await).await;
    keeps_hostile_names_as_they_are(&made().await).await;
    survives_a_call_that_was_dropped(&made().await).await;
    durability_is_as_declared(made().await).await;
    the_server_goes_away(made().await).await;
    let f = made().await;
    prints_no_secret(f.adapter.as_ref(), &f.secrets);
    assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
    called.complete::<dyn UsageLedger>();
}

fn ana() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

fn usd(amount: Decimal) -> Money {
    Money::new(amount, Currency::USD)
}

fn event(ctx: &ExecutionContext, n: u32) -> UsageEvent {
    UsageEvent {
        id: EventId::derived(&[b"suite", &n.to_be_bytes()]),
        at: Timestamp::from_nanos(n.into()),
        tenant: ctx.tenant().clone(),
        employee: ctx.employee().clone(),
        request: ctx.request_id(),
        run: None,
        operation: OperationKey::derived(&[b"suite", &n.to_be_bytes()]),
        resource: Resource::Tool("index".into()),
        quantity: Quantity::TOOL_CALL,
        latency_ms: 3,
        cost: Some(usd(Decimal::new(1, 2))),
        status: UsageStatus::Ok,
    }
}

async fn all(ledger: &dyn UsageLedger, ctx: &ExecutionContext) -> Vec<UsageEvent> {
    ledger.flush(Some(ctx.tenant())).await.expect("a flush");
    ledger.events(ctx, &UsageQuery::default(), 10_000).await.expect("events")
}

async fn counts_an_event_once(f: &Fixture<dyn UsageLedger>) {
    let (ledger, ana) = (f.adapter.as_ref(), ana());
    for _ in 0..2 {
        ledger.record(&ana, vec![event(&ana, 1)]).await.expect("the same event again is no error");
    }
    assert_eq!(all(ledger, &ana).await, [event(&ana, 1)], "an event counts once and comes back whole");
    let other = UsageEvent { latency_ms: 4, ..event(&ana, 1) };
    let conflict = ledger.record(&ana, vec![other]).await.map_err(|e| e.kind());
    assert_eq!(conflict, Err(ErrorKind::Conflict), "another event with the same id");
    assert_eq!(all(ledger, &ana).await, [event(&ana, 1)], "the first stands");
}

async fn records_all_or_none(f: &Fixture<dyn UsageLedger>) {
    let (ledger, ana) = (f.adapter.as_ref(), ana());
    ledger.record(&ana, vec![event(&ana, 1)]).await.unwrap();
    let clash = UsageEvent { latency_ms: 4, ..event(&ana, 1) };
    assert!(ledger.record(&ana, vec![event(&ana, 2), clash]).await.is_err());
    assert_eq!(all(ledger, &ana).await.len(), 1, "of a refused batch nothing is kept");
}

async fn sums_exactly(f: &Fixture<dyn UsageLedger>) {
    let (ledger, ana) = (f.adapter.as_ref(), ana());
    // ten times a tenth is one, and no binary fraction knows it
    let (tenth, tiny) = (usd(Decimal::new(1, 1)), usd(Decimal::new(1, 12)));
    let euro = Money::new(Decimal::new(5, 0), Currency::EUR);
    let costs = std::iter::repeat_n(Some(tenth), 10).chain([Some(tiny), Some(euro), None]);
    let events = (0..).zip(costs).map(|(n, cost)| UsageEvent { cost, ..event(&ana, n) });
    ledger.record(&ana, events.collect()).await.unwrap();
    let totals = ledger.totals(&ana, &UsageQuery::default()).await.unwrap();
    let dollars = usd("1.000000000001".parse().expect("a decimal"));
    assert_eq!(totals.cost, [euro, dollars], "sums are exact, a currency each");
    assert_eq!((totals.events, totals.unpriced, totals.quantity.tool_calls), (13, 1, 13), "and everything is counted");
}

async fn answers_what_is_asked(f: &Fixture<dyn UsageLedger>) {
    let (ledger, ana, bo) = (f.adapter.as_ref(), ana(), context("acme", "bo", "analyst"));
    let run = RunId::fixed(7);
    let events = [event(&ana, 3), UsageEvent { run: Some(run), ..event(&ana, 1) }, event(&bo, 2)];
    ledger.record(&ana, events.to_vec()).await.unwrap();
    let at = |n| Timestamp::from_nanos(n);
    let asked = async |query: UsageQuery, limit| -> Vec<i64> {
        let found = ledger.events(&ana, &query, limit).await.unwrap();
        found.iter().map(|e| e.at.as_nanos()).collect()
    };
    assert_eq!(asked(UsageQuery::default(), 9).await, [1, 2, 3], "oldest first");
    assert_eq!(asked(UsageQuery::default(), 2).await, [1, 2], "at most so many");
    assert_eq!(asked(UsageQuery::default().with_time(at(2), at(3)), 9).await, [2], "from a time on, before another");
    assert_eq!(asked(UsageQuery::default().with_employee(bo.employee().clone()), 9).await, [2], "of an employee");
    assert_eq!(asked(UsageQuery::default().with_run(run), 9).await, [1], "of a run");
}

async fn fills_a_slot_without_waiting(f: &Fixture<dyn UsageLedger>) {
    let (ledger, ana) = (f.adapter.as_ref(), ana());
    let (kept, unused) = (ledger.reserve(&ana).await.unwrap(), ledger.reserve(&ana).await.unwrap());
    drop(unused);
    kept.fill(vec![event(&ana, 1), event(&ana, 2)]);
    assert_eq!(all(ledger, &ana).await.len(), 2, "a filled slot is there, an unused one is nothing");
}

async fn keeps_tenants_apart(f: &Fixture<dyn UsageLedger>) {
    let (ledger, acme, other) = (f.adapter.as_ref(), ana(), context("acme-2", "ana", "analyst"));
    ledger.record(&acme, vec![event(&acme, 1)]).await.unwrap();
    assert!(all(ledger, &other).await.is_empty(), "isolation: a tenant sees another's usage");
    ledger.record(&other, vec![event(&other, 1)]).await.expect("isolation: ids are a tenant's own");
    ledger.record(&other, vec![event(&other, 1)]).await.expect("isolation: a repeat is compared with one's own");
    for ctx in [&acme, &other] {
        let totals = ledger.totals(ctx, &UsageQuery::default()).await.unwrap();
        assert_eq!(totals.events, 1, "isolation: a tenant pays for another");
    }
    let foreign = ledger.record(&other, vec![event(&acme, 2)]).await.map_err(|e| e.kind());
    assert_eq!(foreign, Err(ErrorKind::TenantMismatch), "isolation: usage of another tenant");
    assert_eq!(all(ledger, &acme).await.len(), 1, "isolation: refused and unchanged");
}

async fn keeps_hostile_names_as_they_are(f: &Fixture<dyn UsageLedger>) {
    let (ledger, ana) = (f.adapter.as_ref(), ana());
    let named =
        (0..).zip(HOSTILE).map(|(n, name)| UsageEvent { resource: Resource::Model(name.into()), ..event(&ana, n) });
    let named: Vec<UsageEvent> = named.collect();
    ledger.record(&ana, named.clone()).await.expect("hostile ids: a name is only a name");
    assert_eq!(all(ledger, &ana).await, named, "hostile ids: kept as they are");
}

async fn survives_a_call_that_was_dropped(f: &Fixture<dyn UsageLedger>) {
    let (ledger, ana) = (f.adapter.as_ref(), ana());
    for _ in 0..8 {
        let _dropped = ledger.record(&ana, vec![event(&ana, 1), event(&ana, 2)]).now_or_never();
    }
    ledger.record(&ana, vec![event(&ana, 3)]).await.expect("cancelled in the middle: the ledger goes on");
    let count = all(ledger, &ana).await.len();
    assert!(count == 1 || count == 3, "cancelled in the middle: a batch is there whole or not at all: {count}");
}

async fn durability_is_as_declared(f: Fixture<dyn UsageLedger>) {
    let ana = ana();
    f.adapter.record(&ana, vec![event(&ana, 1)]).await.unwrap();
    let durable = f.adapter.capability().durable;
    match f.reopened().await {
        Some(f) => {
            let there = all(f.adapter.as_ref(), &ana).await == [event(&ana, 1)];
            assert_eq!(there, durable, "capability: `durable` says what happens at a restart");
        }
        None => assert!(!durable, "capability: the fixture of a durable ledger says how to open it again"),
    }
}

async fn the_server_goes_away(mut f: Fixture<dyn UsageLedger>) {
    if f.lose_server().await {
        let kind = f.adapter.record(&ana(), vec![event(&ana(), 1)]).await.map_err(|e| e.kind());
        assert!(matches!(kind, Err(ErrorKind::Unavailable | ErrorKind::Timeout)), "server gone: {kind:?}");
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Down, "server gone: health says so");
    }
}
