//! What a presence says by itself.

use std::time::Duration;

use data_encoding::BASE64;
use forge_core::queue::{Broker as _, Lease, LeaseRequest, Nack};
use forge_core::{Clock as _, Slug, SystemClock, Timestamp};
use forge_queue::celery::Envelope;
use forge_queue::redis::presence::PresenceOptions;
use forge_redis::redis::{self, AsyncCommands as _, aio::PubSub};
use futures::StreamExt as _;
use serde_json::{Value, json};

use crate::asker::Asker;
use crate::world::{NAME, World, acme, until};

/// Hears what is said on the event exchange.
struct Ear(PubSub);

impl Ear {
    async fn open(world: &World) -> Self {
        let mut heard = redis::Client::open(world.server.url()).unwrap().get_async_pubsub().await.unwrap();
        heard.psubscribe("{t}:/0.celeryev/*").await.unwrap();
        Self(heard)
    }

    /// The channel's end and what was said, one message.
    async fn next(&mut self) -> (String, Value) {
        let mut messages = self.0.on_message();
        let message = tokio::time::timeout(Duration::from_secs(30), messages.next()).await;
        let message = message.expect("something is said").unwrap();
        let envelope: Value = serde_json::from_slice(message.get_payload_bytes()).unwrap();
        let body = BASE64.decode(envelope["body"].as_str().unwrap().as_bytes()).unwrap();
        let channel = message.get_channel_name().rsplit('/').next().unwrap().to_owned();
        (channel, serde_json::from_slice(&body).unwrap())
    }

    async fn until_said(&mut self, channel: &str) -> Value {
        loop {
            let (said, event) = self.next().await;
            if said == channel {
                return event;
            }
        }
    }

    /// So many events of tasks, whatever else is said.
    async fn tasks(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            let together = self.until_said("task.multi").await;
            let together = together.as_array().unwrap();
            assert!(together.len() <= 24, "so many go together: {}", together.len());
            events.extend(together.iter().cloned());
        }
        events
    }
}

async fn push(asker: &mut Asker, queue: &str, id: &str, expires: Option<Timestamp>) {
    let mut task = Envelope::from_payload(id, "t.add", &json!([1, 2])).unwrap();
    task.routing_key = queue.to_owned();
    task.expires = expires;
    task.argsrepr = Some("(1, 2)".to_owned());
    let _: i64 = asker.connection.lpush(format!("{{t}}:{queue}"), task.to_bytes()).await.unwrap();
}

async fn lease(world: &World) -> Lease {
    let names = vec![Slug::parse("t.add").unwrap()];
    let request = LeaseRequest::new(names, 1, Duration::from_secs(30));
    until("a lease", async || {
        world.broker.wait(Duration::from_millis(50)).await;
        world.broker.lease(&request).await.unwrap().pop()
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_happens_to_tasks_is_told_once_somebody_asks() {
    let world = World::start();
    let mut ear = Ear::open(&world).await;
    let presence = world.broker.present(PresenceOptions::of_tenant(NAME, acme())).unwrap();
    let online = ear.until_said("worker.online").await;
    assert_eq!((&online["hostname"], &online["sw_ident"]), (&json!(NAME), &json!("forge-queue")));
    let mut asker = Asker::connect(&world).await;
    push(&mut asker, "celery", "unheard", None).await;
    world.broker.ack(&lease(&world).await, json!(3)).await.unwrap();

    assert_eq!(asker.ask("enable_events", json!({})).await, json!({"ok": "task events enabled"}));
    asker.ask("revoke", json!({"task_id": "revoked"})).await;
    push(&mut asker, "celery", "good", None).await;
    world.broker.ack(&lease(&world).await, json!("secret")).await.unwrap();
    let report = forge_core::Error::invalid("t.add", "no").report();
    push(&mut asker, "celery", "bad", None).await;
    let again = Nack::Retry { after: Duration::ZERO, report: report.clone() };
    world.broker.nack(&lease(&world).await, again).await.unwrap();
    world.broker.nack(&lease(&world).await, Nack::Dead { report }).await.unwrap();
    push(&mut asker, "other", "anothers", None).await;
    world.broker.ack(&lease(&world).await, json!(3)).await.unwrap();
    push(&mut asker, "celery", "late", Some(Timestamp::from_nanos(1))).await;
    push(&mut asker, "acme.default", "unsealed", None).await;
    push(&mut asker, "celery", "revoked", None).await;
    push(&mut asker, "celery", "last", None).await;
    let last = lease(&world).await;

    let events = ear.tasks(13).await;
    let told: Vec<String> =
        events.iter().map(|e| format!("{} {}", e["uuid"].as_str().unwrap(), e["type"].as_str().unwrap())).collect();
    let of = |id: &str| -> Vec<&str> {
        told.iter().filter_map(|event| event.strip_prefix(id)?.strip_prefix(" task-")).collect()
    };
    assert_eq!(of("good"), ["received", "started", "succeeded"], "{told:?}");
    assert_eq!(of("bad"), ["received", "started", "retried", "received", "started", "failed"], "{told:?}");
    assert_eq!((of("late"), of("revoked"), of("unsealed")), (vec!["revoked"], vec!["revoked"], vec!["rejected"]));
    assert!(of("unheard").is_empty() && of("anothers").is_empty(), "isolation: {told:?}");
    let clocks: Vec<u64> = events.iter().map(|e| e["clock"].as_u64().unwrap()).collect();
    assert!(clocks.is_sorted_by(|a, b| a < b), "one after the other: {clocks:?}");
    let event = |id: &str, kind: &str| events.iter().find(|e| e["uuid"] == id && e["type"] == kind).unwrap();
    assert_eq!(event("good", "task-succeeded")["result"], "...", "nothing is shown that is not allowed");
    assert_eq!(event("good", "task-received")["args"], "...", "nothing is shown that is not allowed");
    assert_eq!(
        (&event("late", "task-revoked")["expired"], &event("revoked", "task-revoked")["expired"]),
        (&json!(true), &json!(false))
    );

    let beat = ear.until_said("worker.heartbeat").await;
    assert_eq!((&beat["active"], &beat["processed"], &beat["freq"]), (&json!(1), &json!(5), &json!(2.0)));
    assert!(last.until > SystemClock.now());
    drop(presence);
    ear.until_said("worker.offline").await;
    assert!(world.broker.present(PresenceOptions::new(NAME)).is_ok(), "its name is free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_presence_whose_connection_broke_comes_back() {
    let world = World::start();
    let mut ear = Ear::open(&world).await;
    let _presence = world.broker.present(PresenceOptions::new(NAME)).unwrap();
    ear.until_said("worker.online").await;
    // of all that are there, only the presence has subscribed to a channel by name
    let clients = world.server.cli(&["CLIENT", "LIST"]);
    let of = |line: &str, field: &str| line.split(' ').find_map(|f| f.strip_prefix(field).map(str::to_owned));
    let presence = clients.lines().find(|line| of(line, "sub=").as_deref() == Some("1")).unwrap();
    let killed = world.server.cli(&["CLIENT", "KILL", "ID", &of(presence, "id=").unwrap()]);
    assert_eq!(killed.trim(), "1");
    ear.until_said("worker.online").await;
    let mut asker = Asker::connect(&world).await;
    assert_eq!(asker.ask("ping", json!({})).await, json!({"ok": "pong"}));
}
