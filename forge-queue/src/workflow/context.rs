//! What a step of code is given.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use forge_core::guard::{CallOptions, IntentLog, Models, StepBooks, Tools};
use forge_core::model::{Completion, CompletionRequest};
use forge_core::tool::{ToolEnv, ToolOutput};
use forge_core::{ExecutionContext, OperationKey, Result, RunId};
use serde_json::Value;

use super::Outputs;

/// The step's context, the earlier answers, and the guarded adapters. Every call through it has a key that is stable over
/// retries and restarts, made of run, step and the call's ordinal in the step; its usage and its audit row ride in the
/// journal row that completes the step.
#[derive(Clone)]
pub struct StepContext {
    pub(super) ctx: ExecutionContext,
    pub(super) outputs: Outputs,
    pub(super) tools: Tools,
    pub(super) models: Models,
    pub(super) place: Place,
}

/// Which try of which step of which run.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) run: RunId,
    pub(super) path: Arc<str>,
    pub(super) attempt: u32,
    pub(super) books: StepBooks,
    pub(super) intents: Arc<dyn IntentLog>,
    pub(super) ordinal: Arc<AtomicU32>,
}

impl Place {
    /// The key of the step's call number `ordinal`, the same on every try.
    pub(super) fn key(ctx: &ExecutionContext, run: RunId, path: &str, ordinal: u32) -> OperationKey {
        OperationKey::derived(&[
            b"step",
            ctx.tenant().as_str().as_bytes(),
            run.as_bytes(),
            path.as_bytes(),
            &ordinal.to_be_bytes(),
        ])
    }

    pub(super) fn options(&self, ctx: &ExecutionContext) -> CallOptions {
        let ordinal = self.ordinal.fetch_add(1, Ordering::Relaxed);
        CallOptions::default().with_key(Self::key(ctx, self.run, &self.path, ordinal)).in_step(
            self.run,
            self.attempt,
            self.books.clone(),
            Some(self.intents.clone()),
        )
    }
}

impl StepContext {
    /// Who, for whom, until when.
    pub fn ctx(&self) -> &ExecutionContext {
        &self.ctx
    }

    /// The run's input and the earlier answers.
    pub fn outputs(&self) -> &Outputs {
        &self.outputs
    }

    /// The run.
    pub fn run(&self) -> RunId {
        self.place.run
    }

    /// Which try of the step, from 1.
    pub fn attempt(&self) -> u32 {
        self.place.attempt
    }

    /// Blobs, vectors, embedder, secrets and time, each behind the guard.
    pub fn env(&self) -> &ToolEnv {
        self.tools.env()
    }

    /// The language models: names and abilities.
    pub fn models(&self) -> &Models {
        &self.models
    }

    /// Calls a tool through the guard. Calls of one step must come in the same order on every try.
    ///
    /// # Errors
    /// As for [`Tools::call`].
    pub async fn call(&self, tool: &str, args: Value) -> Result<ToolOutput> {
        self.tools.call(&self.ctx, tool, args, self.place.options(&self.ctx)).await
    }

    /// Asks the best language model that the policy allows, through the guard.
    ///
    /// # Errors
    /// As for [`Models::complete`].
    pub async fn complete(&self, request: CompletionRequest) -> Result<Completion> {
        self.models.complete(&self.ctx, request, self.place.options(&self.ctx)).await
    }
}

impl fmt::Debug for StepContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepContext").field("ctx", &self.ctx).field("path", &self.place.path).finish_non_exhaustive()
    }
}
