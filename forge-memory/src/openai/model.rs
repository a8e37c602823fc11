//! The client.

use std::fmt;

use async_trait::async_trait;
use forge_core::model::{Completion, CompletionRequest, LanguageModel, ModelCapability};
use forge_core::secret::Secrets;
use forge_core::{Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Principal, RequestId, Result};
use forge_http::{HttpClient, HttpOptions};

use super::OpenAiConfig;
use super::core::Core;

/// One model of one endpoint.
pub struct OpenAiModel {
    core: Core,
    name: String,
}

impl OpenAiModel {
    /// A model. Nothing connects before the first call, and the key is fetched for each: it may rotate.
    ///
    /// # Errors
    /// `Config` if [`OpenAiConfig::check`] finds something.
    pub fn new(config: OpenAiConfig, secrets: Secrets) -> Result<Self> {
        config.check()?;
        let mut options = HttpOptions::default();
        options.timeout = config.timeout;
        let http = HttpClient::new(options)?;
        let name = format!("{}/{}", config.provider, config.model);
        Ok(Self { core: Core { http, secrets, config }, name })
    }
}

#[async_trait]
impl LanguageModel for OpenAiModel {
    async fn complete(&self, ctx: &ExecutionContext, request: CompletionRequest) -> Result<Completion> {
        let mut completion = self.core.complete(ctx, &request).await?;
        // named as the host names it: prices and policies go by that, and a dated alias is the same model
        completion.model.clone_from(&self.name);
        Ok(completion)
    }

    fn model(&self) -> &str {
        &self.name
    }

    fn capability(&self) -> ModelCapability {
        let mut capability = ModelCapability::new(true, false, self.core.config.remote);
        if let Some(tokens) = self.core.config.context {
            capability = capability.with_context(tokens);
        }
        let cache = self.core.config.cache;
        if cache.is_zero() { capability } else { capability.cached(cache) }
    }
}

#[async_trait]
impl HealthCheck for OpenAiModel {
    /// Shallow: the key can be had. Deep: the endpoint lists its models.
    async fn check(&self, depth: Depth) -> Health {
        let asked = async {
            let key = self.core.key().await?;
            if depth == Depth::Deep {
                let nobody = Principal::system("forge", "health")?;
                self.core.models(&ExecutionContext::issue(nobody, RequestId::fixed(0)), key).await?;
            }
            Ok::<_, Error>(())
        };
        match asked.await {
            Ok(()) => Health::up(),
            // a server may not have the list and answer all the same
            Err(e) if e.kind() == ErrorKind::NotFound && depth == Depth::Deep => Health::up(),
            Err(e) => Health::down(e.to_string()),
        }
    }
}

impl fmt::Debug for OpenAiModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenAiModel").field("config", &self.core.config).finish_non_exhaustive()
    }
}
