//! Whatever goes wrong, the answer is no: one test a row of the table, on both evaluators where both can fail.

#![cfg(feature = "regorus")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use forge_core::fake::ManualClock;
use forge_core::policy::{Decision, PolicyEngine, PolicyInput, Verdict};
use forge_core::testing::context;
use forge_core::{Depth, HealthCheck, Status, TenantId};
use forge_policy::rego::{Evaluator, Limits};
use forge_policy::{RegorusEngine, Sources, standard};
use serde_json::json;

const DEFAULT: &str = r#"default decision := {"verdict": "deny", "reasons": ["default"], "obligations": {}}"#;
const YES: &str = r#"{"verdict": "allow", "reasons": [], "obligations": {}}"#;
/// Only the interpreter knows `with`.
const SLOW: &str = "slow if input.action == \"tool.call\" with input.role as \"x\"\n";

fn sources(rules: &str) -> Sources {
    Sources::new()
        .with_policy("p.rego", format!("package forge.tool_access\n{DEFAULT}\n{rules}"))
        .with_tenant_data(TenantId::parse("acme").unwrap(), json!({"n": 1}))
}

async fn engine(rules: &str, limits: Limits) -> RegorusEngine {
    let engine = RegorusEngine::with_limits(Arc::new(ManualClock::default()), limits);
    engine.replace(sources(rules)).await.unwrap();
    engine
}

fn ask(engine: &RegorusEngine, tenant: &str) -> Decision {
    let ctx = context(tenant, "ana", "analyst");
    engine.decide_now(&ctx, &PolicyInput::new(&ctx, "tool.call", "x", "read"))
}

#[track_caller]
fn denied(d: &Decision, reason: &str) {
    assert_eq!((d.verdict, d.reasons.as_slice()), (Verdict::Deny, [reason.to_owned()].as_slice()));
    assert_eq!(d.policy, "forge.tool_access");
}

/// The same rules on the machine and on the interpreter.
async fn both(rules: &str, limits: Limits) -> [RegorusEngine; 2] {
    let fast = engine(rules, limits).await;
    let slow = engine(&format!("{rules}\n{SLOW}\ndecision := {YES} if {{ slow; false }}"), limits).await;
    assert_eq!(fast.evaluator(), Some(Evaluator::Machine));
    assert_eq!(slow.evaluator(), Some(Evaluator::Interpreter));
    [fast, slow]
}

#[tokio::test]
async fn a_rule_that_says_yes_is_heard_on_both_evaluators() {
    for e in both(&format!("decision := {YES} if data.tenant.n == 1"), Limits::default()).await {
        let (first, second) = (ask(&e, "acme"), ask(&e, "acme"));
        assert_eq!(first.verdict, Verdict::Allow);
        assert_ne!(first.id, second.id, "each decision has an id of its own");
        assert_eq!((&first.revision, &second.revision), (&e.revision().unwrap(), &e.revision().unwrap()));
    }
}

#[tokio::test]
async fn no_policies() {
    let e = RegorusEngine::new(Arc::new(ManualClock::default()));
    denied(&ask(&e, "acme"), "policy_no_policy");
    assert_eq!(e.check(Depth::Shallow).await.status, Status::Down);
    assert!(e.capability().in_process && e.capability().obligations);
}

#[tokio::test]
async fn an_unknown_tenant() {
    for e in both(&format!("decision := {YES} if true"), Limits::default()).await {
        denied(&ask(&e, "globex"), "policy_unknown_tenant");
    }
}

#[tokio::test]
async fn an_input_that_is_not_valid() {
    let e = engine(&format!("decision := {YES} if true"), Limits::default().with_input_bytes(10)).await;
    let ctx = context("acme", "ana", "analyst");
    let of = |tool: &str, effect: &str| e.decide_now(&ctx, &PolicyInput::new(&ctx, "tool.call", tool, effect));
    denied(&of("a-very-long-name", "read"), "policy_input");
    denied(&of("x", "destroy"), "policy_input");
    assert_eq!(of("x", "read").verdict, Verdict::Allow);
}

#[tokio::test]
async fn two_rules_that_disagree() {
    let other = YES.replace("[]", "[\"other\"]");
    let [fast, slow] =
        both(&format!("decision := {YES} if data.tenant.n\ndecision := {other} if data.tenant.n"), Limits::default())
            .await;
    denied(&ask(&fast, "acme"), "policy_undefined");
    denied(&ask(&slow, "acme"), "policy_error");
}

#[tokio::test]
async fn a_rule_that_has_no_value_leaves_the_default() {
    for e in both(&format!("decision := {YES} if data.tenant.missing"), Limits::default()).await {
        denied(&ask(&e, "acme"), "default");
    }
}

#[tokio::test]
async fn a_builtin_that_fails() {
    let [fast, slow] = both(&format!("decision := {YES} if to_number(input.tool_name) == 1"), Limits::default()).await;
    denied(&ask(&fast, "acme"), "default");
    denied(&ask(&slow, "acme"), "policy_error");
}

