//! The suite of [`TaskQueue`] and [`Broker`]: the two sides of one queue.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use serde_json::{Value, json};

use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use super::{context, fake_guard};
use crate::fake::{FakePolicy, ManualClock};
use crate::guard::Guarded;
use crate::queue::{
    Broker, Lease, LeaseRequest, Nack, NewTask, Priority, QueueCapability, QueueDepth, Room, TaskQueue, TaskState,
    TaskStatus,
};
use crate::time::{Clock, SystemClock};
use crate::{Depth, Error, ErrorKind, ExecutionContext, OperationKey, Result, Slug, Status, TaskId, Timestamp};

/// Both sides of one queue.
pub trait WholeQueue: TaskQueue + Broker {}

impl<Q: TaskQueue + Broker> WholeQueue for Q {}

spy! { TaskQueue:
    async fn enqueue(&self, ctx: &ExecutionContext, task: NewTask) -> Result<TaskId>;
    async fn status(&self, ctx: &ExecutionContext, id: TaskId) -> Result<TaskStatus>;
    async fn cancel(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool>;
    async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth>;
    fn capability(&self) -> QueueCapability;
}

spy! { Broker:
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Lease>>;
    async fn renew(&self, lease: &Lease, visibility: Duration) -> Result<Timestamp>;
    async fn ack(&self, lease: &Lease, result: Value) -> Result<()>;
    async fn nack(&self, lease: &Lease, nack: Nack) -> Result<()>;
    async fn wait(&self, at_most: Duration) -> ();
}

const VISIBILITY: Duration = Duration::from_secs(2);

/// A queue under test, from both sides.
struct Sides {
    fixture: Fixture<dyn WholeQueue>,
    queue: Arc<dyn TaskQueue>,
    broker: Arc<dyn Broker>,
}

/// Runs every scenario on fresh queues that `fresh` makes, bare and with the producing side behind the guard.
///
/// # Panics
/// With the scenario's name, where the queue does not keep the contracts of [`TaskQueue`] and [`Broker`].
pub async fn task_queue(fresh: impl AsyncFn() -> Fixture<dyn WholeQueue>) {
    let called = Called::default();
    for guarded in [false, true] {
        let made = async || sides(fresh().await, &called, guarded);
        goes_from_ready_to_its_result(&made().await).await;
        gives_what_is_due_and_has_a_handler(&made().await).await;
        gives_a_lost_lease_again(&made().await).await;
        tries_again_and_gives_up(&made().await).await;
        gives_back_what_was_not_begun(&made().await).await;
        keeps_one_task_a_unique_key(&made().await).await;
        queues_once_under_a_key(&made().await).await;
        cancels(&made().await).await;
        keeps_tenants_apart(&made().await).await;
        serves_tenants_in_turn(&made().await).await;
        takes_no_more_than_there_is_room_for(&made().await).await;
        gives_what_can_wait_later(&made().await).await;
        starves_no_priority(&made().await).await;
        gives_up_what_expired(&made().await).await;
        gives_a_task_to_one_worker(&made().await).await;
        keeps_payloads_as_they_are(&made().await).await;
        survives_a_call_that_was_dropped(&made().await).await;
        durability_is_as_declared(made().await, &called, guarded).await;
        the_server_goes_away(made().await).await;
        let s = made().await;
        prints_no_secret(s.fixture.adapter.as_ref(), &s.fixture.secrets);
        assert_eq!(s.queue.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
        s.broker.wait(Duration::ZERO).await;
        if guarded {
            nothing_begins_late(&s).await;
        }
    }
    called.complete::<dyn TaskQueue>();
    called.complete::<dyn Broker>();
}

fn sides(fixture: Fixture<dyn WholeQueue>, called: &Called, guarded: bool) -> Sides {
    let (queue, broker): (Arc<dyn TaskQueue>, Arc<dyn Broker>) = (fixture.adapter.clone(), fixture.adapter.clone());
    let queue: Arc<dyn TaskQueue> = Arc::new(Spy::new(queue, called));
    let guard = || fake_guard(FakePolicy::allow_all(), Arc::new(SystemClock)).guard;
    let queue = if guarded { Arc::new(Guarded::new(queue, guard())) } else { queue };
    Sides { fixture, queue, broker: Arc::new(Spy::new(broker, called)) }
}

impl Sides {
    async fn enqueue(&self, ctx: &ExecutionContext, task: NewTask) -> TaskId {
        self.queue.enqueue(ctx, task).await.expect("a task is queued")
    }

    async fn lease(&self, max: usize) -> Vec<Lease> {
        self.lease_with(LeaseRequest::new(vec![slug("index")], max, VISIBILITY)).await
    }

    async fn lease_with(&self, request: LeaseRequest) -> Vec<Lease> {
        self.broker.lease(&request).await.expect("a lease")
    }

    async fn one(&self) -> Lease {
        self.lease(1).await.pop().expect("one task is due")
    }

    async fn state(&self, ctx: &ExecutionContext, id: TaskId) -> TaskState {
        self.queue.status(ctx, id).await.expect("a status").state
    }
}

fn slug(s: &str) -> Slug {
    Slug::parse(s).expect("a slug")
}

fn index(payload: impl Into<Value>) -> NewTask {
    NewTask::new(slug("index"), payload.into())
}

fn ana() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|e| e.kind())
}

