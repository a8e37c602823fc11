//! The guard around models and the task queue: every phase.

use std::collections::BTreeSet;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::call::{Answered, Operation};
use super::{CacheFor, CallOptions, Guarded, Guarding, Tries};
use crate::model::{Completion, CompletionRequest, LanguageModel, ModelCapability};
use crate::queue::{NewTask, QueueCapability, QueueDepth, TaskQueue, TaskStatus};
use crate::tool::Effect;
use crate::usage::{Quantity, Resource};
use crate::{Error, ErrorKind, ExecutionContext, Result, TaskId};

impl Guarded<dyn LanguageModel> {
    /// [`LanguageModel::complete`] with options: a step's key, attempt and books.
    ///
    /// # Errors
    /// The refusals of the guard; the model's own.
    pub async fn complete_with(
        &self,
        ctx: &ExecutionContext,
        request: CompletionRequest,
        options: CallOptions,
    ) -> Result<Completion> {
        let model = self.inner.model().to_owned();
        let capability = self.inner.capability();
        let reserve = reserve(capability, &request);
        let span = format!("chat {model}");
        let payload = serde_json::to_value(&request)
            .map_err(|e| Error::unexpected("model.complete", "the request does not serialise").with_source(e))?;
        let op = Operation {
            guarding: Guarding::LanguageModel,
            span: &span,
            action: "model.complete",
            resource: &model,
            // text that leaves the process is sent; it cannot be taken back, but asking again is harmless
            effect: if capability.remote { Effect::Send } else { Effect::Read },
            idempotent: true,
            payload,
            schema: None,
            max_input: 16 * 1024 * 1024,
            resource_fields: &[],
            timeout: Duration::from_secs(120),
            billed: Some(Resource::Model(model.clone())),
            reserve,
            owner: None,
            candidates: BTreeSet::new(),
            cache: capability.cache.map(|time| (time, CacheFor::Tenant)),
        };
        let content = self
            .guard
            .run(ctx, op, options, |ctx, prepared, _| {
                let (inner, model) = (self.inner.clone(), model.clone());
                async move {
                    let allowed = &prepared.obligations.model_allow;
                    if !allowed.is_empty() && !allowed.contains(&model) {
                        return Err(Error::new(
                            ErrorKind::PolicyDenied,
                            "model.complete",
                            "the policy allows other models only",
                        ));
                    }
                    let shape = |e| Error::unexpected("model.complete", "the request changed its shape").with_source(e);
                    let mut request: CompletionRequest =
                        serde_json::from_value(Value::clone(&prepared.payload)).map_err(shape)?;
                    request.key = Some(prepared.key);
                    let completion = inner.complete(&ctx, request).await?;
                    let (quantity, billed) = (completion.quantity, Some(Resource::Model(completion.model.clone())));
                    let content = serde_json::to_value(completion).map_err(shape)?;
                    Ok(Answered { billed, ..Answered::new(content, quantity) })
                }
            })
            .await?;
        serde_json::from_value(content)
            .map_err(|e| Error::unexpected("model.complete", "the answer changed its shape").with_source(e))
    }
}

/// What a request may use at most: a reservation, not a count. The provider's own count settles it.
pub(super) fn reserve(capability: ModelCapability, request: &CompletionRequest) -> Quantity {
    if !capability.language_model {
        return Quantity::default();
    }
    Quantity { tokens_in: request.about_tokens(), tokens_out: request.max_tokens.into(), ..Quantity::default() }
}

#[async_trait]
impl LanguageModel for Guarded<dyn LanguageModel> {
    async fn complete(&self, ctx: &ExecutionContext, request: CompletionRequest) -> Result<Completion> {
        self.complete_with(ctx, request, CallOptions::default()).await
    }

    fn model(&self) -> &str {
        self.inner.model()
    }

    fn capability(&self) -> ModelCapability {
        self.inner.capability()
    }
}

#[async_trait]
impl TaskQueue for Guarded<dyn TaskQueue> {
    async fn enqueue(&self, ctx: &ExecutionContext, task: NewTask) -> Result<TaskId> {
        // a repeat without a key would be a second task
        let idempotent = task.unique.is_some() || task.once.is_some();
        let tries = if idempotent { Tries::default() } else { Tries::ONCE };
        let op = Operation {
            guarding: Guarding::Enqueue,
            span: "enqueue",
            action: "task.enqueue",
            resource: task.name.as_str(),
            effect: Effect::Write,
            idempotent,
            payload: task.payload.clone(),
            schema: None,
            max_input: self.inner.capability().payload_max_size,
            resource_fields: &[],
            timeout: Duration::from_secs(30),
            billed: None,
            reserve: Quantity::default(),
            owner: None,
            candidates: BTreeSet::new(),
            cache: None,
        };
        let content = self
            .guard
            .run(ctx, op, CallOptions::default().with_tries(tries), |ctx, prepared, _| {
                let (inner, mut task) = (self.inner.clone(), task.clone());
                async move {
                    task.payload = Value::clone(&prepared.payload);
                    let id = inner.enqueue(&ctx, task).await?;
                    Ok(Answered::new(json!(id), Quantity::default()))
                }
            })
            .await?;
        serde_json::from_value(content)
            .map_err(|e| Error::unexpected("queue.enqueue", "the answer is no task id").with_source(e))
    }

    async fn status(&self, ctx: &ExecutionContext, id: TaskId) -> Result<TaskStatus> {
        self.store(ctx, "queue.status", |ctx| async move { self.inner.status(&ctx, id).await }).await
    }

    async fn cancel(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool> {
        self.store(ctx, "queue.cancel", |ctx| async move { self.inner.cancel(&ctx, id).await }).await
    }

    async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth> {
        self.store(ctx, "queue.depth", |ctx| async move { self.inner.depth(&ctx).await }).await
    }

    fn capability(&self) -> QueueCapability {
        self.inner.capability()
    }
}
