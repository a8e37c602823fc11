//! Single tasks and their results, in both directions.

use forge_core::queue::{NewTask, TaskQueue, TaskState};
use forge_core::{ErrorKind, TaskId};
use serde_json::json;

use crate::world::{World, context, slug, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn python_sends_and_rust_does() {
    let world = World::new();
    let _rust = world.serve();
    let seen = world
        .python(
            r#"
import datetime, decimal, uuid
from celery.exceptions import TaskRevokedError
def raised(result):
    try:
        return result.get(timeout=20)
    except Exception as e:
        return [type(e).__name__, *e.args]
seen = {}
seen["plain"] = sig("rs.add", 2, 3).delay().get(timeout=20)
seen["gzip"] = sig("rs.add", 2, 4).apply_async(compression="gzip").get(timeout=20)
seen["priority"] = sig("rs.add", 2, 5).apply_async(priority=7).get(timeout=20)
day = datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc)
seen["typed"] = sig("rs.echo", day, decimal.Decimal("1.50"), uuid.UUID(int=5)).delay().get(timeout=20)
began = time.monotonic()
sig("rs.add", 1, 1).apply_async(countdown=1).get(timeout=20)
seen["waited"] = 0.9 < time.monotonic() - began
seen["expired"] = raised(sig("rs.add", 1, 1).apply_async(expires=day))
seen["failed"] = raised(sig("rs.fail").delay())
flaky, states = sig("rs.flaky").delay(), set()
while not flaky.ready():
    states.add(flaky.state)
seen["retry"] = ["RETRY" in states, flaky.get(timeout=20)]
unasked = sig("rs.fail").apply_async(ignore_result=True)
sig("rs.add", 1, 1).delay().get(timeout=20)
seen["ignored"] = app.AsyncResult(unasked.id).state
print(json.dumps(seen))
"#,
        )
        .await;
    let expected = json!({
        "plain": 5,
        "gzip": 6,
        "priority": 7,
        "typed": ["2026-01-02T03:04:05+00:00", "1.50", "00000000-0000-0000-0000-000000000005"],
        "waited": true,
        "expired": ["TaskRevokedError", "expired"],
        "failed": ["RuntimeError", "invalid_input: no luck"],
        "retry": [true, 2],
        "ignored": "PENDING",
    });
    assert_eq!(seen, expected);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rust_sends_and_python_does() {
    let world = World::new();
    let _python = world.celery("pyq");
    let _rust = world.serve();
    let ctx = context("acme");
    let send = async |name: &str, args| world.broker.enqueue(&ctx, NewTask::new(slug(name), args)).await.unwrap();
    let ended = async |id: TaskId| {
        until("the result of Python", async || match world.broker.status(&ctx, id).await.unwrap().state {
            TaskState::Ready | TaskState::Leased => None,
            state => Some(state),
        })
        .await
    };
    let (added, failed, asked) =
        (send("py.add", json!([2, 3])).await, send("py.fail", json!([])).await, send("py.asks", json!([2, 3])).await);
    assert_eq!(ended(added).await, TaskState::Succeeded { result: json!(5) });
    assert_eq!(
        ended(asked).await,
        TaskState::Succeeded { result: json!(500) },
        "a task in Python waits for one in Rust"
    );
    match ended(failed).await {
        TaskState::Dead { report } => {
            assert_eq!(report.context, [("exception".to_owned(), "ValueError".to_owned())]);
            assert!(!format!("{report:?}").contains("bad thing"), "the text of an exception is not repeated");
        }
        other => panic!("{other:?}"),
    }
    let theirs = world.broker.status(&context("globex"), added).await;
    assert_eq!(theirs.unwrap_err().kind(), ErrorKind::NotFound, "isolation: another tenant's task is not there");

    // a result is believed only of a task that its own record sends to Python
    let own = send("index", json!([])).await;
    let forged = r#"{"status": "SUCCESS", "result": "forged", "traceback": null, "children": [], "date_done": null, "task_id": "x"}"#;
    world.server.cli(&["SET", &format!("{{t}}:celery-task-meta-{own}"), forged]);
    assert_eq!(world.broker.status(&ctx, own).await.unwrap().state, TaskState::Ready);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_queue_that_both_serve_each_task_finds_its_worker() {
    let world = World::new();
    let _rust = world.serve();
    let id = world.python("print(json.dumps(sig('both.python').delay().id))").await;
    // Rust has no handler for it, and is the only one there
    until("Rust to put it back", async || Some(()).filter(|()| world.key("ZCARD", "forge:acme:delayed") == "1")).await;
    let _python = world.celery("both");
    let key = format!("celery-task-meta-{}", id.as_str().unwrap());
    until("Python to do it", async || Some(()).filter(|()| world.key("GET", &key).contains("SUCCESS"))).await;
}
