//! What is not put in force, and that the error says where; reloads.

#![cfg(feature = "regorus")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use forge_core::fake::ManualClock;
use forge_core::policy::{PolicyInput, Verdict};
use forge_core::testing::context;
use forge_core::{Depth, Error, ErrorKind, HealthCheck, Status, TenantId};
use forge_policy::rego::Limits;
use forge_policy::{RegorusEngine, Sources, standard};
use serde_json::json;

const HEAD: &str = "package forge.tool_access\n\ndefault decision := {\"verdict\": \"deny\", \"reasons\": [\"default\"], \"obligations\": {}}\n";

async fn load(sources: Sources) -> Result<RegorusEngine, Error> {
    RegorusEngine::load(sources, Arc::new(ManualClock::default())).await
}

async fn refusal(sources: Sources) -> String {
    let e = load(sources).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config, "{e}");
    e.to_string()
}

fn verdict(e: &RegorusEngine, tenant: &str) -> Verdict {
    let ctx = context(tenant, "ana", "analyst");
    e.decide_now(&ctx, &PolicyInput::new(&ctx, "tool.call", "x", "read")).verdict
}

#[tokio::test]
async fn what_is_not_admitted_is_named_with_file_and_line() {
    for (rules, wanted) in [
        ("p if {", "does not compile"),
        ("p := 1 if x", "does not compile"),
        ("default allow := true", "a default must not allow"),
        ("p if data.other.x", "data.tenant, data.shared and data.forge only"),
        ("p if data[input.role].x", "data.tenant, data.shared and data.forge only"),
        ("p if { x := data; x.tenant }", "data.tenant, data.shared and data.forge only"),
        ("p contains x if some x in data.tenants[_].grants", "data.tenant, data.shared and data.forge only"),
        ("p if input.a[data.secrets.key]", "data.tenant, data.shared and data.forge only"),
        ("p if count([x | x := data[_]]) > 0", "data.tenant, data.shared and data.forge only"),
        ("p if input.a == 1 with data.globex as 1", "data.tenant, data.shared and data.forge only"),
        ("p if http.send({\"url\": \"http://localhost\"})", "this builtin is not allowed"),
        ("p if time.now_ns() > 0", "this builtin is not allowed"),
        ("p if not rand.intn(\"x\", 2)", "this builtin is not allowed"),
        // no rule reaches it
        ("p if nosuch(1)", "there is no such function"),
        ("p if helper(1)", "there is no such function"),
    ] {
        let text = refusal(Sources::new().with_policy("a.rego", format!("{HEAD}{rules}\n"))).await;
        assert!(text.contains(wanted) && text.contains("file=a.rego"), "{rules}: {text}");
        assert!(text.contains("line=4") || rules == "p if {", "{rules}: {text}");
        assert!(!text.contains('\n'), "one line: {text}");
    }
    let import = "package forge.tool_access\nimport data.globex\n";
    assert!(refusal(Sources::new().with_policy("a.rego", import)).await.contains("line=2"));
    assert!(
        refusal(Sources::new().with_policy("a.rego", "package acme\n")).await.contains("a package must be `forge`")
    );
}

#[tokio::test]
async fn helpers_imports_and_functions_of_other_modules_are_admitted() {
    let lib = "package forge.lib\n\nhelper(x) := x + 1\n";
    let main = format!(
        "{}import data.forge.lib\nimport data.tenant.grants as g\n\nlocal(x) := count(x)\n\ndecision := {{\"verdict\": \"allow\", \"reasons\": [], \"obligations\": {{}}}} if {{\n\tlib.helper(1) == data.forge.lib.helper(1)\n\tlocal(g) == 1\n}}\n",
        "package forge.tool_access\n"
    );
    let main = format!("{main}{}", HEAD.trim_start_matches("package forge.tool_access\n"));
    let acme = TenantId::parse("acme").unwrap();
    let sources = Sources::new().with_policy("lib.rego", lib).with_policy("main.rego", main);
    let e = load(sources.with_tenant_data(acme, json!({"grants": ["x"]}))).await.unwrap();
    assert_eq!(verdict(&e, "acme"), Verdict::Allow);
}

#[tokio::test]
async fn a_default_decision_must_be_there_and_deny() {
    for value in [
        "",
        "default decision := {}",
        "default decision := false",
        r#"default decision := {"verdict": "allow", "reasons": [], "obligations": {}}"#,
        r#"default decision := {"verdict": "deny", "reasons": [], "obligations": {}}"#,
        r#"default other := {"verdict": "deny", "reasons": ["x"], "obligations": {}}"#,
    ] {
        let text =
            refusal(Sources::new().with_policy("a.rego", format!("package forge.tool_access\n{value}\nx := 1"))).await;
        assert!(text.contains("default decision"), "{text}");
    }
    assert!(refusal(Sources::new()).await.contains("default decision"));
}

#[tokio::test]
async fn policies_that_fail_their_own_checks_or_differ_between_evaluators_stay_out() {
    let check = |verdict: &str| {
        format!(
            r#"[{{"name": "c", "tenant": {{"grants": {{"a": ["tool.call:x"]}}}}, "verdict": "{verdict}",
        "input": {{"action": "tool.call", "tool_name": "x", "effect": "read", "role": "a", "compliance_flags": [], "pii_flags": []}}}}]"#
        )
    };
    load(standard().with_checks("mine.checks.json", check("allow"))).await.unwrap();
    let text = refusal(standard().with_checks("mine.checks.json", check("deny"))).await;
    assert!(text.contains("file=mine.checks.json") && text.contains("check=c"), "{text}");
    let text = refusal(standard().with_checks("mine.checks.json", "[\n{\n}]")).await;
    assert!(text.contains("line=3"), "{text}");
    // the machine goes on behind an assignment of nothing, the interpreter does not
    let rules = format!(
        "{HEAD}decision := {{\"verdict\": \"deny\", \"reasons\": [\"x\"], \"obligations\": {{}}}} if {{\n\te := data.tenant.missing[input.role]\n\tnot e.role == input.role\n}}\n"
    );
    let text = refusal(Sources::new().with_policy("a.rego", rules).with_checks("c.checks.json", check("deny"))).await;
    assert!(text.contains("the two evaluators disagree"), "{text}");
}

