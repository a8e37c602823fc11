//! Handlers of tasks.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use forge_core::queue::{Lease, TaskHandler};
use forge_core::testing::{HandlerCase, task_handler};
use forge_core::{Error, ExecutionContext, Result, TaskId, TenantId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::finds_the_leak;

/// Notes each task once, as an effect with a key would.
#[derive(Debug, Clone)]
struct Notes {
    seen: Arc<Mutex<BTreeSet<(String, TaskId)>>>,
    forgetful: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Note {
    #[serde(rename = "text")]
    _text: String,
}

#[async_trait]
impl TaskHandler for Notes {
    async fn handle(&self, ctx: &ExecutionContext, task: &Lease) -> Result<Value> {
        Note::deserialize(&task.payload).map_err(|_| Error::invalid("notes", "expected a text"))?;
        let tenant = if self.forgetful { "everybody" } else { ctx.tenant().as_str() };
        self.seen.lock().unwrap().insert((tenant.to_owned(), task.id));
        Ok(json!("noted"))
    }
}

fn case(forgetful: bool) -> HandlerCase {
    let notes = Notes { seen: Arc::default(), forgetful };
    let seen = notes.seen.clone();
    let count = move |tenant: &TenantId| {
        let seen = seen.lock().unwrap();
        seen.iter().filter(|(t, _)| forgetful || *t == tenant.as_str()).count()
    };
    HandlerCase::new(notes, json!({ "text": "hello" })).with_effects(count)
}

#[tokio::test]
async fn handlers() {
    task_handler(async || case(false)).await;
}

#[tokio::test]
async fn handlers_that_forget_the_tenant_are_found() {
    finds_the_leak(task_handler(async || case(true))).await;
}

/// Does anew whatever it is handed.
#[derive(Debug, Default)]
struct Eager(Arc<Mutex<usize>>);

#[async_trait]
impl TaskHandler for Eager {
    async fn handle(&self, _: &ExecutionContext, task: &Lease) -> Result<Value> {
        Note::deserialize(&task.payload).map_err(|_| Error::invalid("notes", "expected a text"))?;
        *self.0.lock().unwrap() += 1;
        Ok(json!("done"))
    }
}

#[tokio::test]
#[should_panic(expected = "one task is one effect")]
async fn handlers_that_do_twice_are_found() {
    task_handler(async || {
        let eager = Eager::default();
        let done = eager.0.clone();
        HandlerCase::new(eager, json!({ "text": "hello" })).with_effects(move |_| *done.lock().unwrap())
    })
    .await;
}
