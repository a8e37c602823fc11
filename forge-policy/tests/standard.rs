//! The shipped policy, rule by rule.

#![cfg(feature = "regorus")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::sync::Arc;

use forge_core::policy::{Decision, Obligations, PolicyEngine, PolicyInput, Verdict};
use forge_core::redact::EntityKind;
use forge_core::testing::context;
use forge_core::{ExecutionContext, Principal, Slug, SystemClock, TenantId};
use forge_policy::rego::Evaluator;
use forge_policy::{RegorusEngine, standard};
use serde_json::{Value, json};

fn tenant() -> Value {
    json!({
        "grants": {
            "analyst": ["tool.call:drive_fetch", "tool.call:slack_post", "tool.call:payout", "model.complete:local/*", "model.complete:acme/large"],
            "lawyer": ["tool.call:*", "task.enqueue:*", "approval.decide:slack_post"],
            "broken": "tool.call:drive_fetch",
        },
        "employees": {"ana": {"role": "analyst"}, "leo": {"role": "lawyer"}, "odd": {}, "gone": false},
        "send_allow": {"slack_post": ["#legal"]},
        "always_approve": ["payout"],
        "approvers": ["lawyer"],
    })
}

async fn engine(data: Value) -> RegorusEngine {
    let shared = json!({"compliance": {
        "few": {"max_rows": 10}, "fewer": {"max_rows": 3}, "eu": {"model_allow": ["local/small"], "approver_roles": ["officer"]},
        "none": {"model_allow": []},
    }});
    let sources = standard().with_shared_data(shared).with_tenant_data(TenantId::parse("acme").unwrap(), data);
    let engine = RegorusEngine::load(sources, Arc::new(SystemClock)).await.unwrap();
    assert_eq!(engine.evaluator(), Some(Evaluator::Machine), "the shipped policy is compiled to bytecode");
    engine
}

struct Case {
    ctx: ExecutionContext,
    input: PolicyInput,
}

fn case(employee: &str, role: &str, action: &str, name: &str, effect: &str) -> Case {
    let ctx = context("acme", employee, role);
    let input = PolicyInput::new(&ctx, action, name, effect);
    Case { ctx, input }
}

impl Case {
    fn channel(mut self, channel: &str) -> Self {
        self.input.resource.insert("channel".into(), channel.into());
        self
    }

    fn found(mut self, kind: EntityKind) -> Self {
        self.input.pii_flags.insert(kind);
        self
    }

    fn flags(mut self, flags: &[&str]) -> Self {
        let mut principal =
            Principal::employee("acme", self.ctx.employee().as_str(), self.ctx.role().as_str()).unwrap();
        for flag in flags {
            principal = principal.with_compliance_flag(Slug::parse(flag).unwrap());
        }
        self.ctx = ExecutionContext::issue(principal, self.ctx.request_id());
        self
    }

    async fn ask(self, engine: &RegorusEngine) -> Decision {
        engine.decide(&self.ctx, &self.input).await.unwrap()
    }
}

#[track_caller]
fn is(d: &Decision, verdict: Verdict, reasons: &[&str]) {
    assert_eq!((d.verdict, d.reasons.iter().map(String::as_str).collect::<Vec<_>>()), (verdict, reasons.to_vec()));
    assert_eq!((d.policy.as_str(), d.revision.len()), ("forge.tool_access", 64));
    if verdict == Verdict::Deny {
        assert_eq!(d.obligations, Obligations::default());
    }
}

use Verdict::{Allow, Deny, NeedsApproval};

