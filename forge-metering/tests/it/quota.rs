//! What the quotas promise.

use std::sync::Arc;
use std::time::Duration;

use crate::common::{ctx, d, usd};
use forge_core::audit::Durability;
use forge_core::fake::ManualClock;
use forge_core::usage::{Actual, Permit, Quantity, Quota, QuotaRequest, QuotaState, Resource};
use forge_core::{
    Clock, Currency, Depth, EmployeeId, ErrorKind, ExecutionContext, HealthCheck, Money, OperationKey, Result,
    Retryability, Status, TenantId, Timestamp,
};
use forge_metering::{Limit, Limits, SqliteQuota, TenantLimits, Window};
use rust_decimal::Decimal;

const HOUR: Duration = Duration::from_secs(3600);

struct Bench {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    limits: Limits,
    quota: SqliteQuota,
}

impl Bench {
    async fn new(limits: Limits) -> Self {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::default()));
        let quota = SqliteQuota::open(dir.path(), limits.clone(), clock.clone()).await.unwrap();
        Self { dir, clock, limits, quota }
    }

    /// Every tenant has this limit, a day.
    async fn daily(total: Limit) -> Self {
        Self::new(Limits::default().with_default(TenantLimits::default().with_window(Window::Day).with_total(total)))
            .await
    }

    /// As after a crash: the files as they are now, under a new process.
    async fn crashed(self) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for file in ["quota.db", "quota.db-wal"] {
            std::fs::copy(self.dir.path().join(file), dir.path().join(file)).unwrap();
        }
        let quota = SqliteQuota::open(dir.path(), self.limits.clone(), self.clock.clone()).await.unwrap();
        Self { dir, quota, ..self }
    }

    /// The same with other limits, a month.
    async fn crashed_with(mut self, total: Limit) -> Self {
        self.quota.check(Depth::Deep).await;
        self.limits = Limits::default().with_default(TenantLimits::default().with_total(total));
        self.crashed().await
    }

    async fn reserve(&self, ctx: &ExecutionContext, request: QuotaRequest) -> Result<Permit> {
        self.quota.reserve(ctx, request).await
    }

    /// What is left, once all that was settled is written.
    async fn left(&self, ctx: &ExecutionContext) -> QuotaState {
        assert_eq!(self.quota.check(Depth::Deep).await.status, Status::Up);
        self.quota.peek(ctx, &tool()).await.unwrap()
    }

    async fn calls_left(&self, ctx: &ExecutionContext) -> u64 {
        self.left(ctx).await.calls_left.unwrap()
    }
}

fn calls(n: u64) -> Limit {
    Limit::default().with_calls(n)
}

fn tool() -> Resource {
    Resource::Tool("weather".into())
}

fn op(n: u64) -> OperationKey {
    OperationKey::derived(&[b"op", &n.to_be_bytes()])
}

fn call(n: u64) -> QuotaRequest {
    QuotaRequest {
        operation: op(n),
        resource: tool(),
        quantity: Quantity::TOOL_CALL,
        cost: Some(usd("0.5")),
        durability: Durability::Durable,
    }
}

fn tokens(n: u64, tokens_in: u64, tokens_out: u64, cost: Option<Money>) -> QuotaRequest {
    let quantity = Quantity { tokens_in, tokens_out, ..Quantity::default() };
    QuotaRequest {
        operation: op(n),
        resource: Resource::Model("m".into()),
        quantity,
        cost,
        durability: Durability::Durable,
    }
}

const USED: Actual = Actual { quantity: Quantity::TOOL_CALL, cost: None };

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_racers_for_ten_calls_make_exactly_ten() {
    let b = Bench::daily(calls(10)).await;
    let tasks: Vec<_> = (0..64)
        .map(|n| {
            let quota = b.quota.clone();
            let who = ctx("acme", if n % 2 == 0 { "ana" } else { "bo" });
            tokio::spawn(async move { quota.reserve(&who, call(n)).await.map(|permit| permit.settle(USED)) })
        })
        .collect();
    let mut made = 0;
    for t in tasks {
        match t.await.unwrap() {
            Ok(()) => made += 1,
            Err(e) => assert_eq!(e.kind(), ErrorKind::QuotaExceeded),
        }
    }
    assert_eq!(made, 10);
    assert_eq!(b.calls_left(&ctx("acme", "ana")).await, 0);
}

