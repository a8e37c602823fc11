//! What every queue with a [`QueueControl`] promises its operator. A backend's tests include this by `#[path]` and run [`all`] and
//! [`in_any_order`] on queues of their own.

mod plan;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use forge_core::fake::ManualClock;
use forge_core::queue::{Broker, Lease, LeaseRequest, Nack, NewTask, QueueDepth, TaskQueue, TaskState};
use forge_core::testing::context;
use forge_core::{Error, ErrorKind, ExecutionContext, Result, Slug, TaskId, TenantId};
use forge_queue::limits::{QueueControl, QueueLimits};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::json;

pub(crate) use plan::in_any_order;

pub(crate) const VISIBILITY: Duration = Duration::from_secs(30);

/// One empty queue, all sides of it.
pub(crate) struct Sides {
    pub(crate) control: Arc<dyn QueueControl>,
    pub(crate) queue: Arc<dyn TaskQueue>,
    pub(crate) broker: Arc<dyn Broker>,
    /// Decides what is due.
    pub(crate) clock: Arc<ManualClock>,
    /// Lives as long as the queue: a directory, a server.
    pub(crate) _keep: Box<dyn Any + Send + Sync>,
}

/// Every scenario, on queues that `fresh` makes.
pub(crate) async fn all(fresh: impl AsyncFn() -> Sides) {
    for batch in [16, 64] {
        who_floods_does_not_starve_the_others(&fresh().await, batch).await;
    }
    turns_go_by_weight(&fresh().await).await;
    a_cap_holds_and_its_slots_are_used_again(&fresh().await).await;
    a_rate_is_an_average_and_a_burst(&fresh().await).await;
    who_is_paused_waits_and_the_others_go_on(&fresh().await).await;
    a_full_queue_refuses(&fresh().await).await;
    what_waits_can_be_dropped(&fresh().await).await;
    the_operator_sees_everybody(&fresh().await).await;
    nonsense_is_refused(&fresh().await).await;
}

pub(crate) fn ctx(tenant: &str) -> ExecutionContext {
    context(tenant, "ana", "analyst")
}

pub(crate) fn id(tenant: &str) -> TenantId {
    TenantId::parse(tenant).unwrap()
}

fn index() -> Slug {
    Slug::parse("index").unwrap()
}

pub(crate) fn task(n: usize) -> NewTask {
    NewTask::new(index(), json!({ "n": n }))
}

fn limits() -> QueueLimits {
    QueueLimits::default()
}

fn broken() -> Nack {
    let report = Error::new(ErrorKind::Unavailable, "t", "down").report();
    Nack::Retry { after: Duration::ZERO, report }
}

impl Sides {
    /// Queues many tasks at a time.
    async fn flood(&self, tenant: &str, tasks: usize) -> Vec<TaskId> {
        let ctx = ctx(tenant);
        let calls = futures::stream::iter(0..tasks).map(|n| self.queue.enqueue(&ctx, task(n)));
        calls.buffered(256).try_collect().await.unwrap()
    }

    pub(crate) async fn lease(&self, max: usize) -> Vec<Lease> {
        self.broker.lease(&LeaseRequest::new(vec![index()], max, VISIBILITY)).await.unwrap()
    }

    async fn ack(&self, leases: &[Lease]) {
        let acks = leases.iter().map(|l| self.broker.ack(l, json!(null)));
        let done: Result<Vec<()>> = futures::future::try_join_all(acks).await;
        done.unwrap();
    }

    pub(crate) async fn limit(&self, tenant: &str, limits: QueueLimits) {
        self.control.set_limits(&id(tenant), limits).await.unwrap();
    }

    async fn depth(&self, tenant: &str) -> QueueDepth {
        self.queue.depth(&ctx(tenant)).await.unwrap()
    }