async fn goes_from_ready_to_its_result(s: &Sides) {
    let id = s.enqueue(&ana(), index(json!({ "document": 7 }))).await;
    assert_eq!(s.state(&ana(), id).await, TaskState::Ready, "a queued task is ready");
    let lease = s.one().await;
    assert_eq!(
        (lease.id, lease.attempt, &lease.payload),
        (id, 1, &json!({ "document": 7 })),
        "the lease is the task's"
    );
    assert_eq!(s.state(&ana(), id).await, TaskState::Leased, "a leased task is leased");
    let depth = QueueDepth { leased: 1, ..QueueDepth::default() };
    assert_eq!(s.queue.depth(&ana()).await.unwrap(), depth, "the depth counts it");
    s.broker.ack(&lease, json!({ "pages": 3 })).await.unwrap();
    let done = TaskState::Succeeded { result: json!({ "pages": 3 }) };
    assert_eq!(s.state(&ana(), id).await, done, "the answer is kept");
    assert_eq!(kind(s.broker.ack(&lease, json!(null)).await), Some(ErrorKind::LeaseLost), "done once is done once");
    assert_eq!(s.state(&ana(), id).await, done, "a second acknowledgement changes nothing");
    assert!(s.lease(1).await.is_empty(), "what is done is not given again");
    assert_eq!(kind(s.queue.status(&ana(), TaskId::fixed(1)).await), Some(ErrorKind::NotFound), "an unknown task");
}

async fn gives_what_is_due_and_has_a_handler(s: &Sides) {
    s.enqueue(&ana(), NewTask::new(slug("other"), json!(1))).await;
    let later = s.enqueue(&ana(), index(2).with_delay(Duration::from_secs(1))).await;
    assert!(s.lease(9).await.is_empty(), "nothing is due that has a handler here");
    s.fixture.pass(Duration::from_millis(1100)).await;
    let due: Vec<_> = s.lease(9).await.into_iter().map(|l| l.id).collect();
    assert_eq!(due, [later], "a delayed task is given once its time has come");
}

async fn gives_a_lost_lease_again(s: &Sides) {
    let id = s.enqueue(&ana(), index(1)).await;
    let first = s.one().await;
    let held = s.broker.renew(&first, VISIBILITY * 2).await.unwrap();
    assert!(held >= first.until, "a renewed lease lasts longer");
    s.fixture.pass(VISIBILITY + Duration::from_millis(100)).await;
    assert!(s.lease(1).await.is_empty(), "a renewed lease is held");
    s.fixture.pass(VISIBILITY).await;
    let second = s.one().await;
    assert_eq!((second.id, second.attempt), (id, 2), "a lease that ran out is given again");
    assert!(second.fence > first.fence, "under a higher fence");
    let report = Error::new(ErrorKind::Unavailable, "t", "down").report();
    for (what, outcome) in [
        ("renew", s.broker.renew(&first, VISIBILITY).await.map(|_| ())),
        ("ack", s.broker.ack(&first, json!(null)).await),
        ("nack", s.broker.nack(&first, Nack::Dead { report }).await),
    ] {
        assert_eq!(kind(outcome), Some(ErrorKind::LeaseLost), "an old fence: {what}");
    }
    assert_eq!(s.state(&ana(), id).await, TaskState::Leased, "an old fence changes nothing");
    s.broker.ack(&second, json!("done")).await.expect("the new holder is not disturbed");
}