#[tokio::test]
async fn a_value_that_is_no_decision() {
    for value in
        ["true", r#"{"verdict": "allow"}"#, r#"{"verdict": "allow", "reasons": [], "obligations": {}, "allow": true}"#]
    {
        for e in both(&format!("decision := {value} if true"), Limits::default()).await {
            denied(&ask(&e, "acme"), "policy_shape");
        }
    }
}

#[tokio::test]
async fn too_many_instructions_and_too_long() {
    let patient = Limits::default().with_time(Duration::from_secs(60));
    let rules = format!(
        "decision := {YES} if count([1 | some i in numbers.range(1, 300); some j in numbers.range(1, 300); i != j]) > 0"
    );
    denied(&ask(&engine(&rules, patient).await, "acme"), "policy_limit");
    // more than the evaluator's own default, less than ours
    let middling = rules.replace("300", "100");
    assert_eq!(ask(&engine(&middling, patient).await, "acme").verdict, Verdict::Allow);
    denied(&ask(&engine(&middling, patient.with_instructions(30_000)).await, "acme"), "policy_limit");
    let hasty = Limits::default().with_instructions(usize::MAX).with_time(Duration::from_micros(1));
    for e in both(&rules, hasty).await {
        denied(&ask(&e, "acme"), "policy_limit");
    }
}

#[tokio::test]
async fn a_panic_of_the_evaluator_is_a_denial_and_the_next_decision_is_sound() {
    // regorus 0.14.1 panics on an empty pattern (microsoft/regorus#796)
    let rules = format!(
        "decision := {YES} if input.role == \"clerk\"\ndecision := {YES} if {{ input.role == \"analyst\"; strings.count(input.role, \"\") > 0 }}"
    );
    for e in both(&rules, Limits::default()).await {
        denied(&ask(&e, "acme"), "policy_panic");
        let ctx = context("acme", "cy", "clerk");
        let sound = e.decide_now(&ctx, &PolicyInput::new(&ctx, "tool.call", "x", "read"));
        assert_eq!(sound.verdict, Verdict::Allow);
    }
}

#[tokio::test]
async fn a_policy_sees_its_tenant_and_what_is_shared_and_nothing_else() {
    let rules = format!("decision := {YES} if data.tenant.secret == data.shared.wanted[input.role]");
    for rules in [rules.clone(), format!("{rules}\n{SLOW}\ndecision := {YES} if {{ slow; false }}")] {
        let of = |name: &str| TenantId::parse(name).unwrap();
        let sources = sources(&rules)
            .with_shared_data(json!({"wanted": {"analyst": "globex's"}}))
            .with_tenant_data(of("acme"), json!({"secret": "acme's"}))
            .with_tenant_data(of("globex"), json!({"secret": "globex's"}));
        let e = RegorusEngine::load(sources, Arc::new(ManualClock::default())).await.unwrap();
        denied(&ask(&e, "acme"), "default");
        assert_eq!(ask(&e, "globex").verdict, Verdict::Allow);
        // the input of one tenant under the context of another is the other's
        let (globex, acme) = (context("globex", "ana", "analyst"), context("acme", "ana", "analyst"));
        let d = e.decide(&acme, &PolicyInput::new(&globex, "tool.call", "x", "read")).await.unwrap();
        denied(&d, "default");
        assert!(!format!("{e:?} {:?}", standard()).contains("acme's"), "no data in debug text");
    }
}

#[tokio::test]
async fn a_policy_cannot_carry_a_payload_out_in_its_reasons() {
    let rules = r#"decision := {"verdict": "deny", "reasons": [input.resource.channel], "obligations": {}} if true"#;
    let e = engine(rules, Limits::default()).await;
    let ctx = context("acme", "ana", "analyst");
    let mut input = PolicyInput::new(&ctx, "tool.call", "x", "read");
    input.resource.insert("channel".into(), "jane.roe@example.com".into());
    denied(&e.decide_now(&ctx, &input), "policy_shape");
}

const PRINTS: &str = "FORGE_POLICY_PRINTS";

/// The child of the next test: decides by a policy that prints.
#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "the parent test starts it")]
async fn printing_child() {
    if std::env::var(PRINTS).is_err() {
        return;
    }
    let e = engine(&format!("decision := {YES} if print(\"canary\", input.role)"), Limits::default()).await;
    assert_eq!(e.evaluator(), Some(Evaluator::Interpreter));
    assert_eq!(ask(&e, "acme").verdict, Verdict::Allow);
    eprintln!("decided");
}

#[test]
fn what_a_policy_prints_does_not_reach_the_process_output() {
    let out = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "printing_child", "--nocapture"])
        .env(PRINTS, "1")
        .output()
        .unwrap();
    let text = format!("{}{}", String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    assert!(out.status.success() && text.contains("decided"), "{text}");
    assert!(!text.contains("canary"), "{text}");
}
