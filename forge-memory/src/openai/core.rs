//! The wire: one request, one answer.

use forge_core::model::{Completion, CompletionRequest, Finish, Speaker};
use forge_core::secret::{Secret, Secrets};
use forge_core::usage::Quantity;
use forge_core::{Error, ExecutionContext, Result};
use forge_http::{HttpClient, Request};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::OpenAiConfig;
use super::error::accept;

pub(super) struct Core {
    pub(super) http: HttpClient,
    pub(super) secrets: Secrets,
    pub(super) config: OpenAiConfig,
}

const COMPLETE: &str = "openai.complete";

#[derive(Deserialize)]
struct Answer {
    id: Option<String>,
    model: Option<String>,
    #[serde(default)]
    choices: Vec<Choice>,
    usage: Option<Usage>,
}

#[derive(Deserialize)]
struct Choice {
    message: Said,
    finish_reason: Option<String>,
}

#[derive(Deserialize)]
struct Said {
    content: Option<String>,
}

/// Cached tokens are among the prompt's: they are counted, and not priced apart.
#[derive(Deserialize)]
struct Usage {
    prompt_tokens: u64,
    completion_tokens: u64,
}

impl Core {
    pub(super) async fn key(&self) -> Result<Option<Secret>> {
        match &self.config.key {
            Some(reference) => self.secrets.fetch(reference).await.map(Some),
            None => Ok(None),
        }
    }

    pub(super) async fn models(&self, ctx: &ExecutionContext, key: Option<Secret>) -> Result<()> {
        let request = Request::get(format!("{}/models", self.config.base_url))?;
        accept("openai.models", self.http.send(ctx, "openai.models", with_key(request, key)).await?).map(drop)
    }

    pub(super) async fn complete(&self, ctx: &ExecutionContext, request: &CompletionRequest) -> Result<Completion> {
        if request.messages.is_empty() {
            return Err(Error::invalid(COMPLETE, "the conversation is empty"));
        }
        let mut call = Request::post(format!("{}/chat/completions", self.config.base_url))?;
        if let Some(key) = &request.key {
            call = call.header("idempotency-key", key.as_str());
        }
        let call = with_key(call, self.key().await?).json(&self.body(request))?;
        let answer: Answer = accept(COMPLETE, self.http.send(ctx, COMPLETE, call).await?)?.json(COMPLETE)?;
        let wrong = |what: &'static str| Error::unexpected(COMPLETE, what);
        let choice = answer.choices.into_iter().next().ok_or_else(|| wrong("the answer has no choice"))?;
        // what is not counted cannot be paid for, and is not estimated
        let usage = answer.usage.ok_or_else(|| wrong("the answer does not say how many tokens it used"))?;
        Ok(Completion {
            text: choice.message.content.unwrap_or_default(),
            model: answer.model.unwrap_or_default(),
            response_id: answer.id,
            citations: Vec::new(),
            quantity: Quantity {
                tokens_in: usage.prompt_tokens,
                tokens_out: usage.completion_tokens,
                ..Quantity::default()
            },
            finish: match choice.finish_reason.as_deref() {
                Some("length") => Finish::Length,
                Some("content_filter") => Finish::Filtered,
                _ => Finish::Stop,
            },
        })
    }

    fn body(&self, request: &CompletionRequest) -> Value {
        let messages: Vec<Value> =
            request.messages.iter().map(|m| json!({ "role": role(m.speaker), "content": m.text })).collect();
        let mut body = Map::new();
        body.insert("model".into(), self.config.model.as_str().into());
        body.insert("messages".into(), messages.into());
        body.insert(self.config.limit_field.as_str().into(), request.max_tokens.into());
        body.into()
    }
}

fn with_key(request: Request, key: Option<Secret>) -> Request {
    match key {
        Some(key) => request.bearer(key),
        None => request,
    }
}

fn role(speaker: Speaker) -> &'static str {
    match speaker {
        Speaker::System => "system",
        Speaker::User => "user",
        Speaker::Assistant => "assistant",
    }
}
