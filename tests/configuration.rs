//! The configuration: layers, problems, explanations, and the files that describe it. `FORGE_BLESS=1` writes those anew.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use forge::core::TenantId;
#[cfg(feature = "memory-openai")]
use forge::core::model::{CompletionRequest, Message};
use forge::memory::openai::OpenAiConfig;
use forge::{Config, ConfigError, ConfigKey, Error, ErrorKind, Forge, Layers, Origin, RedisQueueConfig};
use proptest::prelude::*;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn problems(e: &ConfigError) -> Vec<(String, String, String)> {
    e.problems().iter().map(|p| (p.key.clone(), p.what.clone(), p.origin.to_string())).collect()
}

fn only(layers: Layers) -> (String, String, String) {
    let e = layers.read().unwrap_err();
    let mut found = problems(&e);
    assert_eq!(found.len(), 1, "{e}");
    found.remove(0)
}

fn toml(text: &str) -> Layers {
    Layers::new().text("forge.toml", text)
}

#[test]
fn each_layer_goes_over_the_one_before() {
    let config = toml("data_dir = \"a\"\nqueue.concurrency = 8\nworkflow.running = \"2m\"")
        .text("forge.production.toml", "[queue]\nconcurrency = 16\n[guard]\ncache_bytes = 0")
        .variables([
            ("FORGE__QUEUE__CONCURRENCY", "32"),
            ("FORGE__DATA_DIR", "b"),
            ("PATH", "x"),
            ("FORGE_SOMETHING", "y"),
        ])
        .read()
        .unwrap();
    assert_eq!((config.queue.concurrency, config.data_dir.as_path()), (32, Path::new("b")));
    assert_eq!((config.workflow.running, config.guard.cache_bytes), (Duration::from_secs(120), 0));
    assert_eq!(config.guard.policy_timeout, Duration::from_secs(5), "what nobody gives is the default");

    let explained = config.explain();
    let line =
        |key: &str| explained.lines().find(|l| l.starts_with(key)).unwrap_or_else(|| panic!("no {key}:\n{explained}"));
    assert!(line("queue.concurrency").ends_with(
        " 32                       FORGE__QUEUE__CONCURRENCY, over 16 from forge.production.toml:2, over 8 from forge.toml:2"
    ));
    assert!(line("guard.cache_bytes").ends_with("forge.production.toml:4"));
    assert!(line("guard.policy_timeout").ends_with("\"5s\"                     default"));
    assert!(line("master_key").ends_with("not set: made in `data_dir` at the first start, with mode 0600"));
}

#[test]
fn what_code_sets_is_said_to_be_code() {
    let mut config = toml("queue.concurrency = 8").read().unwrap();
    config.queue.concurrency = 2;
    config.workflow.attempts = 0;
    let explained = config.explain();
    assert!(explained.contains("set by the host's code, over forge.toml:1"), "{explained}");
    let line = explained.lines().find(|l| l.starts_with("workflow.attempts")).unwrap();
    assert!(line.ends_with("set by the host's code"), "{line}");
}

