//! A host dies at each of its await points, before and after each call took effect; and a queue that fails, refuses or hangs.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use forge_core::fake::FakePolicy;
use forge_core::guard::Guarded;
use forge_core::queue::{NewTask, QueueCapability, QueueDepth, TaskQueue, TaskStatus};
use forge_core::testing::fake_guard;
use forge_core::{
    Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Result, Slug, TaskId, TenantId, Timestamp,
};
use forge_queue::schedule::{Due, ScheduleState, ScheduleStore, StoredSchedule};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::world::{ALL, MINUTE, World, ctx, minutely, slug};

on_each_backend!(
    a_host_that_dies_anywhere_neither_loses_nor_doubles,
    a_host_that_stood_still_wakes_up_and_doubles_nothing,
    a_queue_that_fails_is_asked_again_and_one_that_refuses_is_not,
    each_tick_is_decided_and_booked_for_itself,
);

/// Lets so many steps happen and then none: what the beat waits for does not come before it is woken, if it is.
#[derive(Debug)]
struct Death {
    left: AtomicUsize,
    died: Notify,
    wakes: CancellationToken,
}

impl Death {
    fn after(steps: usize) -> Arc<Self> {
        Arc::new(Self { left: AtomicUsize::new(steps), died: Notify::new(), wakes: CancellationToken::new() })
    }

    async fn step(&self) {
        let lived = self.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        if !lived {
            self.died.notify_one();
            self.wakes.cancelled().await;
        }
    }
}

/// A backend that dies between two of its calls, or between a call and its answer.
#[derive(Debug)]
struct Dying<T: ?Sized>(Arc<Death>, Arc<T>);

#[async_trait]
impl ScheduleStore for Dying<dyn ScheduleStore> {
    async fn schedules(&self, tenant: &TenantId) -> Result<Vec<StoredSchedule>> {
        self.1.schedules(tenant).await
    }

    async fn schedule(&self, tenant: &TenantId, name: &Slug) -> Result<Option<StoredSchedule>> {
        self.1.schedule(tenant, name).await
    }

    async fn write(&self, schedule: &StoredSchedule, due: Option<Timestamp>, was: Option<&str>) -> Result<bool> {
        self.0.step().await;
        let written = self.1.write(schedule, due, was).await;
        self.0.step().await;
        written
    }

    async fn remove(&self, tenant: &TenantId, name: &Slug) -> Result<bool> {
        self.1.remove(tenant, name).await
    }

    async fn due(&self, limit: usize) -> Result<Due> {
        self.0.step().await;
        let due = self.1.due(limit).await;
        self.0.step().await;
        due
    }
}

/// A queue that dies, or answers something else.
#[derive(Debug)]
struct Queue {
    death: Arc<Death>,
    inner: Arc<dyn TaskQueue>,
    fails: Option<ErrorKind>,
    asked: AtomicUsize,
}

