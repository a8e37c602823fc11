//! The sealed registry: what goes in can only be reached through the guard.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::books::{Facts, keyed, settle_probed};
use super::call::{Answered, CallOptions, Operation};
use super::{Guard, Guarding};
use crate::journal::{Intent, Outbox};
use crate::tool::{Effect, Probe, Probed, Tool, ToolCall, ToolEnv, ToolOutput, ToolSpec};
use crate::usage::{Quantity, Resource};
use crate::{Error, ErrorKind, ExecutionContext, Result, ToolName};

/// Tools to be registered together.
#[derive(Debug, Default)]
pub struct ToolSet(Vec<Entry>);

#[derive(Debug, Clone)]
struct Entry {
    tool: Arc<dyn Tool>,
    probe: Option<Arc<dyn Probe>>,
}

impl ToolSet {
    /// None yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a tool.
    #[must_use]
    pub fn tool(mut self, tool: impl Tool) -> Self {
        self.0.push(Entry { tool: Arc::new(tool), probe: None });
        self
    }

    /// Adds a tool whose effect can be looked up after a crash.
    #[must_use]
    pub fn probed(mut self, tool: impl Probe) -> Self {
        let tool = Arc::new(tool);
        self.0.push(Entry { tool: tool.clone(), probe: Some(tool) });
        self
    }

    /// Adds the tools of another set.
    #[must_use]
    pub fn with(mut self, other: Self) -> Self {
        self.0.extend(other.0);
        self
    }

    /// Whether a tool by this name is in it.
    pub fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|e| e.tool.spec().name() == name)
    }

    /// What keeps it from being sealed, one error each: names that do not parse, names that are taken.
    pub fn problems(&self) -> Vec<Error> {
        let mut seen = BTreeSet::new();
        let mut problems = Vec::new();
        for entry in &self.0 {
            let spec = entry.tool.spec();
            if ToolName::parse(spec.name()).is_err() {
                problems.push(config("a tool's name must be 1 to 64 of a-z, 0-9, `_`, `.` and `-`", spec.name()));
            } else if !seen.insert(spec.name().to_owned()) {
                problems.push(config("two tools have this name", spec.name()));
            }
            if spec.cache.is_some() && spec.effect != Effect::Read {
                problems.push(config("only a tool that reads may have its answers cached", spec.name()));
            }
        }
        problems
    }
}

struct Sealed {
    name: ToolName,
    spec: ToolSpec,
    span: String,
    entry: Entry,
}

/// The registry. Cheap to clone.
#[derive(Clone)]
pub struct Tools {
    guard: Guard,
    env: ToolEnv,
    tools: Arc<BTreeMap<String, Sealed>>,
}

impl Tools {
    /// Seals the tools. All problems come back at once, one error each.
    ///
    /// # Errors
    /// `Config` for a name that does not parse or that is taken.
    pub fn seal(guard: Guard, env: ToolEnv, set: ToolSet) -> Result<Self, Vec<Error>> {
        let problems = set.problems();
        if !problems.is_empty() {
            return Err(problems);
        }
        let mut tools = BTreeMap::new();
        for entry in set.0 {
            let spec = entry.tool.spec();
            let name = ToolName::parse(spec.name()).map_err(|e| vec![e])?;
            let span = format!("execute_tool {name}");
            tools.insert(name.to_string(), Sealed { name, spec, span, entry });
        }
        Ok(Self { guard, env, tools: Arc::new(tools) })
    }

    /// The definitions, by name.
    pub fn specs(&self) -> impl Iterator<Item = &ToolSpec> {
        self.tools.values().map(|t| &t.spec)
    }

    /// Whether a tool is registered.
    pub fn contains(&self, name: &str) -> bool {
        self.tools.contains_key(name)
    }

    /// Whether a crash in the middle of this tool's call must be looked into before it is repeated.
    pub fn is_repeatable(&self, name: &str) -> bool {
        self.tools.get(name).is_some_and(|t| repeatable(&t.spec))
    }

    /// How long after an effect of this tool a look may still not find it.
    pub fn settles_in(&self, name: &str) -> Duration {
        self.tools.get(name).map_or(Duration::ZERO, |t| t.spec.settles)
    }

    /// The adapters that tools see, each behind the guard.
    pub fn env(&self) -> &ToolEnv {
        &self.env
    }

