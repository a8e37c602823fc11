//! The suites of [`Tool`] and [`Probe`].

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use serde_json::Value;

use super::fixture::prints_no_secret;
use super::{context, tool_call, tool_env};
use crate::tool::{Effect, Probe, Probed, Tool, ToolCall, ToolEnv};
use crate::{ErrorKind, ExecutionContext, ToolName};

/// A tool under test, with what only its test knows.
pub struct ToolCase<T: ?Sized> {
    tool: Arc<T>,
    args: Value,
    env: ToolEnv,
    secrets: Vec<String>,
    effects: Option<Box<dyn Fn() -> usize + Send + Sync>>,
    keep: Vec<Box<dyn Send + Sync>>,
}

impl<T: ?Sized> ToolCase<T> {
    /// A tool, and arguments with which it succeeds for the tenant `acme`; its environment is made of fakes.
    pub fn new(tool: Arc<T>, args: Value) -> Self {
        Self { tool, args, env: tool_env(), secrets: Vec::new(), effects: None, keep: Vec::new() }
    }

    /// Another environment.
    #[must_use]
    pub fn with_env(mut self, env: ToolEnv) -> Self {
        self.env = env;
        self
    }

    /// How many effects the far side has seen.
    #[must_use]
    pub fn with_effects(mut self, count: impl Fn() -> usize + Send + Sync + 'static) -> Self {
        self.effects = Some(Box::new(count));
        self
    }

    /// A credential that it was made with: no `Debug` may show it.
    #[must_use]
    pub fn with_secret(mut self, secret: impl Into<String>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// Something that must live as long as the tool, such as a stand-in server.
    #[must_use]
    pub fn keeping(mut self, thing: impl Send + Sync + 'static) -> Self {
        self.keep.push(Box::new(thing));
        self
    }

    fn count(&self) -> Option<usize> {
        self.effects.as_ref().map(|count| count())
    }

    fn call(&self, name: &str, args: &Value) -> ToolCall {
        tool_call(name, args, self.env.clone()).expect("a call")
    }
}

impl<T: ?Sized> fmt::Debug for ToolCase<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ToolCase")
    }
}

fn ana() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

/// Runs every scenario on fresh tools that `fresh` makes.
///
/// # Panics
/// With the scenario's name, where the tool does not keep the [contract](Tool).
pub async fn tool(fresh: impl AsyncFn() -> ToolCase<dyn Tool>) {
    let case = fresh().await;
    let spec = case.tool.spec();
    assert!(ToolName::parse(spec.name()).is_ok(), "the name parses: {:?}", spec.name());
    assert!(!spec.description().is_empty(), "it says what it does");
    assert_eq!(
        spec.schema().get("type").and_then(Value::as_str).unwrap_or("object"),
        "object",
        "arguments are an object"
    );
    let again = case.tool.spec();
    assert_eq!((spec.name(), spec.schema()), (again.name(), again.schema()), "the definition is stable");
    assert!(spec.cache.is_none() || spec.declared_effect() == Effect::Read, "only what reads is cached");
    prints_no_secret(case.tool.as_ref(), &case.secrets);

    let outcome = case.tool.call(&ana(), case.call(spec.name(), &case.args)).await;
    let output = outcome.expect("it succeeds with its arguments");
    prints_no_secret(&output, &case.secrets);
    if spec.declared_effect() == Effect::Read {
        assert!(matches!(case.count(), None | Some(0)), "what reads changes nothing");
    }

    let case = fresh().await;
    refuses_what_it_does_not_know(&case, spec.name()).await;
    if spec.is_idempotent() {
        let case = fresh().await;
        for _ in 0..2 {
            case.tool.call(&ana(), case.call(spec.name(), &case.args)).await.expect("a repeat is harmless");
        }
        assert!(case.count().is_none_or(|n| n <= 1), "the same key twice is one effect");
    }
}

async fn refuses_what_it_does_not_know(case: &ToolCase<dyn Tool>, name: &str) {
    let before = case.count();
    let mut odd = vec![Value::Null, Value::from(7), Value::from(Vec::<Value>::new())];
    if let Some(fields) = case.args.as_object().filter(|f| !f.is_empty()) {
        let mut more = fields.clone();
        more.insert("not_a_field_of_any_tool".into(), Value::from(1));
        odd.push(more.into());
        let missing: BTreeSet<&String> = fields.keys().take(1).collect();
        odd.push(fields.iter().filter(|(k, _)| !missing.contains(k)).map(|(k, v)| (k.clone(), v.clone())).collect());
        odd.push(fields.keys().map(|k| (k.clone(), Value::from(vec![vec![1]]))).collect());
    }
    for args in odd {
        let kind = case.tool.call(&ana(), case.call(name, &args)).await.map(|_| ()).map_err(|e| e.kind());
        assert_eq!(kind, Err(ErrorKind::InvalidInput), "arguments that it does not know: {args}");
    }
    assert_eq!(case.count(), before, "refused arguments have no effect");
}

/// Runs every scenario on fresh tools that `fresh` makes.
///
/// # Panics
/// With the scenario's name, where the tool does not keep the contracts of [`Tool`] and [`Probe`].
pub async fn probe(fresh: impl AsyncFn() -> ToolCase<dyn Probe>) {
    let case = fresh().await;
    let name = case.tool.spec().name().to_owned();
    let call = || case.call(&name, &case.args);
    let before = case.tool.probe(&ana(), call()).await.expect("a look");
    assert!(matches!(before, Probed::NotHappened | Probed::Unknown), "before the call nothing happened: {before:?}");
    assert!(matches!(case.count(), None | Some(0)), "a look has no effect");
    let answer = case.tool.call(&ana(), call()).await.expect("it succeeds with its arguments");
    let after = case.tool.probe(&ana(), call()).await.expect("a look");
    let Probed::Happened(found) = after else { panic!("after the call it happened: {after:?}") };
    assert_eq!(found.content(), answer.content(), "a look finds the answer of the call");
    let mut other = case.args.clone();
    if let Some(fields) = other.as_object_mut()
        && let Some(text) = fields.values_mut().rev().find_map(|v| v.as_str().map(str::to_owned).map(|t| (v, t)))
    {
        *text.0 = Value::from(format!("{} another", text.1));
        let another = case.tool.probe(&ana(), case.call(&name, &other)).await;
        let found = matches!(another, Ok(Probed::Happened(_)));
        assert!(!found, "another operation is not found");
    }
    let theirs = case.tool.probe(&context("globex", "ana", "analyst"), call()).await;
    assert!(!matches!(theirs, Ok(Probed::Happened(_))), "isolation: another tenant finds the effect");
    assert!(case.count().is_none_or(|n| n == 1), "a look has no effect");
}