#[tokio::test]
async fn grants_are_by_role_name_and_pattern() {
    let e = engine(tenant()).await;
    for (employee, role, action, name, want) in [
        ("ana", "analyst", "tool.call", "drive_fetch", None),
        ("ana", "analyst", "model.complete", "local/small", None),
        ("leo", "lawyer", "task.enqueue", "index", None),
        ("leo", "lawyer", "approval.decide", "slack_post", None),
        // not listed in the directory: the authenticated role stands
        ("new", "analyst", "tool.call", "drive_fetch", None),
        ("ana", "analyst", "tool.call", "drive_fetch_all", Some("role_not_granted")),
        ("ana", "analyst", "model.complete", "remote/large", Some("role_not_granted")),
        ("ana", "analyst", "memory.read", "drive_fetch", Some("role_not_granted")),
        // the call that led to it was granted; its tags decide
        ("ana", "analyst", "document.read", "drive_fetch", None),
        ("leo", "lawyer", "approval.decide", "payout", Some("role_not_granted")),
        ("eve", "broken", "tool.call", "drive_fetch", Some("role_not_granted")),
        ("eve", "intruder", "tool.call", "drive_fetch", Some("unknown_role")),
        // the analyst claims to be a lawyer
        ("ana", "lawyer", "task.enqueue", "index", Some("role_mismatch")),
        ("odd", "lawyer", "task.enqueue", "index", Some("role_mismatch")),
        ("gone", "lawyer", "task.enqueue", "index", Some("role_mismatch")),
    ] {
        let d = case(employee, role, action, name, "read").ask(&e).await;
        match want {
            None => is(&d, Allow, &[]),
            Some(reason) => is(&d, Deny, &[reason]),
        }
    }
}

#[tokio::test]
async fn a_message_outside_waits_for_a_yes_and_one_with_a_secret_is_stopped() {
    let e = engine(tenant()).await;
    let post = || case("ana", "analyst", "tool.call", "slack_post", "send");
    let d = post().channel("#legal").found(EntityKind::Email).ask(&e).await;
    is(&d, Allow, &[]);
    assert_eq!(d.obligations.redact_input, BTreeSet::from(EntityKind::ALL), "all kinds, where the tenant says nothing");
    for held in [post().channel("#general"), post()] {
        let d = held.ask(&e).await;
        is(&d, NeedsApproval, &["outside_message_needs_approval"]);
        assert_eq!(d.obligations.approver_roles.iter().map(|r| r.as_str()).collect::<Vec<_>>(), ["lawyer"]);
        assert_eq!(d.obligations.redact_input.len(), EntityKind::ALL.len());
    }
    for channel in ["#legal", "#general"] {
        is(&post().channel(channel).found(EntityKind::Secret).ask(&e).await, Deny, &["secret_in_outgoing_message"]);
    }
    // the same find in a read is no message
    is(&case("ana", "analyst", "tool.call", "drive_fetch", "read").found(EntityKind::Secret).ask(&e).await, Allow, &[]);
}

#[tokio::test]
async fn some_tools_always_need_a_yes_and_without_an_approver_there_is_none() {
    let pay = || case("ana", "analyst", "tool.call", "payout", "write");
    is(&pay().ask(&engine(tenant()).await).await, NeedsApproval, &["tool_needs_approval"]);
    let mut alone = tenant();
    alone.as_object_mut().unwrap().remove("approvers");
    let e = engine(alone).await;
    is(&pay().ask(&e).await, Deny, &["no_approvers"]);
    is(&case("ana", "analyst", "tool.call", "drive_fetch", "read").ask(&e).await, Allow, &[]);
}

#[tokio::test]
async fn a_remote_model_is_masked_not_held() {
    let ask = |effect| case("ana", "analyst", "model.complete", "acme/large", effect).found(EntityKind::Secret);
    let d = ask("send").ask(&engine(tenant()).await).await;
    is(&d, Allow, &[]);
    assert_eq!(d.obligations.redact_input, BTreeSet::from(EntityKind::ALL));
    assert!(d.obligations.model_allow.is_empty());
    is(&ask("read").ask(&engine(tenant()).await).await, Allow, &[]);
    let mut chosen = tenant();
    chosen["redact_outgoing"] = json!(["EMAIL"]);
    let d = ask("send").ask(&engine(chosen).await).await;
    assert_eq!(
        d.obligations.redact_input,
        BTreeSet::from([EntityKind::Email, EntityKind::Secret]),
        "a secret never leaves"
    );
    let d = ask("read").ask(&engine(tenant()).await).await;
    assert!(d.obligations.redact_input.is_empty(), "a local model sees what its tenant has");
}

