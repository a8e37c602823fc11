//! A step's body at work: the guard around each call in it, its books collected, its intents journalled.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;

use async_trait::async_trait;
use forge_core::guard::StepBooks;
use forge_core::journal::{Claim, Intent, Outbox, Transition};
use forge_core::{Error, ErrorKind, ExecutionContext, Result};
use futures::FutureExt;
use serde_json::Value;

use super::context::Place;
use super::definition::{Body, StepDef};
use super::engine::Engine;
use super::{Outputs, StepContext};

/// Runs a step's body, in whichever process it is: the guard around each call in it, its books collected.
pub(super) async fn perform(
    engine: &Engine,
    ctx: &ExecutionContext,
    claim: &Claim,
    step: &StepDef,
    path: &str,
    attempt: u32,
    outputs: &Outputs,
) -> (Result<Value>, Outbox) {
    let parts = &engine.0.parts;
    let books = StepBooks::default();
    let intents = Arc::new(Intents { engine: engine.clone(), claim: claim.clone(), path: path.to_owned() });
    let place = Place {
        run: claim.run,
        path: path.into(),
        attempt,
        books: books.clone(),
        intents,
        ordinal: Arc::new(AtomicU32::new(0)),
    };
    let work = async {
        match &step.body {
            Body::Tool { tool, args } => {
                let options = place.options(ctx);
                parts.tools.call(ctx, tool, args(outputs)?, options).await.map(|o| o.content().clone())
            }
            Body::Code(code) => {
                let (tools, models) = (parts.tools.clone(), parts.models.clone());
                code(StepContext { ctx: ctx.clone(), outputs: outputs.clone(), tools, models, place }).await
            }
        }
    };
    let outcome = std::panic::AssertUnwindSafe(work).catch_unwind().await;
    let outcome = outcome
        .unwrap_or_else(|_| Err(Error::unexpected("workflow.step", "the step panicked").with("step", path.to_owned())));
    (outcome, books.take())
}

/// Writes intents into the run's journal. An intent that is still open is somebody's effect: no second one is made over it.
struct Intents {
    engine: Engine,
    claim: Claim,
    path: String,
}

#[async_trait]
impl forge_core::guard::IntentLog for Intents {
    async fn intend(&self, intent: Intent) -> Result<()> {
        let parts = &self.engine.0.parts;
        let steps = parts.journal.steps(&self.claim.tenant, self.claim.run).await?;
        let open = steps.iter().find(|s| s.path == self.path).and_then(|s| s.intent.as_ref());
        if open.is_some_and(|i| i.key == intent.key) {
            return Err(Error::new(
                ErrorKind::UnknownOutcome,
                "workflow.intend",
                "an earlier try may have made this effect",
            ));
        }
        let transition = Transition::Intended { path: self.path.clone(), intent };
        parts.journal.apply(&self.claim, parts.clock.now(), vec![transition]).await.map(drop)
    }
}