#[test]
fn every_problem_is_named_at_once_with_its_place() {
    let e = toml("[queue]\nvisibility_timout = \"30s\"\nconcurrency = 0\n\n[quue]\n[guard]\nbreaker_open = 30\npolicy_timeout = \"0s\"\nretry_budget = 1.5\n")
        .text("forge.production.toml", "master_key = \"c2VjcmV0LW1hc3Rlci1rZXk=\"\ndata_dir = \nqueue = 3\n[quota.tenants.Acme]\ntotal.calls = 1\n")
        .variables([("FORGE__CONCURRENCY", "8"), ("FORGE__QUOTA__DEFAULT__TOTAL__MONEY", "a lot"), ("FORGE__GUARD", "x"), ("FORGE__", "")])
        .read()
        .unwrap_err();
    let expected = [
        ("queue.visibility_timout", "unknown key, did you mean `queue.visibility_timeout`?", "forge.toml:2"),
        ("quue", "unknown key, did you mean `queue`?", "forge.toml:5"),
        ("", "string values must be quoted, expected literal string", "forge.production.toml:2"),
        ("queue", "is a section; its keys go below it", "forge.production.toml:3"),
        ("quota.tenants.Acme", "", "forge.production.toml:4"),
        ("\"\"", "unknown key; docs/configuration.md lists all", "FORGE__"),
        ("concurrency", "unknown key, did you mean `queue.concurrency`?", "FORGE__CONCURRENCY"),
        ("guard", "is a section; name a key in it", "FORGE__GUARD"),
        ("master_key", "is a literal; give a reference: env:NAME, file:PATH or vault:PATH", "forge.production.toml:1"),
        (
            "guard.breaker_open",
            "expected a duration with its unit, such as \"30s\", \"5m\" or \"1h 30m\"",
            "forge.toml:7",
        ),
        ("guard.retry_budget", "expected a whole number, found a fraction", "forge.toml:9"),
        (
            "quota.default.total.money",
            "expected an amount and its currency, such as \"250.00 USD\", or \"unlimited\"",
            "FORGE__QUOTA__DEFAULT__TOTAL__MONEY",
        ),
        ("queue.concurrency", "must be at least 1", "forge.toml:3"),
        ("guard.policy_timeout", "must be at least 1ms", "forge.toml:8"),
    ];
    let found = problems(&e);
    for (key, what, origin) in expected {
        let hit =
            found.iter().any(|(k, w, o)| k == key && (w == what || what.is_empty() || key.is_empty()) && o == origin);
        assert!(hit, "{key}: {what} ({origin}) is not in:\n{e}");
    }
    assert!(found.iter().all(|(k, _, o)| expected.iter().any(|(key, _, origin)| k == key && o == origin)), "{e}");
    let text = format!("{e}\n{e:?}\n{}", Error::from(e.clone()));
    assert!(!text.contains("c2VjcmV0") && !text.contains("a lot"), "a value is repeated:\n{text}");
    assert_eq!(Error::from(e).kind(), ErrorKind::Config);
}

#[test]
fn a_problem_reads_as_a_line_a_key() {
    let e = toml("[queue]\nvisibility_timout = \"30s\"\nconcurrency = 0").read().unwrap_err();
    let expected = "the configuration has 2 problems:
  queue.visibility_timout  unknown key, did you mean `queue.visibility_timeout`?  (forge.toml:2)
  queue.concurrency        must be at least 1                                     (forge.toml:3)";
    assert_eq!(e.to_string(), expected);
}

#[test]
fn secrets_are_references_and_stay_where_they_are() {
    for literal in ["hunter2", "user:hunter2", "env:", ":hunter2", "sk-live-hunter2"] {
        let (key, what, _) = only(toml(&format!("master_key = \"{literal}\"")));
        assert!(key == "master_key" && what.starts_with("is a literal; give a reference"), "{literal}: {what}");
        let (_, what, origin) = only(Layers::new().variables([("FORGE__MASTER_KEY", literal)]));
        assert!(what.starts_with("is a literal") && origin == "FORGE__MASTER_KEY", "{literal}: {what}");
    }
    let config = toml("master_key = \"env:FORGE_MASTER\"").read().unwrap();
    assert!(config.explain().contains("\"env:FORGE_MASTER\""), "{}", config.explain());
    // a host's own provider
    assert!(toml("master_key = \"aws:forge/master\"").read().is_err());
    assert!(toml("master_key = \"aws:forge/master\"").secrets_from("aws").read().is_ok());
}