#[tokio::test]
async fn compliance_flags_oblige_by_data() {
    let e = engine(tenant()).await;
    let read = |flags: &[&str]| case("ana", "analyst", "tool.call", "drive_fetch", "read").flags(flags);
    let d = read(&["few", "fewer", "hipaa"]).ask(&e).await;
    is(&d, Allow, &[]);
    assert_eq!(d.obligations.max_rows, Some(3), "the stricter one");
    assert!(d.obligations.redact_output.contains(&EntityKind::UsSsn));
    assert!(d.obligations.redact_input.contains(&EntityKind::Phone));
    assert_eq!(read(&[]).ask(&e).await.obligations, Obligations::default());
    for (flag, kind) in [("gdpr", EntityKind::Email), ("hipaa", EntityKind::UsSsn), ("pci-dss", EntityKind::CreditCard)]
    {
        assert!(read(&[flag]).ask(&e).await.obligations.redact_input.contains(&kind), "{flag}");
    }
    is(&read(&["hippa"]).ask(&e).await, Deny, &["unknown_compliance_flag"]);

    let model = |name, flags: &[&str]| case("ana", "analyst", "model.complete", name, "read").flags(flags);
    let d = model("local/small", &["eu"]).ask(&e).await;
    is(&d, Allow, &[]);
    assert_eq!(d.obligations.model_allow, BTreeSet::from(["local/small".to_owned()]));
    is(&model("local/other", &["eu"]).ask(&e).await, Deny, &["model_not_allowed"]);
    // an empty list in the obligations would mean any model
    is(&model("local/small", &["eu", "none"]).ask(&e).await, Deny, &["model_not_allowed"]);
    let d = case("ana", "analyst", "tool.call", "payout", "write").flags(&["eu"]).ask(&e).await;
    assert_eq!(d.obligations.approver_roles.iter().map(|r| r.as_str()).collect::<Vec<_>>(), ["lawyer", "officer"]);
}

#[tokio::test]
async fn a_route_names_the_models_whose_own_call_is_granted() {
    let e = engine(tenant()).await;
    let route = |role, models: &[&str], flags: &[&str]| {
        let mut case = case("ana", role, "model.route", "models", "read").flags(flags);
        case.input.candidates = models.iter().map(|m| (*m).to_owned()).collect();
        case
    };
    let all = ["acme/large", "local/other", "local/small"];
    let d = route("analyst", &all, &[]).ask(&e).await;
    is(&d, Allow, &[]);
    assert_eq!(d.obligations.model_allow, all.map(String::from).into());
    let d = route("analyst", &all, &["eu"]).ask(&e).await;
    is(&d, Allow, &[]);
    assert_eq!(d.obligations.model_allow, BTreeSet::from(["local/small".to_owned()]), "every flag must allow it");
    is(&route("analyst", &all, &["eu", "none"]).ask(&e).await, Deny, &["no_model_allowed"]);
    is(&route("analyst", &[], &[]).ask(&e).await, Deny, &["no_model_allowed"]);
    is(&route("analyst", &["elsewhere/x"], &[]).ask(&e).await, Deny, &["no_model_allowed"]);
}

#[tokio::test]
async fn without_grants_there_is_no_data() {
    for data in [json!({}), json!({"employees": {}})] {
        is(
            &case("ana", "analyst", "tool.call", "drive_fetch", "read").ask(&engine(data).await).await,
            Deny,
            &["no_tenant_data"],
        );
    }
}

#[test]
fn the_policy_names_every_kind() {
    let rego = include_str!("../policies/tool_access.rego");
    let all = EntityKind::ALL.map(|k| format!("\"{k}\"")).join(", ");
    assert!(
        rego.contains(&format!("redact_outgoing := {{{all}}}")),
        "a new kind belongs into the default of redact_outgoing"
    );
}
