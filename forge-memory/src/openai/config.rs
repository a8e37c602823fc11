//! What an endpoint is called with.

use std::time::Duration;

use forge_core::secret::SecretRef;
use forge_core::{Error, ErrorKind, Result};

/// What a request calls the most tokens that its answer may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum LimitField {
    /// The older name, which most servers know.
    #[default]
    MaxTokens,
    /// The name for models that reason: what they think counts too.
    MaxCompletionTokens,
}

impl LimitField {
    /// Every one.
    pub const ALL: [Self; 2] = [Self::MaxTokens, Self::MaxCompletionTokens];

    /// As it stands in a request.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
        }
    }
}

/// One model of one endpoint. The key is a reference, so `Debug` holds no secret.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct OpenAiConfig {
    /// Up to and without `/chat/completions`.
    pub base_url: String,
    /// As the endpoint calls it.
    pub model: String,
    /// The first part of the model's name in policies and prices, before a slash; `openai` by default.
    pub provider: String,
    /// Sent as a bearer token; none for a server that asks for none.
    pub key: Option<SecretRef>,
    /// The most tokens of a request and its answer together; not known by default.
    pub context: Option<u32>,
    /// How long the same request may be given the same answer; an hour by default, none if zero.
    pub cache: Duration,
    /// Text leaves this host; true by default, and what is masked for a remote model then is.
    pub remote: bool,
    /// The longest wait for an answer; 120 seconds by default. The guard's own limit holds as well.
    pub timeout: Duration,
    /// What a request calls the limit of its answer; `max_tokens` by default.
    pub limit_field: LimitField,
}

impl Default for OpenAiConfig {
    /// A remote model that is not named yet.
    fn default() -> Self {
        Self {
            base_url: String::new(),
            model: String::new(),
            provider: "openai".to_owned(),
            key: None,
            context: None,
            cache: Duration::from_secs(3600),
            remote: true,
            timeout: Duration::from_secs(120),
            limit_field: LimitField::default(),
        }
    }
}

impl OpenAiConfig {
    /// A remote model that needs no key.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self { base_url: base_url.into(), model: model.into(), ..Self::default() }
    }

    /// Says where the key is.
    #[must_use]
    pub fn with_key(mut self, key: SecretRef) -> Self {
        self.key = Some(key);
        self
    }

    /// Renames the provider, where another than OpenAI answers.
    #[must_use]
    pub fn with_provider(mut self, provider: impl Into<String>) -> Self {
        self.provider = provider.into();
        self
    }

    /// Says how many tokens a request and its answer may have together.
    #[must_use]
    pub fn with_context(mut self, tokens: u32) -> Self {
        self.context = Some(tokens);
        self
    }

    /// Says how long an answer may be given again; zero: never.
    #[must_use]
    pub fn with_cache(mut self, time: Duration) -> Self {
        self.cache = time;
        self
    }

    /// Says that the endpoint is on this host or in its house: nothing is sent away.
    #[must_use]
    pub fn local(mut self) -> Self {
        self.remote = false;
        self
    }

    /// What keeps it from being called.
    ///
    /// # Errors
    /// `Config`, with the name of the field under `key`.
    pub fn check(&self) -> Result<()> {
        let wrong = |key: &'static str, what: &'static str| {
            Err(Error::new(ErrorKind::Config, "openai.config", what).with("key", key))
        };
        let named = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_graphic());
        if !self.base_url.starts_with("http://") && !self.base_url.starts_with("https://") {
            return wrong("base_url", "must begin with http:// or https://");
        }
        let (_, place) = self.base_url.split_once("://").unwrap_or_default();
        if place.split('/').next().is_some_and(|authority| authority.contains('@')) {
            return wrong("base_url", "must hold no user and no password: it is printed; give the key as a reference");
        }
        if !named(&self.model) {
            return wrong("model", "must be the model's name as the endpoint calls it, in visible ASCII");
        }
        if !named(&self.provider) || self.provider.contains('/') {
            return wrong("provider", "must be one word in visible ASCII, without a slash");
        }
        Ok(())
    }
}
