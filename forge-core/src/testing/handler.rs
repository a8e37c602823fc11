//! The suite of [`TaskHandler`].

use std::fmt;
use std::sync::Arc;

use futures::FutureExt;
use serde_json::Value;

use super::fixture::prints_no_secret;
use super::{context, lease};
use crate::queue::TaskHandler;
use crate::{ErrorKind, ExecutionContext, TaskId, TenantId};

/// A handler under test, with what only its test knows.
pub struct HandlerCase {
    handler: Arc<dyn TaskHandler>,
    payload: Value,
    secrets: Vec<String>,
    effects: Option<Effects>,
}

type Effects = Box<dyn Fn(&TenantId) -> usize + Send + Sync>;

impl HandlerCase {
    /// A handler, and a payload with which it succeeds in every tenant.
    pub fn new(handler: impl TaskHandler, payload: Value) -> Self {
        Self { handler: Arc::new(handler), payload, secrets: Vec::new(), effects: None }
    }

    /// How many effects it has had in a tenant; without it the suite cannot see a second one.
    #[must_use]
    pub fn with_effects(mut self, count: impl Fn(&TenantId) -> usize + Send + Sync + 'static) -> Self {
        self.effects = Some(Box::new(count));
        self
    }

    /// A credential that it was made with: neither its `Debug` nor an answer may show it.
    #[must_use]
    pub fn with_secret(mut self, secret: impl Into<String>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    fn count(&self, ctx: &ExecutionContext) -> Option<usize> {
        self.effects.as_ref().map(|count| count(ctx.tenant()))
    }

    /// One try of the task.
    async fn tried(&self, ctx: &ExecutionContext, payload: &Value, attempt: u32) -> crate::Result<Value> {
        self.handler.handle(ctx, &lease(ctx, TASK, payload.clone(), attempt)).await
    }
}

impl fmt::Debug for HandlerCase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HandlerCase")
    }
}

const TASK: TaskId = TaskId::fixed(7);

fn ana() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

/// Runs every scenario on fresh handlers that `fresh` makes.
///
/// # Panics
/// With the scenario's name, where the handler does not keep the [contract](TaskHandler).
pub async fn task_handler(fresh: impl AsyncFn() -> HandlerCase) {
    does_once_what_is_tried_twice(&fresh().await).await;
    goes_on_after_a_try_that_was_cut_off(&fresh().await).await;
    refuses_what_it_does_not_know(&fresh().await).await;
    keeps_tenants_apart(&fresh().await).await;
}

async fn does_once_what_is_tried_twice(case: &HandlerCase) {
    let first = case.tried(&ana(), &case.payload, 1).await.expect("it succeeds with its payload");
    prints_no_secret(&first, &case.secrets);
    prints_no_secret(case.handler.as_ref(), &case.secrets);
    // the worker was killed before it could say so
    case.tried(&ana(), &case.payload, 2).await.expect("a task that is done is no error when it is tried again");
    assert!(case.count(&ana()).is_none_or(|n| n <= 1), "one task is one effect, however often it is tried");
}

async fn goes_on_after_a_try_that_was_cut_off(case: &HandlerCase) {
    let _dropped = case.tried(&ana(), &case.payload, 1).now_or_never();
    case.tried(&ana(), &case.payload, 2).await.expect("cancelled in the middle, it goes on");
    assert!(case.count(&ana()).is_none_or(|n| n <= 1), "one task is one effect, cut off or not");
}

async fn refuses_what_it_does_not_know(case: &HandlerCase) {
    let mut odd = vec![Value::Null, Value::from(7), Value::from("text"), Value::from(vec![Value::Null])];
    if let Some(fields) = case.payload.as_object().filter(|f| !f.is_empty()) {
        let first = fields.keys().next().cloned().unwrap_or_default();
        odd.push(fields.iter().filter(|(k, _)| **k != first).map(|(k, v)| (k.clone(), v.clone())).collect());
        odd.push(fields.keys().map(|k| (k.clone(), Value::from(vec![vec![1]]))).collect());
    }
    for payload in odd {
        let refused = case.tried(&ana(), &payload, 1).await.expect_err("a payload that it does not know");
        // of the others some are tried again, and a payload never gets better
        assert_eq!(refused.kind(), ErrorKind::InvalidInput, "a payload that it does not know: {refused}");
        let text = format!("{refused} {refused:?}");
        assert!(!case.secrets.iter().any(|s| text.contains(s)), "secret absent from errors");
    }
    assert!(case.count(&ana()).is_none_or(|n| n == 0), "what is refused has no effect");
}

async fn keeps_tenants_apart(case: &HandlerCase) {
    let theirs = context("globex", "ana", "analyst");
    case.tried(&ana(), &case.payload, 1).await.expect("it succeeds with its payload");
    assert!(case.count(&theirs).is_none_or(|n| n == 0), "isolation: the work of one tenant shows in another");
    let before = case.count(&ana());
    case.tried(&theirs, &case.payload, 1).await.expect("isolation: the same task of another tenant is another task");
    assert_eq!(case.count(&ana()), before, "isolation: the work of another tenant shows here");
    assert_eq!(case.count(&theirs), before, "isolation: and is done there");
}
