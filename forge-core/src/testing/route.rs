//! The suite of [`ModelRouter`].

use std::collections::BTreeSet;
use std::sync::Arc;

use super::context;
use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use crate::model::{CompletionRequest, Message, ModelCapability};
use crate::route::{Candidate, ModelRouter};
use crate::{Depth, ErrorKind, ExecutionContext, Result, Status};

spy! { ModelRouter:
    async fn route(&self, ctx: &ExecutionContext, request: &CompletionRequest, candidates: &[Candidate]) -> Result<Vec<String>>;
}

/// Runs every scenario on fresh routers that `fresh` makes, without preferences.
///
/// # Panics
/// With the scenario's name, where the router does not keep the [contract](ModelRouter).
pub async fn model_router(fresh: impl AsyncFn() -> Fixture<dyn ModelRouter>) {
    let called = Called::default();
    let mut f = fresh().await.map(|router| Arc::new(Spy::new(router, &called)));
    let ana = context("acme", "ana", "analyst");
    let request = CompletionRequest::new(vec![Message::user("hello")]).with_max_tokens(10);
    let candidates = |names: &[&str]| -> Vec<Candidate> {
        names.iter().map(|n| Candidate::new(*n, ModelCapability::new(true, false, false))).collect()
    };
    for names in [&[][..], &["a"], &["a", "b", "c"], &HOSTILE] {
        let of = candidates(names);
        let order = f.adapter.route(&ana, &request, &of).await.expect("an order");
        let chosen: BTreeSet<&str> = order.iter().map(String::as_str).collect();
        assert_eq!(chosen, names.iter().copied().collect(), "what fits is chosen, and nothing that is no candidate");
        assert_eq!(chosen.len(), order.len(), "each once");
        let again = f.adapter.route(&ana, &request, &of).await.expect("an order");
        assert_eq!(order, again, "the same question has the same answer");
        let theirs = f.adapter.route(&context("globex", "ana", "analyst"), &request, &of).await.expect("an order");
        assert_eq!(order, theirs, "isolation: what one tenant asks changes another's order");
    }
    prints_no_secret(f.adapter.as_ref(), &f.secrets);
    assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
    if f.lose_server().await {
        let outcome = f.adapter.route(&ana, &request, &candidates(&["a"])).await.map_err(|e| e.kind());
        assert_eq!(outcome, Err(ErrorKind::Unavailable), "server gone: no order");
    }
    called.complete::<dyn ModelRouter>();
}
