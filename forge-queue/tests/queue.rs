//! The queue's promises: nothing lost, one worker at a time, everybody in turn.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use common::{VISIBILITY, World, ctx, lease, lease_one, open, refused, slug, task};
use forge_core::fake::{FakeKeyring, SkippingClock};
use forge_core::queue::{Broker, LeaseRequest, Nack, Priority, QueueDepth, TaskQueue, TaskState};
use forge_core::testing::context;
use forge_core::{Clock, Depth, Digest, Error, ErrorKind, HealthCheck, OperationKey, SealedFor, Status};
use forge_queue::dead::{DeadLetters, LetterFilter};
use forge_queue::limits::{QueueControl, QueueLimits};
use forge_queue::sqlite::SqliteStore;
use serde_json::json;

fn broken() -> Error {
    Error::new(ErrorKind::Unavailable, "tool.call", "the far side is down")
}

#[tokio::test]
async fn a_task_goes_from_ready_to_its_result() {
    let w = World::new().await;
    let acme = ctx("acme");
    let id = w.store.enqueue(&acme, task("index", json!({ "document": 7 }))).await.unwrap();
    let one = lease_one(&w.store).await;
    assert_eq!((one.id, one.attempt, one.fence, one.queue.as_str()), (id, 1, 1, "acme.default"));
    assert_eq!(one.payload, json!({ "document": 7 }));
    assert_eq!(w.store.depth(&acme).await.unwrap(), QueueDepth { leased: 1, ..QueueDepth::default() });
    w.store.ack(&one, json!({ "pages": 3 })).await.unwrap();
    let status = w.store.status(&acme, id).await.unwrap();
    assert_eq!(status.state, TaskState::Succeeded { result: json!({ "pages": 3 }) });
    assert_eq!(status.attempts, 1);
    assert!(lease(&w.store, 1).await.is_empty());
    refused(w.store.ack(&one, json!(null)).await, ErrorKind::LeaseLost);
    assert_eq!(w.store.check(Depth::Deep).await.status, Status::Up);
}

#[tokio::test]
async fn the_seal_fits_what_the_worker_gets_to_the_last_digit() {
    let w = World::new().await;
    let payload = json!({ "rate": 0.1 + 0.2, "tiny": 5e-324, "odd": 2.225_073_858_507_201e-308, "third": 1.0 / 3.0, "text": "ä\u{2028}" });
    w.store.enqueue(&ctx("acme"), task("index", payload)).await.unwrap();
    let one = lease_one(&w.store).await;
    let body = Digest::of(one.payload.to_string().as_bytes());
    let bound = SealedFor { id: one.id.to_string(), name: "index".into(), queue: one.queue.clone(), body };
    let opened = one.context.open(&bound, &FakeKeyring, w.now()).unwrap();
    assert_eq!(opened.tenant(), &"acme");
    let other = SealedFor { queue: "globex.default".into(), ..bound };
    refused(one.context.open(&other, &FakeKeyring, w.now()), ErrorKind::Unauthenticated);
}

#[tokio::test]
async fn only_what_is_due_and_has_a_handler_is_leased() {
    let w = World::new().await;
    let acme = ctx("acme");
    w.store.enqueue(&acme, task("other", json!(1))).await.unwrap();
    w.store.enqueue(&acme, task("index", json!(2)).with_delay(Duration::from_secs(60))).await.unwrap();
    assert!(lease(&w.store, 10).await.is_empty());
    w.clock.advance(Duration::from_secs(60));
    let due = lease(&w.store, 10).await;
    assert_eq!(due.iter().map(|l| l.payload.clone()).collect::<Vec<_>>(), [json!(2)]);
    let both = LeaseRequest::new(vec![slug("index"), slug("other")], 10, VISIBILITY);
    assert_eq!(w.store.lease(&both).await.unwrap().len(), 1);
}