impl Queue {
    fn failing(inner: &Arc<dyn TaskQueue>, kind: ErrorKind) -> Arc<Self> {
        let (death, asked) = (Death::after(usize::MAX), AtomicUsize::new(0));
        Arc::new(Self { death, inner: inner.clone(), fails: Some(kind), asked })
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl HealthCheck for Queue {
    async fn check(&self, depth: Depth) -> Health {
        self.inner.check(depth).await
    }
}

#[async_trait]
impl TaskQueue for Queue {
    async fn enqueue(&self, ctx: &ExecutionContext, task: NewTask) -> Result<TaskId> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        if let Some(kind) = self.fails {
            return Err(Error::new(kind, "queue.enqueue", "no"));
        }
        self.death.step().await;
        let queued = self.inner.enqueue(ctx, task).await;
        self.death.step().await;
        queued
    }

    async fn status(&self, ctx: &ExecutionContext, id: TaskId) -> Result<TaskStatus> {
        self.inner.status(ctx, id).await
    }

    async fn cancel(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool> {
        self.inner.cancel(ctx, id).await
    }

    async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth> {
        self.inner.depth(ctx).await
    }

    fn capability(&self) -> QueueCapability {
        self.inner.capability()
    }
}

/// A store and a queue of one host, which stops after so many steps.
fn dying(w: &World, steps: usize) -> (Arc<Death>, Arc<dyn ScheduleStore>, Arc<dyn TaskQueue>) {
    let death = Death::after(steps);
    let store = Dying(death.clone(), w.stores[1].clone());
    let queue = Queue { death: death.clone(), inner: w.queue.clone(), fails: None, asked: AtomicUsize::new(0) };
    (death, Arc::new(store), Arc::new(queue))
}

/// Runs a beat that dies after so many steps; whether it did before it had nothing to do.
async fn dies(w: &World, steps: usize) -> bool {
    let (death, store, queue) = dying(w, steps);
    tokio::select! {
        () = w.beat_over(store, queue) => false,
        () = death.died.notified() => true,
    }
}

async fn a_host_that_dies_anywhere_neither_loses_nor_doubles(w: &World) {
    w.put("acme", minutely(ALL)).await;
    let (mut due, mut done) = (0, 0);
    for steps in 0.. {
        w.clock.advance(MINUTE * 2);
        due += 2;
        let died = dies(w, steps).await;
        // what it queued is done before another host comes
        done += w.drained().await;
        w.clock.advance(MINUTE * 2);
        due += 2;
        w.beat().await;
        w.clock.advance(MINUTE * 2);
        due += 2;
        w.beat().await;
        done += w.drained().await;
        assert_eq!(done, due, "killed after {steps} steps: ticks due and tasks done");
        if !died {
            assert!(steps > 10, "it was killed at each of its steps");
            return;
        }
    }
}

async fn a_host_that_stood_still_wakes_up_and_doubles_nothing(w: &World) {
    w.put("acme", minutely(ALL)).await;
    let (mut due, mut done) = (0, 0);
    for steps in 0.. {
        w.clock.advance(MINUTE * 2);
        due += 2;
        let (death, store, queue) = dying(w, steps);
        let mut beat = std::pin::pin!(w.beat_over(store, queue));
        tokio::select! {
            () = &mut beat => {
                assert!(steps > 10, "it stood still at each of its steps");
                return;
            }
            () = death.died.notified() => {}
        }
        done += w.drained().await;
        w.clock.advance(MINUTE * 2);
        due += 2;
        w.beat().await;
        done += w.drained().await;
        death.wakes.cancel();
        beat.await;
        done += w.drained().await;
        assert_eq!(done, due, "asleep after {steps} steps: ticks due and tasks done");
    }
}

async fn a_queue_that_fails_is_asked_again_and_one_that_refuses_is_not(w: &World) {
    w.put("acme", minutely(ALL)).await;
    w.clock.advance(MINUTE);
    for kind in [ErrorKind::Unavailable, ErrorKind::QuotaExceeded, ErrorKind::UnknownOutcome, ErrorKind::Timeout] {
        let failing = Queue::failing(&w.queue, kind);
        w.beat_over(w.stores[0].clone(), failing.clone()).await;
        assert_eq!(failing.asked(), 1, "{kind}");
        w.beat_over(w.stores[0].clone(), failing.clone()).await;
        assert_eq!(failing.asked(), 1, "{kind}: not at once");
        w.clock.advance(MINUTE / 2);
    }
    w.beat().await;
    assert_eq!(w.drained().await, 3, "one that failed for two minutes, and those two");

    w.clock.advance(MINUTE);
    let refusing = Queue::failing(&w.queue, ErrorKind::PolicyDenied);
    w.beat_over(w.stores[0].clone(), refusing.clone()).await;
    let status = w.one("acme").await;
    let refused = status.refused.unwrap();
    assert_eq!((refused.tick, refused.kind, status.state), (w.now(), ErrorKind::PolicyDenied, ScheduleState::Active));
    w.clock.advance(MINUTE);
    w.beat().await;
    assert_eq!((refusing.asked(), w.drained().await), (1, 1), "the next tick is decided for itself");
}

async fn each_tick_is_decided_and_booked_for_itself(w: &World) {
    let guard = fake_guard(FakePolicy::allow_all(), w.clock.clone());
    let guarded: Arc<dyn TaskQueue> = Arc::new(Guarded::new(w.queue.clone(), guard.guard.clone()));
    w.put("acme", minutely(ALL)).await;
    w.clock.advance(MINUTE * 3);
    w.beat_over(w.stores[0].clone(), guarded).await;
    assert_eq!(w.drained().await, 3);
    let rows = guard.audit.records();
    let operations: std::collections::BTreeSet<_> = rows.iter().map(|r| r.operation.as_str().to_owned()).collect();
    assert_eq!(operations.len(), 3, "a key for each tick");
    assert!(rows.iter().all(|r| r.employee == "ana" && r.tenant == "acme"));

    let denying = fake_guard(FakePolicy::deny_all(), w.clock.clone());
    let guarded: Arc<dyn TaskQueue> = Arc::new(Guarded::new(w.queue.clone(), denying.guard.clone()));
    w.clock.advance(MINUTE);
    w.beat_over(w.stores[0].clone(), guarded).await;
    assert_eq!(w.drained().await, 0);
    assert_eq!(w.one("acme").await.refused.unwrap().kind, ErrorKind::PolicyDenied);
    w.schedules().remove(&ctx("acme"), &slug("s")).await.unwrap();
}
