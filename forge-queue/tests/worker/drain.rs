//! Shutting down.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use forge_core::queue::{NewTask, TaskState};
use forge_core::{Clock, Error, ErrorKind};
use forge_queue::worker::{Drained, Worker};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::bench::{Bench, OnDrop, calm, does, secs, serve, slug};

async fn shutdown(b: &Bench, worker: &Worker, within: u64) -> Drained {
    let worker = worker.clone();
    let stopped = tokio::spawn(async move { worker.shutdown(secs(within)).await });
    calm().await;
    b.pass(within).await;
    // two seconds more for a broker that does not answer
    b.pass(2).await;
    stopped.await.unwrap()
}

#[tokio::test]
async fn what_runs_may_end_what_is_told_may_stop_and_the_rest_is_dropped() {
    let (b, dropped) = (Bench::new(), Arc::new(AtomicUsize::new(0)));
    let (clock, count) = (b.clock.clone(), dropped.clone());
    let worker = b.worker(4);
    let worker = worker.handler(
        &slug("short"),
        does(move |_, _| {
            let clock = clock.clone();
            async move {
                clock.sleep(secs(10)).await;
                Ok(json!("done"))
            }
        }),
    );
    let worker = worker.handler(
        &slug("heeds"),
        does(|ctx, _| async move {
            ctx.cancellation().cancelled().await;
            Err(Error::new(ErrorKind::Cancelled, "t", "told to stop"))
        }),
    );
    let worker = worker.handler(
        &slug("stubborn"),
        does(move |_, _| {
            let guard = OnDrop(count.clone());
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        }),
    );
    let short = b.enqueue("acme", "short").await;
    let heeds = b.enqueue("acme", "heeds").await;
    let stubborn = b.enqueue("acme", "stubborn").await;
    let last = NewTask::new(slug("stubborn"), json!({})).with_max_retries(0);
    let last = b.enqueue_task("acme", last).await;
    let serving = serve(&worker);
    calm().await;
    let late = b.enqueue("acme", "short").await;
    let drained = shutdown(&b, &worker, 30).await;
    assert_eq!(drained, Drained { finished: 1, cut: 3, released: 0 });
    serving.await.unwrap();
    assert_eq!(b.state(short).await, TaskState::Succeeded { result: json!("done") });
    assert_eq!(b.state(heeds).await, TaskState::Ready, "another worker begins again at once");
    assert_eq!((b.state(stubborn).await, dropped.load(Ordering::SeqCst)), (TaskState::Ready, 2));
    assert_eq!(b.state(last).await, TaskState::Leased, "nobody begins a last try again without a look");
    assert_eq!(b.status("acme", late).await.attempts, 0, "no more tasks are taken");
}

#[tokio::test]
async fn an_idle_worker_stops_without_waiting() {
    let b = Bench::new();
    let worker = b.worker(2).handler(&slug("index"), does(|_, _| async { Ok(Value::Null) }));
    let serving = serve(&worker);
    calm().await;
    // time stands still
    assert_eq!(worker.shutdown(secs(30)).await, Drained::default());
    serving.await.unwrap();
}

#[tokio::test]
async fn a_handler_that_was_told_to_stop_may_still_finish() {
    let b = Bench::new();
    let worker = b.worker(2).handler(
        &slug("index"),
        does(|ctx, _| async move {
            ctx.cancellation().cancelled().await;
            Ok(json!("saved"))
        }),
    );
    let id = b.enqueue("acme", "index").await;
    serve(&worker);
    calm().await;
    assert_eq!(shutdown(&b, &worker, 10).await, Drained { finished: 1, cut: 0, released: 0 });
    assert_eq!(b.state(id).await, TaskState::Succeeded { result: json!("saved") });
}

#[tokio::test]
async fn what_was_leased_and_not_begun_is_given_back() {
    let (b, runs) = (Bench::with(|broker| broker.gate = Semaphore::new(0)), Arc::new(AtomicUsize::new(0)));
    let count = runs.clone();
    let worker = b.worker(2).handler(
        &slug("index"),
        does(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok(Value::Null) }
        }),
    );
    let ids = [b.enqueue("acme", "index").await, b.enqueue("acme", "index").await];
    serve(&worker);
    calm().await;
    assert_eq!(b.state(ids[0]).await, TaskState::Leased, "the broker has given them, the worker does not know yet");
    let stopping = tokio::spawn({
        let worker = worker.clone();
        async move { worker.shutdown(secs(30)).await }
    });
    calm().await;
    b.broker.gate.add_permits(1);
    calm().await;
    assert_eq!(stopping.await.unwrap(), Drained { finished: 0, cut: 0, released: 2 });
    for id in ids {
        let status = b.status("acme", id).await;
        assert_eq!((status.state, status.attempts), (TaskState::Ready, 0));
    }
    assert_eq!(runs.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_broker_that_does_not_answer_keeps_nobody() {
    let b = Bench::new();
    b.broker.deaf.store(usize::MAX, Ordering::SeqCst);
    let worker = b.worker(1).handler(&slug("index"), does(|_, _| async { Ok(Value::Null) }));
    let id = b.enqueue("acme", "index").await;
    let serving = serve(&worker);
    calm().await;
    assert_eq!(shutdown(&b, &worker, 10).await, Drained { finished: 0, cut: 1, released: 0 });
    serving.await.unwrap();
    let told = b.broker.told.load(Ordering::SeqCst);
    b.pass(60).await;
    assert_eq!(b.broker.told.load(Ordering::SeqCst), told, "nobody tries on after the end");
    assert_eq!((b.state(id).await, b.nacks().len()), (TaskState::Leased, 0), "its lease runs out");
}
