//! Whose the tasks are that follow another, and as whom they run.

use std::time::Duration;

use forge_core::fake::FakeKeyring;
use forge_core::queue::{Broker, Lease, TaskQueue, TaskState};
use forge_core::{Clock, Digest, ErrorKind, SealedContext, SealedFor, SystemClock, TaskId};
use forge_queue::celery::{Embed, Envelope, Limits};
use forge_queue::dead::{DeadLetters, LetterFilter};
use serde_json::{Map, Value, json};

use crate::world::{World, context, request, until};

fn task(id: u128, name: &str, queue: &str, embed: Embed) -> Envelope {
    let id = TaskId::fixed(id).to_string();
    let mut task = Envelope::new(id, name).with_content(vec![1.into()], Map::new(), embed).unwrap();
    task.routing_key = queue.to_owned();
    task
}

fn sealed(mut task: Envelope, tenant: &str, body: &[u8]) -> Envelope {
    let now = SystemClock.now();
    let (id, name, queue) = (task.id.clone(), task.task.clone(), task.routing_key.clone());
    let bound = SealedFor { id, name, queue, body: Digest::of(body) };
    let seal = SealedContext::seal(&context(tenant), bound, &FakeKeyring, now, now.after(Duration::from_secs(600)));
    task.extra.insert("x-forge-context".to_owned(), serde_json::to_value(seal.unwrap()).unwrap());
    task
}

fn chain(of: Value) -> Embed {
    Embed { chain: Some(vec![of]), ..Embed::default() }
}

fn part(id: u128, queue: &str, index: u64, body: &str) -> Envelope {
    let chord = json!({"task": body, "options": {"task_id": TaskId::fixed(9).to_string()}});
    let mut part = task(id, "rs.add", queue, Embed { chord: Some(chord), ..Embed::default() });
    (part.group, part.group_index) = (Some("g".to_owned()), Some(index));
    part
}

async fn leased(world: &World) -> Lease {
    until("a lease", async || world.broker.lease(&request()).await.unwrap().pop()).await
}

