//! How a user of Forge tests: the whole host on fakes, and a mock for an expectation on one adapter.

use downstream::Measure;
use forge::core::{Slug, TaskId};
use forge::core::audit::AuditEvent;
use forge::core::fake::FakePolicy;
use forge::core::mock::MockTaskQueue;
use forge::core::queue::{NewTask, QueueCapability};
use forge::prelude::*;
use forge::testing::mock_tool;
use serde_json::json;

#[tokio::test]
async fn a_tool_is_decided_audited_and_paid_for() {
    let forge = Forge::for_tests().tool(Measure).build().await.unwrap();
    let ana = forge.act_as("acme", "ana", "analyst");
    let out = forge.scope(&ana).call("measure", json!({ "text": "hello" })).await.unwrap();
    assert_eq!(out.content(), &json!({ "characters": 5 }));
    let names: Vec<_> = forge.audit().iter().map(|r| r.event.name()).collect();
    assert_eq!(names, ["decision", "outcome"]);
    assert_eq!(forge.usage().first().unwrap().cost.unwrap().to_string(), "0.01 USD");
}

#[tokio::test]
async fn what_is_denied_is_not_called_and_not_paid_for() {
    let tool = mock_tool("slack_post").effect(Effect::Send).returning(|_, _| panic!("it must not be called"));
    let forge = Forge::for_tests().tool(tool).policy(FakePolicy::deny_all()).build().await.unwrap();
    let ana = forge.act_as("acme", "ana", "analyst");
    let refused = forge.scope(&ana).call("slack_post", json!({})).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::PolicyDenied);
    assert!(matches!(&forge.audit()[0].event, AuditEvent::Decision { .. }) && forge.usage().is_empty());
}

#[tokio::test]
async fn a_mock_expects_one_call() {
    let mut queue = MockTaskQueue::new();
    queue.expect_capability().return_const(QueueCapability::new(false, true, 1024));
    queue
        .expect_enqueue()
        .withf(|ctx, task| ctx.tenant() == "acme" && task.name == "index")
        .times(1)
        .returning(|_, _| Ok(TaskId::fixed(1)));
    let forge = Forge::for_tests().queue(queue).build().await.unwrap();
    let ana = forge.act_as("acme", "ana", "analyst");
    let task = NewTask::new(Slug::parse("index").unwrap(), json!({ "document": 7 }));
    assert_eq!(forge.scope(&ana).enqueue(task).await.unwrap(), TaskId::fixed(1));
}

#[tokio::test]
async fn another_tenant_finds_nothing() {
    let forge = Forge::for_tests().tool(Measure).build().await.unwrap();
    let (ana, eve) = (forge.act_as("acme", "ana", "analyst"), forge.act_as("globex", "eve", "analyst"));
    forge.scope(&ana).call("measure", json!({ "text": "hello" })).await.unwrap();
    let foreign = forge.scope(&eve).audit(ana.tenant(), 1, 10).await.unwrap_err();
    assert_eq!(foreign.kind(), ErrorKind::TenantMismatch);
    let own = forge.scope(&eve).usage(eve.tenant(), &Default::default(), 10).await.unwrap();
    assert!(own.is_empty());
}

#[tokio::test]
async fn the_same_host_runs_on_embedded_stores() {
    let dir = tempdir();
    let forge = downstream::host(&dir).await.unwrap();
    let ana = forge.context(Principal::employee("acme", "ana", "analyst").unwrap());
    assert!(forge.scope(&ana).call("measure", json!({ "text": "hello" })).await.is_ok());
    forge.shutdown(std::time::Duration::from_secs(5)).await.unwrap();
    std::fs::remove_dir_all(dir).unwrap();
}

fn tempdir() -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("forge-downstream-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
