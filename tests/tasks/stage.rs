//! One stage of a workflow as a task.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use forge::core::queue::TaskState;
use forge::prelude::*;
use forge::tasks::ExecuteStage;
use forge::testing::mock_tool;
use serde_json::{Value, json};
use tokio::sync::Notify;

use crate::{ana, ended, result, slug, status, under};

fn employee(name: &str) -> Principal {
    Principal::employee("acme", name, "lawyer").unwrap()
}

async fn summary(cx: StepContext) -> Result<Value> {
    let (matter, notes): (String, Value) = (cx.outputs().input()?, cx.outputs().get("notes")?);
    let ctx = cx.ctx();
    Ok(
        json!({ "matter": matter, "notes": notes, "employee": ctx.employee(), "for": ctx.on_behalf_of(), "flags": ctx.compliance_flags() }),
    )
}

fn review() -> Workflow {
    let notes = step("notes", async |_: StepContext| Ok(json!("a note")));
    let who = step("who", async |cx: StepContext| {
        let ctx = cx.ctx();
        Ok(json!([ctx.tenant(), ctx.employee(), ctx.role(), ctx.compliance_flags(), ctx.request_id(), ctx.case_id()]))
    });
    Workflow::new("review", 1)
        .stage(stage("self").steps([who]))
        .stage(stage("intake").as_employee("desk_001").steps([notes]))
        .stage(stage("opinion").as_employee("lawyer_001").steps([step("summary", summary), queued("lookup")]))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_runs_as_its_employee_with_what_it_is_handed() {
    let lookup = mock_tool("lookup").returning(|ctx, _| Ok(json!(ctx.employee()).into()));
    let host = Forge::for_tests()
        .tool(lookup)
        .with(|h| h.workflow(review()).employee(employee("desk_001")).employee(employee("lawyer_001")));
    let forge = host.build().await.unwrap();
    let ctx = ana(&forge);
    let task = ExecuteStage::new(slug("review"), slug("opinion"), json!("Acme ./. Globex"));
    let task = task.with_output("notes", json!("mail bob@example.com"));
    let answer = result(ended(&forge, &ctx, task.task().unwrap(), under(&forge)).await);
    assert_eq!(answer["state"], "completed");
    assert_eq!(answer["outputs"]["lookup"], "lawyer_001");
    let summary = &answer["outputs"]["summary"];
    assert_eq!((&summary["employee"], &summary["for"]), (&json!("lawyer_001"), &json!("ana")));
    assert_eq!(summary["matter"], "Acme ./. Globex");

    let own = ExecuteStage::new(slug("review"), slug("self"), json!(null)).task().unwrap();
    let answer = result(ended(&forge, &ctx, own, under(&forge)).await);
    let expected = json!(["acme", "ana", "analyst", ["gdpr", "hipaa"], ctx.request_id(), ctx.case_id()]);
    assert_eq!(answer["outputs"]["who"], expected, "without an employee it runs as whoever queued it");

    let without = ExecuteStage::new(slug("review"), slug("opinion"), json!("x")).task().unwrap();
    let state = ended(&forge, &ctx, without, under(&forge)).await.state;
    assert!(matches!(&state, TaskState::Dead { report } if report.kind == ErrorKind::NotFound), "{state:?}");
    let unknown = ExecuteStage::new(slug("review"), slug("verdict"), json!("x")).task().unwrap();
    let state = ended(&forge, &ctx, unknown, under(&forge)).await.state;
    assert!(matches!(&state, TaskState::Dead { report } if report.kind == ErrorKind::NotFound), "{state:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_always_fails_is_tried_six_times() {
    let calls = Arc::new(AtomicU32::new(0));
    let counted = calls.clone();
    // code, because the circuit of a tool opens after the fifth failure and lets the sixth try not through
    let away = step("away", move |_: StepContext| {
        counted.fetch_add(1, Ordering::SeqCst);
        async { Err::<(), _>(Error::new(ErrorKind::Unavailable, "away", "it is away")) }
    });
    let one = Workflow::new("one", 1).stage(stage("only").steps([away]));
    let forge = Forge::for_tests().with(|h| h.workflow(one)).build().await.unwrap();
    let ctx = ana(&forge);
    let task = ExecuteStage::new(slug("one"), slug("only"), json!(null)).task().unwrap();
    let status = ended(&forge, &ctx, task, under(&forge)).await;
    assert!(matches!(&status.state, TaskState::Dead { report } if report.kind == ErrorKind::Unavailable), "{status:?}");
    assert_eq!(
        (status.attempts, calls.load(Ordering::SeqCst)),
        (1, 6),
        "5 retries after the first try, by the journal alone"
    );
}

/// A host whose second step waits to be let go.
async fn host(dir: &Path, first: &Arc<AtomicU32>, go: &Arc<Notify>, reached: &Arc<Notify>) -> Forge {
    let mut config = Config::in_dir(dir);
    config.queue.visibility_timeout = Duration::from_secs(1);
    let (first, go, reached) = (first.clone(), go.clone(), reached.clone());
    let count = step("count", move |_: StepContext| {
        let first = first.clone();
        async move { Ok(first.fetch_add(1, Ordering::SeqCst)) }
    });
    let wait = step("wait", move |cx: StepContext| {
        let (go, reached) = (go.clone(), reached.clone());
        async move {
            reached.notify_one();
            tokio::select! {
                () = go.notified() => Ok("done"),
                () = cx.ctx().cancellation().cancelled() => Err(Error::new(ErrorKind::Cancelled, "wait", "cut off")),
            }
        }
    });
    let workflow = Workflow::new("slow", 1).stage(stage("only").steps([count, wait]));
    let grants =
        json!({ "grants": { "analyst": ["workflow.start:slow.only", "task.enqueue:*", "task.run:*", "task.read:*"] } });
    loop {
        let host = Forge::builder().config(config.clone()).tenant("acme", grants.clone()).workflow(workflow.clone());
        match host.build().await {
            Ok(forge) => return forge,
            // the stores close in threads of their own
            Err(e) => assert!(e.to_string().contains("another process owns"), "{e}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn delivered_again_it_goes_on_where_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let (first, go, reached) = (Arc::default(), Arc::default(), Arc::default());
    let forge = host(dir.path(), &first, &go, &reached).await;
    let ctx = ana(&forge);
    let task = ExecuteStage::new(slug("slow"), slug("only"), json!(null)).task().unwrap();
    let id = forge.scope(&ctx).enqueue(task).await.unwrap();
    reached.notified().await;
    forge.shutdown(Duration::ZERO).await.unwrap();
    drop(forge);
    let forge = host(dir.path(), &first, &go, &reached).await;
    reached.notified().await;
    go.notify_one();
    let status = status(&forge, &ctx, id, || ()).await;
    assert_eq!(status.attempts, 2, "another lease");
    assert_eq!(result(status)["outputs"], json!({ "count": 0, "wait": "done" }));
    assert_eq!(first.load(Ordering::SeqCst), 1, "what was done is not done again");
}
