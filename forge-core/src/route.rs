//! Which of several language models answers a request.

use async_trait::async_trait;

use crate::model::{CompletionRequest, ModelCapability};
use crate::money::Money;
use crate::{Adapter, ExecutionContext, Result};

/// A model that the policy lets this caller use for this request.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Candidate {
    /// Its name.
    pub model: String,
    /// What it can do.
    pub capability: ModelCapability,
    /// What the request costs at most, by the tokens that are reserved for it; `None` without a price.
    pub quote: Option<Money>,
}

impl Candidate {
    /// A candidate without a price.
    pub fn new(model: impl Into<String>, capability: ModelCapability) -> Self {
        Self { model: model.into(), capability, quote: None }
    }

    /// Sets what the request costs at most.
    #[must_use]
    pub fn with_quote(mut self, quote: Option<Money>) -> Self {
        self.quote = quote;
        self
    }
}

/// Puts the candidates of a request in order.
///
/// # Contract
/// The answer holds names of candidates only, each once, best first; what does not fit the request is left out. The same
/// candidates, request and preferences give the same order. The policy was asked before and is asked again about the model that
/// is called, so a router can choose badly but cannot let anything through.
#[async_trait]
pub trait ModelRouter: Adapter {
    /// The models to try, best first; empty where none fits.
    ///
    /// # Errors
    /// `Unavailable` where preferences cannot be read: the call is then not made.
    async fn route(
        &self,
        ctx: &ExecutionContext,
        request: &CompletionRequest,
        candidates: &[Candidate],
    ) -> Result<Vec<String>>;
}