#[tokio::test]
async fn a_directory_is_read_whole_or_not_at_all() {
    assert!(refusal(Sources::new().with_directory("no/such/policies")).await.contains("file=no/such/policies"));
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, text: &str| {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let standard_rego = include_str!("../policies/tool_access.rego");
    put("policies/tool_access.rego", standard_rego);
    put("policies/tool_access_test.rego", "package nowhere\nthis is not read");
    put(".git/x.rego", "nor this");
    put("shared/data.json", r#"{"compliance": {}}"#);
    put("tenants/acme/data.json", r#"{"grants": {"analyst": ["tool.call:*"]}}"#);
    let sources = Sources::new().with_directory(dir.path());
    let e = load(sources.clone()).await.unwrap();
    assert_eq!((verdict(&e, "acme"), verdict(&e, "globex")), (Verdict::Allow, Verdict::Deny));
    let first = e.revision().unwrap();

    put("tenants/globex/data.json", r#"{"grants": {"analyst": ["tool.call:*"]}}"#);
    put("tenants/acme/data.json", r#"{"grants": {}}"#);
    assert_ne!(e.reload().await.unwrap(), first);
    assert_eq!((verdict(&e, "acme"), verdict(&e, "globex")), (Verdict::Deny, Verdict::Allow));

    let second = e.revision().unwrap();
    for (name, text, wanted) in [
        ("tenants/acme/data.json", "{\n\"grants\": [,]}", "line=2"),
        ("policies/broken.rego", "package forge.x\np if {", "file=policies/broken.rego"),
        ("tenants/Acme Corp/data.json", "{}", "no tenant id"),
        ("data.json", "{}", "data belongs into"),
        ("tenants/acme/more/data.json", "{}", "no tenant id"),
        ("policies/big.rego", &"#\n".repeat(600_000), "too large"),
    ] {
        let before = fs::read(dir.path().join(name)).ok();
        put(name, text);
        let text = e.reload().await.unwrap_err().to_string();
        assert!(text.contains(wanted), "{name}: {text}");
        assert!(!text.contains(dir.path().to_str().unwrap()), "a path of the host is not told: {text}");
        assert_eq!(e.revision().unwrap(), second, "the last good ones stay in force");
        assert_eq!(e.check(Depth::Deep).await.status, Status::Degraded);
        match before {
            Some(bytes) => fs::write(dir.path().join(name), bytes).unwrap(),
            None => fs::remove_file(dir.path().join(name)).unwrap(),
        }
    }
    #[cfg(unix)]
    {
        std::os::unix::fs::symlink("/etc/hostname", dir.path().join("policies/link.rego")).unwrap();
        assert!(e.reload().await.unwrap_err().to_string().contains("links are not followed"));
        fs::remove_file(dir.path().join("policies/link.rego")).unwrap();
    }
    assert_eq!(e.reload().await.unwrap(), second);
    assert_eq!(e.check(Depth::Deep).await.status, Status::Up);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn fifty_reloads_under_load_disturb_no_decision() {
    let acme = TenantId::parse("acme").unwrap();
    // shared and tenant's data carry one number; a decision that saw two snapshots would see two numbers
    let rules = format!(
        "{HEAD}decision := {{\"verdict\": \"allow\", \"reasons\": [], \"obligations\": {{\"max_rows\": data.tenant.n}}}} if data.tenant.n == data.shared.n\n"
    );
    let numbered = |n: u32| {
        let sources = Sources::new().with_policy("a.rego", rules.clone());
        sources.with_shared_data(json!({"n": n})).with_tenant_data(acme.clone(), json!({"n": n}))
    };
    // four threads on few processors: wall time says nothing here
    let limits = Limits::default().with_time(Duration::from_secs(60));
    let e = RegorusEngine::with_limits(Arc::new(ManualClock::default()), limits);
    e.replace(numbered(0)).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let askers: Vec<_> = (0..3)
        .map(|_| {
            let (e, stop) = (e.clone(), stop.clone());
            tokio::spawn(async move {
                let ctx = context("acme", "ana", "analyst");
                let input = PolicyInput::new(&ctx, "tool.call", "x", "read");
                let (mut last, mut asked) = (0, 0_u32);
                while !stop.load(Ordering::Relaxed) {
                    let d = e.decide_now(&ctx, &input);
                    assert_eq!(d.verdict, Verdict::Allow, "{:?}", d.reasons);
                    let n = d.obligations.max_rows.unwrap();
                    assert!(n >= last, "no decision goes back to older policies");
                    (last, asked) = (n, asked + 1);
                    if asked.is_multiple_of(64) {
                        tokio::task::yield_now().await;
                    }
                }
                asked
            })
        })
        .collect();
    for n in 1..=50 {
        e.replace(numbered(n)).await.unwrap();
        let ctx = context("acme", "ana", "analyst");
        let d = e.decide_now(&ctx, &PolicyInput::new(&ctx, "tool.call", "x", "read"));
        assert_eq!(d.obligations.max_rows, Some(n), "what was put in force decides at once");
    }
    stop.store(true, Ordering::Relaxed);
    for asker in askers {
        assert!(asker.await.unwrap() > 0);
    }
}