#[tokio::test]
async fn tasks_of_one_tenant_come_in_the_order_they_were_queued() {
    let w = World::new().await;
    for n in 0..20 {
        w.store.enqueue(&ctx("acme"), task("index", json!(n))).await.unwrap();
    }
    let order: Vec<_> = lease(&w.store, 20).await.into_iter().map(|l| l.payload).collect();
    assert_eq!(order, (0..20).map(|n| json!(n)).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_lost_lease_is_given_again_under_a_higher_fence_and_the_old_one_changes_nothing() {
    let w = World::new().await;
    let acme = ctx("acme");
    let id = w.store.enqueue(&acme, task("index", json!(1))).await.unwrap();
    let first = lease_one(&w.store).await;
    w.clock.advance(VISIBILITY / 2);
    assert_eq!(w.store.renew(&first, VISIBILITY).await.unwrap(), w.now().after(VISIBILITY));
    w.clock.advance(VISIBILITY / 2);
    assert!(lease(&w.store, 1).await.is_empty(), "renewed, so still held");
    w.clock.advance(VISIBILITY / 2);
    let second = lease_one(&w.store).await;
    assert_eq!((second.id, second.attempt), (id, 2));
    assert!(second.fence > first.fence);
    refused(w.store.renew(&first, VISIBILITY).await, ErrorKind::LeaseLost);
    refused(w.store.ack(&first, json!("old")).await, ErrorKind::LeaseLost);
    refused(w.store.nack(&first, Nack::Dead { report: broken().report() }).await, ErrorKind::LeaseLost);
    w.store.ack(&second, json!("new")).await.unwrap();
    assert_eq!(w.store.status(&acme, id).await.unwrap().state, TaskState::Succeeded { result: json!("new") });
}

#[tokio::test]
async fn a_task_that_takes_its_workers_down_is_given_up() {
    let w = World::new().await;
    let acme = ctx("acme");
    let id = w.store.enqueue(&acme, task("index", json!(1)).with_max_retries(2)).await.unwrap();
    for attempt in 1..=3 {
        assert_eq!(lease_one(&w.store).await.attempt, attempt);
        w.clock.advance(VISIBILITY);
    }
    assert!(lease(&w.store, 1).await.is_empty());
    let TaskState::Dead { report } = w.store.status(&acme, id).await.unwrap().state else { panic!("must be dead") };
    assert_eq!((report.kind, report.message.as_str()), (ErrorKind::UnknownOutcome, "lease lost too often"));
}

#[tokio::test]
async fn a_failure_is_retried_later_and_then_a_dead_letter_that_can_be_replayed() {
    let w = World::new().await;
    let acme = ctx("acme");
    let id = w.store.enqueue(&acme, task("index", json!(1)).with_max_retries(1)).await.unwrap();
    let retry = || Nack::Retry { after: Duration::from_secs(5), report: broken().report() };
    let first = lease_one(&w.store).await;
    assert!(lease(&w.store, 1).await.is_empty(), "the queue believes that nothing is due before the lease runs out");
    w.store.nack(&first, retry()).await.unwrap();
    assert!(lease(&w.store, 1).await.is_empty(), "not before its time");
    w.clock.advance(Duration::from_secs(5));
    let last = lease_one(&w.store).await;
    w.store.nack(&last, retry()).await.unwrap();
    let letters = w.store.dead_letters(&acme, &LetterFilter::default(), 10).await.unwrap();
    assert_eq!((letters.len(), letters[0].id, letters[0].attempts), (1, id, 2));
    assert_eq!(letters[0].report, broken().report());
    assert!(w.store.dead_letters(&ctx("globex"), &LetterFilter::default(), 10).await.unwrap().is_empty());
    refused(w.store.replay(&ctx("globex"), id).await, ErrorKind::NotFound);

    // the seal of the first queueing is past its time, so the replay has one of its own
    w.clock.advance(Duration::from_secs(48 * 3600));
    w.store.replay(&context("acme", "pat", "operator"), id).await.unwrap();
    refused(w.store.replay(&acme, id).await, ErrorKind::Conflict);
    let again = lease_one(&w.store).await;
    assert_eq!((again.id, again.attempt), (id, 1));
    assert!(again.fence > last.fence);
    let body = Digest::of(again.payload.to_string().as_bytes());
    let bound = SealedFor { id: id.to_string(), name: "index".into(), queue: again.queue.clone(), body };
    assert_eq!(again.context.open(&bound, &FakeKeyring, w.now()).unwrap().employee(), &"pat");
}

#[tokio::test]
async fn an_expired_task_dies_even_if_no_worker_knows_its_name() {
    let w = World::new().await;
    let acme = ctx("acme");
    let mut expiring = task("unknown", json!(1));
    expiring.expires = Duration::from_secs(10);
    let id = w.store.enqueue(&acme, expiring).await.unwrap();
    w.clock.advance(Duration::from_secs(10));
    assert!(lease(&w.store, 1).await.is_empty());
    let TaskState::Dead { report } = w.store.status(&acme, id).await.unwrap().state else { panic!("must be dead") };
    assert_eq!(report.kind, ErrorKind::Timeout);
    assert_eq!(w.store.depth(&acme).await.unwrap().dead, 1);
}

#[tokio::test]
async fn what_expired_while_it_was_paused_is_a_dead_letter_and_takes_no_room() {
    let w = World::new().await;
    let acme = ctx("acme");
    let limits = QueueLimits::default().with_length(2);
    w.store.set_limits(acme.tenant(), limits).await.unwrap();
    w.store.pause(acme.tenant()).await.unwrap();
    let short = || task("index", json!(1)).with_expires(Duration::from_secs(10));
    let key = OperationKey::derived(&[b"k"]);
    let first = w.store.enqueue(&acme, short().with_unique(key.clone())).await.unwrap();
    w.store.enqueue(&acme, short()).await.unwrap();
    refused(w.store.enqueue(&acme, short()).await, ErrorKind::QuotaExceeded);
    w.clock.advance(Duration::from_secs(10));
    let again = w.store.enqueue(&acme, short().with_unique(key)).await.unwrap();
    assert_ne!(again, first, "the key of what expired is free");
    assert_eq!(
        w.store.depth(&acme).await.unwrap(),
        QueueDepth { ready: 2, leased: 0, dead: 1 },
        "one is left to clear"
    );
    w.store.enqueue(&acme, short()).await.unwrap();
    assert_eq!(w.store.depth(&acme).await.unwrap(), QueueDepth { ready: 2, leased: 0, dead: 2 });
    refused(w.store.replay(&acme, first).await, ErrorKind::Conflict);
    assert!(w.store.cancel(&acme, again).await.unwrap());
    w.store.replay(&acme, first).await.unwrap();
    w.store.resume(acme.tenant()).await.unwrap();
    assert_eq!(lease(&w.store, 9).await.len(), 2);
}

#[tokio::test]
async fn a_priority_outlives_a_lost_lease_and_a_replay() {
    let w = World::new().await;
    let acme = ctx("acme");
    let low = w.store.enqueue(&acme, task("index", json!(0)).with_priority(Priority::Low)).await.unwrap();
    lease_one(&w.store).await;
    w.clock.advance(VISIBILITY);
    let normal = w.store.enqueue(&acme, task("index", json!(1))).await.unwrap();
    let lost: Vec<_> = lease(&w.store, 2).await;
    assert_eq!(lost.iter().map(|l| l.id).collect::<Vec<_>>(), [normal, low]);
    for one in &lost {
        w.store.nack(one, Nack::Dead { report: broken().report() }).await.unwrap();
    }
    for id in [low, normal] {
        w.store.replay(&acme, id).await.unwrap();
    }
    let again: Vec<_> = lease(&w.store, 2).await.into_iter().map(|l| l.id).collect();
    assert_eq!(again, [normal, low]);
}

#[tokio::test]
async fn a_backlog_of_what_expired_is_cleared_in_one_lease() {
    let w = World::new().await;
    let acme = ctx("acme");
    let short = (0..1100).map(|n| w.store.enqueue(&acme, task("x", json!(n)).with_expires(Duration::from_secs(1))));
    for done in futures::future::join_all(short.collect::<Vec<_>>()).await {
        done.unwrap();
    }
    w.clock.advance(Duration::from_secs(1));
    w.store.enqueue(&acme, task("index", json!(1))).await.unwrap();
    lease_one(&w.store).await;
    assert_eq!(w.store.depth(&acme).await.unwrap(), QueueDepth { ready: 0, leased: 1, dead: 1100 });
}

#[tokio::test]
async fn who_lost_its_lease_is_told() {
    let w = World::new().await;
    w.store.enqueue(&ctx("acme"), task("index", json!(1))).await.unwrap();
    let first = lease_one(&w.store).await;
    w.clock.advance(VISIBILITY);
    lease_one(&w.store).await;
    assert!(!first.lost.is_cancelled(), "nobody asked yet");
    refused(w.store.renew(&first, VISIBILITY).await, ErrorKind::LeaseLost);
    assert!(first.lost.is_cancelled());
}

#[tokio::test]
async fn a_unique_key_names_one_unfinished_task_of_one_tenant() {
    let w = World::new().await;
    let key = OperationKey::derived(&[b"nightly"]);
    let unique = || task("index", json!(1)).with_unique(key.clone());
    let first = w.store.enqueue(&ctx("acme"), unique()).await.unwrap();
    assert_eq!(w.store.enqueue(&ctx("acme"), unique()).await.unwrap(), first);
    let foreign = w.store.enqueue(&ctx("globex"), unique()).await.unwrap();
    assert_ne!(foreign, first);
    for one in lease(&w.store, 10).await {
        w.store.ack(&one, json!(null)).await.unwrap();
    }
    assert_ne!(w.store.enqueue(&ctx("acme"), unique()).await.unwrap(), first, "finished, so free again");
}

#[tokio::test]
async fn a_cancelled_task_is_nobodys() {
    let w = World::new().await;
    let acme = ctx("acme");
    let id = w.store.enqueue(&acme, task("index", json!(1))).await.unwrap();
    let held = lease_one(&w.store).await;
    assert!(w.store.cancel(&acme, id).await.unwrap());
    assert!(!w.store.cancel(&acme, id).await.unwrap());
    refused(w.store.renew(&held, VISIBILITY).await, ErrorKind::LeaseLost);
    refused(w.store.ack(&held, json!(1)).await, ErrorKind::LeaseLost);
    assert_eq!(w.store.status(&acme, id).await.unwrap().state, TaskState::Cancelled);
}

#[tokio::test]
async fn a_payload_beyond_the_limit_is_refused() {
    let w = World::new().await;
    let max = w.store.capability().payload_max_size;
    let fits = "x".repeat(max - 2);
    w.store.enqueue(&ctx("acme"), task("index", json!(fits))).await.unwrap();
    refused(w.store.enqueue(&ctx("acme"), task("index", json!(fits + "x"))).await, ErrorKind::InvalidInput);
}

#[tokio::test]
async fn who_floods_does_not_starve_the_others() {
    let w = World::new().await;
    for n in 0..500 {
        w.store.enqueue(&ctx("a"), task("index", json!(n))).await.unwrap();
    }
    for n in 0..10 {
        w.store.enqueue(&ctx("b"), task("index", json!(n))).await.unwrap();
        w.store.enqueue(&ctx("c"), task("index", json!(n))).await.unwrap();
    }
    let mut last = BTreeMap::new();
    for delivery in 1..=60 {
        last.insert(lease_one(&w.store).await.tenant.to_string(), delivery);
    }
    assert!(last["b"] <= 40 && last["c"] <= 40, "{last:?}");
    assert_eq!(w.store.depth(&ctx("a")).await.unwrap().leased, 40);
}

#[tokio::test]
async fn a_batch_is_shared_as_single_leases_are_and_idleness_earns_no_credit() {
    let w = World::new().await;
    for _ in 0..200 {
        w.store.enqueue(&ctx("a"), task("index", json!(0))).await.unwrap();
    }
    assert_eq!(lease(&w.store, 100).await.len(), 100);
    // b was away all that time; it gets every second turn, not a hundred in a row
    for _ in 0..100 {
        w.store.enqueue(&ctx("b"), task("index", json!(0))).await.unwrap();
    }
    let of_b = lease(&w.store, 40).await.iter().filter(|l| l.tenant == "b").count();
    assert!((19..=21).contains(&of_b), "{of_b}");
}

#[tokio::test]
async fn more_tenants_than_one_page_are_all_served_once_before_any_is_served_twice() {
    let w = World::new().await;
    for t in 0..50 {
        for _ in 0..2 {
            w.store.enqueue(&ctx(&format!("t{t}")), task("index", json!(t))).await.unwrap();
        }
    }
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        seen.extend(lease(&w.store, 10).await.into_iter().map(|l| l.tenant));
    }
    assert_eq!(seen.len(), 50);
}

#[tokio::test]
async fn nothing_is_lost_when_the_store_goes_away() {
    let w = World::new().await;
    let World { dir, clock, store } = w;
    let acme = ctx("acme");
    let mut ids = Vec::new();
    for n in 0..50 {
        ids.push(store.enqueue(&acme, task("index", json!(n))).await.unwrap());
    }
    let held = lease(&store, 5).await;
    store.ack(&held[0], json!("done")).await.unwrap();
    drop(store);
    let store = open(dir.path(), clock.clone()).await;
    for id in &ids {
        store.status(&acme, *id).await.unwrap();
    }
    assert_eq!(store.depth(&acme).await.unwrap(), QueueDepth { ready: 45, leased: 4, dead: 0 });
    store.ack(&held[1], json!("done by the same worker")).await.unwrap();
    clock.advance(VISIBILITY);
    assert_eq!(lease(&store, 100).await.len(), 48);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_never_hold_the_same_task() {
    let w = World::new().await;
    for n in 0..200 {
        w.store.enqueue(&ctx(["a", "b", "c"][n % 3]), task("index", json!(n))).await.unwrap();
    }
    let drain = |store: SqliteStore| {
        tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let leases = lease(&store, 3).await;
                if leases.is_empty() {
                    return mine;
                }
                for one in leases {
                    store.ack(&one, json!(null)).await.unwrap();
                    mine.push(one.id);
                }
            }
        })
    };
    let (here, there) = (w.other().await, w.other().await);
    let workers = [drain(here.clone()), drain(here), drain(there.clone()), drain(there)];
    let mut all = Vec::new();
    for worker in workers {
        all.extend(worker.await.unwrap());
    }
    let each: BTreeSet<_> = all.iter().collect();
    assert_eq!((all.len(), each.len()), (200, 200), "each task once");
}

