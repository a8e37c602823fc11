//! What an endpoint is called with.

use std::time::Duration;

use forge_core::secret::SecretRef;
use forge_core::{Error, ErrorKind, Result};

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
    /// How long the same request may be given the same answer; an hour by default.
    pub cache: Option<Duration>,
    /// Text leaves this host; true by default, and what is masked for a remote model then is.
    pub remote: bool,
    /// The longest wait for an answer; 120 seconds by default. The guard's own limit holds as well.
    pub timeout: Duration,
    /// The name of the limit of an answer: `max_completion_tokens` for models that reason, `max_tokens` by default.
    pub limit_field: &'static str,
}

impl OpenAiConfig {
    /// A remote model that needs no key.
    pub fn new(base_url: impl Into<String>, model: impl Into<String>) -> Self {
        Self {
            base_url: base_url.into(),
            model: model.into(),
            provider: "openai".to_owned(),
            key: None,
            context: None,
            cache: Some(Duration::from_secs(3600)),
            remote: true,
            timeout: Duration::from_secs(120),
            limit_field: "max_tokens",
        }
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

    /// Says how long an answer may be given again; `None`: never.
    #[must_use]
    pub fn with_cache(mut self, time: Option<Duration>) -> Self {
        self.cache = time;
        self
    }

    /// Says that the endpoint is on this host or in its house: nothing is sent away.
    #[must_use]
    pub fn local(mut self) -> Self {
        self.remote = false;
        self
    }

    pub(super) fn check(&self) -> Result<()> {
        let wrong = |what: &'static str| Err(Error::new(ErrorKind::Config, "openai.config", what));
        let named = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_graphic());
        if !self.base_url.starts_with("http://") && !self.base_url.starts_with("https://") {
            return wrong("base_url begins with http:// or https://");
        }
        if !named(&self.model) {
            return wrong("model names the model, as the endpoint calls it");
        }
        if !named(&self.provider) || self.provider.contains('/') {
            return wrong("provider is one word without a slash");
        }
        Ok(())
    }
}
