//! Language models, and providers that stand in for one and say so.

use std::ops::Range;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::usage::Quantity;
use crate::{Adapter, ExecutionContext, OperationKey, Result};

/// Who said it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Speaker {
    /// The host's instructions.
    System,
    /// The person, or the document that they brought.
    User,
    /// The model.
    Assistant,
}

/// One message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Who said it.
    pub speaker: Speaker,
    /// What.
    pub text: String,
}

impl Message {
    /// The host's instructions.
    pub fn system(text: impl Into<String>) -> Self {
        Self { speaker: Speaker::System, text: text.into() }
    }

    /// What the person brought.
    pub fn user(text: impl Into<String>) -> Self {
        Self { speaker: Speaker::User, text: text.into() }
    }
}

/// What is asked of a model.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct CompletionRequest {
    /// The conversation.
    pub messages: Vec<Message>,
    /// The most tokens to write; characters / 4 for providers without tokens.
    pub max_tokens: u32,
    /// The model that must answer, where it matters; otherwise the best that the policy allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Stable over retries; a provider that knows idempotency keys sends it. Set by the guard.
    pub key: Option<OperationKey>,
}

impl CompletionRequest {
    /// A request for at most 1,024 tokens.
    pub fn new(messages: Vec<Message>) -> Self {
        Self { messages, max_tokens: 1024, model: None, key: None }
    }

    /// Sets the most tokens to write.
    #[must_use]
    pub fn with_max_tokens(mut self, max_tokens: u32) -> Self {
        self.max_tokens = max_tokens;
        self
    }

    /// Names the model that must answer.
    #[must_use]
    pub fn with_model(mut self, model: impl Into<String>) -> Self {
        self.model = Some(model.into());
        self
    }

    /// How many tokens the messages are, for reservations and choices: four bytes each. Never what is billed.
    pub fn about_tokens(&self) -> u64 {
        let bytes: usize = self.messages.iter().map(|m| m.text.len()).sum();
        u64::try_from(bytes.div_ceil(4)).unwrap_or(u64::MAX)
    }
}

/// Where a sentence of an answer comes from: bytes of the last user message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Citation {
    /// The span in the answer.
    pub answer: Range<usize>,
    /// The span in the last user message.
    pub source: Range<usize>,
}

/// A model's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completion {
    /// The text.
    pub text: String,
    /// The model that answered, as its provider reports it.
    pub model: String,
    /// The provider's id of the response, where it gives one: what a repeated call is really billed by.
    pub response_id: Option<String>,
    /// Source spans, where the provider cites.
    pub citations: Vec<Citation>,
    /// What was used, as the provider counts it; never estimated.
    pub quantity: Quantity,
    /// Why it ends where it does.
    #[serde(default)]
    pub finish: Finish,
}

/// Why an answer ends where it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Finish {
    /// The model had said all.
    #[default]
    Stop,
    /// It was cut off at [`max_tokens`](CompletionRequest::max_tokens) or the model's own limit.
    Length,
    /// The provider's filter withheld the rest.
    Filtered,
}

/// What a provider can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ModelCapability {
    /// It is a language model. False for a provider that only extracts: reports must say so.
    pub language_model: bool,
    /// Answers carry source spans.
    pub citations: bool,
    /// Text leaves this process.
    pub remote: bool,
    /// The most tokens of a request and its answer together; `None` where there is no limit.
    pub context: Option<u32>,
    /// How long the same request may be given the same answer; `None`: never.
    pub cache: Option<Duration>,
}

impl ModelCapability {
    /// The abilities, named.
    pub const fn new(language_model: bool, citations: bool, remote: bool) -> Self {
        Self { language_model, citations, remote, context: None, cache: None }
    }

    /// Declares the most tokens of a request and its answer together.
    #[must_use]
    pub const fn with_context(mut self, tokens: u32) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Declares that the same request may be given the same answer for so long; an hour is usual.
    #[must_use]
    pub const fn cached(mut self, time: Duration) -> Self {
        self.cache = Some(time);
        self
    }
}

/// Answers.
///
/// # Contract
/// One attempt a call. `quantity` is what the provider counted; a provider that does not count says zero tokens. A
/// provider that is not a language model declares it.
#[async_trait]
pub trait LanguageModel: Adapter {
    /// Answers a conversation.
    ///
    /// # Errors
    /// `InvalidInput`, `RateLimited`, `Unavailable`, `Timeout`, `Unauthenticated`.
    async fn complete(&self, ctx: &ExecutionContext, request: CompletionRequest) -> Result<Completion>;

    /// The model's name, as policies and prices know it, such as `local/extractive-1`.
    fn model(&self) -> &str;

    /// What it can do.
    fn capability(&self) -> ModelCapability;
}