async fn tries_again_and_gives_up(s: &Sides) {
    let report = || Error::new(ErrorKind::Unavailable, "t", "down").report();
    let id = s.enqueue(&ana(), index(1).with_max_retries(1)).await;
    let retry = Nack::Retry { after: Duration::from_secs(1), report: report() };
    s.broker.nack(&s.one().await, retry.clone()).await.unwrap();
    assert_eq!(s.state(&ana(), id).await, TaskState::Ready, "a retry is ready");
    assert!(s.lease(1).await.is_empty(), "but not before its time");
    s.fixture.pass(Duration::from_millis(1100)).await;
    s.broker.nack(&s.one().await, retry).await.unwrap();
    assert!(matches!(s.state(&ana(), id).await, TaskState::Dead { .. }), "without retries left it is a dead letter");
    let id = s.enqueue(&ana(), index(2)).await;
    s.broker.nack(&s.one().await, Nack::Dead { report: report() }).await.unwrap();
    let TaskState::Dead { report } = s.state(&ana(), id).await else { panic!("a dead letter is dead") };
    assert_eq!(report.kind, ErrorKind::Unavailable, "a dead letter says why");
    assert_eq!(s.queue.depth(&ana()).await.unwrap().dead, 2, "the depth counts dead letters");
    s.fixture.pass(VISIBILITY * 2).await;
    assert!(s.lease(1).await.is_empty(), "a dead letter is not given again");
}

async fn gives_back_what_was_not_begun(s: &Sides) {
    let first = s.enqueue(&ana(), index(1).with_max_retries(0)).await;
    let second = s.enqueue(&ana(), index(2)).await;
    let lease = s.one().await;
    assert_eq!(lease.id, first);
    s.broker.nack(&lease, Nack::Release).await.unwrap();
    assert_eq!(s.state(&ana(), first).await, TaskState::Ready, "a released task is ready");
    assert_eq!(s.queue.status(&ana(), first).await.unwrap().attempts, 0, "and no try of it was begun");
    assert_eq!(
        kind(s.broker.ack(&lease, json!(null)).await),
        Some(ErrorKind::LeaseLost),
        "who released it has it no more"
    );
    let again = s.one().await;
    assert_eq!(
        (again.id, again.attempt),
        (first, 1),
        "it comes at once, before what was queued after it, as its first try"
    );
    assert!(again.fence > lease.fence, "under a higher fence");
    assert_eq!(again.payload, lease.payload, "a released task is what it was");
    s.broker.ack(&again, json!("done")).await.unwrap();
    assert_eq!(s.one().await.id, second, "and the next one follows");
}

