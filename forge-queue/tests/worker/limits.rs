//! Time limits.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use forge_core::error::Retryability;
use forge_core::queue::{Nack, TaskState};
use forge_core::{Clock, Error, ErrorKind};
use forge_queue::worker::{HandlerOptions, Limits, RetryPolicy, Settings};
use serde_json::json;

use crate::bench::{Bench, OnDrop, calm, does, secs, serve, slug};

fn limits(soft: Option<u64>, hard: Option<u64>) -> HandlerOptions {
    HandlerOptions::default().with_limits(Limits { soft: soft.map(secs), hard: hard.map(secs) })
}

/// Ends with an error as soon as it is told to stop.
fn heeds() -> Arc<dyn forge_core::queue::TaskHandler> {
    does(|ctx, _| async move {
        ctx.cancellation().cancelled().await;
        Err(Error::new(ErrorKind::Cancelled, "t", "told to stop"))
    })
}

#[tokio::test]
async fn a_soft_limit_tells_the_handler_and_is_a_timeout_that_may_be_tried_again() {
    let b = Bench::new();
    let worker = b.worker(1).handler_with(&slug("index"), heeds(), limits(Some(10), Some(20)));
    let id = b.enqueue("acme", "index").await;
    serve(&worker);
    calm().await;
    b.pass(9).await;
    assert!(b.nacks().is_empty());
    b.pass(1).await;
    let [Nack::Retry { report, .. }] = &b.nacks()[..] else { panic!("{:?}", b.nacks()) };
    assert_eq!((report.kind, report.message.as_str()), (ErrorKind::Timeout, "soft time limit exceeded"));
    let dead = limits(Some(10), None).with_retry(RetryPolicy::default().with_retry_on([ErrorKind::Unavailable]));
    worker.shutdown(secs(0)).await;
    let worker = b.worker(1).handler_with(&slug("index"), heeds(), dead);
    serve(&worker);
    b.pass(15).await;
    assert!(matches!(b.state(id).await, TaskState::Dead { .. }), "unless the policy says that it is not");
}

#[tokio::test]
async fn a_handler_that_saves_what_it_has_at_its_soft_limit_is_done() {
    let b = Bench::new();
    let handler = does(|ctx, _| async move {
        ctx.cancellation().cancelled().await;
        Ok(json!("half of it"))
    });
    let worker = b.worker(1).handler_with(&slug("index"), handler, limits(Some(10), None));
    let id = b.enqueue("acme", "index").await;
    serve(&worker);
    calm().await;
    b.pass(10).await;
    assert_eq!(b.state(id).await, TaskState::Succeeded { result: json!("half of it") });
}

#[tokio::test]
async fn a_hard_limit_drops_the_handler_and_gives_the_task_up() {
    let (b, dropped, seen) = (Bench::new(), Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(None)));
    let begun = b.clock.now();
    let (count, deadline) = (dropped.clone(), seen.clone());
    let handler = does(move |ctx, _| {
        let guard = OnDrop(count.clone());
        *deadline.lock().unwrap() = ctx.deadline();
        async move {
            let _guard = guard;
            std::future::pending().await
        }
    });
    let retried = RetryPolicy::default().with_retry_on([ErrorKind::Timeout]);
    let worker = b.worker(1).handler_with(&slug("index"), handler, limits(Some(10), Some(20)).with_retry(retried));
    let id = b.enqueue("acme", "index").await;
    serve(&worker);
    calm().await;
    assert_eq!(*seen.lock().unwrap(), Some(begun.after(secs(20))), "nothing begins after it");
    b.pass(19).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 0);
    b.pass(1).await;
    assert_eq!(dropped.load(Ordering::SeqCst), 1);
    let TaskState::Dead { report } = b.state(id).await else { panic!("a hard limit is final, whatever is retried") };
    assert_eq!((report.kind, report.retry), (ErrorKind::Timeout, Retryability::Never));
}

#[tokio::test]
async fn the_senders_limits_hold_where_they_are_shorter() {
    let b = Bench::with(|broker| {
        broker.tamper = |lease| (lease.soft_time_limit, lease.time_limit) = (Some(secs(3)), Some(secs(90)));
    });
    let mut settings = Settings::default();
    settings.limits = Limits { soft: Some(secs(60)), hard: Some(secs(7)) };
    let stubborn = does(|_, _| std::future::pending());
    let worker = b.worker(2).with_settings(settings).handler(&slug("heeds"), heeds()).handler(&slug("other"), stubborn);
    let (first, second) = (b.enqueue("acme", "heeds").await, b.enqueue("acme", "other").await);
    serve(&worker);
    calm().await;
    b.pass(3).await;
    assert_eq!(b.state(first).await, TaskState::Ready, "the sender's soft limit");
    b.pass(3).await;
    assert_eq!(b.state(second).await, TaskState::Leased);
    b.pass(1).await;
    assert!(matches!(b.state(second).await, TaskState::Dead { .. }), "the worker's hard limit");
}
