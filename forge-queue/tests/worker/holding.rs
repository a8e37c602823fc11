//! Leases: renewed, lost, settled.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use forge_core::queue::{TaskQueue, TaskState};
use forge_core::{Clock, ErrorKind, SystemClock};
use serde_json::json;

use crate::bench::{Bench, OnDrop, calm, ctx, does, secs, serve, slug};

#[tokio::test]
async fn settling_is_tried_again_until_the_broker_hears_it() {
    let (b, runs) = (Bench::new(), Arc::new(AtomicUsize::new(0)));
    b.broker.deaf.store(20, Ordering::SeqCst);
    let count = runs.clone();
    let worker = b.worker(2).handler(
        &slug("index"),
        does(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok(json!("done")) }
        }),
    );
    let id = b.enqueue("acme", "index").await;
    serve(&worker);
    b.pass(120).await;
    assert_eq!(b.state(id).await, TaskState::Succeeded { result: json!("done") });
    assert_eq!(runs.load(Ordering::SeqCst), 1, "a lease is renewed while it is settled, so nobody else gets the task");
}

#[tokio::test]
async fn a_failure_is_told_until_the_broker_hears_it() {
    let b = Bench::new();
    b.broker.deaf.store(3, Ordering::SeqCst);
    let worker = b.worker(2).handler(&slug("index"), does(|_, _| async { Err(forge_core::Error::invalid("t", "no")) }));
    let id = b.enqueue("acme", "index").await;
    serve(&worker);
    b.pass(20).await;
    assert!(matches!(b.state(id).await, TaskState::Dead { .. }));
    assert_eq!(b.broker.told.load(Ordering::SeqCst), 4);
}

#[tokio::test]
async fn settling_ends_with_the_lease() {
    let (b, runs) = (Bench::new(), Arc::new(AtomicUsize::new(0)));
    let count = runs.clone();
    b.broker.deaf.store(usize::MAX, Ordering::SeqCst);
    *b.broker.renewal.lock().unwrap() = Some(ErrorKind::Unavailable);
    let handler = does(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        async { Ok(json!("done")) }
    });
    let worker = b.worker(1).handler(&slug("index"), handler);
    let id = b.enqueue("acme", "index").await;
    serve(&worker);
    b.pass(29).await;
    assert!(b.broker.told.load(Ordering::SeqCst) > 3);
    assert_eq!(runs.load(Ordering::SeqCst), 1, "its place is not free before");
    b.pass(2).await;
    assert_eq!(
        (runs.load(Ordering::SeqCst), b.status("acme", id).await.attempts),
        (2, 2),
        "the lease is another one now"
    );
    assert!(b.nacks().is_empty(), "what is done and not heard is no failure");
}