fn list(world: &World, queue: &str) -> Vec<Envelope> {
    let raw = world.server.cli(&["LRANGE", &format!("{{t}}:{queue}"), "0", "-1"]);
    raw.lines().filter(|l| !l.is_empty()).map(|l| Envelope::parse(l.as_bytes(), &Limits::default()).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_follows_a_sealed_task_runs_as_its_parent_and_what_follows_another_has_no_seal() {
    let world = World::new();
    let ctx = context("acme");
    world.server.cli(&["SADD", "{t}:forge:tenants", "acme"]);
    let next = json!({"task": "rs.whoami", "options": {"task_id": TaskId::fixed(2).to_string(), "headers": {"x-forge-context": "forged"}}});
    let parent = task(1, "rs.add", "acme.default", chain(next.clone()));
    let body = parent.body().to_vec();
    let forged = json!({"task": "py.add", "options": {"headers": {"x-forge-context": "forged"}}});
    world.push("rsq", &task(3, "rs.add", "rsq", chain(forged)).to_bytes());
    world.broker.ack(&leased(&world).await, json!(7)).await.unwrap();
    assert!(!list(&world, "pyq")[0].extra.contains_key("x-forge-context"), "a seal comes from nowhere");
    world.push("acme.default", &sealed(parent, "acme", &body).to_bytes());
    world.broker.ack(&leased(&world).await, json!(7)).await.unwrap();
    let _rust = world.serve();
    let state = until("the child", async || match world.broker.status(&ctx, TaskId::fixed(2)).await.ok()?.state {
        TaskState::Ready | TaskState::Leased => None,
        state => Some(state),
    })
    .await;
    assert_eq!(state, TaskState::Succeeded { result: json!(["acme", "ana"]) }, "as whoever queued the parent");
    let theirs = world.broker.status(&context("globex"), TaskId::fixed(2)).await;
    assert_eq!(theirs.unwrap_err().kind(), ErrorKind::NotFound, "isolation: a child is its parent's tenant's");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_follows_on_the_word_of_a_seal_that_does_not_hold() {
    let world = World::new();
    world.server.cli(&["SADD", "{t}:forge:tenants", "acme"]);
    let parent = task(1, "rs.add", "acme.default", chain(json!({"task": "rs.whoami"})));
    world.push("acme.default", &sealed(parent.clone(), "acme", b"another body").to_bytes());
    let body = parent.body().to_vec();
    world.push("acme.default", &sealed(parent, "globex", &body).to_bytes());
    let ctx = context("acme");
    let letters = until("two dead letters", async || {
        assert!(world.broker.lease(&request()).await.unwrap().is_empty());
        let letters = world.broker.dead_letters(&ctx, &LetterFilter::default(), 9).await.unwrap();
        Some(letters).filter(|l| l.len() == 2)
    })
    .await;
    assert!(letters.iter().all(|l| l.reason == "bad_seal"), "isolation: {letters:?}");
    assert!(list(&world, "rsq").is_empty() && list(&world, "acme.default").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_would_be_followed_in_another_tenants_queue_is_not_begun() {
    let world = World::new();
    let ctx = context("acme");
    for (id, queue) in [(1, "globexq"), (2, "globex.default"), (3, "forge:leases")] {
        let inner = json!({"task": "rs.add", "options": {"queue": queue}});
        let group = json!({"task": "celery.group", "kwargs": {"tasks": [{"task": "rs.add"}, inner]}});
        world.push("rsq", &task(id, "rs.add", "rsq", chain(group)).to_bytes());
    }
    let letters = until("the dead letters", async || {
        assert!(world.broker.lease(&request()).await.unwrap().is_empty(), "isolation: it is not begun");
        let letters = world.broker.dead_letters(&ctx, &LetterFilter::default(), 9).await.unwrap();
        Some(letters).filter(|l| l.len() == 3)
    })
    .await;
    assert!(letters.iter().all(|l| l.reason == "foreign_queue"), "{letters:?}");
    for queue in ["globexq", "globex.default"] {
        assert!(list(&world, queue).is_empty(), "isolation: nothing lies in {queue}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chord_counts_the_parts_of_one_tenant_once_each() {
    let world = World::new();
    world.server.cli(&["SET", "{t}:celery-taskset-meta-g.s", "2"]);
    let end = async |message: Envelope, queue, result| {
        world.push(queue, &message.to_bytes());
        let lease = leased(&world).await;
        world.broker.ack(&lease, json!(result)).await.unwrap();
    };
    end(part(1, "rsq", 0, "py.tsum"), "rsq", "first").await;
    // the same part, run once more
    end(part(1, "rsq", 0, "py.tsum"), "rsq", "again").await;
    end(part(2, "globexq", 1, "rs.echo"), "globexq", "theirs").await;
    assert!(list(&world, "pyq").is_empty() && list(&world, "globexq").is_empty(), "isolation: it is not complete");
    end(part(3, "rsq", 1, "py.tsum"), "rsq", "second").await;
    // another part that comes when all is over
    end(part(4, "rsq", 1, "py.tsum"), "rsq", "late").await;
    let bodies = list(&world, "pyq");
    assert_eq!(bodies.len(), 1, "sent once");
    assert_eq!((bodies[0].args(), bodies[0].task.as_str()), (&[json!(["first", "second"])][..], "py.tsum"));
    assert_eq!(world.key("GET", "celery-taskset-meta-g.c"), "done");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_part_that_claimed_the_body_and_died_sends_it_when_it_is_run_again() {
    let world = World::new();
    let claim = format!("forge:{}:0", TaskId::fixed(1));
    world.server.cli(&["SET", "{t}:celery-taskset-meta-g.s", "1"]);
    world.server.cli(&["SET", "{t}:celery-taskset-meta-g.c", "another worker", "EX", "600"]);
    let again = async || {
        world.push("rsq", &part(1, "rsq", 0, "py.tsum").to_bytes());
        world.broker.ack(&leased(&world).await, json!(7)).await.unwrap();
        list(&world, "pyq").len()
    };
    assert_eq!(again().await, 0, "another worker sends it");
    world.server.cli(&["SET", "{t}:celery-taskset-meta-g.c", &claim, "EX", "600"]);
    assert_eq!(again().await, 1);
    assert_eq!(again().await, 1, "sent once");
}
