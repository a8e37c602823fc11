//! Messages that nobody can run: quarantined with a reason, and the worker goes on.

use std::time::Duration;

use forge_core::queue::{Broker, TaskQueue};
use forge_core::{Clock, ErrorKind, SealedContext, SystemClock, TaskId};
use forge_queue::celery::Envelope;
use forge_queue::dead::{DeadLetters, LetterFilter};
use serde_json::json;

use crate::world::{PREFIX, World, ctx, index, slug};

async fn reasons(w: &World, tenant: &str) -> Vec<String> {
    let letters = w.broker.dead_letters(&ctx(tenant), &LetterFilter::default(), 99).await.unwrap();
    letters.into_iter().map(|l| l.reason).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_poison_that_stops_celerys_worker_is_put_aside() {
    let w = World::bound();
    let body = |body: &str, content: &str| {
        json!({"body": body, "content-type": content, "headers": {"id": "7", "task": "index"},
            "properties": {"body_encoding": "base64"}})
        .to_string()
    };
    let poison = [
        ("not_json", "not json at all".to_owned()),
        ("not_json", "{\"forge\": \"01a214f0-c627-7b6f-b2c0-1f63cb33a409\", \"body\": \"".to_owned()),
        ("not_json", "{\"forge\": \":::::\", ".to_owned()),
        ("not_an_object", "[1, 2]".to_owned()),
        ("unsupported_content_type", "{}".to_owned()),
        ("no_headers", "{\"content-type\": \"application/json\", \"body\": \"[[], {}, {}]\"}".to_owned()),
        ("unsupported_content_type", body("W10=", "application/x-python-serialize")),
        ("unsupported_content_type", body("W10=", "application/x-yaml")),
        ("bad_base64", body("%%%", "application/json")),
        ("body_shape", body("W1tdLHt9XQ==", "application/json")),
        ("too_deep", "[".repeat(10_000)),
        ("too_large", format!("{{\"a\": \"{}\"}}", "x".repeat(300 * 1024))),
    ];
    for (reason, message) in &poison {
        // a large one is longer than an argument of a process may be
        if message.len() > 100_000 {
            let mut push = forge_redis::redis::cmd("LPUSH");
            push.arg(format!("{PREFIX}celery")).arg(message);
            crate::world::connect(&w.server).query::<()>("test.push", &push).await.unwrap();
        } else {
            w.push("celery", message);
        }
        // a letter's place is its time
        w.clock.advance(Duration::from_millis(1));
        let before = reasons(&w, "acme").await.len();
        for _ in 0..1000 {
            assert!(w.lease(9).await.is_empty(), "{reason}");
            if reasons(&w, "acme").await.len() > before {
                break;
            }
            // until the push was announced
            SystemClock.sleep(Duration::from_millis(5)).await;
        }
        let last = reasons(&w, "acme").await.into_iter().next();
        assert_eq!(last.as_deref(), Some(*reason), "{}", &message[..message.len().min(80)]);
    }
    w.push("celery", std::str::from_utf8(&Envelope::new("7", "index").to_bytes()).unwrap());
    assert_eq!(lease_now(&w).await.len(), 1, "and the worker goes on");
    assert!(reasons(&w, "globex").await.is_empty(), "isolation: another tenant's letters");
}

/// What is there, once it was announced.
async fn lease_now(w: &World) -> Vec<forge_core::queue::Lease> {
    for _ in 0..1000 {
        let leases = w.lease(9).await;
        if !leases.is_empty() {
            return leases;
        }
        SystemClock.sleep(Duration::from_millis(5)).await;
    }
    panic!("nothing came");
}

/// Each of a whole batch, whatever its place in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_tasks_of_a_worker_that_died_come_again() {
    let w = World::new();
    for n in 0..64 {
        w.broker.enqueue(&ctx("acme"), index(n)).await.unwrap();
    }
    let first = w.lease(64).await;
    assert_eq!(first.len(), 64);
    w.clock.advance(crate::world::VISIBILITY + Duration::from_secs(1));
    let (mut again, other) = (Vec::new(), crate::world::broker(&w.server, w.clock.clone()));
    while again.len() < 64 {
        let leases = crate::world::lease(&other, 64).await;
        assert!(!leases.is_empty(), "{} of 64 came again", again.len());
        again.extend(leases.into_iter().map(|l| (l.attempt, l.payload.as_i64().unwrap())));
    }
    again.sort_unstable();
    assert_eq!(again, (0..64).map(|n| (2, n)).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unsealed_message_runs_only_where_its_queue_is_bound_and_as_its_principal() {
    let w = World::bound();
    let hostile = || {
        let mut e = Envelope::new("7", "index");
        for (header, value) in [("tenant", "globex"), ("x-forge-tenant", "globex"), ("x-tenant", "globex")] {
            e.extra.insert(header.to_owned(), value.into());
        }
        e.to_bytes()
    };
    w.broker.enqueue(&ctx("globex"), index(1)).await.unwrap();
    w.broker.ack(&w.lease(1).await[0], ().into()).await.unwrap();
    w.push("celery", std::str::from_utf8(&hostile()).unwrap());
    let lease = lease_now(&w).await.remove(0);
    assert_eq!((lease.tenant.as_str(), lease.queue.as_str()), ("acme", "celery"), "the tenant is the queue's");
    w.push("globex.default", std::str::from_utf8(&hostile()).unwrap());
    w.broker.enqueue(&ctx("globex"), index(1).with_delay(Duration::from_secs(600))).await.unwrap();
    // the sweep finds what nobody announced
    w.server.cli(&["ZADD", &format!("{PREFIX}forge:ready"), "0", "globex"]);
    assert!(w.lease(9).await.is_empty());
    assert_eq!(reasons(&w, "globex").await, ["unsealed"]);
    assert!(reasons(&w, "acme").await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_has_ended_is_not_run_again_by_whoever_kept_its_message() {
    let w = World::new();
    let id = w.broker.enqueue(&ctx("acme"), index(1)).await.unwrap();
    let list = format!("{PREFIX}acme.default");
    let message = w.server.cli(&["LINDEX", &list, "0"]).trim_end().to_owned();
    w.broker.ack(&w.lease(1).await[0], json!("once")).await.unwrap();
    w.push("acme.default", &message);
    w.broker.enqueue(&ctx("acme"), index(2)).await.unwrap();
    let leases = lease_now(&w).await;
    assert_eq!(leases.iter().map(|l| l.payload.clone()).collect::<Vec<_>>(), [json!(2)]);
    assert_eq!(reasons(&w, "acme").await, ["replayed"]);
    let status = w.broker.status(&ctx("acme"), id).await.unwrap();
    assert_eq!(
        status.state,
        forge_core::queue::TaskState::Succeeded { result: json!("once") },
        "and stays as it ended"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation_a_task_in_another_tenants_queue_does_not_open() {
    let w = World::new();
    w.broker.enqueue(&ctx("acme"), index(1)).await.unwrap();
    w.broker.enqueue(&ctx("globex"), index(2).with_delay(Duration::from_secs(600))).await.unwrap();
    let message = w.server.cli(&["RPOP", &format!("{PREFIX}acme.default")]).trim_end().to_owned();
    w.push("globex.default", &message);
    w.server.cli(&["ZADD", &format!("{PREFIX}forge:ready"), "0", "globex"]);
    // as a task of globex's it is not open: it counts as one that came again
    assert!(w.lease(9).await.is_empty());
    assert_eq!(reasons(&w, "globex").await, ["replayed"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broken_seal_is_a_dead_letter_and_a_changed_one_is_for_the_worker_to_refuse() {
    let w = World::new();
    w.broker.enqueue(&ctx("acme"), index(1)).await.unwrap();
    let list = format!("{PREFIX}acme.default");
    let message = w.server.cli(&["RPOP", &list]).trim_end().to_owned();
    w.push("acme.default", &message.replace("x-forge-context\": {", "x-forge-context\": {\"z\": 1, "));
    assert!(w.lease(9).await.is_empty());
    assert_eq!(reasons(&w, "acme").await, ["bad_seal"]);

    w.broker.enqueue(&ctx("acme"), index(1)).await.unwrap();
    let message = w.server.cli(&["RPOP", &list]).trim_end().to_owned();
    w.push("acme.default", &message.replace("\"task\": \"index\"", "\"task\": \"index.other\""));
    let request = forge_core::queue::LeaseRequest::new(vec![slug("index.other")], 1, Duration::from_secs(30));
    let lease = w.broker.lease(&request).await.unwrap().remove(0);
    let bound = forge_core::SealedFor {
        id: lease.id.to_string(),
        name: lease.name.to_string(),
        queue: lease.queue.clone(),
        body: lease.body,
    };
    let sealed: &SealedContext = &lease.context;
    let now = w.clock.now();
    let opened = sealed.open(&bound, &forge_core::fake::FakeKeyring, now);
    assert_eq!(opened.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_ne!(lease.id, TaskId::fixed(0));
}
