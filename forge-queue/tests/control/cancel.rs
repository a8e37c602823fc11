//! A worker of Celery's beside one of ours: what is cancelled in Forge is dropped in Python.

use forge_core::Slug;
use forge_core::queue::{NewTask, TaskQueue};
use forge_core::testing::context;
use forge_queue::redis::presence::PresenceOptions;
use forge_testkit::servers::Celery;
use serde_json::json;

use crate::world::{NAME, World, app, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_python_worker_drops_what_was_cancelled() {
    let world = World::start();
    let _presence = world.broker.present(PresenceOptions::new(NAME)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let (url, log) = (world.server.url(), dir.path().join("worker.log"));
    let extra = ["-n", "w1@test", "-c", "1"];
    let worker = tokio::task::spawn_blocking(move || Celery::worker(&app(), &url, "acme.default", &log, &extra));
    let ctx = context("acme", "ana", "analyst");
    let enqueue = async |name: &str, payload| {
        world.broker.enqueue(&ctx, NewTask::new(Slug::parse(name).unwrap(), payload)).await.unwrap()
    };
    enqueue("t.hold", json!([])).await;
    let cancelled = enqueue("t.mark", json!(["cancelled"])).await;
    let worker = worker.await.unwrap();
    assert!(worker.log().contains("mingle: sync complete"), "it began with what ours knows:\n{}", worker.log());
    until("the worker to have both", async || {
        let both = worker.log().matches(" received").count() == 2;
        (both && world.server.cli(&["EXISTS", "holding"]).trim() == "1").then_some(())
    })
    .await;
    assert!(world.broker.cancel(&ctx, cancelled).await.unwrap());
    until("the worker to hear of it", async || worker.log().contains("flagged as revoked").then_some(())).await;
    enqueue("t.mark", json!(["last"])).await;
    world.server.cli(&["SET", "go", "1"]);
    let marks = until("the last task", async || {
        Some(world.server.cli(&["LRANGE", "marks", "0", "-1"])).filter(|marks| marks.contains("last"))
    })
    .await;
    assert_eq!(marks.trim(), "last", "the cancelled task did not run:\n{}", worker.log());
}