    /// Serves so many deliveries, in batches; how many each tenant had, and at which its last one was.
    async fn serve(&self, deliveries: usize, batch: usize) -> BTreeMap<String, (usize, usize)> {
        let (mut had, mut delivery) = (BTreeMap::new(), 0);
        while delivery < deliveries {
            let leases = self.lease(batch.min(deliveries - delivery)).await;
            assert!(!leases.is_empty(), "something is due");
            for lease in &leases {
                delivery += 1;
                let (n, last) = had.entry(lease.tenant.to_string()).or_insert((0, 0));
                (*n, *last) = (*n + 1, delivery);
            }
            self.ack(&leases).await;
        }
        had
    }
}

fn of(leases: &[Lease], tenant: &str) -> usize {
    leases.iter().filter(|l| l.tenant == tenant).count()
}

async fn who_floods_does_not_starve_the_others(s: &Sides, batch: usize) {
    s.flood("a", 5_000).await;
    s.flood("b", 50).await;
    s.flood("c", 50).await;
    let had = s.serve(160, batch).await;
    assert_eq!((had["b"].0, had["c"].0), (50, 50), "in batches of {batch}, b and c are done within 160: {had:?}");
}

async fn turns_go_by_weight(s: &Sides) {
    const BATCH: usize = 16;
    s.limit("a", limits().with_weight(1.0)).await;
    s.limit("b", limits().with_weight(3.0)).await;
    s.flood("a", 400).await;
    s.flood("b", 400).await;
    let had = s.serve(400, BATCH).await;
    assert!(had["a"].0.abs_diff(100) <= BATCH, "weights 1 and 3 are a quarter and three: {had:?}");
}

async fn a_cap_holds_and_its_slots_are_used_again(s: &Sides) {
    s.limit("a", limits().with_running(3)).await;
    s.flood("a", 20).await;
    s.flood("b", 1).await;
    let first = s.lease(10).await;
    assert_eq!((of(&first, "a"), of(&first, "b")), (3, 1), "a has three slots");
    assert!(s.lease(10).await.is_empty(), "all three are taken");
    let held: Vec<_> = first.into_iter().filter(|l| l.tenant == "a").collect();
    s.ack(&held[..1]).await;
    let second = s.lease(10).await;
    assert_eq!(second.len(), 1, "a slot is used again after an ack");
    s.broker.nack(&held[1], broken()).await.unwrap();
    assert_eq!(s.lease(10).await.len(), 1, "and after a nack");
    assert!(s.queue.cancel(&ctx("a"), held[2].id).await.unwrap());
    assert_eq!(s.lease(10).await.len(), 1, "and after a cancel");
    assert!(s.lease(10).await.is_empty(), "and no more than those");
    assert_eq!(s.depth("a").await.leased, 3, "three are running");
    s.clock.advance(VISIBILITY + Duration::from_secs(1));
    // a backend may need a call to find out what was lost
    let mut again = s.lease(10).await;
    again.extend(s.lease(10).await);
    assert_eq!(of(&again, "a"), 3, "lost leases free their slots, and no more: {again:?}");
    s.limit("a", limits().with_running(5)).await;
    assert_eq!(s.lease(10).await.iter().filter(|l| l.tenant == "a").count(), 2, "a higher cap holds at once");
}

async fn a_rate_is_an_average_and_a_burst(s: &Sides) {
    s.limit("a", limits().with_rate(10.0).with_burst(5)).await;
    s.flood("a", 200).await;
    let mut given = Vec::new();
    for _ in 0..=100 {
        let leases = s.lease(50).await;
        s.ack(&leases).await;
        given.push(leases.len());
        s.clock.advance(Duration::from_millis(100));
    }
    assert_eq!(given[0], 5, "a burst of five");
    let all: usize = given.iter().sum();
    assert!((95..=105).contains(&all), "ten a second and a burst of five for ten seconds: {all}");
    s.limit("a", limits()).await;
    // a backend gives as many at a time as it likes
    let rest = s.serve(200 - all, 32).await;
    assert_eq!(rest["a"].0, 200 - all, "without a rate, all at once");
}