#[tokio::test]
async fn a_refusal_says_what_binds_and_takes_nothing() {
    let b = Bench::daily(calls(1)).await;
    let acme = ctx("acme", "ana");
    let open = b.reserve(&acme, call(1)).await.unwrap();
    for n in 2..5 {
        let e = b.reserve(&acme, call(n)).await.unwrap_err();
        assert_eq!((e.kind(), e.retry()), (ErrorKind::QuotaExceeded, Retryability::Never));
        let facts: Vec<_> = e.context().collect();
        let told = [
            ("scope", "tenant"),
            ("limit", "calls"),
            ("allowed", "1"),
            ("used", "1"),
            ("asked", "1"),
            ("window", "day"),
            ("resets", "2026-01-02T00:00:00Z"),
        ];
        assert_eq!(facts, told);
        assert!(!e.to_string().contains("ana"), "{e}");
    }
    drop(open);
    assert_eq!(b.calls_left(&acme).await, 1, "a dropped permit gives everything back");
}

#[tokio::test]
async fn reserving_again_takes_nothing_more_and_settling_again_counts() {
    let b = Bench::daily(calls(3)).await;
    let acme = ctx("acme", "ana");
    let first = b.reserve(&acme, call(1)).await.unwrap();
    let again = b.reserve(&acme, call(1)).await.unwrap();
    assert_eq!(b.calls_left(&acme).await, 2);
    first.settle(USED);
    assert_eq!(b.calls_left(&acme).await, 2);
    let third = b.reserve(&acme, call(1)).await.unwrap();
    assert_eq!(b.calls_left(&acme).await, 2, "what the operation used covers what it asks");
    third.settle(Actual::default());
    assert_eq!(b.calls_left(&acme).await, 2, "a failed repeat does not give back what was used");
    again.settle(USED);
    assert_eq!(b.calls_left(&acme).await, 1, "it was really called twice");
}

#[tokio::test]
async fn a_retry_after_a_failure_reserves_anew() {
    let b = Bench::daily(calls(1)).await;
    let acme = ctx("acme", "ana");
    b.reserve(&acme, call(1)).await.unwrap().settle(Actual::default());
    assert_eq!(b.calls_left(&acme).await, 1);
    let retry = b.reserve(&acme, call(1)).await.unwrap();
    assert_eq!(b.reserve(&acme, call(2)).await.unwrap_err().kind(), ErrorKind::QuotaExceeded);
    retry.settle(USED);
    assert_eq!(b.calls_left(&acme).await, 0);
}

#[tokio::test]
async fn what_is_held_becomes_what_was_used() {
    let b = Bench::daily(Limit::default().with_tokens(1_000).with_money(usd("1"))).await;
    let acme = ctx("acme", "ana");
    let permit = b.reserve(&acme, tokens(1, 300, 400, Some(usd("0.7")))).await.unwrap();
    let held = b.left(&acme).await;
    assert_eq!((held.tokens_left, held.money_left, held.calls_left), (Some(300), Some(d("0.3")), None));
    assert!(
        b.reserve(&acme, tokens(2, 301, 0, Some(usd("0")))).await.unwrap_err().to_string().contains("limit=tokens")
    );
    assert!(
        b.reserve(&acme, tokens(2, 1, 0, Some(usd("0.31")))).await.unwrap_err().to_string().contains("limit=money")
    );

    let quantity = Quantity { tokens_in: 100, tokens_out: 20, ..Quantity::default() };
    permit.settle(Actual { quantity, cost: Some(usd("0.123456789")) });
    let used = b.left(&acme).await;
    assert_eq!((used.tokens_left, used.money_left), (Some(880), Some(d("0.876543211"))));

    let permit = b.reserve(&acme, tokens(3, 880, 0, Some(usd("0.876543211")))).await.unwrap();
    let quantity = Quantity { tokens_in: 5_000, ..Quantity::default() };
    permit.settle(Actual { quantity, cost: Some(usd("9")) });
    let over = b.left(&acme).await;
    assert_eq!(
        (over.tokens_left, over.money_left),
        (Some(0), Some(d("0"))),
        "an overshoot counts and is never negative"
    );
}

