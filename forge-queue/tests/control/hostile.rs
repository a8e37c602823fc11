//! Whatever comes on the control channel, the presence goes on, and answers nowhere but where answers go.

use data_encoding::BASE64;
use forge_core::queue::TaskQueue;
use forge_core::testing::context;
use forge_queue::redis::PresenceOptions;
use forge_redis::redis::{self, AsyncCommands};
use serde_json::{Value, json};

use crate::world::{NAME, World, until};

const CHANNEL: &str = "{t}:/0.celery.pidbox";

fn message(content: &Value, headers: Value) -> Vec<u8> {
    let body = BASE64.encode(content.to_string().as_bytes());
    let properties = json!({"body_encoding": "base64", "delivery_tag": "d", "delivery_info": {}});
    json!({"body": body, "content-encoding": "utf-8", "content-type": "application/json", "headers": headers,
        "properties": properties})
    .to_string()
    .into_bytes()
}

struct Asker {
    connection: redis::aio::MultiplexedConnection,
    asked: u32,
}

impl Asker {
    async fn connect(world: &World) -> Self {
        let client = redis::Client::open(world.server.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.unwrap();
        let binding = "me\x06\x16\x06\x16me.reply.celery.pidbox";
        let _: i64 = connection.sadd("{t}:_kombu.binding.reply.celery.pidbox", binding).await.unwrap();
        until("the presence to listen", async || {
            let listeners: Vec<redis::Value> =
                redis::cmd("PUBSUB").arg("NUMSUB").arg(CHANNEL).query_async(&mut connection.clone()).await.unwrap();
            (listeners.get(1) == Some(&redis::Value::Int(1))).then_some(())
        })
        .await;
        Self { connection, asked: 0 }
    }

    async fn publish(&mut self, raw: &[u8]) {
        let _: i64 = self.connection.publish(CHANNEL, raw).await.unwrap();
    }

    async fn ask(&mut self, method: &str, arguments: Value) -> Value {
        self.asked += 1;
        let (to, ticket) = (json!({"exchange": "reply.celery.pidbox", "routing_key": "me"}), self.asked.to_string());
        let content = json!({"method": method, "arguments": arguments, "reply_to": to, "ticket": ticket});
        self.publish(&message(&content, json!({"clock": 7}))).await;
        let connection = self.connection.clone();
        until("an answer", async || {
            let raw: Option<Vec<u8>> = connection.clone().rpop("{t}:me.reply.celery.pidbox", None).await.unwrap();
            let reply: Value = serde_json::from_slice(&raw?).unwrap();
            if reply["headers"]["ticket"] != ticket.as_str() {
                // what was still understood of a spoiled message
                return None;
            }
            let body = BASE64.decode(reply["body"].as_str().unwrap().as_bytes()).unwrap();
            Some(serde_json::from_slice::<Value>(&body).unwrap()[NAME].clone())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_comes_stops_the_worker() {
    let world = World::start();
    let _presence = world.broker.present(PresenceOptions::of_tenant(NAME, crate::world::acme())).unwrap();
    let mut asker = Asker::connect(&world).await;
    let good = json!({"method": "ping", "arguments": {}, "ticket": "t",
        "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "me"}});
    let good = message(&good, json!({"clock": 1}));
    for cut in (0..good.len()).step_by(7) {
        asker.publish(&good[..cut]).await;
        let mut turned = good.clone();
        turned[cut] ^= 0x20;
        asker.publish(&turned).await;
    }
    for raw in [&b""[..], b"\0\xff\xfe", b"[]", b"null", b"{}", &[b'['; 4096], &vec![b'x'; 3 << 20]] {
        asker.publish(raw).await;
    }
    for content in [
        json!(5),
        json!({"method": 5}),
        json!({"method": "revoke", "arguments": {"task_id": {"a": 1}}}),
        json!({"method": "revoke", "arguments": {"task_id": (0..9000).map(|n| n.to_string()).collect::<Vec<_>>()}}),
        json!({"method": "hello", "arguments": {"from_node": "w", "revoked": [1, null, {"a": []}]}}),
        json!({"method": "pool_grow", "arguments": {"n": u64::MAX}}),
        json!({"method": "x".repeat(100_000)}),
        json!({"method": "ping", "pattern": "*".repeat(1000), "matcher": "glob"}),
    ] {
        asker.publish(&message(&content, json!({"clock": u64::MAX}))).await;
        asker.publish(&message(&content, json!({"clock": "x", "expires": []}))).await;
    }
    let clock = asker.ask("clock", json!({})).await;
    assert!(clock["clock"].as_u64().is_some_and(|n| n < 1 << 32), "a clock of nonsense is not followed: {clock}");
    assert_eq!(asker.ask("revoked", json!({})).await.as_array().unwrap().len(), 9000);
    let hello = asker.ask("hello", json!({"from_node": "w9@test", "revoked": ["from-w9"]})).await;
    assert!(hello["revoked"].as_array().unwrap().contains(&json!("from-w9")), "both know what one knew");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_is_never_pushed_to_a_queue_of_tasks() {
    let world = World::start();
    let _presence = world.broker.present(PresenceOptions::new(NAME)).unwrap();
    let mut asker = Asker::connect(&world).await;
    let _: i64 = asker.connection.sadd("{t}:_kombu.binding.celery", "celery\x06\x16\x06\x16celery").await.unwrap();
    let _: i64 = asker
        .connection
        .sadd("{t}:_kombu.binding.reply.celery.pidbox", "me2\x06\x16\x06\x16acme.default")
        .await
        .unwrap();
    for (exchange, key) in
        [("celery", "celery"), ("", "celery"), ("reply.celery.pidbox", "me2"), ("reply.celery.pidbox", "unbound")]
    {
        let to = json!({"exchange": exchange, "routing_key": key});
        let content = json!({"method": "ping", "reply_to": to, "ticket": "t"});
        asker.publish(&message(&content, json!({}))).await;
    }
    // messages are served in their order
    assert_eq!(asker.ask("ping", json!({})).await, json!({"ok": "pong"}));
    let keys: Vec<String> = asker.connection.keys("*").await.unwrap();
    let lists = keys.iter().filter(|key| !key.contains("_kombu") && !key.contains("forge:"));
    assert_eq!(lists.collect::<Vec<_>>(), Vec::<&String>::new(), "nothing was pushed anywhere");
    let depth = world.broker.depth(&context("acme", "ana", "analyst")).await.unwrap();
    assert_eq!(depth.ready, 0);
    let expired = json!({"method": "ping", "ticket": "t",
        "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "me"}});
    asker.publish(&message(&expired, json!({"expires": 1.0}))).await;
    assert!(asker.ask("clock", json!({})).await.get("clock").is_some(), "what has expired is not answered");
}
