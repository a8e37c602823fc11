//! One of many computes: in a process, across processes, and when the one who computes fails, is dropped or is too late.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use forge_core::fake::{FakeKeyValue, FakePolicy, ManualClock};
use forge_core::guard::Guarded;
use forge_core::kv::{KeyValue, PutOptions, SingleFlight};
use forge_core::testing::{context, fake_guard};
use forge_core::{Clock, Error, ErrorKind, ExecutionContext, Namespace, Result, Slug};
use futures::future::join_all;
use futures::{FutureExt, join};
use tokio::sync::Notify;

const LEASE: Duration = Duration::from_secs(5);
const SOME: Option<Duration> = Some(Duration::from_secs(600));

/// A store, its clock, and two processes that share them.
struct World {
    clock: Arc<ManualClock>,
    store: Arc<dyn KeyValue>,
    here: SingleFlight,
    there: SingleFlight,
    computed: AtomicUsize,
}

impl World {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let store: Arc<dyn KeyValue> = Arc::new(FakeKeyValue::new(clock.clone()));
        let process = || SingleFlight::new(store.clone(), clock.clone()).with_lease(LEASE);
        Self { here: process(), there: process(), computed: AtomicUsize::new(0), store, clock }
    }

    /// A computation that others get in between of.
    async fn dear(&self, value: &'static str) -> Result<Bytes> {
        self.computed.fetch_add(1, Ordering::SeqCst);
        for _ in 0..20 {
            tokio::task::yield_now().await;
        }
        Ok(value.into())
    }

    fn computed(&self) -> usize {
        self.computed.load(Ordering::SeqCst)
    }

    /// Lets time pass, in small steps, until the work is done; panics if it is not within `most`.
    async fn passing<T>(&self, most: Duration, work: impl Future<Output = T>) -> T {
        const STEP: Duration = Duration::from_millis(100);
        let time = async {
            let until = self.clock.monotonic() + most;
            while self.clock.monotonic() < until {
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
                self.clock.advance(STEP);
            }
        };
        tokio::select! {
            biased;
            outcome = work => outcome,
            () = time => panic!("not within {most:?}"),
        }
    }
}

/// What comes without any time passing.
async fn at_once<T>(work: impl Future<Output = T>) -> T {
    let others = async {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        biased;
        outcome = work => outcome,
        () = others => panic!("it waits for a time to pass"),
    }
}

fn space(ctx: &ExecutionContext) -> Namespace {
    Namespace::of(ctx, Slug::parse("answers").unwrap())
}

async fn ask(
    by: &SingleFlight,
    ctx: &ExecutionContext,
    compute: impl Future<Output = Result<Bytes>> + Send,
) -> Result<Bytes> {
    by.get_or_compute(ctx, &space(ctx), "k", SOME, compute).await
}

fn failed() -> Error {
    Error::new(ErrorKind::RateLimited, "t", "not now")
}

#[tokio::test]
async fn many_ask_and_one_computes() {
    let w = World::new();
    let acme = context("acme", "ana", "analyst");
    let asked = join_all((0..64).map(|_| ask(&w.here, &acme, w.dear("a")))).await;
    assert!(asked.into_iter().all(|value| value.unwrap() == "a"));
    assert_eq!(w.computed(), 1);
    assert_eq!(ask(&w.there, &acme, w.dear("b")).await.unwrap(), "a", "another process reads what was kept");
    w.clock.advance(Duration::from_secs(601));
    assert_eq!(ask(&w.here, &acme, w.dear("c")).await.unwrap(), "c", "past its time it is computed again");
    assert_eq!(w.computed(), 2);
    assert!(w.here.invalidate(&acme, &space(&acme), "k").await.unwrap());
    assert_eq!(ask(&w.here, &acme, w.dear("d")).await.unwrap(), "d", "invalidated, it is computed again");
}