#[test]
fn a_tenant_begins_with_the_limits_of_all() {
    let config = toml("[quota.tenants.acme]\ntotal.calls = 5\n[quota.tenants.acme.employees.\"a.b\"]\ntokens = 9\n[quota.default]\nwindow = \"day\"\neach_employee.calls = 3\n")
        .variables([("FORGE__QUOTA__TENANTS__GLOBEX__TOTAL__CALLS", "unlimited"), ("FORGE__QUOTA__DEFAULT__TOTAL__CALLS", "7")])
        .read()
        .unwrap();
    let of = |tenant: &str| config.quota.of(&TenantId::parse(tenant).unwrap()).clone();
    assert_eq!((of("acme").total.calls, of("globex").total.calls, of("other").total.calls), (Some(5), None, Some(7)));
    assert_eq!(of("acme").window.as_str(), "day");
    let ab = of("acme").of(&forge::core::EmployeeId::parse("a.b").unwrap());
    assert_eq!((ab.calls, ab.tokens), (Some(3), Some(9)));
    let explained = config.explain();
    assert!(explained.contains("quota.tenants.acme.employees.\"a.b\".tokens"), "{explained}");
    assert!(
        !explained.contains("quota.tenants.acme.window"),
        "what a tenant does not change is not repeated:\n{explained}"
    );

    let (key, what, origin) =
        only(toml("[quota.tenants.acme]\ntotal.money = \"1 USD\"\neach_employee.money = \"1 EUR\""));
    assert_eq!((key.as_str(), what.contains("one currency")), ("quota.tenants.acme", true), "{what}");
    assert!(origin.starts_with("forge.toml:"), "{origin}");
    let (key, _, origin) =
        only(toml("[quota.tenants.acme-2]\ntotal.calls = 1\n[quota.tenants.acme]\ntotal.money = \"-1 USD\"\n"));
    assert_eq!(
        (key.as_str(), origin.as_str()),
        ("quota.tenants.acme", "forge.toml:4"),
        "a namesake's line is not its own"
    );
}

#[test]
fn what_cannot_be_read_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let missing = path("forge.toml");
    let what = |layers: Layers| only(layers).1;
    assert_eq!(what(Layers::new().file(&missing)), "there is no such file");
    assert_eq!(what(Layers::new().file(dir.path())), "is not a regular file");
    std::fs::write(&missing, [0xff, 0xfe, 0x00]).unwrap();
    assert_eq!(what(Layers::new().file(&missing)), "is not UTF-8");
    std::fs::write(&missing, "# ".repeat(600_000)).unwrap();
    assert_eq!(what(Layers::new().file(&missing)), "is larger than 1 MiB");
    std::fs::write(&missing, "").unwrap();
    let (_, what, origin) = only(Layers::new().file(&missing).environment(&missing, "prodution"));
    assert_eq!((what.as_str(), origin.ends_with("forge.prodution.toml")), ("there is no such file", true));
    let (_, what, _) = only(Layers::new().environment(&missing, "../../etc/passwd"));
    assert!(what.starts_with("the name of an environment"), "{what}");
    assert_eq!(Config::load(path("none.toml")).unwrap_err().problems().len(), 1);
    let deep = format!("a = {}", "[".repeat(100_000));
    assert!(Config::parse(&deep).is_err());
    let many: String = (0..500).map(|i| format!("k{i} = 1\n")).collect();
    assert!(Config::parse(&many).unwrap_err().to_string().ends_with("and 450 more"));
}