#[tokio::test]
async fn money_without_a_price_or_in_another_currency_does_not_slip_through() {
    let b = Bench::daily(Limit::default().with_money(usd("1"))).await;
    let acme = ctx("acme", "ana");
    let euro = Money::new(d("0.01"), Currency::EUR);
    assert_eq!(b.reserve(&acme, tokens(1, 1, 0, Some(euro))).await.unwrap_err().kind(), ErrorKind::QuotaExceeded);
    let _unpriced = b.reserve(&acme, tokens(2, 1, 0, None)).await.unwrap();
    let _all = b.reserve(&acme, tokens(3, 1, 0, Some(usd("1")))).await.unwrap();
    assert!(b.reserve(&acme, tokens(4, 1, 0, None)).await.is_err());
    let _free = b.reserve(&acme, tokens(5, 1, 0, Some(usd("0")))).await.unwrap();
}

#[tokio::test]
async fn a_repriced_reservation_gives_the_old_currency_back() {
    let b = Bench::new(Limits::default()).await;
    let acme = ctx("acme", "ana");
    let first = b.reserve(&acme, tokens(1, 1, 0, Some(Money::new(d("5"), Currency::EUR)))).await.unwrap();
    let second = b.reserve(&acme, tokens(1, 1, 0, Some(usd("6")))).await.unwrap();
    drop((first, second));
    let b = b.crashed_with(Limit::default().with_money(Money::new(d("9"), Currency::EUR))).await;
    assert_eq!(b.left(&acme).await.money_left, Some(d("9")));
}

#[tokio::test]
async fn one_tenant_and_one_employee_never_change_anothers_state() {
    let acme_limits = TenantLimits::default().with_total(calls(3)).with_each_employee(calls(2));
    let acme_limits = acme_limits.with_employee(EmployeeId::parse("eve").unwrap(), calls(0));
    let limits = Limits::default()
        .with_tenant(TenantId::parse("acme").unwrap(), acme_limits)
        .with_default(TenantLimits::default().with_total(calls(1)));
    let b = Bench::new(limits).await;
    let (ana, bo, eve) = (ctx("acme", "ana"), ctx("acme", "bo"), ctx("acme", "eve"));
    let globex = ctx("globex", "ana");

    let mut open = vec![b.reserve(&ana, call(1)).await.unwrap(), b.reserve(&ana, call(2)).await.unwrap()];
    let e = b.reserve(&ana, call(3)).await.unwrap_err();
    assert!(e.to_string().contains("scope=employee"), "{e}");
    assert!(b.reserve(&eve, call(3)).await.is_err());
    assert_eq!((b.calls_left(&ana).await, b.calls_left(&bo).await, b.calls_left(&globex).await), (0, 1, 1));

    // the same operation key under another tenant is another operation
    open.push(b.reserve(&globex, call(1)).await.unwrap());
    open.push(b.reserve(&bo, call(3)).await.unwrap());
    assert!(b.reserve(&bo, call(4)).await.unwrap_err().to_string().contains("scope=tenant"));
    open.clear();
    assert_eq!((b.calls_left(&ana).await, b.calls_left(&globex).await), (2, 1));
}

#[tokio::test]
async fn without_limits_all_is_allowed_and_counted_all_the_same() {
    let b = Bench::new(Limits::default()).await;
    let acme = ctx("acme", "ana");
    for n in 0..5 {
        b.reserve(&acme, call(n)).await.unwrap().settle(USED);
    }
    let nothing = QuotaState { calls_left: None, tokens_left: None, money_left: None, resets: None };
    assert_eq!(b.left(&acme).await, nothing);
    let b = b.crashed_with(calls(7)).await;
    assert_eq!(b.calls_left(&acme).await, 2);
}