async fn takes_no_more_than_there_is_room_for(s: &Sides) {
    let (acme, globex) = (ana(), context("globex", "bo", "analyst"));
    for n in 0..6 {
        s.enqueue(&acme, index(n)).await;
    }
    s.enqueue(&globex, index(0)).await;
    s.enqueue(&globex, NewTask::new(slug("report"), json!(0))).await;
    let names = || vec![slug("index"), slug("report")];
    let of = |leases: &[Lease], tenant: &str| leases.iter().filter(|l| l.tenant == *tenant).count();
    let mut request = LeaseRequest::new(names(), 9, VISIBILITY);
    request.room = Room { per_tenant: Some(1), ..Room::default() };
    let leases = s.lease_with(request).await;
    assert_eq!((of(&leases, "acme"), of(&leases, "globex")), (1, 1), "room: so many of each tenant");
    let mut request = LeaseRequest::new(names(), 9, VISIBILITY);
    request.room.per_tenant = Some(1);
    request.room.tenants = [(acme.tenant().clone(), 2), (globex.tenant().clone(), 0)].into();
    let leases = s.lease_with(request).await;
    assert_eq!((of(&leases, "acme"), of(&leases, "globex")), (2, 0), "room: a tenant's own number counts");
    let mut request = LeaseRequest::new(names(), 9, VISIBILITY);
    request.room.names = [(slug("index"), 0)].into();
    let leases = s.lease_with(request).await;
    let taken: Vec<_> = leases.iter().map(|l| (l.tenant.as_str(), l.name.as_str())).collect();
    assert_eq!(
        taken,
        [("globex", "report")],
        "room: a handler without any takes nothing, and keeps nobody from the rest"
    );
    // what was put aside is due again soon
    s.fixture.pass(Duration::from_millis(600)).await;
    let mut request = LeaseRequest::new(names(), 9, VISIBILITY);
    request.room.names = [(slug("index"), 2)].into();
    let leases = s.lease_with(request).await;
    assert_eq!(leases.len(), 2, "room: so many for a handler");
    s.fixture.pass(Duration::from_millis(600)).await;
    assert_eq!(of(&s.lease(9).await, "acme"), 1, "what there was no room for is left");
}

async fn keeps_one_task_a_unique_key(s: &Sides) {
    let key = || OperationKey::derived(&[b"once"]);
    let unique = |n: i32| index(n).with_unique(key());
    let first = s.enqueue(&ana(), unique(1)).await;
    assert_eq!(s.enqueue(&ana(), unique(1)).await, first, "the same key is the same task");
    let theirs = s.enqueue(&context("acme-2", "ana", "analyst"), unique(1)).await;
    assert_ne!(theirs, first, "isolation: another tenant's key is another key");
    for lease in s.lease(9).await {
        s.broker.ack(&lease, json!(null)).await.unwrap();
    }
    assert_ne!(s.enqueue(&ana(), unique(2)).await, first, "after its end the key is free");
}

async fn queues_once_under_a_key(s: &Sides) {
    let once = |n: i32| index(n).with_once(OperationKey::derived(&[b"tick"]));
    let first = s.enqueue(&ana(), once(1)).await;
    let known = NewTask::id(&once(1), ana().tenant(), Timestamp::from_nanos(9));
    assert_eq!(first, known, "the id is that of tenant and key, whatever the time");
    let caller = ana();
    let (a, b) = futures::join!(s.enqueue(&caller, once(2)), s.enqueue(&caller, once(2)));
    assert_eq!((a, b), (first, first), "the same key is the same task");
    let theirs = s.enqueue(&context("acme-2", "ana", "analyst"), once(1)).await;
    assert_ne!(theirs, first, "isolation: another tenant's key is another key");
    for lease in s.lease(9).await {
        s.broker.ack(&lease, json!(lease.payload)).await.unwrap();
    }
    assert_eq!(s.enqueue(&ana(), once(3)).await, first, "after its end too");
    assert_eq!(s.state(&ana(), first).await, TaskState::Succeeded { result: json!(1) }, "it is left as it was");
    let unique = once(4).with_unique(OperationKey::derived(&[b"other"]));
    let other = s.enqueue(&ana(), index(5).with_unique(OperationKey::derived(&[b"other"]))).await;
    assert_eq!(s.enqueue(&ana(), unique).await, first, "it is asked before the unique key");
    assert_eq!(s.lease(9).await.iter().map(|l| l.id).collect::<Vec<_>>(), [other], "nothing more is queued");
}

async fn cancels(s: &Sides) {
    let id = s.enqueue(&ana(), index(1)).await;
    assert!(s.queue.cancel(&ana(), id).await.unwrap(), "a waiting task can be cancelled");
    assert_eq!(s.state(&ana(), id).await, TaskState::Cancelled, "and is");
    assert!(!s.queue.cancel(&ana(), id).await.unwrap(), "once");
    assert!(s.lease(1).await.is_empty(), "a cancelled task is not given");
    let id = s.enqueue(&ana(), index(2)).await;
    let lease = s.one().await;
    assert!(s.queue.cancel(&ana(), id).await.unwrap(), "a leased task can be cancelled");
    assert_eq!(kind(s.broker.ack(&lease, json!(null)).await), Some(ErrorKind::LeaseLost), "its holder has lost it");
    assert_eq!(s.state(&ana(), id).await, TaskState::Cancelled, "and it stays cancelled");
}

