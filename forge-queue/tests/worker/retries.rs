//! Failures: tried again, given up, left alone for a while.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use forge_core::queue::{Broker, Nack, NewTask, TaskState};
use forge_core::{Error, ErrorKind};
use forge_queue::worker::{HandlerOptions, RetryPolicy, Settings};
use serde_json::{Value, json};

use crate::bench::{Bench, calm, does, down, secs, serve, slug};

#[tokio::test]
async fn the_handlers_policy_says_how_often() {
    let (b, runs) = (Bench::new(), Arc::new(AtomicUsize::new(0)));
    let count = runs.clone();
    let fails = does(move |_, _| {
        let n = count.fetch_add(1, Ordering::SeqCst);
        async move { if n < 4 { Err(Error::new(ErrorKind::Conflict, "t", "busy")) } else { Ok(json!(n)) } }
    });
    let policy = RetryPolicy::default().with_max_retries(4).with_retry_on([ErrorKind::Conflict]);
    let policy = policy.with_backoff(secs(1), secs(2));
    let worker = b.worker(1).handler_with(&slug("index"), fails, HandlerOptions::default().with_retry(policy));
    let task = NewTask::new(slug("index"), json!({})).with_max_retries(0);
    let id = b.enqueue_task("acme", task).await;
    serve(&worker);
    b.pass(20).await;
    assert_eq!(b.state(id).await, TaskState::Succeeded { result: json!(4) });
    assert_eq!(b.status("acme", id).await.attempts, 5);
}

#[tokio::test]
async fn a_panic_is_a_dead_letter_and_the_worker_goes_on() {
    let b = Bench::new();
    let worker = b.worker(1).handler(
        &slug("index"),
        does(|_, task| async move {
            assert!(task.payload["tenant"] == "globex", "a bug");
            Ok(Value::Null)
        }),
    );
    let (bad, good) = (b.enqueue("acme", "index").await, b.enqueue("globex", "index").await);
    serve(&worker);
    calm().await;
    let TaskState::Dead { report } = b.state(bad).await else { panic!("a panic is no success") };
    assert_eq!(report.kind, ErrorKind::Unexpected);
    assert!(matches!(b.status("globex", good).await.state, TaskState::Succeeded { .. }));
}

/// Names that the last question asked for.
fn asked(b: &Bench, since: usize) -> bool {
    b.broker.requests.lock().unwrap()[since..].iter().any(|r| r.names.contains(&slug("index")))
}

#[tokio::test]
async fn a_handler_that_fails_in_a_row_is_left_alone_and_tried_once_after_a_while() {
    let (b, runs, well) = (Bench::new(), Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let (count, is_well) = (runs.clone(), well.clone());
    let flaky = does(move |_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        let well = is_well.load(Ordering::SeqCst);
        async move { if well { Ok(Value::Null) } else { Err(down()) } }
    });
    let never = HandlerOptions::default().with_retry(RetryPolicy::default().with_max_retries(0));
    let worker = b.worker(4).handler_with(&slug("index"), flaky, never);
    let worker = worker.handler(&slug("other"), does(|_, _| async { Ok(Value::Null) }));
    for _ in 0..5 {
        b.enqueue("acme", "index").await;
    }
    serve(&worker);
    calm().await;
    assert_eq!(runs.load(Ordering::SeqCst), 5);
    for _ in 0..3 {
        b.enqueue("acme", "index").await;
    }
    let (other, since) = (b.enqueue("acme", "other").await, b.broker.requests.lock().unwrap().len());
    b.pass(29).await;
    assert_eq!((runs.load(Ordering::SeqCst), asked(&b, since)), (5, false), "open: its tasks are left where they are");
    assert!(matches!(b.state(other).await, TaskState::Succeeded { .. }), "other handlers go on");
    b.pass(2).await;
    assert_eq!(runs.load(Ordering::SeqCst), 6, "half open: one trial");
    b.pass(28).await;
    assert_eq!(runs.load(Ordering::SeqCst), 6, "it failed, so it is open again");
    well.store(true, Ordering::SeqCst);
    b.pass(4).await;
    assert_eq!(runs.load(Ordering::SeqCst), 8, "it went well, so the others follow");
    assert!(b.nacks().iter().all(|n| matches!(n, Nack::Dead { .. })), "no more than the trial is taken");
}

#[tokio::test]
async fn what_another_answers_between_closes_the_row() {
    let b = Bench::new();
    let mut settings = Settings::default();
    settings.breaker_failures = 2;
    let handler = does(|_, task| async move { if task.tenant == "acme" { Err(down()) } else { Ok(Value::Null) } });
    let worker = b.worker(1).with_settings(settings).handler(&slug("index"), handler);
    for _ in 0..4 {
        b.enqueue_task("acme", NewTask::new(slug("index"), json!({})).with_max_retries(0)).await;
        b.enqueue("globex", "index").await;
    }
    serve(&worker);
    calm().await;
    calm().await;
    let left = b.broker.lease(&forge_core::queue::LeaseRequest::new(vec![slug("index")], 9, secs(1))).await.unwrap();
    assert!(left.is_empty(), "isolation: one tenant's failures hold another's tasks up: {}", left.len());
}
