//! What the ledger promises.

use std::path::Path;

use crate::common::{ctx, d, event, usd};
use forge_core::usage::{Resource, UsageEvent, UsageLedger, UsageQuery};
use forge_core::{Currency, Depth, EmployeeId, ErrorKind, HealthCheck, Money, RunId, Status};
use forge_metering::SqliteLedger;
use proptest::prelude::*;
use rust_decimal::Decimal;

const ALL: usize = usize::MAX;

async fn open() -> (tempfile::TempDir, SqliteLedger) {
    let dir = tempfile::tempdir().unwrap();
    let ledger = SqliteLedger::open(dir.path()).await.unwrap();
    (dir, ledger)
}

async fn all(ledger: &SqliteLedger, tenant: &str) -> Vec<UsageEvent> {
    ledger.events(&ctx(tenant, "ana"), &UsageQuery::default(), ALL).await.unwrap()
}

#[tokio::test]
async fn two_tenants_may_use_the_same_ids_and_see_their_own() {
    let (_dir, ledger) = open().await;
    let (acme, globex) = (ctx("acme", "ana"), ctx("globex", "ana"));
    let (of_acme, of_globex) = (event(&acme, 1, Some(usd("1"))), event(&globex, 1, Some(usd("20"))));
    ledger.record(&acme, vec![of_acme.clone()]).await.unwrap();
    ledger.record(&globex, vec![of_globex.clone(), event(&globex, 2, None)]).await.unwrap();
    assert_eq!(all(&ledger, "acme").await, [of_acme]);
    assert_eq!(all(&ledger, "globex").await[0], of_globex);
    for query in [UsageQuery::default(), UsageQuery::default().with_run(RunId::fixed(1))] {
        let totals = ledger.totals(&acme, &query).await.unwrap();
        assert_eq!((totals.events, totals.cost), (1, vec![usd("1")]));
    }
    assert!(all(&ledger, "initech").await.is_empty());
}

#[tokio::test]
async fn a_foreign_event_is_refused_with_its_batch() {
    let (_dir, ledger) = open().await;
    let (acme, globex) = (ctx("acme", "ana"), ctx("globex", "bo"));
    let batch = vec![event(&acme, 1, None), event(&globex, 2, None)];
    let e = ledger.record(&acme, batch.clone()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::TenantMismatch);
    assert!(!e.to_string().contains("globex"), "{e}");
    ledger.reserve(&acme).await.unwrap().fill(batch);
    assert!(ledger.flush(None).await.is_err(), "a promised event that is not there is no success");
    assert!(all(&ledger, "acme").await.is_empty() && all(&ledger, "globex").await.is_empty());
}

#[tokio::test]
async fn the_same_event_counts_once_and_another_with_its_id_is_a_conflict() {
    let (_dir, ledger) = open().await;
    let acme = ctx("acme", "ana");
    let one = event(&acme, 1, Some(usd("0.10")));
    ledger.record(&acme, vec![one.clone(), one.clone()]).await.unwrap();
    ledger.record(&acme, vec![one.clone()]).await.unwrap();
    assert_eq!(all(&ledger, "acme").await, std::slice::from_ref(&one));

    let changes: [fn(&mut UsageEvent); 6] = [
        |e| e.latency_ms += 1,
        |e| e.cost = None,
        |e| e.cost = Some(usd("0.11")),
        |e| e.employee = EmployeeId::parse("bo").unwrap(),
        |e| e.resource = Resource::Tool("gpt-x".into()),
        |e| e.run = None,
    ];
    for change in changes {
        let mut other = one.clone();
        change(&mut other);
        let e = ledger.record(&acme, vec![event(&acme, 2, None), other]).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Conflict);
    }
    assert_eq!(all(&ledger, "acme").await, [one], "all or none");
}

