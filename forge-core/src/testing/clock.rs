//! The suite of [`Clock`].

#![expect(clippy::indexing_slicing, reason = "a suite says what failed by panicking")]

use std::sync::Arc;
use std::time::Duration;

use futures::{FutureExt, pin_mut};

use super::fixture::Fixture;
use super::spy::{Called, Spy, spy};
use crate::Timestamp;
use crate::time::{Clock, SystemClock};

spy! { Clock:
    fn now(&self) -> Timestamp;
    fn monotonic(&self) -> Duration;
    async fn sleep(&self, duration: Duration);
}

impl<C: Clock> From<C> for Fixture<dyn Clock> {
    fn from(clock: C) -> Self {
        Self::new(Arc::new(clock))
    }
}

/// Long enough to see, short enough to wait for.
const NAP: Duration = Duration::from_millis(5);

/// Runs every scenario on fresh clocks that `fresh` makes; the fixture of one that stands still has it as its clock.
///
/// # Panics
/// With the scenario's name, where the clock does not keep the [contract](Clock).
pub async fn clock<C: Into<Fixture<dyn Clock>>>(fresh: impl AsyncFn() -> C) {
    let called = Called::default();
    let made = async || {
        let fixture: Fixture<dyn Clock> = fresh().await.into();
        fixture.map(|clock| Arc::new(Spy::new(clock, &called)))
    };
    never_goes_back(&made().await).await;
    nothing_is_no_time(&made().await).await;
    sleeps_long_enough(&made().await).await;
    a_dropped_sleep_is_forgotten(&made().await).await;
    sleeps_of_any_length(&made().await).await;
    the_wall_clock_is_in_its_range(&made().await);
    called.complete::<dyn Clock>();
}

async fn never_goes_back(f: &Fixture<dyn Clock>) {
    let clock = f.adapter.as_ref();
    let run = || {
        let read: Vec<Duration> = (0..1000).map(|_| clock.monotonic()).collect();
        assert!(read.windows(2).all(|w| w[0] <= w[1]), "monotonic: it goes back");
        read.last().copied().unwrap_or_default()
    };
    let before = clock.monotonic();
    let latest = std::thread::scope(|threads| {
        let all: Vec<_> = (0..4).map(|_| threads.spawn(run)).collect();
        all.into_iter().map(|t| t.join().expect("monotonic: the same on every thread")).max()
    });
    assert!(latest.is_some_and(|l| before <= l && l <= clock.monotonic()), "monotonic: one for all threads");
    futures::join!(clock.sleep(NAP), f.pass(NAP));
    assert!(clock.monotonic() >= before + NAP, "monotonic: time passes");
}

/// Polled until a deadline of the machine's, since a sleep that waited for others would wait for a clock that nobody moves.
async fn nothing_is_no_time(f: &Fixture<dyn Clock>) {
    let sleep = f.adapter.sleep(Duration::ZERO);
    pin_mut!(sleep);
    let began = SystemClock.monotonic();
    while sleep.as_mut().now_or_never().is_none() {
        let waited = SystemClock.monotonic() - began;
        assert!(waited < Duration::from_secs(10), "a sleep of zero ends without waiting for anything");
        SystemClock.sleep(Duration::from_millis(1)).await;
    }
}

async fn sleeps_long_enough(f: &Fixture<dyn Clock>) {
    let clock = f.adapter.as_ref();
    let before = clock.monotonic();
    let nap = async {
        clock.sleep(NAP).await;
        clock.monotonic() - before
    };
    let half = async {
        f.pass(NAP / 2).await;
        tokio::task::yield_now().await;
        f.pass(NAP).await;
    };
    let (slept, ()) = futures::join!(nap, half);
    assert!(slept >= NAP, "a sleep ends no earlier than its duration: {slept:?}");
    let past = async {
        futures::future::join_all((1..=8).map(|n| clock.sleep(NAP * n))).await;
        clock.monotonic() - before
    };
    let (slept, ()) = futures::join!(past, f.pass(NAP * 8));
    assert!(slept >= NAP * 8, "many at once: the longest is waited for: {slept:?}");
}

async fn a_dropped_sleep_is_forgotten(f: &Fixture<dyn Clock>) {
    let clock = f.adapter.as_ref();
    let other = clock.sleep(NAP);
    pin_mut!(other);
    let early = other.as_mut().now_or_never();
    for _ in 0..100 {
        let _dropped = clock.sleep(NAP).now_or_never();
        let _never_polled = clock.sleep(NAP);
    }
    if early.is_none() {
        futures::join!(other, f.pass(NAP));
    }
    futures::join!(clock.sleep(NAP), f.pass(NAP));
}

/// Whoever has no limit asks for the largest duration.
async fn sleeps_of_any_length(f: &Fixture<dyn Clock>) {
    let clock = f.adapter.as_ref();
    futures::join!(clock.sleep(NAP), f.pass(NAP));
    for length in [Duration::MAX, Duration::from_secs(u64::from(u32::MAX))] {
        let _still_asleep = clock.sleep(length).now_or_never();
        let before = clock.monotonic();
        futures::join!(clock.sleep(Duration::ZERO), f.pass(Duration::ZERO));
        assert!(clock.monotonic() >= before, "a sleep of {length:?} leaves the clock whole");
    }
}

fn the_wall_clock_is_in_its_range(f: &Fixture<dyn Clock>) {
    let since: Timestamp = "2025-01-01T00:00:00Z".parse().expect("a time");
    assert!(f.adapter.now() > since, "the wall clock is after this was written");
    assert!(f.adapter.now().to_string().parse::<Timestamp>().is_ok(), "the wall clock can be written down");
}