#[tokio::test]
async fn an_idle_worker_wakes_for_its_own_process_and_for_others() {
    let dir = tempfile::tempdir().unwrap();
    let clock: Arc<dyn Clock> = Arc::new(SkippingClock::default());
    let store = open(dir.path(), clock.clone()).await;
    let begun = clock.monotonic();
    store.wait(Duration::from_secs(3)).await;
    assert_eq!(clock.monotonic() - begun, Duration::from_secs(3), "nothing to do: to the end");
    let other = open(dir.path(), clock.clone()).await;
    other.enqueue(&ctx("acme"), task("index", json!(1))).await.unwrap();
    let begun = clock.monotonic();
    store.wait(Duration::from_secs(60)).await;
    assert_eq!(clock.monotonic() - begun, Duration::from_millis(200), "noticed at the first look");
    store.ack(&lease_one(&store).await, json!(null)).await.unwrap();
    assert!(lease(&store, 1).await.is_empty());
    let begun = clock.monotonic();
    store.wait(Duration::from_secs(3)).await;
    assert_eq!(clock.monotonic() - begun, Duration::from_secs(3), "idle again");

    let w = World::new().await;
    w.store.enqueue(&ctx("acme"), task("index", json!(1))).await.unwrap();
    // the clock stands still, so only the word of the enqueue can end this
    w.store.wait(Duration::from_secs(60)).await;
}