async fn who_is_paused_waits_and_the_others_go_on(s: &Sides) {
    s.flood("a", 10).await;
    s.flood("b", 10).await;
    let running = s.lease(2).await;
    s.control.pause(&id("a")).await.unwrap();
    s.control.pause(&id("a")).await.unwrap();
    s.flood("a", 2).await;
    s.limit("a", limits().with_weight(2.0)).await;
    let others = s.lease(50).await;
    assert_eq!(of(&others, "a"), 0, "who is paused gets nothing");
    assert_eq!(of(&others, "b") + of(&running, "b"), 10, "and the others go on");
    s.ack(&running).await;
    assert!(s.lease(50).await.is_empty(), "what runs goes on, and nothing follows it");
    let a = s.control.tenants().await.unwrap().into_iter().find(|t| t.tenant == "a").unwrap();
    assert!(a.paused, "the operator sees it");
    s.control.resume(&id("a")).await.unwrap();
    s.control.resume(&id("b")).await.unwrap();
    assert_eq!(s.lease(50).await.len() + of(&running, "a"), 12, "resumed, all of it is given");
}

async fn a_full_queue_refuses(s: &Sides) {
    s.limit("a", limits().with_length(3)).await;
    s.flood("a", 3).await;
    let refused = s.queue.enqueue(&ctx("a"), task(4)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::QuotaExceeded, "one too many");
    s.flood("b", 5).await;
    let leases: Vec<_> = s.lease(10).await.into_iter().filter(|l| l.tenant == "a").collect();
    assert!(s.queue.enqueue(&ctx("a"), task(4)).await.is_err(), "what runs is open too");
    s.ack(&leases[..1]).await;
    s.flood("a", 1).await;
    assert!(s.queue.enqueue(&ctx("a"), task(5)).await.is_err(), "one ended, so one came in");
}

async fn what_waits_can_be_dropped(s: &Sides) {
    let queued = s.flood("a", 6).await;
    s.queue.enqueue(&ctx("a"), task(7).with_delay(Duration::from_secs(5))).await.unwrap();
    let running = s.lease(1).await;
    s.flood("b", 2).await;
    assert_eq!(s.control.drop_waiting(&id("a")).await.unwrap(), 6, "five and the delayed one");
    assert_eq!(s.depth("a").await, QueueDepth { leased: 1, ..QueueDepth::default() });
    s.clock.advance(Duration::from_secs(6));
    assert_eq!(of(&s.lease(50).await, "a"), 0, "it is gone for good");
    s.ack(&running).await;
    let done = s.queue.status(&ctx("a"), queued[0]).await.unwrap().state;
    assert!(matches!(done, TaskState::Succeeded { .. }), "what ran went on: {done:?}");
    assert_eq!(s.depth("b").await.leased, 2, "and nobody else's is touched");
    assert_eq!(s.control.drop_waiting(&id("a")).await.unwrap(), 0, "once");
    s.flood("a", 1).await;
    assert_eq!(s.lease(1).await.len(), 1, "what comes after is given");
}

async fn the_operator_sees_everybody(s: &Sides) {
    let set = limits().with_weight(2.5).with_running(7).with_rate(0.5).with_burst(3).with_length(9);
    s.limit("b", set.clone()).await;
    s.flood("c", 2).await;
    s.flood("a", 1).await;
    let all = s.control.tenants().await.unwrap();
    let seen: Vec<_> = all.iter().map(|t| (t.tenant.as_str(), t.depth.ready, t.paused, &t.limits)).collect();
    assert_eq!(seen, [("a", 1, false, &limits()), ("b", 0, false, &set), ("c", 2, false, &limits())]);
}

async fn nonsense_is_refused(s: &Sides) {
    let nonsense = [
        limits().with_weight(0.0),
        limits().with_weight(f64::NAN),
        limits().with_running(0),
        limits().with_rate(f64::INFINITY),
        limits().with_length(0),
    ];
    for set in nonsense {
        let refused = s.control.set_limits(&id("a"), set.clone()).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "{set:?}");
    }
}