#[tokio::test]
async fn events_come_back_whole_oldest_first_and_filtered() {
    let (_dir, ledger) = open().await;
    let (ana, bo) = (ctx("acme", "ana"), ctx("acme", "bo"));
    let events: Vec<_> = (1..=6).map(|n| event(if n <= 4 { &ana } else { &bo }, n, Some(usd("0.5")))).collect();
    let mut shuffled = events.clone();
    shuffled.reverse();
    ledger.record(&ana, shuffled).await.unwrap();
    assert_eq!(all(&ledger, "acme").await, events);

    let ids = async |query: UsageQuery, limit| -> Vec<u64> {
        let found = ledger.events(&ana, &query, limit).await.unwrap();
        if limit == ALL {
            assert_eq!(ledger.totals(&ana, &query).await.unwrap().events, u64::try_from(found.len()).unwrap());
        }
        found.iter().map(|e| e.latency_ms - 5).collect()
    };
    let q = UsageQuery::default;
    assert_eq!(ids(q(), 2).await, [1, 2]);
    assert_eq!(ids(q().with_run(RunId::fixed(0)), ALL).await, [2, 4, 6]);
    assert_eq!(ids(q().with_employee(EmployeeId::parse("bo").unwrap()), ALL).await, [5, 6]);
    let half_open = q().with_time(events[1].at, events[3].at);
    assert_eq!(ids(half_open.clone(), ALL).await, [2, 3]);
    assert_eq!(ids(half_open.with_run(RunId::fixed(1)), ALL).await, [3]);
}

#[tokio::test]
async fn sums_keep_currencies_and_unpriced_events_apart() {
    let (_dir, ledger) = open().await;
    let acme = ctx("acme", "ana");
    let eur = Money::new(d("0.3"), Currency::EUR);
    let costs = [Some(usd("0.1")), None, Some(eur), Some(usd("0.20000000000000000001"))];
    let events = costs.into_iter().zip(1..).map(|(c, n)| event(&acme, n, c)).collect();
    ledger.record(&acme, events).await.unwrap();
    let totals = ledger.totals(&acme, &UsageQuery::default()).await.unwrap();
    assert_eq!(totals.cost, [eur, usd("0.30000000000000000001")]);
    assert_eq!((totals.events, totals.unpriced), (4, 1));
    let q = totals.quantity;
    assert_eq!((q.tokens_in, q.tokens_out, q.chars, q.tool_calls), (10, 20, 30, 4));
}

