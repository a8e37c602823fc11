//! The fakes keep the contracts of the real backends: every suite runs on them, and each suite finds one that does not.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "helpers of tests")]

mod books;
mod clock;
mod handler;
mod health;
mod keyring;
mod kv;
mod metrics;
mod queue;
mod redact;
mod resolver;
mod secret;
mod stores;
mod work;

use std::panic::AssertUnwindSafe;

use forge_core::ExecutionContext;
use forge_core::testing::context;
use futures::FutureExt;

/// The context that a backend works with, which forgets whose things it keeps.
fn everybody(ctx: &ExecutionContext) -> ExecutionContext {
    context("everybody", ctx.employee().as_str(), ctx.role().as_str())
}

/// The suite must fail, and for that reason.
async fn finds_the_leak(suite: impl Future<Output = ()>) {
    let panic = AssertUnwindSafe(suite).catch_unwind().await.expect_err("the suite did not notice");
    let literal = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    let message = panic.downcast_ref::<String>().cloned().or(literal).unwrap_or_default();
    assert!(message.contains("isolation"), "{message}");
}
