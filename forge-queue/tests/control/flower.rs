//! Flower.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;

use forge_queue::redis::presence::PresenceOptions;
use forge_testkit::servers::{Celery, Process};
use serde_json::{Value, json};

use crate::world::{NAME, World, acme, app, until};

/// What Flower answers; none while it is not there or has nothing.
async fn fetch(port: u16, path: &str) -> Option<Value> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    let fetched = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).ok()?;
        stream.write_all(request.as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    });
    fetched.await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flower_shows_the_worker_and_its_tasks() {
    let world = World::start();
    let mut options = PresenceOptions::of_tenant(NAME, acme());
    options.show.results = true;
    let presence = world.broker.present(options).unwrap();
    let _holding = world.work();
    let (dir, port) = (tempfile::tempdir().unwrap(), free_port());
    let mut command = Command::new(Celery::interpreter());
    command.args(["-m", "celery", "-A", "app", "flower", "--address=127.0.0.1", &format!("--port={port}")]);
    command.env("PYTHONPATH", app().parent().unwrap()).env("BROKER_URL", world.server.url());
    command.env("FLOWER_UNAUTHENTICATED_API", "true").env("PYTHONDONTWRITEBYTECODE", "1").current_dir(dir.path());
    let _flower = Process::start(command, &dir.path().join("flower.log"));

    let workers = until("Flower to list the worker", async || {
        let workers = fetch(port, "/api/workers?refresh=1").await?;
        workers[NAME]["stats"].is_object().then_some(workers)
    })
    .await;
    assert_eq!(workers[NAME]["registered"], json!(["t.add", "t.fail", "t.hold"]), "{workers}");
    assert_eq!(workers[NAME]["active_queues"].as_array().unwrap().len(), 1, "{workers}");
    // Flower asks for events when it begins; of what was under way before it knows no name
    let id = until("a task to be shown", async || {
        world.python("app.send_task('t.add', (2, 3))\napp.send_task('t.fail', ())\nprint('1')").await;
        let tasks = fetch(port, "/api/tasks?state=SUCCESS").await?;
        let (id, task) = tasks.as_object()?.iter().find(|(_, task)| task["name"] == "t.add")?;
        assert_eq!((&task["result"], &task["args"]), (&json!("5"), &json!("...")), "{task}");
        assert!(task["runtime"].as_f64().is_some_and(|t| t >= 0.0), "{task}");
        assert_eq!(task["worker"], NAME, "{task}");
        Some(id.clone())
    })
    .await;
    let failed = until("the failure", async || {
        let tasks = fetch(port, "/api/tasks?state=FAILURE").await?;
        tasks.as_object()?.values().next().cloned()
    })
    .await;
    assert!(failed["exception"].as_str().unwrap().starts_with("RuntimeError('invalid_input"), "{failed}");
    assert_eq!(fetch(port, &format!("/api/task/info/{id}")).await.unwrap()["state"], "SUCCESS");
    presence.leave().await;
    until("Flower to miss the worker", async || {
        let status = fetch(port, "/api/workers?status=1").await?;
        (status[NAME] == json!(false)).then_some(())
    })
    .await;
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}
