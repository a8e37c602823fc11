//! The suite of [`PolicyEngine`].

use std::collections::BTreeSet;
use std::sync::Arc;

use super::context;
use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use crate::policy::{Decision, Obligations, PolicyCapability, PolicyEngine, PolicyInput, Verdict};
use crate::{Depth, ExecutionContext, Result, Status};

spy! { PolicyEngine:
    async fn decide(&self, ctx: &ExecutionContext, input: &PolicyInput) -> Result<Decision>;
    fn capability(&self) -> PolicyCapability;
}

/// Runs every scenario on fresh engines that `fresh` makes. Their policies must let the role `analyst` of the tenant `acme` do
/// `tool.call` on `index`, nobody do anything else, and know `globex` as a tenant.
///
/// # Panics
/// With the scenario's name, where the engine does not keep the [contract](PolicyEngine).
pub async fn policy_engine(fresh: impl AsyncFn() -> Fixture<dyn PolicyEngine>) {
    let called = Called::default();
    let made = async || fresh().await.map(|engine| Arc::new(Spy::new(engine, &called)));
    allows_what_is_granted_and_nothing_else(&made().await).await;
    takes_the_tenant_from_the_context(&made().await).await;
    lets_no_hostile_name_through(&made().await).await;
    explains_its_decisions(&made().await).await;
    let f = made().await;
    let _ = f.adapter.capability();
    prints_no_secret(f.adapter.as_ref(), &f.secrets);
    assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
    the_server_goes_away(made().await).await;
    called.complete::<dyn PolicyEngine>();
}

fn ana() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

async fn decided(f: &Fixture<dyn PolicyEngine>, ctx: &ExecutionContext, action: &str, name: &str) -> Decision {
    let input = PolicyInput::new(ctx, action, name, "read");
    f.adapter.decide(ctx, &input).await.expect("an engine that is there decides")
}

async fn allows_what_is_granted_and_nothing_else(f: &Fixture<dyn PolicyEngine>) {
    assert_eq!(decided(f, &ana(), "tool.call", "index").await.verdict, Verdict::Allow, "what is granted is allowed");
    for (role, action, name) in [
        ("analyst", "tool.call", "other"),
        ("analyst", "tool.call", "indexes"),
        ("analyst", "tool.call", "inde"),
        ("analyst", "model.complete", "index"),
        ("visitor", "tool.call", "index"),
    ] {
        let ctx = context("acme", "ana", role);
        assert_eq!(decided(f, &ctx, action, name).await.verdict, Verdict::Deny, "default deny: {role} {action} {name}");
    }
}

async fn takes_the_tenant_from_the_context(f: &Fixture<dyn PolicyEngine>) {
    let (acme, globex) = (ana(), context("globex", "ana", "analyst"));
    assert_eq!(
        decided(f, &globex, "tool.call", "index").await.verdict,
        Verdict::Deny,
        "isolation: another tenant's grant"
    );
    // an input that claims another tenant changes nothing
    let claimed = PolicyInput::new(&acme, "tool.call", "index", "read");
    let decision = f.adapter.decide(&globex, &claimed).await.expect("a decision");
    assert_eq!(decision.verdict, Verdict::Deny, "isolation: the tenant of an input is believed");
    let claimed = PolicyInput::new(&globex, "tool.call", "index", "read");
    let decision = f.adapter.decide(&acme, &claimed).await.expect("a decision");
    assert_eq!(decision.verdict, Verdict::Allow, "isolation: the tenant is the context's");
    let unknown = context("initech", "ana", "analyst");
    assert_eq!(decided(f, &unknown, "tool.call", "index").await.verdict, Verdict::Deny, "isolation: an unknown tenant");
}

async fn lets_no_hostile_name_through(f: &Fixture<dyn PolicyEngine>) {
    for name in HOSTILE {
        for (action, resource) in [("tool.call", name), (name, "index"), (name, name)] {
            let verdict = decided(f, &ana(), action, resource).await.verdict;
            assert_eq!(verdict, Verdict::Deny, "hostile ids: {action:?} {resource:?}");
        }
        let mut input = PolicyInput::new(&ana(), "tool.call", "other", "read");
        input.resource.insert(name.to_owned(), name.to_owned());
        input.doc_tags.insert(name.to_owned());
        input.candidates.insert(name.to_owned());
        let verdict = f.adapter.decide(&ana(), &input).await.expect("a decision").verdict;
        assert_eq!(verdict, Verdict::Deny, "hostile ids: {name:?} in a field");
    }
}

async fn explains_its_decisions(f: &Fixture<dyn PolicyEngine>) {
    let mut ids = BTreeSet::new();
    let mut revisions = BTreeSet::new();
    for name in ["index", "other", "index"] {
        let decision = decided(f, &ana(), "tool.call", name).await;
        let denied = decision.verdict == Verdict::Deny;
        assert!(!denied || !decision.reasons.is_empty(), "a denial has a reason");
        assert!(!denied || decision.obligations == Obligations::default(), "a denial obliges to nothing");
        assert!(!decision.policy.is_empty() && !decision.revision.is_empty(), "a decision names its policy");
        assert!(ids.insert(decision.id), "each decision has an id of its own");
        revisions.insert(decision.revision);
    }
    assert_eq!(revisions.len(), 1, "the revision is stable while the policies are");
}

async fn the_server_goes_away(mut f: Fixture<dyn PolicyEngine>) {
    if f.lose_server().await {
        let input = PolicyInput::new(&ana(), "tool.call", "index", "read");
        let allowed = f.adapter.decide(&ana(), &input).await.is_ok_and(|d| d.verdict == Verdict::Allow);
        assert!(!allowed, "server gone: nothing is allowed");
    }
}
