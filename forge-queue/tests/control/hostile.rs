//! Whatever comes on the control channel, the presence goes on, and answers nowhere but where answers go.

use forge_core::queue::TaskQueue;
use forge_core::testing::context;
use forge_queue::redis::presence::PresenceOptions;
use forge_redis::redis::AsyncCommands as _;
use serde_json::json;

use crate::asker::{Asker, message};
use crate::world::{NAME, World, acme};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_comes_stops_the_worker() {
    let world = World::start();
    let _presence = world.broker.present(PresenceOptions::of_tenant(NAME, acme())).unwrap();
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
    asker.publish(&message(&json!({"method": "election"}), json!({"clock": 1_u64 << 40}))).await;
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
    let clock = asker.ask("clock", json!({})).await["clock"].as_u64().unwrap();
    assert!((1 << 40..1 << 41).contains(&clock), "a clock of nonsense is not followed: {clock}");
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