#[tokio::test]
async fn a_sum_that_cannot_be_exact_is_an_error() {
    let (_dir, ledger) = open().await;
    let acme = ctx("acme", "ana");
    let events = vec![event(&acme, 1, Some(usd("7922816251426433759354395033"))), event(&acme, 2, Some(usd("0.01")))];
    ledger.record(&acme, events).await.unwrap();
    let e = ledger.totals(&acme, &UsageQuery::default()).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_quantity_that_cannot_be_stored_is_refused() {
    let (_dir, ledger) = open().await;
    let acme = ctx("acme", "ana");
    let mut e = event(&acme, 1, None);
    e.quantity.chars = u64::MAX;
    assert_eq!(ledger.record(&acme, vec![e]).await.unwrap_err().kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn a_slot_records_from_a_drop() {
    struct Call(Option<(forge_core::Slot<Vec<UsageEvent>>, UsageEvent)>);
    impl Drop for Call {
        fn drop(&mut self) {
            let (slot, event) = self.0.take().unwrap();
            slot.fill(vec![event]);
        }
    }
    let (_dir, ledger) = open().await;
    let acme = ctx("acme", "ana");
    let one = event(&acme, 1, Some(usd("1")));
    drop(Call(Some((ledger.reserve(&acme).await.unwrap(), one.clone()))));
    drop(ledger.reserve(&acme).await.unwrap());
    ledger.flush(None).await.unwrap();
    assert_eq!(all(&ledger, "acme").await, [one]);
}

#[tokio::test]
async fn what_was_recorded_or_filled_is_there_after_a_restart() {
    let (dir, ledger) = open().await;
    let acme = ctx("acme", "ana");
    ledger.record(&acme, vec![event(&acme, 1, None)]).await.unwrap();
    ledger.reserve(&acme).await.unwrap().fill(vec![event(&acme, 2, None)]);
    ledger.flush(None).await.unwrap();
    drop(ledger);
    let ledger = loop {
        // the lock goes with the last handle, which a reader's thread may hold for a moment
        match SqliteLedger::open(dir.path()).await {
            Ok(ledger) => break ledger,
            Err(e) => assert_eq!(e.kind(), ErrorKind::Config),
        }
    };
    assert_eq!(all(&ledger, "acme").await.len(), 2);
}

/// What the disk would hold if the process died now.
fn crash(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    for file in ["ledger.db", "ledger.db-wal"] {
        std::fs::copy(from.join(file), to.path().join(file)).unwrap();
    }
    to
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_crash() {
    let (dir, ledger) = open().await;
    let acme = ctx("acme", "ana");
    let events: Vec<_> = (1..=50).map(|n| event(&acme, n, Some(usd("0.01")))).collect();
    for e in &events {
        ledger.record(&acme, vec![e.clone()]).await.unwrap();
    }
    let after = crash(dir.path());
    let reopened = SqliteLedger::open(after.path()).await.unwrap();
    assert_eq!(all(&reopened, "acme").await, events);
    reopened.record(&acme, vec![events[0].clone()]).await.unwrap();
    assert_eq!(reopened.totals(&acme, &UsageQuery::default()).await.unwrap().cost, [usd("0.5")]);
}

#[tokio::test]
async fn a_second_owner_is_refused_and_the_first_is_healthy() {
    let (dir, ledger) = open().await;
    assert_eq!(SqliteLedger::open(dir.path()).await.unwrap_err().kind(), ErrorKind::Config);
    assert_eq!(ledger.check(Depth::Deep).await.status, Status::Up);
    assert!(ledger.capability().durable);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_recorders_of_the_same_events_count_them_once() {
    let (_dir, ledger) = open().await;
    let acme = ctx("acme", "ana");
    let tasks: Vec<_> = (0..64)
        .map(|task| {
            let (ledger, acme) = (ledger.clone(), acme.clone());
            tokio::spawn(async move { ledger.record(&acme, vec![event(&acme, task % 16, Some(usd("0.1")))]).await })
        })
        .collect();
    for t in tasks {
        t.await.unwrap().unwrap();
    }
    let totals = ledger.totals(&acme, &UsageQuery::default()).await.unwrap();
    assert_eq!((totals.events, totals.cost), (16, vec![usd("1.6")]));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sums_are_exact(cases in prop::collection::vec((any::<i32>(), 0_u32..=16, any::<bool>()), 1..60)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (_dir, ledger) = open().await;
            let acme = ctx("acme", "ana");
            let cost = |(m, scale, euro): &(i32, u32, bool)| {
                let currency = if *euro { Currency::EUR } else { Currency::USD };
                Some(Money::new(Decimal::new((*m).into(), *scale), currency))
            };
            let events = cases.iter().zip(0..).map(|(c, n)| event(&acme, n, cost(c))).collect();
            ledger.record(&acme, events).await.unwrap();
            let totals = ledger.totals(&acme, &UsageQuery::default()).await.unwrap();
            let sum = |euro: bool| -> Option<Decimal> {
                let of = cases.iter().filter(|c| c.2 == euro).map(|(m, scale, _)| i128::from(*m) * 10_i128.pow(16 - scale));
                of.reduce(|a, b| a + b).map(|units| Decimal::from_i128_with_scale(units, 16))
            };
            let found = |currency| totals.cost.iter().find(|m| m.currency == currency).map(|m| m.amount);
            assert_eq!((found(Currency::EUR), found(Currency::USD)), (sum(true), sum(false)));
        });
    }
}