/// Run again as its own child, it reads what its parent put into the environment.
#[test]
#[allow(clippy::print_stdout, clippy::disallowed_methods, reason = "the child learns its file and answers its parent")]
fn a_process_reads_its_variables() {
    if let Ok(file) = std::env::var("CONFIG_FILE") {
        let read = Config::load(file);
        return println!("{}", read.map_or_else(|e| e.to_string(), |c| format!("concurrency={}", c.queue.concurrency)));
    }
    let dir = tempfile::tempdir().unwrap();
    let base = dir.path().join("forge.toml");
    std::fs::write(&base, "queue.concurrency = 8").unwrap();
    std::fs::write(dir.path().join("forge.staging.toml"), "queue.concurrency = 16").unwrap();
    let run = |variables: &[(&str, &str)]| {
        let mut child = std::process::Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", "a_process_reads_its_variables", "--nocapture"]).env("CONFIG_FILE", &base);
        let output = child.envs(variables.iter().copied()).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(run(&[]).contains("concurrency=8"), "{}", run(&[]));
    assert!(run(&[("FORGE_ENVIRONMENT", "staging")]).contains("concurrency=16"));
    assert!(run(&[("FORGE_ENVIRONMENT", "staging"), ("FORGE__QUEUE__CONCURRENCY", "3")]).contains("concurrency=3"));
    assert!(run(&[("FORGE_ENVIRONMENT", "stagin")]).contains("there is no such file"));
}

#[tokio::test]
async fn a_host_does_not_start_on_values_that_code_set_wrong_and_explains_itself() {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::in_dir(dir.path());
    config.guard.tool_concurrency = usize::MAX;
    let e = Forge::builder().config(config).build().await.unwrap_err();
    assert!(
        e.to_string().contains("must be at most 1000000 (config, key=guard.tool_concurrency, from=the host's code)"),
        "{e}"
    );
    let forge = Forge::builder().config(Config::in_dir(dir.path())).build().await.unwrap();
    assert!(
        forge.explain_config().lines().count()
            >= Config::keys().iter().filter(|k| !k.key.contains('<') && k.feature.is_none()).count()
    );
    forge.shutdown(Duration::ZERO).await.unwrap();
}

#[test]
fn the_examples_load() {
    let base = root().join("examples/config/forge.toml");
    let of = |environment: &str| Layers::new().file(&base).environment(&base, environment).read().unwrap();
    let (development, production) = (of("development"), of("production"));
    assert_eq!((development.queue.concurrency, production.queue.concurrency), (1, 32));
    assert_eq!(development.workflow.running, Duration::from_secs(600), "from the file that both share");
    assert!(development.master_key.is_none() && production.master_key.is_some());
}

/// Compares a file with what it should be; `FORGE_BLESS=1` writes it.
fn settled(path: PathBuf, expected: &str) {
    #[allow(clippy::disallowed_methods, reason = "asks whether to write")]
    if std::env::var_os("FORGE_BLESS").is_some() {
        std::fs::write(&path, expected).unwrap();
    }
    let there = std::fs::read_to_string(&path).unwrap();
    assert!(
        there == expected,
        "{} has drifted from the code; FORGE_BLESS=1 cargo test --test configuration writes it",
        path.display()
    );
}

/// The section of a key and its name in it; a backend has a section of its own.
fn split(key: &ConfigKey) -> (&str, &str) {
    let parts = if key.feature.is_some() { key.key.rsplit_once('.') } else { key.key.split_once('.') };
    parts.unwrap_or(("", &key.key))
}

fn kind(key: &ConfigKey) -> String {
    key.range.as_ref().map_or_else(|| key.kind.to_owned(), |range| format!("{}, {range}", key.kind))
}

/// How the example begins the line of a key that it does not set.
const OFF: &str = "# ";

fn example() -> String {
    let mut text = "# Every key with its default; what has none, and what belongs to a backend that has to be chosen, is commented out.\n\
                    # Written by tests/configuration.rs from the table of keys.\n\
                    # forge.toml < forge.<environment>.toml (FORGE_ENVIRONMENT) < variables such as FORGE__QUEUE__CONCURRENCY.\n"
        .to_owned();
    let mut current = "";
    let keys = Config::keys();
    for k in &keys {
        let (section, name) = split(k);
        if section != current {
            write!(text, "\n[{section}]\n").unwrap();
            if let Some(feature) = k.feature {
                write!(text, "# Chosen by setting any of its keys; needs a build with the feature `{feature}`.\n\n")
                    .unwrap();
            }
            current = section;
        } else {
            text.push('\n');
        }
        writeln!(text, "# {} ({})", k.about, kind(k)).unwrap();
        match &k.default {
            Some(default) if k.feature.is_some() => writeln!(text, "{OFF}{name} = {default}").unwrap(),
            Some(default) => writeln!(text, "{name} = {default}").unwrap(),
            None if k.unset.0 == "required" => writeln!(text, "{OFF}{name} = {}    # required", k.unset.1).unwrap(),
            None => writeln!(text, "{OFF}{name} = {}    # otherwise {}", k.unset.1, k.unset.0).unwrap(),
        }
    }
    text
}

#[test]
fn the_annotated_example_is_the_code() {
    settled(root().join("forge.example.toml"), &example());
    let read = Config::load(root().join("forge.example.toml")).unwrap();
    let default = Config::default();
    let explained = read.explain();
    assert_eq!((read.quota, read.guard, read.data_dir), (default.quota, default.guard, default.data_dir));
    assert_eq!(read.workflow.running, default.workflow.running);
    assert!(read.memory.openai.is_none() && read.queue.redis.is_none());
    for k in Config::keys().iter().filter(|k| k.default.is_some() && k.feature.is_none()) {
        let line = explained.lines().find(|l| l.split_whitespace().next() == Some(&k.key)).unwrap();
        assert!(line.contains("forge.example.toml:"), "the example does not set it: {line}");
        assert!(line.contains(k.default.as_deref().unwrap()), "{line}");
    }
}

/// The example with a backend's keys switched on.
fn example_with(feature: &str) -> String {
    let mut text = example();
    for k in Config::keys().iter().filter(|k| k.feature == Some(feature)) {
        let line = format!("\n{OFF}{} = ", split(k).1);
        assert_eq!(text.matches(&line).count(), 1, "{line}");
        text = text.replace(&line, &line.replacen(OFF, "", 1));
    }
    text
}

#[test]
fn every_backend_that_is_a_feature_has_its_section_in_the_example() {
    let manifest: toml::Table = std::fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let features = manifest["features"].as_table().unwrap().keys();
    let backends: Vec<&str> =
        features.map(String::as_str).filter(|f| !["default", "testing", "mock"].contains(f)).collect();
    assert!(!backends.is_empty());
    for feature in backends {
        assert!(Config::keys().iter().any(|k| k.feature == Some(feature)), "{feature} has no keys");
        let read = toml(&example_with(feature).replace("# master_key = ", "master_key = ")).read();
        let built = match feature {
            "memory-openai" => cfg!(feature = "memory-openai"),
            "queue-redis" => cfg!(feature = "queue-redis"),
            other => panic!("say whether {other} is in this build"),
        };
        if built {
            let read = read.unwrap();
            for k in Config::keys().iter().filter(|k| k.feature == Some(feature)) {
                let explained = read.explain();
                let line = explained.lines().find(|l| l.split_whitespace().next() == Some(&k.key)).unwrap();
                assert!(line.contains(k.default.as_deref().unwrap_or(&k.unset.1)), "{line}");
            }
            let mut openai = OpenAiConfig::new("https://api.openai.com/v1", "gpt-4.1-mini").with_context(128_000);
            openai.key = Some("env:OPENAI_API_KEY".parse().unwrap());
            let mut redis = RedisQueueConfig::default();
            (redis.url, redis.prefix) = ("redis://127.0.0.1:6379/0".to_owned(), "{forge}:".to_owned());
            (redis.bind, redis.routes) = ("celery=acme/mailer/service".to_owned(), "mail.send=celery".to_owned());
            redis.worker = "forge@host-1".to_owned();
            redis.leave = "celery".to_owned();
            redis.password = Some("env:REDIS_PASSWORD".parse().unwrap());
            redis.ca_file = Some("/etc/ssl/redis-ca.pem".into());
            let expected =
                (Some(openai).filter(|_| feature == "memory-openai"), Some(redis).filter(|_| feature == "queue-redis"));
            assert_eq!((read.memory.openai, read.queue.redis), expected);
        } else {
            let found = problems(&read.unwrap_err());
            assert_eq!(found[0].1, format!("needs a build with the feature `{feature}`"));
        }
    }
}

#[cfg(feature = "memory-openai")]
#[test]
fn a_backend_that_is_chosen_is_chosen_whole() {
    let section = |keys: &str| only(toml(&format!("[memory.openai]\n{keys}")));
    let whole = "base_url = \"http://127.0.0.1/v1\"\nmodel = \"m\"\n";
    for (keys, key, what, line) in [
        ("model = \"m\"".to_owned(), "memory.openai.base_url", "missing: memory.openai is chosen", 2),
        ("base_url = \"http://127.0.0.1/v1\"".to_owned(), "memory.openai.model", "missing: memory.openai is chosen", 2),
        (
            format!("{whole}key = \"sk-secret\""),
            "memory.openai.key",
            "is a literal; give a reference: env:NAME, file:PATH or vault:PATH",
            4,
        ),
        (
            format!("{whole}provider = \"a/b\""),
            "memory.openai.provider",
            "must be one word in visible ASCII, without a slash",
            4,
        ),
        (
            format!("{whole}limit_field = \"most\""),
            "memory.openai.limit_field",
            "expected \"max_tokens\" or \"max_completion_tokens\"",
            4,
        ),
        (format!("{whole}remote = \"no\""), "memory.openai.remote", "expected true or false", 4),
        (format!("{whole}context = 0"), "memory.openai.context", "must be at least 1", 4),
        (
            "base_url = \"api.openai.com\"\nmodel = \"m\"".to_owned(),
            "memory.openai.base_url",
            "must begin with http:// or https://",
            2,
        ),
    ] {
        assert_eq!(section(&keys), (key.to_owned(), what.to_owned(), format!("forge.toml:{line}")), "{keys}");
    }
    let read =
        toml(&format!("[memory.openai]\n{whole}")).variables([("FORGE__MEMORY__OPENAI__REMOTE", "false")]).read();
    assert!(!read.unwrap().memory.openai.unwrap().remote);
}

#[cfg(feature = "memory-openai")]
#[tokio::test]
async fn a_configured_model_is_asked_through_the_guard() {
    let dir = tempfile::tempdir().unwrap();
    let server = forge_testkit::OpenAiStandIn::start(dir.path().join("openai.jsonl"), "sk-test", vec![]).await.unwrap();
    server.script(|_| "it is so".to_owned());
    std::fs::write(dir.path().join("key"), "sk-test").unwrap();
    let text = format!(
        "data_dir = {:?}\n[memory.openai]\nbase_url = {:?}\nmodel = \"stand-in\"\nkey = \"file:{}\"\n",
        dir.path().join("data"),
        server.base_url(),
        dir.path().join("key").display(),
    );
    let config = Config::parse(&text).unwrap();
    let grants = serde_json::json!({ "grants": { "analyst": ["model.complete:*"] } });
    let forge = Forge::builder().config(config).tenant("acme", grants).build().await.unwrap();
    let ana = forge.context(forge::Principal::employee("acme", "ana", "analyst").unwrap());
    let request = CompletionRequest::new(vec![Message::user("is it so?")]);
    let completion = forge.scope(&ana).complete(request).await.unwrap();
    assert_eq!((completion.text.as_str(), completion.model.as_str()), ("it is so", "openai/stand-in"));
    forge.shutdown(Duration::ZERO).await.unwrap();
}

fn table(keys: &[ConfigKey]) -> String {
    let mut text = "| key | type | default | variable | secret | what |\n|---|---|---|---|---|---|\n".to_owned();
    for k in keys {
        let default = k.default.as_ref().map_or_else(|| format!("({})", k.unset.0), |d| format!("`{d}`"));
        let secret = if k.secret { "yes" } else { "no" };
        write!(text, "| `{}` | {} | {default} | `{}` | {secret} | {}", k.key, kind(k), k.variable, k.about).unwrap();
        if let Some(feature) = k.feature {
            write!(text, " Needs the feature `{feature}`.").unwrap();
        }
        text.push_str(" |\n");
    }
    text
}

#[test]
fn the_documentation_is_the_code() {
    let path = root().join("docs/configuration.md");
    let there = std::fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- keys -->\n", "<!-- /keys -->");
    let (before, rest) = there.split_once(begin).unwrap();
    let after = rest.split_once(end).unwrap().1;
    settled(path, &format!("{before}{begin}{}{end}{after}", table(&Config::keys())));
}

#[test]
fn every_key_can_be_set_by_its_variable() {
    for k in Config::keys().iter().filter(|k| !k.secret) {
        let variable = k.variable.replace("<TENANT>", "ACME").replace("<EMPLOYEE>", "ANA");
        let value = match k.kind {
            "a path" => "somewhere",
            "a duration" => "7s",
            "\"day\" or \"month\"" => "day",
            "\"max_tokens\" or \"max_completion_tokens\"" => "max_tokens",
            "true or false" => "true",
            "an amount and its currency or \"unlimited\"" => "7 USD",
            _ => "7",
        };
        let given = Layers::new().variables([(variable.clone(), value)]);
        match (given.read(), k.feature) {
            (Ok(config), _) => assert!(config.explain().contains(&variable), "{variable} sets nothing"),
            // alone it does not make a backend whole
            (Err(e), Some(_)) => {
                assert!(e.problems().iter().all(|p| p.origin == Origin::Variable(variable.clone())), "{e}")
            }
            (Err(e), None) => panic!("{e}"),
        }
    }
}

proptest! {
    /// Whatever stands in a file or a variable, the answer is a configuration or a list of problems that have a place.
    #[test]
    fn nothing_that_is_written_brings_it_down(
        cut in 0_usize..4000, put in "\\PC{0,12}|[\\[\\].=\"'#{}\n0-9a-z_]{0,40}", long in 0_usize..40,
        name in "[A-Z_0-9<>.]{0,30}", value in "\\PC{0,20}",
    ) {
        let mut text = example();
        let at = (0..=cut.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
        let end = (at + long).min(text.len());
        let end = (end..=text.len()).find(|i| text.is_char_boundary(*i)).unwrap_or(text.len());
        text.replace_range(at..end, &put);
        match Layers::new().text("f", text).variables([(format!("FORGE__{name}"), value)]).read() {
            Ok(config) => { config.explain(); }
            Err(e) => {
                prop_assert!(!e.problems().is_empty() && !e.to_string().is_empty());
                prop_assert!(e.problems().iter().all(|p| p.origin != Origin::Code), "{}", e);
            }
        }
    }
}

#[cfg(feature = "queue-redis")]
#[test]
fn a_queue_on_redis_says_what_does_not_fit() {
    let section = |keys: &str| only(toml(&format!("master_key = \"env:K\"\n[queue.redis]\n{keys}")));
    let url = "url = \"redis://127.0.0.1\"\n";
    let (key, what, _) = only(toml(&format!("[queue.redis]\n{url}")));
    assert!(key == "queue.redis.url" && what.starts_with("needs `master_key`"), "{key} {what}");
    for (keys, key, what) in [
        ("url = \"redis://:hunter2@h\"".to_owned(), "url", "a password in a URL ends up in logs"),
        ("url = \"http://h\"".to_owned(), "url", "a URL begins with redis:// or rediss://"),
        ("url = \"redis+cluster://h\"".to_owned(), "prefix", "in a cluster the prefix needs a hash tag"),
        (format!("{url}connections = 17"), "connections", "must be at most 16"),
        (format!("{url}password = \"hunter2\""), "password", "is a literal; give a reference"),
        (format!("{url}bind = \"celery=acme\""), "bind", "expected queue=tenant/employee/role"),
        (format!("{url}routes = \"mail.send\""), "routes", "expected task=queue"),
        (format!("{url}leave = \"celery\""), "leave", "expected names of `bind`"),
    ] {
        let (found, said, _) = section(&keys);
        assert_eq!(found, format!("queue.redis.{key}"), "{keys}");
        assert!(said.starts_with(what) && !said.contains("hunter2"), "{said}");
    }
}

#[cfg(feature = "queue-redis")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_whose_queue_is_on_redis_does_its_tasks_there() {
    use forge::core::queue::{Lease, NewTask, TaskHandler, TaskState};
    #[derive(Debug)]
    struct Double;
    #[async_trait::async_trait]
    impl TaskHandler for Double {
        async fn handle(&self, _: &forge::ExecutionContext, task: &Lease) -> forge::Result<serde_json::Value> {
            Ok((task.payload.as_i64().unwrap() * 2).into())
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let server = forge_testkit::servers::RedisServer::start();
    std::fs::write(dir.path().join("master"), "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=").unwrap();
    let master = format!("file:{}", dir.path().join("master").display());
    let text = format!(
        "data_dir = {:?}\nmaster_key = {master:?}\n[queue.redis]\nurl = {:?}\n",
        dir.path().join("data"),
        server.url()
    );
    let grants =
        serde_json::json!({ "grants": { "analyst": ["task.enqueue:double", "task.run:double", "task.read:*"] } });
    let build =
        || Forge::builder().config(Config::parse(&text).unwrap()).tenant("acme", grants.clone()).task("double", Double);
    let forge = build().build().await.unwrap();
    let ana = forge.context(forge::Principal::employee("acme", "ana", "analyst").unwrap());
    let task = NewTask::new(forge::core::Slug::parse("double").unwrap(), 21.into());
    let id = forge.scope(&ana).enqueue(task).await.unwrap();
    let done = async {
        loop {
            let state = forge.scope(&ana).task(ana.tenant(), id).await.unwrap().state;
            if let TaskState::Succeeded { result } = state {
                return result;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), done).await.unwrap(), 42);
    assert!(server.cli(&["KEYS", "*"]).contains(&format!("celery-task-meta-{id}")));
    forge.shutdown(Duration::ZERO).await.unwrap();
    drop(forge);
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]);
    let refused = build().build().await.unwrap_err();
    assert!(refused.to_string().contains("noeviction"), "{refused}");
}
