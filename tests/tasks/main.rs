//! The ready tasks, from the queue to what they leave behind.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod embed;
mod llamaindex;
mod stage;

use std::time::Duration;

use forge::core::queue::{NewTask, TaskState, TaskStatus};
use forge::core::{CaseId, Slug, TaskId};
use forge::prelude::*;
use forge::testing::TestForge;

fn slug(name: &str) -> Slug {
    Slug::parse(name).unwrap()
}

fn ana(forge: &Forge) -> ExecutionContext {
    let ana = Principal::employee("acme", "ana", "analyst").unwrap();
    let ctx = forge.context(ana.with_compliance_flag(slug("gdpr")).with_compliance_flag(slug("hipaa")));
    ctx.with_case(CaseId::parse("Case-7").unwrap())
}

/// Queues a task and waits for its end; `pass` lets time pass.
async fn ended(forge: &Forge, ctx: &ExecutionContext, task: NewTask, pass: impl Fn()) -> TaskStatus {
    let id = forge.scope(ctx).enqueue(task).await.unwrap();
    status(forge, ctx, id, pass).await
}

#[expect(clippy::disallowed_methods, reason = "the real time of other processes")]
async fn status(forge: &Forge, ctx: &ExecutionContext, id: TaskId, pass: impl Fn()) -> TaskStatus {
    let began = std::time::Instant::now();
    loop {
        let status = forge.scope(ctx).task(ctx.tenant(), id).await.unwrap();
        if !matches!(status.state, TaskState::Ready | TaskState::Leased) {
            return status;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "the task did not end: {status:?}");
        pass();
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// A tenth of a second a look.
fn under(forge: &TestForge) -> impl Fn() {
    let forge = forge.clone();
    move || forge.clock().advance(Duration::from_millis(100))
}

fn result(status: TaskStatus) -> serde_json::Value {
    match status.state {
        TaskState::Succeeded { result } => result,
        other => panic!("{other:?}"),
    }
}
