//! The suite of [`Quota`].

use std::sync::Arc;

use super::context;
use super::fixture::{Fixture, prints_no_secret};
use super::spy::{Called, Spy, spy};
use crate::audit::Durability;
use crate::usage::{Actual, Permit, Quantity, Quota, QuotaCapability, QuotaRequest, QuotaState, Resource};
use crate::{Depth, ErrorKind, ExecutionContext, OperationKey, Result, Status};

spy! { Quota:
    async fn peek(&self, ctx: &ExecutionContext, resource: &Resource) -> Result<QuotaState>;
    async fn reserve(&self, ctx: &ExecutionContext, request: QuotaRequest) -> Result<Permit>;
    fn capability(&self) -> QuotaCapability;
}

/// Runs every scenario on fresh quotas that `fresh` makes; its argument is how many tool calls a tenant may make in the window.
///
/// # Panics
/// With the scenario's name, where the quota does not keep the [contract](Quota).
pub async fn quota(fresh: impl AsyncFn(u64) -> Fixture<dyn Quota>) {
    let called = Called::default();
    let made = async |calls| fresh(calls).await.map(|quota| Arc::new(Spy::new(quota, &called)));
    refuses_beyond_the_limit(&made(2).await).await;
    counts_what_was_used(&made(2).await).await;
    gives_back_what_was_not(&made(1).await).await;
    holds_under_many_callers(&made(16).await).await;
    keeps_tenants_apart(&made(1).await).await;
    keeps_what_was_used_at_a_restart(made(2).await).await;
    the_server_goes_away(made(2).await).await;
    let f = made(2).await;
    prints_no_secret(f.adapter.as_ref(), &f.secrets);
    let _ = f.adapter.capability();
    assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
    called.complete::<dyn Quota>();
}

fn ana() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

const USED: Actual = Actual { quantity: Quantity::TOOL_CALL, cost: None };

fn call(n: u32, durability: Durability) -> QuotaRequest {
    QuotaRequest {
        operation: OperationKey::derived(&[b"suite", &n.to_be_bytes()]),
        resource: Resource::Tool("index".into()),
        quantity: Quantity::TOOL_CALL,
        cost: None,
        durability,
    }
}

async fn reserve(f: &Fixture<dyn Quota>, ctx: &ExecutionContext, n: u32) -> Result<Permit> {
    f.adapter.reserve(ctx, call(n, Durability::Durable)).await
}

async fn left(f: &Fixture<dyn Quota>, ctx: &ExecutionContext) -> Option<u64> {
    f.adapter.peek(ctx, &Resource::Tool("index".into())).await.expect("a look").calls_left
}

async fn refuses_beyond_the_limit(f: &Fixture<dyn Quota>) {
    let ana = ana();
    assert_eq!(left(f, &ana).await, Some(2), "all is left when fresh");
    let held = [reserve(f, &ana, 1).await.unwrap(), reserve(f, &ana, 2).await.unwrap()];
    assert_eq!(left(f, &ana).await, Some(0), "what is reserved counts as used");
    for durability in [Durability::Durable, Durability::Enqueued] {
        let refused = f.adapter.reserve(&ana, call(3, durability)).await.map_err(|e| e.kind());
        assert_eq!(refused.map(|_| ()), Err(ErrorKind::QuotaExceeded), "one over the limit");
    }
    assert_eq!(left(f, &ana).await, Some(0), "a refusal takes nothing");
    drop(held);
}

async fn counts_what_was_used(f: &Fixture<dyn Quota>) {
    let ana = ana();
    reserve(f, &ana, 1).await.unwrap().settle(USED);
    assert_eq!(left(f, &ana).await, Some(1), "what was used is gone");
    f.adapter.reserve(&ana, call(2, Durability::Enqueued)).await.unwrap().settle(USED);
    assert_eq!(left(f, &ana).await, Some(0), "of a read too");
    assert!(reserve(f, &ana, 3).await.is_err(), "and stays gone");
}

async fn gives_back_what_was_not(f: &Fixture<dyn Quota>) {
    let ana = ana();
    drop(reserve(f, &ana, 1).await.unwrap());
    assert_eq!(left(f, &ana).await, Some(1), "a dropped permit gives everything back");
    reserve(f, &ana, 2).await.unwrap().settle(Actual::default());
    assert_eq!(left(f, &ana).await, Some(1), "a call that used nothing costs nothing");
    assert!(reserve(f, &ana, 3).await.is_ok());
}

async fn holds_under_many_callers(f: &Fixture<dyn Quota>) {
    let ana = ana();
    let all = futures::future::join_all((0..64).map(|n| reserve(f, &ana, n))).await;
    let granted = all.iter().filter(|r| r.is_ok()).count();
    assert_eq!(granted, 16, "64 callers at once get no more than the limit, and all of it");
}

async fn keeps_tenants_apart(f: &Fixture<dyn Quota>) {
    let (acme, other) = (ana(), context("acme-2", "ana", "analyst"));
    reserve(f, &acme, 1).await.unwrap().settle(USED);
    assert_eq!(left(f, &other).await, Some(1), "isolation: a tenant's use changes another's state");
    let theirs = reserve(f, &other, 1).await;
    assert!(theirs.is_ok(), "isolation: a tenant uses up another's limit, or its key is taken for another's");
    assert_eq!(left(f, &acme).await, Some(0), "isolation: unchanged");
}

async fn keeps_what_was_used_at_a_restart(f: Fixture<dyn Quota>) {
    let ana = ana();
    let other = context("acme-2", "ana", "analyst");
    reserve(&f, &ana, 1).await.unwrap().settle(USED);
    for n in [1, 2] {
        reserve(&f, &other, n).await.unwrap().settle(USED);
    }
    assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "what was settled is written");
    if let Some(f) = f.reopened().await {
        assert_eq!(
            left(&f, &ana).await,
            Some(1),
            "isolation: what was used counts after a restart, for whom it was used"
        );
        assert_eq!(left(&f, &other).await, Some(0), "isolation: and for the other as well");
    }
}

async fn the_server_goes_away(mut f: Fixture<dyn Quota>) {
    if f.lose_server().await {
        let kind = reserve(&f, &ana(), 1).await.map(|_| ()).map_err(|e| e.kind());
        assert!(matches!(kind, Err(ErrorKind::Unavailable | ErrorKind::Timeout)), "server gone: {kind:?}");
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Down, "server gone: health says so");
    }
}