#[tokio::test]
async fn another_process_waits_for_the_one_who_computes() {
    let w = World::new();
    let acme = context("acme", "ana", "analyst");
    let both = async {
        let ours = join_all((0..8).map(|_| ask(&w.here, &acme, w.dear("a"))));
        let theirs = join_all((0..8).map(|_| ask(&w.there, &acme, w.dear("b"))));
        let (ours, theirs) = join!(ours, theirs);
        ours.into_iter().chain(theirs).map(Result::unwrap).collect::<Vec<_>>()
    };
    let values = w.passing(LEASE, both).await;
    assert_eq!((values, w.computed()), (vec![Bytes::from("a"); 16], 1));
}

#[tokio::test]
async fn a_long_computation_keeps_its_turn() {
    let w = World::new();
    let acme = context("acme", "ana", "analyst");
    let long = async {
        w.clock.sleep(LEASE * 10).await;
        w.dear("a").await
    };
    let both = async { join!(ask(&w.here, &acme, long), ask(&w.there, &acme, w.dear("b"))) };
    let (ours, theirs) = w.passing(LEASE * 12, both).await;
    assert_eq!((ours.unwrap(), theirs.unwrap(), w.computed()), ("a".into(), "a".into(), 1));
}

#[tokio::test]
async fn a_caller_who_is_dropped_makes_room_for_the_next() {
    let w = World::new();
    let acme = context("acme", "ana", "analyst");
    let mut first = Box::pin(ask(&w.here, &acme, std::future::pending()));
    assert!((&mut first).now_or_never().is_none());
    let mut second = Box::pin(ask(&w.here, &acme, w.dear("b")));
    assert!((&mut second).now_or_never().is_none() && w.computed() == 0, "it waits for the first");
    drop(first);
    // no time passes: in the same process nobody waits for the lease
    assert_eq!(at_once(second).await.unwrap(), "b");

    w.here.invalidate(&acme, &space(&acme), "k").await.unwrap();
    assert!(ask(&w.here, &acme, std::future::pending()).now_or_never().is_none());
    assert_eq!(at_once(ask(&w.here, &acme, w.dear("c"))).await.unwrap(), "c", "nor who comes after it was dropped");
}

#[tokio::test]
async fn a_process_that_is_gone_is_waited_for_as_long_as_its_lease() {
    let w = World::new();
    let acme = context("acme", "ana", "analyst");
    assert!(ask(&w.here, &acme, std::future::pending()).now_or_never().is_none());
    let began = w.clock.monotonic();
    let value = w.passing(LEASE * 2, ask(&w.there, &acme, w.dear("b"))).await;
    assert_eq!((value.unwrap(), w.computed()), ("b".into(), 1));
    assert!(w.clock.monotonic() - began >= LEASE);
}

#[tokio::test]
async fn an_error_is_the_callers_alone() {
    let w = World::new();
    let acme = context("acme", "ana", "analyst");
    let fails = async {
        w.dear("").await?;
        Err(failed())
    };
    let both = async { join!(ask(&w.here, &acme, fails), ask(&w.here, &acme, w.dear("b"))) };
    let (first, second) = at_once(both).await;
    assert_eq!(first.unwrap_err().kind(), ErrorKind::RateLimited);
    assert_eq!((second.unwrap(), w.computed()), ("b".into(), 2));
    w.here.invalidate(&acme, &space(&acme), "k").await.unwrap();
    ask(&w.here, &acme, async { Err(failed()) }).await.unwrap_err();
    assert_eq!(at_once(ask(&w.there, &acme, w.dear("c"))).await.unwrap(), "c", "nor does another process wait");
}

#[tokio::test]
async fn a_panic_leaves_nothing_locked() {
    let w = World::new();
    let acme = context("acme", "ana", "analyst");
    let panics = async { panic!("as asked") };
    assert!(std::panic::AssertUnwindSafe(ask(&w.here, &acme, panics)).catch_unwind().await.is_err());
    assert_eq!(at_once(ask(&w.here, &acme, w.dear("b"))).await.unwrap(), "b");
}

