//! `celery control revoke`, and whose tasks it is for.

use std::time::Duration;

use forge_core::queue::{Broker, NewTask, TaskQueue, TaskState};
use forge_core::testing::context;
use forge_core::{Clock, Slug, SystemClock};
use forge_queue::redis::presence::PresenceOptions;
use serde_json::json;

use crate::world::{NAME, World, acme, next};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_task_is_dropped_and_a_terminated_one_is_stopped() {
    let world = World::start();
    let _presence = world.broker.present(PresenceOptions::of_tenant(NAME, acme())).unwrap();
    let said = world
        .python(
            r#"
said = cli("control", "revoke", "never", "-t", "5", "-d", "forge1@test")
stamp = cli("control", "revoke_by_stamped_headers", "customer=7", "-t", "5", "-d", "forge1@test")
app.send_task("t.add", (1, 2), task_id="never")
app.send_task("t.add", (1, 2), task_id="stamped", stamped_headers=["customer"], customer="7", headers={"stamps": {"customer": "7"}})
app.send_task("t.hold", (), task_id="running")
app.send_task("t.add", (1, 2), task_id="fine")
print(json.dumps([said, stamp]))
"#,
        )
        .await;
    assert!(said[0].as_str().unwrap().contains("tasks {'never'} flagged as revoked"), "{said}");
    assert!(said[1].as_str().unwrap().contains("flagged as revoked, but not terminated"), "{said}");
    let mut holding = world.work();
    let running = next(&mut holding).await;
    let said = world
        .python(
            r#"
said = {"flag": cli("control", "revoke", "running", "-t", "5", "-d", "forge1@test")}
said["state"] = app.AsyncResult("running").state
said["terminate"] = cli("control", "terminate", "TERM", "running", "-t", "5", "-d", "forge1@test")
said["results"] = results("never", "stamped", "running", "fine")
said["revoked"] = app.control.inspect(["forge1@test"], timeout=5).revoked()
print(json.dumps(said))
"#,
        )
        .await;
    assert_eq!(said["state"], "PENDING", "a flag alone does not stop what runs: {said}");
    assert!(said["terminate"].as_str().unwrap().contains("terminate: running"), "{said}");
    let result = |id: &str| (said["results"][id][0].clone(), said["results"][id][1].clone());
    assert_eq!(result("never"), (json!("REVOKED"), json!("TaskRevokedError('revoked')")), "{said}");
    assert_eq!(result("stamped").0, "REVOKED", "{said}");
    assert_eq!(result("running"), (json!("REVOKED"), json!("TaskRevokedError('terminated')")), "{said}");
    assert_eq!(result("fine"), (json!("SUCCESS"), json!(3)), "{said}");
    assert_eq!(said["revoked"][NAME], json!(["never", "running"]), "{said}");
    assert!(running.lost.is_cancelled(), "its worker is told");
    let late = world.broker.ack(&running, json!(1)).await;
    assert!(late.is_err_and(|e| e.kind() == forge_core::ErrorKind::LeaseLost), "it has no result but that");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn isolation_nobody_revokes_what_is_anothers_or_sealed() {
    let world = World::start();
    let _presence = world.broker.present(PresenceOptions::of_tenant(NAME, acme())).unwrap();
    let ctx = context("acme", "ana", "analyst");
    let sealed = world.broker.enqueue(&ctx, NewTask::new(Slug::parse("t.hold").unwrap(), json!([]))).await.unwrap();
    let mut holding = world.work();
    let ours = next(&mut holding).await;
    let waiting = NewTask::new(Slug::parse("t.add").unwrap(), json!([20, 1])).with_delay(Duration::from_secs(3));
    let waiting = world.broker.enqueue(&ctx, waiting).await.unwrap();
    world.python("app.send_task('t.hold', (), task_id='theirs', queue='other')\nprint('1')").await;
    let theirs = next(&mut holding).await;
    let said = world
        .python(&format!(
            r#"
app.control.revoke(["{sealed}", "theirs", "{waiting}", "queued"], terminate=True)
said = {{name: app.control.broadcast("revoke", {{"task_id": name, "terminate": True}}, reply=True, limit=1, timeout=5)
        for name in ("{sealed}", "theirs", "{waiting}")}}
app.control.revoke("queued")
app.send_task("t.add", (3, 4), task_id="queued", queue="other")
said["results"] = results("queued", "{waiting}")
said["active"] = app.control.inspect(["forge1@test"], timeout=5).active()
said["queues"] = app.control.inspect(["forge1@test"], timeout=5).active_queues()
print(json.dumps(said))
"#
        ))
        .await;
    let of_sealed = &said[sealed.to_string()][0][NAME]["error"];
    assert!(of_sealed.as_str().unwrap().contains("cancelled in forge"), "isolation: a sealed task: {said}");
    assert_eq!(
        said["theirs"],
        json!([{NAME: {"ok": "terminate: tasks unknown"}}]),
        "isolation: another tenant's: {said}"
    );
    assert!(!ours.lost.is_cancelled() && !theirs.lost.is_cancelled(), "isolation: both still run");
    assert_eq!(said["results"]["queued"], json!(["SUCCESS", 7]), "isolation: another tenant's, not begun: {said}");
    assert_eq!(said["results"][waiting.to_string()], json!(["SUCCESS", 21]), "isolation: sealed, not begun: {said}");
    assert_eq!(said["active"][NAME].as_array().unwrap().len(), 1, "isolation: only acme's are shown: {said}");
    assert_eq!(said["active"][NAME][0]["delivery_info"]["routing_key"], "", "a tenant's queue is not named");
    assert_eq!(said["queues"][NAME].as_array().unwrap().len(), 1, "isolation: only acme's are shown: {said}");
    world.broker.ack(&ours, json!(1)).await.unwrap();
    assert_eq!(world.broker.status(&ctx, sealed).await.unwrap().state, TaskState::Succeeded { result: json!(1) });
    assert!(theirs.until > SystemClock.now());
}