#[tokio::test]
async fn a_result_that_cannot_be_kept_is_a_dead_letter() {
    let b = Bench::new();
    let worker = b.worker(1).handler(&slug("index"), does(|_, _| async { Ok(json!("done")) }));
    *b.broker.refuses.lock().unwrap() = Some(ErrorKind::InvalidInput);
    let id = b.enqueue("acme", "index").await;
    serve(&worker);
    calm().await;
    let TaskState::Dead { report } = b.state(id).await else { panic!("it would be tried again for nothing") };
    assert_eq!(report.kind, ErrorKind::InvalidInput);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_that_blocks_its_thread_keeps_its_lease() {
    let b = Bench::new();
    let (begun, wait) = mpsc::channel();
    let (go, gone) = mpsc::channel::<()>();
    let gone = Arc::new(Mutex::new(gone));
    let worker = b.worker(1).handler(
        &slug("index"),
        does(move |_, _| {
            let (begun, gone) = (begun.clone(), gone.clone());
            async move {
                begun.send(()).unwrap();
                // no await here: the thread is blocked
                Ok(json!(gone.lock().unwrap().recv_timeout(secs(60)).is_ok()))
            }
        }),
    );
    let id = b.enqueue("acme", "index").await;
    serve(&worker);
    tokio::task::spawn_blocking(move || wait.recv_timeout(secs(60)).unwrap()).await.unwrap();
    for n in 1..=6 {
        for _ in 0..2 {
            b.clock.advance(secs(11));
            // the renewal may have looked at the clock just after it was moved: then once more
            let renewed = async {
                while b.broker.renewed.load(Ordering::SeqCst) < n {
                    pause().await
                }
            };
            if tokio::time::timeout(secs(10), renewed).await.is_ok() {
                break;
            }
        }
        assert!(b.broker.renewed.load(Ordering::SeqCst) >= n, "renewal {n} of a blocked handler does not come");
    }
    go.send(()).unwrap();
    let ended = async {
        while b.state(id).await == TaskState::Leased {
            pause().await
        }
    };
    tokio::time::timeout(secs(60), ended).await.unwrap();
    assert_eq!(b.status("acme", id).await.attempts, 1);
    assert_eq!(b.state(id).await, TaskState::Succeeded { result: json!(true) });
}

#[tokio::test]
async fn a_handler_whose_task_was_cancelled_is_told_and_not_settled() {
    let (b, told) = (Bench::new(), Arc::new(AtomicUsize::new(0)));
    let count = told.clone();
    let worker = b.worker(1).handler(
        &slug("index"),
        does(move |ctx, _| {
            let count = count.clone();
            async move {
                ctx.cancellation().cancelled().await;
                count.fetch_add(1, Ordering::SeqCst);
                Ok(json!("too late"))
            }
        }),
    );
    let id = b.enqueue("acme", "index").await;
    serve(&worker);
    calm().await;
    assert!(b.broker.queue.cancel(&ctx("acme"), id).await.unwrap());
    calm().await;
    assert_eq!(told.load(Ordering::SeqCst), 1, "the queue knows, so no renewal is waited for");
    assert_eq!((b.state(id).await, b.broker.told.load(Ordering::SeqCst)), (TaskState::Cancelled, 0));
}

#[tokio::test]
async fn a_handler_that_does_not_heed_a_lost_lease_is_dropped_after_a_grace() {
    let (b, dropped) = (Bench::new(), Arc::new(AtomicUsize::new(0)));
    let count = dropped.clone();
    let worker = b.worker(1).handler(
        &slug("index"),
        does(move |_, _| {
            let guard = OnDrop(count.clone());
            async move {
                let _guard = guard;
                std::future::pending().await
            }
        }),
    );
    b.enqueue("acme", "index").await;
    serve(&worker);
    calm().await;
    *b.broker.renewal.lock().unwrap() = Some(ErrorKind::LeaseLost);
    b.pass(14).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 0, "10 seconds to the renewal, and a grace of 5");
    b.pass(1).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    assert_eq!(b.broker.told.load(Ordering::SeqCst), 0, "nothing is said about another's task");
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_in_time_is_lost() {
    let (b, told) = (Bench::new(), Arc::new(Mutex::new(None)));
    let (clock, when) = (b.clock.clone(), told.clone());
    let worker = b.worker(1).handler(
        &slug("index"),
        does(move |ctx, _| {
            let (clock, when) = (clock.clone(), when.clone());
            async move {
                ctx.cancellation().cancelled().await;
                when.lock().unwrap().get_or_insert(clock.monotonic());
                std::future::pending().await
            }
        }),
    );
    b.enqueue("acme", "index").await;
    serve(&worker);
    calm().await;
    *b.broker.renewal.lock().unwrap() = Some(ErrorKind::Unavailable);
    b.pass(12).await;
    *b.broker.renewal.lock().unwrap() = None;
    b.pass(10).await;
    assert_eq!(*told.lock().unwrap(), None, "a renewal that failed is tried again before the lease is over");
    *b.broker.renewal.lock().unwrap() = Some(ErrorKind::Timeout);
    b.pass(60).await;
    let when = told.lock().unwrap().unwrap();
    assert!(when > secs(30) && when <= secs(60), "{when:?}");
}

/// Between two looks at what threads do.
async fn pause() {
    SystemClock.sleep(std::time::Duration::from_millis(1)).await;
}