async fn keeps_tenants_apart(s: &Sides) {
    let (acme, other) = (ana(), context("acme-2", "ana", "analyst"));
    s.enqueue(&acme, index("dead")).await;
    let report = Error::new(ErrorKind::Unavailable, "t", "down").report();
    s.broker.nack(&s.one().await, Nack::Dead { report }).await.unwrap();
    let id = s.enqueue(&acme, index("acme's")).await;
    assert_eq!(
        kind(s.queue.status(&other, id).await),
        Some(ErrorKind::NotFound),
        "isolation: another's task is not there"
    );
    assert_eq!(kind(s.queue.cancel(&other, id).await), Some(ErrorKind::NotFound), "isolation: nor can it be cancelled");
    assert_eq!(s.queue.depth(&other).await.unwrap(), QueueDepth::default(), "isolation: nor is it counted");
    s.enqueue(&other, index("other's")).await;
    let leases = s.lease(9).await;
    let whose: BTreeSet<_> = leases.iter().map(|l| (l.tenant.as_str(), l.payload.as_str().unwrap_or(""))).collect();
    let expected = BTreeSet::from([("acme", "acme's"), ("acme-2", "other's")]);
    assert_eq!(whose, expected, "isolation: a lease carries the tenant it was queued for");
    assert_eq!(s.state(&acme, id).await, TaskState::Leased, "isolation: untouched");
}

async fn serves_tenants_in_turn(s: &Sides) {
    if !s.queue.capability().fair {
        return;
    }
    for n in 0..20 {
        s.enqueue(&ana(), index(n)).await;
    }
    s.enqueue(&context("globex", "bo", "analyst"), index(0)).await;
    let served: Vec<_> = s.lease(2).await.into_iter().map(|l| l.tenant).collect();
    assert!(served.iter().any(|t| *t == "globex"), "isolation: a busy tenant starves another: {served:?}");
    let rest: Vec<_> = s.lease(9).await.into_iter().filter(|l| l.tenant == "acme").map(|l| l.payload).collect();
    assert!(rest.is_sorted_by_key(|p| p.as_i64()), "a tenant's tasks come in the order they were queued: {rest:?}");
}

async fn gives_what_can_wait_later(s: &Sides) {
    for (n, priority) in [Priority::Lowest, Priority::Lower, Priority::Low, Priority::Normal].into_iter().enumerate() {
        s.enqueue(&ana(), index(n).with_priority(priority)).await;
    }
    s.enqueue(&ana(), index(4)).await;
    let order: Vec<_> = s.lease(5).await.into_iter().map(|l| l.payload).collect();
    assert_eq!(order, [3, 4, 2, 1, 0], "the higher priority first, in each the order of queueing");
    let low = s.enqueue(&ana(), index(5).with_priority(Priority::Low)).await;
    let report = Error::new(ErrorKind::Unavailable, "t", "down").report();
    s.broker.nack(&s.one().await, Nack::Retry { after: Duration::ZERO, report }).await.unwrap();
    let normal = s.enqueue(&ana(), index(6)).await;
    let order: Vec<_> = s.lease(2).await.into_iter().map(|l| l.id).collect();
    assert_eq!(order, [normal, low], "a task that is tried again keeps its priority");
}

async fn starves_no_priority(s: &Sides) {
    let low = s.enqueue(&ana(), index("low").with_priority(Priority::Lowest)).await;
    for n in 0..40 {
        s.enqueue(&ana(), index(n)).await;
    }
    let mut given = Vec::new();
    for _ in 0..16 {
        given.push(s.one().await.id);
    }
    assert!(given.contains(&low), "a low priority is starved: one lease in eight begins with it");
}

