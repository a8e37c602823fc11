//! Which model answers: what the employee prefers, what fits, what costs least.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use forge_core::kv::{KeyValue, PutOptions};
use forge_core::model::CompletionRequest;
use forge_core::route::{Candidate, ModelRouter};
use forge_core::{Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Namespace, Result, Slug};

/// At most so many preferred models.
const MOST: usize = 32;
const KEY: &str = "models";

/// Orders models by what the employee prefers, then language models before stand-ins, then by price, then as they were given.
///
/// A model whose context is too short for the request is left out, preferred or not. A model without a price comes after those
/// with one; prices in several currencies are not compared. Preferences are kept by employee in a key-value store.
#[derive(Clone)]
pub struct StandardRouter {
    preferences: Arc<dyn KeyValue>,
}

impl StandardRouter {
    /// Reads preferences from a store.
    pub fn new(preferences: Arc<dyn KeyValue>) -> Self {
        Self { preferences }
    }

    /// Keeps what the employee of the context prefers, best first; an empty list forgets it.
    ///
    /// # Errors
    /// `InvalidInput` for more than 32 names; the store's own.
    pub async fn prefer(&self, ctx: &ExecutionContext, models: &[String]) -> Result<()> {
        if models.len() > MOST {
            return Err(Error::invalid("router.prefer", "too many preferred models").with("limit", MOST.to_string()));
        }
        let namespace = namespace(ctx)?;
        if models.is_empty() {
            return self.preferences.delete(ctx, &namespace, KEY).await.map(|_| ());
        }
        let value = serde_json::to_vec(models)
            .map_err(|e| Error::unexpected("router.prefer", "the names do not serialise").with_source(e))?;
        self.preferences.put(ctx, &namespace, KEY, Bytes::from(value), PutOptions::default()).await.map(|_| ())
    }

    /// What the employee of the context prefers, best first.
    ///
    /// # Errors
    /// `Corrupt` if it is no list of names; the store's own.
    pub async fn preferred(&self, ctx: &ExecutionContext) -> Result<Vec<String>> {
        let Some(entry) = self.preferences.get(ctx, &namespace(ctx)?, KEY).await? else { return Ok(Vec::new()) };
        serde_json::from_slice(&entry.value).map_err(|e| {
            let why = "the stored preferences are no list of models; set them again";
            Error::new(ErrorKind::Corrupt, "router.preferred", why).with_source(e)
        })
    }
}

fn namespace(ctx: &ExecutionContext) -> Result<Namespace> {
    Ok(Namespace::of(ctx, Slug::parse("preferences")?))
}

#[async_trait]
impl ModelRouter for StandardRouter {
    async fn route(
        &self,
        ctx: &ExecutionContext,
        request: &CompletionRequest,
        candidates: &[Candidate],
    ) -> Result<Vec<String>> {
        let preferred = self.preferred(ctx).await?;
        let rank = |c: &Candidate| preferred.iter().position(|p| *p == c.model).unwrap_or(usize::MAX);
        let needs = request.about_tokens().saturating_add(request.max_tokens.into());
        let fits = |c: &&Candidate| c.capability.context.is_none_or(|most| needs <= u64::from(most));
        let mut fitting: Vec<&Candidate> = candidates.iter().filter(fits).collect();
        let mut currencies = fitting.iter().filter_map(|c| c.quote).map(|q| q.currency);
        let first = currencies.next();
        let comparable = currencies.all(|c| Some(c) == first);
        let price = |c: &Candidate| match c.quote {
            Some(quote) if comparable => (0, Some(quote.amount)),
            Some(_) => (0, None),
            None => (1, None),
        };
        // stable: what is left equal stays in the order in which the host gave it
        fitting.sort_by_key(|c| (rank(c), !c.capability.language_model, price(c)));
        Ok(fitting.into_iter().map(|c| c.model.clone()).collect())
    }
}

#[async_trait]
impl HealthCheck for StandardRouter {
    async fn check(&self, depth: Depth) -> Health {
        self.preferences.check(depth).await
    }
}

impl fmt::Debug for StandardRouter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StandardRouter").field("preferences", &self.preferences).finish()
    }
}

#[cfg(test)]
mod tests {
    use forge_core::fake::{FakeKeyValue, ManualClock};
    use forge_core::model::{Message, ModelCapability};
    use forge_core::testing::context;
    use forge_core::{Currency, Money};

    use super::*;

    fn router() -> StandardRouter {
        StandardRouter::new(Arc::new(FakeKeyValue::new(Arc::new(ManualClock::default()))))
    }

    fn candidate(model: &str, language_model: bool, cents: Option<i64>) -> Candidate {
        let quote = cents.map(|c| Money::new(rust_decimal::Decimal::new(c, 2), Currency::USD));
        Candidate::new(model, ModelCapability::new(language_model, false, false).with_context(1000)).with_quote(quote)
    }

    fn endless(mut of: Candidate) -> Candidate {
        of.capability.context = None;
        of
    }

    async fn order(router: &StandardRouter, ctx: &ExecutionContext, words: usize) -> Vec<String> {
        let candidates = [
            candidate("stand-in", false, None),
            candidate("unpriced", true, None),
            candidate("dear", true, Some(900)),
            candidate("cheap", true, Some(1)),
            endless(candidate("long", true, Some(5000))),
        ];
        let request = CompletionRequest::new(vec![Message::user("word".repeat(words))]).with_max_tokens(10);
        router.route(ctx, &request, &candidates).await.unwrap()
    }

    #[tokio::test]
    async fn preference_then_kind_then_price_of_what_fits() {
        let (router, ana, bo) = (router(), context("acme", "ana", "analyst"), context("acme", "bo", "analyst"));
        let by_price = ["cheap", "dear", "long", "unpriced", "stand-in"];
        assert_eq!(order(&router, &ana, 1).await, by_price);
        assert_eq!(order(&router, &ana, 991).await, ["long"], "one token too many for the others");
        assert_eq!(order(&router, &ana, 990).await, by_price, "exactly fits");
        router.prefer(&ana, &["gone".into(), "unpriced".into(), "dear".into()]).await.unwrap();
        assert_eq!(order(&router, &ana, 1).await, ["unpriced", "dear", "cheap", "long", "stand-in"]);
        assert_eq!(order(&router, &ana, 991).await, ["long"], "what is preferred must fit too");
        assert_eq!(order(&router, &bo, 1).await, by_price, "another employee prefers nothing");
        let other = context("globex", "ana", "analyst");
        assert_eq!(order(&router, &other, 1).await, by_price, "nor does the same name in another tenant");
        router.prefer(&ana, &[]).await.unwrap();
        assert_eq!(order(&router, &ana, 1).await, by_price);
        let e = router.prefer(&ana, &vec!["m".to_owned(); 33]).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::InvalidInput);
    }

    #[tokio::test]
    async fn prices_in_two_currencies_are_not_compared() {
        let quote = |currency| Some(Money::new(rust_decimal::Decimal::ONE, currency));
        let candidates = [
            candidate("a", true, Some(900)),
            candidate("b", true, None).with_quote(quote(Currency::EUR)),
            candidate("c", true, Some(1)),
        ];
        let request = CompletionRequest::new(vec![Message::user("x")]).with_max_tokens(10);
        let ana = context("acme", "ana", "analyst");
        assert_eq!(router().route(&ana, &request, &candidates).await.unwrap(), ["a", "b", "c"]);
    }
}