    /// Calls a tool through every phase of the guard.
    ///
    /// # Errors
    /// `NotFound` for an unknown tool; the refusals of the [module](super)'s table; the tool's own.
    pub async fn call(
        &self,
        ctx: &ExecutionContext,
        name: &str,
        args: Value,
        options: CallOptions,
    ) -> Result<ToolOutput> {
        let sealed = self.find(name)?;
        let spec = &sealed.spec;
        let op = Operation {
            guarding: Guarding::Tool,
            span: &sealed.span,
            action: "tool.call",
            resource: sealed.name.as_str(),
            effect: spec.effect,
            idempotent: spec.idempotent,
            payload: args,
            schema: Some(&spec.schema),
            max_input: spec.max_input,
            resource_fields: &spec.resource_fields,
            timeout: spec.timeout,
            billed: Some(Resource::Tool(sealed.name.to_string())),
            reserve: Quantity::TOOL_CALL,
            owner: None,
            candidates: BTreeSet::new(),
            cache: spec.cache,
        };
        let content = self
            .guard
            .run(ctx, op, options, |ctx, prepared, attempt| {
                let (tool, name, env) = (sealed.entry.tool.clone(), sealed.name.clone(), self.env.clone());
                async move {
                    let args = raw(&prepared.payload)?;
                    let call = ToolCall::new(name, args, prepared.key, attempt, prepared.obligations.max_rows, env);
                    let output = tool.call(&ctx, call).await?;
                    Ok(Answered { documents: output.documents, ..Answered::new(output.content, output.quantity) })
                }
            })
            .await?;
        Ok(ToolOutput::new(content))
    }

    /// After a crash: looks whether the effect of an intent happened, at the far side. What it returns with `Happened` is what
    /// the interrupted call owes to the books. The effect was decided before its intent was written, so nothing is decided again.
    ///
    /// # Errors
    /// `UnknownOutcome` if the tool cannot be probed or the arguments are not those of the intent; the probe's own.
    pub async fn probe(
        &self,
        ctx: &ExecutionContext,
        name: &str,
        args: &Value,
        intent: &Intent,
        options: &CallOptions,
    ) -> Result<(Probed, Outbox)> {
        let sealed = self.find(name)?;
        let parts = self.guard.parts();
        let unknown =
            |why: &'static str| Error::new(ErrorKind::UnknownOutcome, "guard.probe", why).with("tool", name.to_owned());
        let probe = sealed.entry.probe.as_ref().ok_or_else(|| unknown("the tool has no way to look its effect up"))?;
        parts.keyring.load(ctx.tenant()).await?;
        if keyed(&self.guard, ctx, args.to_string().as_bytes())? != intent.digest {
            return Err(unknown("the arguments are not those of the intent"));
        }
        let (ctx, span) = crate::context::span(ctx, "probe");
        span.record("resource", name);
        let call = ToolCall::new(
            sealed.name.clone(),
            raw(args)?,
            intent.key.clone(),
            options.attempt.max(1),
            None,
            self.env.clone(),
        );
        let probed = tokio::select! {
            probed = probe.probe(&ctx, call) => probed?,
            () = parts.clock.sleep(sealed.spec.timeout) => return Err(unknown("the probe did not answer within the time limit")),
        };
        let owed = match &probed {
            Probed::Happened(output) => {
                let facts = Facts {
                    action: "tool.call",
                    resource: name.to_owned(),
                    billed: Some(Resource::Tool(name.to_owned())),
                    key: intent.key.clone(),
                    attempt: options.attempt.max(1),
                    run: options.run,
                    decision: None,
                    repeatable: false,
                };
                settle_probed(&self.guard, &ctx, facts, output.quantity)
            }
            _ => Outbox::default(),
        };
        Ok((probed, owed))
    }

    fn find(&self, name: &str) -> Result<&Sealed> {
        self.tools.get(name).ok_or_else(|| {
            let known = self.tools.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
            Error::not_found("tools.call", "no tool is registered by this name").with("known", known)
        })
    }
}

impl fmt::Debug for Tools {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tools").field(&self.tools.keys().collect::<Vec<_>>()).finish()
    }
}

fn repeatable(spec: &ToolSpec) -> bool {
    spec.idempotent || spec.effect != Effect::Send
}

fn raw(args: &Value) -> Result<Arc<serde_json::value::RawValue>> {
    let raw = serde_json::value::to_raw_value(args)
        .map_err(|e| Error::unexpected("tools.call", "the arguments do not serialise").with_source(e))?;
    Ok(Arc::from(raw))
}

fn config(what: &'static str, name: &str) -> Error {
    Error::new(ErrorKind::Config, "tools.seal", what).with("tool", name.to_owned())
}
