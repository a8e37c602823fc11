//! Several language models behind one call: the policy says which may be used, a router which is best, the guard calls it.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use super::work::reserve;
use super::{Access, CallOptions, Guard, Guarded};
use crate::model::{Completion, CompletionRequest, LanguageModel};
use crate::route::{Candidate, ModelRouter};
use crate::tool::Effect;
use crate::usage::Resource;
use crate::{Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, OperationKey, Result, Status};

/// The language models of a host, each behind the guard. Cheap to clone.
///
/// With one model a call goes straight to it. With more, `model.route` is decided first, over all of them at once: the models that the
/// decision's `model_allow` names are the router's candidates. The best is asked; where it is unavailable, late or
/// out of its rate, the next one is. A model that the policy denies is never among them.
#[derive(Clone)]
pub struct Models(Arc<Shared>);

struct Shared {
    guard: Guard,
    models: Vec<Guarded<dyn LanguageModel>>,
    router: Arc<dyn ModelRouter>,
}

impl Models {
    /// Puts models behind the guard, in the order in which they are preferred where nothing else tells them apart.
    ///
    /// # Errors
    /// `Config` if there is none, or two have one name.
    pub fn new(guard: Guard, models: Vec<Arc<dyn LanguageModel>>, router: Arc<dyn ModelRouter>) -> Result<Self> {
        let config = |why| Error::new(ErrorKind::Config, "models.new", why);
        let mut names = BTreeSet::new();
        if let Some(twice) = models.iter().find(|m| !names.insert(m.model().to_owned())) {
            return Err(config("two language models have one name; rename or drop one").with("model", twice.model()));
        }
        if models.is_empty() {
            return Err(config("there is no language model; add one"));
        }
        let models = models.into_iter().map(|m| Guarded::new(m, guard.clone())).collect();
        Ok(Self(Arc::new(Shared { guard, models, router })))
    }

    /// The models, in their order.
    pub fn iter(&self) -> impl Iterator<Item = &dyn LanguageModel> {
        self.0.models.iter().map(|m| -> &dyn LanguageModel { m })
    }

    /// Answers a conversation with the best model that may be used, or with the one that the request names.
    ///
    /// # Errors
    /// `PolicyDenied`, `NotFound` if there is no model of the name, `InvalidInput` if none fits; the guard's refusals; the
    /// last model's own.
    pub async fn complete(
        &self,
        ctx: &ExecutionContext,
        request: CompletionRequest,
        options: CallOptions,
    ) -> Result<Completion> {
        let (models, wanted) = (&self.0.models, request.model.as_deref());
        let able: Vec<_> = models.iter().filter(|m| wanted.is_none_or(|w| w == m.model())).collect();
        match able.as_slice() {
            [] => Err(Error::new(ErrorKind::NotFound, "model.complete", "there is no language model of this name")
                .with("model", wanted.unwrap_or_default())),
            [only] => only.complete_with(ctx, request, options).await,
            several => self.routed(ctx, several, request, options).await,
        }
    }

    async fn routed(
        &self,
        ctx: &ExecutionContext,
        able: &[&Guarded<dyn LanguageModel>],
        request: CompletionRequest,
        options: CallOptions,
    ) -> Result<Completion> {
        let operation = options.key.clone().unwrap_or_else(|| ctx.next_operation());
        let candidates = self.candidates(ctx, able, &request).await?;
        let order = self.0.router.route(ctx, &request, &candidates).await?;
        let mut chosen = chosen(&order, &candidates, able).into_iter().peekable();
        let mut outcome = Err(Error::invalid("model.route", "no model that may be used fits the request"));
        while let Some(model) = chosen.next() {
            // one operation for each model, so that quota, cache and books keep them apart
            let key = OperationKey::derived(&[b"model", operation.as_str().as_bytes(), model.model().as_bytes()]);
            outcome = model.complete_with(ctx, request.clone(), options.clone().with_key(key)).await;
            match &outcome {
                Err(e) if is_the_far_side(e) && chosen.peek().is_some() => {
                    tracing::warn!(model = model.model(), error = e.kind().as_str(), "another model is asked");
                }
                _ => break,
            }
        }
        outcome
    }

    /// The models that the policy leaves, with their price.
    async fn candidates(
        &self,
        ctx: &ExecutionContext,
        able: &[&Guarded<dyn LanguageModel>],
        request: &CompletionRequest,
    ) -> Result<Vec<Candidate>> {
        let payload = serde_json::to_value(request)
            .map_err(|e| Error::unexpected("model.route", "the request does not serialise").with_source(e))?;
        let access =
            Access { action: "model.route", resource: "models", owner: ctx.tenant(), effect: Effect::Read, payload };
        let names: BTreeSet<String> = able.iter().map(|m| m.model().to_owned()).collect();
        let allowed = self.0.guard.choose(ctx, access, names).await?.model_allow;
        let parts = self.0.guard.parts();
        let left = able.iter().filter(|m| allowed.is_empty() || allowed.contains(m.model()));
        left.map(|m| {
            let (name, capability) = (m.model(), m.capability());
            let most = reserve(capability, request);
            let quote = parts.pricing.quote(&Resource::Model(name.to_owned()), &most, parts.clock.now())?;
            Ok(Candidate::new(name, capability).with_quote(quote))
        })
        .collect()
    }
}

/// The models of an order. A router is an adapter like any other: what it makes up is no candidate.
fn chosen(
    order: &[String],
    candidates: &[Candidate],
    able: &[&Guarded<dyn LanguageModel>],
) -> Vec<Guarded<dyn LanguageModel>> {
    let real = order.iter().filter(|name| candidates.iter().any(|c| c.model == **name));
    real.filter_map(|name| able.iter().find(|m| m.model() == name)).map(|m| (*m).clone()).collect()
}

/// Another model may do better: nothing is wrong with the request, and nobody forbade it.
fn is_the_far_side(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::RateLimited | ErrorKind::Timeout)
}

/// Up while one of them is: the others are passed over.
#[async_trait]
impl HealthCheck for Models {
    async fn check(&self, depth: Depth) -> Health {
        let all = futures::future::join_all(self.0.models.iter().map(|m| m.check(depth))).await;
        let down = all.iter().filter(|h| h.status == Status::Down).count();
        match down {
            0 => Health::up(),
            n if n == all.len() => Health::down("no language model is up"),
            n => Health { status: Status::Degraded, detail: format!("{n} of {} language models are down", all.len()) },
        }
    }
}

impl fmt::Debug for Models {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|m| m.model())).finish()
    }
}