#[tokio::test]
async fn a_window_begins_anew_and_late_settlements_count_where_they_were_reserved() {
    let b = Bench::daily(calls(2)).await;
    let acme = ctx("acme", "ana");
    b.clock.advance(HOUR * 23 + HOUR / 60 * 59);
    b.reserve(&acme, call(1)).await.unwrap().settle(USED);
    let across = b.reserve(&acme, call(2)).await.unwrap();
    assert_eq!(b.left(&acme).await.resets.unwrap().to_string(), "2026-01-02T00:00:00Z");
    assert!(b.reserve(&acme, call(3)).await.is_err());

    b.clock.advance(HOUR / 60);
    assert_eq!(b.calls_left(&acme).await, 2);
    across.settle(USED);
    assert_eq!(b.calls_left(&acme).await, 2, "it was reserved yesterday");
    let _again = b.reserve(&acme, call(2)).await.unwrap();
    assert_eq!(b.calls_left(&acme).await, 1, "a new day, a new reservation");
}

#[tokio::test]
async fn a_crash_keeps_what_is_reserved_until_it_expires() {
    let b = Bench::daily(calls(2)).await;
    let acme = ctx("acme", "ana");
    b.reserve(&acme, call(1)).await.unwrap().settle(USED);
    let lost = b.reserve(&acme, call(2)).await.unwrap();
    assert_eq!(b.calls_left(&acme).await, 0);
    let b = b.crashed().await;
    std::mem::forget(lost);
    assert_eq!(b.calls_left(&acme).await, 0);
    b.clock.advance(Duration::from_secs(899));
    assert!(b.reserve(&acme, call(3)).await.is_err());
    let _redone = b.reserve(&acme, call(2)).await.unwrap();
    b.clock.advance(Duration::from_secs(1));
    assert_eq!(b.calls_left(&acme).await, 0, "done again, it holds anew");
    b.clock.advance(Duration::from_secs(899));
    assert_eq!(b.calls_left(&acme).await, 1);
    let _now = b.reserve(&acme, call(3)).await.unwrap();
    assert!(b.reserve(&acme, call(4)).await.is_err());
}

#[tokio::test]
async fn a_settlement_after_the_expiry_still_counts() {
    let b = Bench::daily(calls(2)).await;
    let acme = ctx("acme", "ana");
    let slow = b.reserve(&acme, call(1)).await.unwrap();
    b.clock.advance(HOUR);
    b.reserve(&acme, call(2)).await.unwrap().settle(USED);
    assert_eq!(b.calls_left(&acme).await, 1);
    slow.settle(USED);
    assert_eq!(b.calls_left(&acme).await, 0);
}

#[tokio::test]
async fn limits_that_cannot_be_kept_are_refused_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let never = Limits::default().with_reservation(Duration::ZERO);
    let e = SqliteQuota::open(dir.path(), never, Arc::new(ManualClock::default())).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config);
}

/// A wall clock that a test sets, also back.
#[derive(Debug)]
struct SetClock(std::sync::Mutex<Timestamp>);

impl SetClock {
    fn at(&self, time: &str) {
        *self.0.lock().unwrap() = time.parse().unwrap();
    }
}

#[async_trait::async_trait]
impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
    fn monotonic(&self) -> Duration {
        Duration::ZERO
    }
    async fn sleep(&self, _: Duration) {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_clock_that_is_set_back_finds_the_day_as_it_was() {
    let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(SetClock(Timestamp::from_nanos(0).into())));
    let limits = TenantLimits::default().with_window(Window::Day).with_total(calls(1));
    let quota = SqliteQuota::open(dir.path(), Limits::default().with_default(limits), clock.clone()).await.unwrap();
    let acme = ctx("acme", "ana");
    for (n, time, fits) in
        [(1, "2026-01-01T23:59:59Z", true), (2, "2026-01-02T00:00:01Z", true), (3, "2026-01-01T23:59:58Z", false)]
    {
        clock.at(time);
        let reserved = quota.reserve(&acme, call(n)).await.map(|permit| permit.settle(USED));
        assert_eq!(reserved.is_ok(), fits, "{time}");
    }
}

