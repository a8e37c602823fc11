//! What other programs may push, and what nobody should: each is put aside with its reason, and the worker goes on.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use forge_core::queue::{Broker, TaskQueue};
use forge_queue::celery::{Embed, Envelope};
use forge_queue::dead::{DeadLetters, LetterFilter};
use serde_json::{Map, Value, json};

use crate::world::{World, context, request, until};

const BODY: &str = r#"[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;

fn message(body: &str) -> Value {
    json!({"body": BASE64.encode(body.as_bytes()), "content-encoding": "utf-8", "content-type": "application/json",
        "headers": {"id": "a", "task": "rs.add"},
        "properties": {"body_encoding": "base64", "delivery_info": {"exchange": "", "routing_key": "rsq"}, "delivery_tag": "d"}})
}

fn with(path: &str, value: Value) -> Value {
    let mut message = message(BODY);
    let (parent, key) = path.rsplit_once('/').unwrap();
    message.pointer_mut(parent).unwrap()[key] = value;
    message
}

fn without(key: &str) -> Value {
    let mut message = message(BODY);
    message.as_object_mut().unwrap().remove(key);
    message
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_poison_is_put_aside_with_its_reason_and_the_worker_goes_on() {
    let world = World::new();
    let ctx = context("acme");
    let poison = [
        // at these a worker of Celery stops, or loses its connection
        (message("[[2, 3], {}]").to_string(), "body_shape"),
        (without("content-type").to_string(), "unsupported_content_type"),
        (with("/body", json!("W1td%%%%")).to_string(), "bad_base64"),
        ("not json".to_owned(), "not_json"),
        ("[1]".to_owned(), "not_an_object"),
        (without("headers").to_string(), "no_headers"),
        (with("/headers", json!({"id": "a"})).to_string(), "no_task"),
        (with("/headers", json!({"task": "rs.add"})).to_string(), "no_id"),
        (with("/content-type", json!("application/x-python-serialize")).to_string(), "unsupported_content_type"),
        (with("/headers/compression", json!("application/x-bz2")).to_string(), "unsupported_compression"),
        (with("/headers/eta", json!("soon")).to_string(), "bad_eta"),
        (format!("{}{}", "[".repeat(200), "]".repeat(200)), "too_deep"),
        (message(r#"[[1], {}, {"callbacks": [{"task": 7}]}]"#).to_string(), "bad_signature"),
        (message(r#"[[1], {}, {"chain": [{"task": "celery.group", "kwargs": {}}]}]"#).to_string(), "bad_signature"),
        (
            message(r#"[[1], {}, {"chord": {"task": "t", "options": {"queue": "globexq"}}}]"#).to_string(),
            "foreign_queue",
        ),
    ];
    let mut expected: BTreeMap<&str, usize> = BTreeMap::new();
    for (i, (raw, reason)) in poison.iter().enumerate() {
        *expected.entry(reason).or_default() += 1;
        world.push("rsq", raw.replace(r#""id":"a""#, &format!(r#""id":"poison-{i}""#)).as_bytes());
    }
    // what Celery takes is taken here
    let fine = [
        message(BODY),
        message("[[2, 3], {}, null]"),
        without("content-encoding"),
        without("properties"),
        with("/headers/x-unknown", json!({"deep": [1]})),
        with("/headers/eta", json!(1_700_000_000.5)),
        with("/headers/timelimit", Value::Null),
    ];
    for good in &fine {
        world.push("rsq", good.to_string().as_bytes());
    }
    let _rust = world.serve();
    let letters = until("all poison to be put aside", async || {
        let letters = world.broker.dead_letters(&ctx, &LetterFilter::default(), 100).await.unwrap();
        Some(letters).filter(|l| l.len() >= poison.len() && world.key("LLEN", "rsq") == "0")
    })
    .await;
    let mut reasons: BTreeMap<&str, usize> = BTreeMap::new();
    for letter in &letters {
        *reasons.entry(letter.reason.as_str()).or_default() += 1;
    }
    assert_eq!(reasons, expected);
    assert_eq!(world.key("LLEN", "globexq"), "0");
    until("what is fine to be done", async || {
        let depth = world.broker.depth(&ctx).await.unwrap();
        Some(()).filter(|()| depth.ready == 0 && depth.leased == 0)
    })
    .await;
    assert!(world.key("GET", "celery-task-meta-a").contains(r#""result": 5"#));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_without_a_seal_runs_nowhere_but_where_it_is_bound() {
    let world = World::new();
    let mut task = Envelope::new("a", "rs.add").with_content(vec![1.into()], Map::new(), Embed::default()).unwrap();
    task.routing_key = "acme.default".to_owned();
    world.push("acme.default", &task.to_bytes());
    world.server.cli(&["SADD", "{t}:forge:tenants", "acme"]);
    let ctx = context("acme");
    let letter = until("the dead letter", async || {
        assert!(world.broker.lease(&request()).await.unwrap().is_empty(), "isolation: it runs as nobody");
        world.broker.dead_letters(&ctx, &LetterFilter::default(), 2).await.unwrap().pop()
    })
    .await;
    assert_eq!((letter.reason.as_str(), letter.queue.as_str()), ("unsealed", "acme.default"));
}