#[tokio::test]
async fn what_was_invalidated_meanwhile_is_not_kept() {
    let w = World::new();
    let acme = context("acme", "ana", "analyst");
    let go = Notify::new();
    let old = async {
        go.notified().await;
        w.dear("old").await
    };
    let invalidate = async {
        assert!(w.there.invalidate(&acme, &space(&acme), "k").await.unwrap(), "the mark is there");
        go.notify_one();
    };
    let (value, ()) = join!(ask(&w.here, &acme, old), invalidate);
    assert_eq!(value.unwrap(), "old", "who asked before has what was true before");
    assert_eq!(ask(&w.here, &acme, w.dear("new")).await.unwrap(), "new");
}

#[tokio::test]
async fn one_who_lost_the_turn_does_not_write_over_the_next() {
    let w = World::new();
    let acme = context("acme", "ana", "analyst");
    let mut slow = Box::pin(ask(&w.here, &acme, async {
        tokio::task::yield_now().await;
        Ok("slow".into())
    }));
    assert!((&mut slow).now_or_never().is_none());
    // the process stands still for longer than its lease, as on a paused machine
    w.clock.advance(LEASE * 2);
    assert_eq!(ask(&w.there, &acme, w.dear("next")).await.unwrap(), "next");
    assert_eq!(slow.await.unwrap(), "slow");
    assert_eq!(ask(&w.here, &acme, w.dear("third")).await.unwrap(), "next");
}

#[tokio::test]
async fn tenants_share_nothing() {
    let w = World::new();
    let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "ana", "analyst"));
    let of_acme = space(&acme);
    let foreign = w.here.get_or_compute(&globex, &of_acme, "k", SOME, w.dear("stolen"));
    let (a, g, f) = join!(ask(&w.here, &acme, w.dear("a")), ask(&w.here, &globex, w.dear("g")), foreign);
    assert_eq!((a.unwrap(), g.unwrap()), ("a".into(), "g".into()), "isolation: the same names at the same time");
    assert_eq!(f.unwrap_err().kind(), ErrorKind::TenantMismatch);
    let invalidated = w.here.invalidate(&globex, &of_acme, "k").await;
    assert_eq!(invalidated.unwrap_err().kind(), ErrorKind::TenantMismatch);
    assert_eq!(w.computed(), 2, "isolation: nothing is computed for who may not have it");
}

#[tokio::test]
async fn nobody_waits_longer_than_allowed() {
    let w = World::new();
    let acme = context("acme", "ana", "analyst");
    let mut first = Box::pin(ask(&w.here, &acme, std::future::pending()));
    assert!((&mut first).now_or_never().is_none());
    let hurried = acme.with_deadline(w.clock.now().after(Duration::from_secs(1)));
    let cancelled = context("acme", "ana", "analyst");
    let cancel = async {
        tokio::task::yield_now().await;
        cancelled.cancellation().cancel();
    };
    let three = async { join!(ask(&w.here, &hurried, w.dear("b")), ask(&w.here, &cancelled, w.dear("c")), cancel) };
    let (late, stopped, ()) = w.passing(Duration::from_secs(2), three).await;
    assert_eq!(late.unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(stopped.unwrap_err().kind(), ErrorKind::Cancelled);
    assert_eq!(w.computed(), 0);
}

#[tokio::test]
async fn behind_the_guard_it_is_the_same_and_what_is_not_its_own_is_said() {
    let w = World::new();
    let acme = context("acme", "ana", "analyst");
    let guard = fake_guard(FakePolicy::allow_all(), w.clock.clone()).guard;
    let guarded = SingleFlight::new(Arc::new(Guarded::new(w.store.clone(), guard)), w.clock.clone());
    let asked = join_all((0..8).map(|_| ask(&guarded, &acme, w.dear("a")))).await;
    assert!(asked.into_iter().all(|value| value.unwrap() == "a") && w.computed() == 1);

    w.store.put(&acme, &space(&acme), "k", "written by hand".into(), PutOptions::default()).await.unwrap();
    assert_eq!(ask(&w.here, &acme, w.dear("a")).await.unwrap_err().kind(), ErrorKind::Corrupt);
}
