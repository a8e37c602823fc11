//! Tests of a host: everything on fakes, and a mock where one call is expected. `tests/downstream` is the same from outside.
//!
//! ```sh
//! cargo run --example mock_adapter --features mock
//! ```

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a program that prints what it shows, and asserts it"
)]

use forge::core::fake::FakePolicy;
use forge::core::mock::MockTaskQueue;
use forge::core::queue::{NewTask, QueueCapability};
use forge::core::{Slug, TaskId};
use forge::prelude::*;
use forge::testing::mock_tool;
use serde_json::json;

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    // the whole host on fakes: assert on decisions and money, not on logs
    let weather = mock_tool("weather").returning(|ctx, _| Ok(json!({ "for": ctx.tenant().as_str() }).into()));
    let forge = Forge::for_tests().tool(weather).build().await?;
    let ana = forge.act_as("acme", "ana", "analyst");
    let out = forge.scope(&ana).call("weather", json!({})).await?;
    println!(
        "answer {}, audit rows {}, cost {:?}",
        out.content(),
        forge.audit().len(),
        forge.usage().first().and_then(|e| e.cost)
    );
    assert_eq!((forge.audit().len(), forge.usage().len()), (2, 1));

    // a policy of one line: what is refused is not called and not paid for
    let never = mock_tool("weather").returning(|_, _| panic!("it must not be called"));
    let forge = Forge::for_tests().tool(never).policy(FakePolicy::deny_all()).build().await?;
    let refused = forge.scope(&forge.act_as("acme", "ana", "analyst")).call("weather", json!({})).await;
    println!("refused: {}", refused.expect_err("everything is denied"));
    assert_eq!((forge.audit().len(), forge.usage().len()), (1, 0));

    // a mock, for an expectation on one adapter
    let mut queue = MockTaskQueue::new();
    queue.expect_capability().return_const(QueueCapability::new(false, true, 1024));
    queue
        .expect_enqueue()
        .withf(|ctx, task| ctx.tenant() == "acme" && task.name == "index")
        .times(1)
        .returning(|_, _| Ok(TaskId::fixed(1)));
    let forge = Forge::for_tests().queue(queue).build().await?;
    let task = NewTask::new(Slug::parse("index")?, json!({ "document": 7 }));
    let id = forge.scope(&forge.act_as("acme", "ana", "analyst")).enqueue(task).await?;
    println!("queued as {id}, once, by the right tenant");
    Ok(())
}