/// Refused by the statement, and, with a foreign key that is looked at last, by the commit.
const REFUSALS: [&str; 2] = [
    "CREATE TRIGGER refuse BEFORE UPDATE ON quota_use BEGIN SELECT RAISE(ABORT, 'no'); END",
    "CREATE TABLE parent (id INTEGER PRIMARY KEY);
     CREATE TABLE child (id INTEGER REFERENCES parent DEFERRABLE INITIALLY DEFERRED);
     CREATE TRIGGER refuse BEFORE UPDATE ON quota_use BEGIN INSERT INTO child VALUES (7); END",
];

#[tokio::test]
async fn what_could_not_be_written_goes_with_the_next() {
    for refusal in REFUSALS {
        let b = Bench::daily(calls(9)).await;
        let acme = ctx("acme", "ana");
        b.reserve(&acme, call(1)).await.unwrap().settle(USED);
        b.left(&acme).await;
        let file = forge_sqlite::rusqlite::Connection::open(b.dir.path().join("quota.db")).unwrap();
        file.execute_batch(refusal).unwrap();
        assert!(b.reserve(&acme, call(2)).await.is_err(), "it is not on the disk");
        let read = QuotaRequest { durability: Durability::Enqueued, ..call(3) };
        b.reserve(&acme, read).await.unwrap().settle(USED);
        assert_eq!(b.quota.peek(&acme, &tool()).await.unwrap().calls_left, Some(7), "memory is right all the while");
        assert!(b.reserve(&acme, call(4)).await.is_err(), "what was settled is behind it");
        file.execute_batch("DROP TRIGGER refuse").unwrap();
        b.reserve(&acme, call(5)).await.unwrap().settle(USED);
        assert_eq!(b.calls_left(&acme).await, 6);
        let b = b.crashed().await;
        assert_eq!(b.calls_left(&acme).await, 6, "all that was made is in the file");
    }
}

async fn money_left(b: &Bench, ctx: &ExecutionContext) -> (Option<u64>, Option<Decimal>) {
    let state = b.quota.peek(ctx, &tool()).await.unwrap();
    (state.calls_left, state.money_left)
}

/// The same operations in two tenants, used and held: after a crash each finds its own, in money too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_crash_each_tenant_finds_what_is_its_own() {
    let b = Bench::daily(calls(20).with_money(usd("20"))).await;
    let (acme, globex) = (ctx("acme", "ana"), ctx("globex", "ana"));
    let paid = |amount: &str| Actual { quantity: Quantity::TOOL_CALL, cost: Some(usd(amount)) };
    for n in 0..2 {
        b.reserve(&acme, call(n)).await.unwrap().settle(paid("1"));
    }
    for n in 0..5 {
        b.reserve(&globex, call(n)).await.unwrap().settle(paid("2"));
    }
    // open when the process dies
    let _held = [
        b.reserve(&acme, call(10)).await.unwrap(),
        b.reserve(&globex, call(10)).await.unwrap(),
        b.reserve(&globex, call(11)).await.unwrap(),
        b.reserve(&globex, call(12)).await.unwrap(),
    ];
    b.quota.check(Depth::Deep).await;
    let b = b.crashed().await;
    assert_eq!(money_left(&b, &acme).await, (Some(17), Some(d("17.5"))), "two calls of 1, one held at 0.5");
    assert_eq!(money_left(&b, &globex).await, (Some(12), Some(d("8.5"))), "five calls of 2, three held at 0.5");
    // the one that settles late frees its own and no other's, on the disk too
    b.reserve(&globex, call(10)).await.unwrap().settle(paid("0.5"));
    b.quota.check(Depth::Deep).await;
    let b = b.crashed().await;
    assert_eq!(
        money_left(&b, &acme).await,
        (Some(17), Some(d("17.5"))),
        "isolation: the same operation of another tenant"
    );
}
