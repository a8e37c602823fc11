//! A worker that is gone: the other language does its task.

use std::time::Duration;

use forge_core::queue::Broker;
use forge_queue::celery::{Embed, Envelope};
use forge_queue::redis::Options;
use serde_json::{Map, json};

use crate::world::{World, request, serve, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_rust_worker_held_is_done_by_python() {
    let world = World::new();
    let id = "1db5982d-e505-425a-b8b6-d5ce35897a4c";
    let args = vec![2.into(), 3.into()];
    let mut task = Envelope::new(id, "both.add").with_content(args, Map::new(), Embed::default()).unwrap();
    task.routing_key = "both".to_owned();
    world.push("both", &task.to_bytes());
    let mut long = request();
    long.visibility = Duration::from_secs(3600);
    // it has it and is heard of no more: nothing is given back when it is dropped
    let dead = World::connect(&world.server, &Options::default());
    let held = until("the lease", async || dead.lease(&long).await.unwrap().pop()).await;
    drop(dead);
    assert_eq!(held.payload, json!([2, 3]));
    assert_eq!(world.key("HLEN", "unacked"), "1");

    let _python = world.impatient("both");
    let result = until("the result", async || {
        Some(world.key("GET", &format!("celery-task-meta-{id}"))).filter(|r| r.contains("SUCCESS"))
    })
    .await;
    assert!(result.contains(r#"["python", 5]"#), "{result}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_dead_python_worker_held_is_done_by_rust() {
    let world = World::new();
    let mut python = world.celery("both");
    let id = world.python("print(json.dumps(sig('both.slow').delay().id))").await;
    let key = format!("celery-task-meta-{}", id.as_str().unwrap());
    until("the task to begin", async || Some(()).filter(|()| world.key("GET", "slow-has-begun") == "1")).await;
    python.kill9();
    assert_eq!(world.key("HLEN", "unacked"), "1", "it is with nobody");

    let mut options = Options::default();
    options.visibility_timeout = Duration::from_secs(1);
    let _rust = serve(World::connect(&world.server, &options));
    until("the result", async || Some(()).filter(|()| world.key("GET", &key).contains(r#""result": "rust""#))).await;
    assert_eq!(world.key("HLEN", "unacked"), "0");
}