async fn gives_up_what_expired(s: &Sides) {
    let short = s.enqueue(&ana(), index(1).with_expires(Duration::from_secs(1))).await;
    let long = s.enqueue(&ana(), index(2).with_expires(Duration::from_secs(60))).await;
    let late = index(3).with_expires(Duration::from_secs(1)).with_delay(Duration::from_secs(5));
    let late = s.enqueue(&ana(), late).await;
    s.fixture.pass(Duration::from_millis(1100)).await;
    let given: Vec<_> = s.lease(9).await.into_iter().map(|l| l.id).collect();
    assert_eq!(given, [long], "what expired is not given");
    s.fixture.pass(Duration::from_secs(5)).await;
    for id in [short, late] {
        assert!(s.lease(9).await.iter().all(|l| l.id != id), "nor later");
        let state = s.state(&ana(), id).await;
        let TaskState::Dead { report } = state else { panic!("what expired is a dead letter: {state:?}") };
        assert_eq!(report.kind, ErrorKind::Timeout, "and says that its time was over");
    }
}

async fn gives_a_task_to_one_worker(s: &Sides) {
    for n in 0..8 {
        s.enqueue(&ana(), index(n)).await;
    }
    let (a, b) = futures::join!(s.lease(8), s.lease(8));
    let ids: BTreeSet<_> = a.iter().chain(&b).map(|l| l.id).collect();
    assert_eq!((a.len() + b.len(), ids.len()), (8, 8), "a task is with one worker at a time");
}

async fn keeps_payloads_as_they_are(s: &Sides) {
    let payload = json!({ "texts": HOSTILE, "rate": 0.1 + 0.2, "big": u64::MAX, "none": null });
    s.enqueue(&ana(), index(payload.clone())).await;
    assert_eq!(s.one().await.payload, payload, "hostile ids: a payload comes out as it went in");
    let max = s.queue.capability().payload_max_size;
    if max <= 64 * 1024 * 1024 {
        let over = s.queue.enqueue(&ana(), index("x".repeat(max + 1))).await;
        assert_eq!(kind(over), Some(ErrorKind::InvalidInput), "a payload over the declared size is refused");
        assert!(s.lease(1).await.is_empty(), "and nothing of it is queued");
    }
}

async fn survives_a_call_that_was_dropped(s: &Sides) {
    for _ in 0..8 {
        let _dropped = s.queue.enqueue(&ana(), index(1)).now_or_never();
    }
    let last = s.enqueue(&ana(), index(2)).await;
    let leases = s.lease(20).await;
    assert!(leases.iter().any(|l| l.id == last), "cancelled in the middle: the queue goes on");
    let whole = leases.iter().all(|l| l.payload == json!(1) || l.payload == json!(2));
    assert!(whole && leases.len() <= 9, "cancelled in the middle: a task is there whole or not at all");
}

async fn durability_is_as_declared(s: Sides, called: &Called, guarded: bool) {
    let id = s.enqueue(&ana(), index(1)).await;
    let durable = s.queue.capability().durable;
    let Sides { fixture, queue, broker } = s;
    drop((queue, broker));
    match fixture.reopened().await {
        Some(fixture) => {
            let again = sides(fixture, called, guarded);
            let there = again.lease(1).await.iter().any(|l| l.id == id);
            assert_eq!(there, durable, "capability: `durable` says what happens at a restart");
        }
        None => assert!(!durable, "capability: the fixture of a durable queue says how to open it again"),
    }
}

async fn the_server_goes_away(mut s: Sides) {
    if s.fixture.lose_server().await {
        let kind = kind(s.queue.enqueue(&ana(), index(1)).await);
        assert!(matches!(kind, Some(ErrorKind::Unavailable | ErrorKind::Timeout)), "server gone: {kind:?}");
        assert_eq!(s.queue.check(Depth::Deep).await.status, Status::Down, "server gone: health says so");
    }
}

async fn nothing_begins_late(s: &Sides) {
    let late = ana().with_deadline(ManualClock::default().now());
    assert_eq!(kind(s.queue.enqueue(&late, index(1)).await), Some(ErrorKind::Timeout), "passed deadline");
    let cancelled = ana();
    cancelled.cancellation().cancel();
    assert_eq!(kind(s.queue.enqueue(&cancelled, index(1)).await), Some(ErrorKind::Cancelled), "cancelled before");
    assert!(s.lease(1).await.is_empty(), "passed deadline: nothing was queued");
}
