//! What a workflow is: data that reads like its description.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use forge_core::guard::Tries;
use forge_core::{Digest, EmployeeId, Error, ErrorKind, Result, Slug};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Outputs, StepContext};

/// Stages in order. A stored run goes on only under the definition that it was started with.
#[derive(Debug, Clone)]
pub struct Workflow {
    pub(super) name: String,
    pub(super) version: u32,
    pub(super) stages: Vec<Stage>,
    /// Its input has the answers of steps that it does not have itself.
    alone: bool,
}

impl Workflow {
    /// A workflow without stages. Raise the version when steps change their meaning.
    pub fn new(name: impl Into<String>, version: u32) -> Self {
        Self { name: name.into(), version, stages: Vec::new(), alone: false }
    }

    /// Adds the next stage.
    #[must_use]
    pub fn stage(mut self, stage: Stage) -> Self {
        self.stages.push(stage);
        self
    }

    /// One of its stages as a workflow of its own, named `<workflow>.<stage>`; nothing if there is no such stage. Its input is
    /// `{"input": …, "outputs": {step: answer}}`: the whole's input, and the answers of earlier steps that its own steps read. All its steps run
    /// inline; those that do not say how often to try are tried as `tries` says.
    #[must_use]
    pub fn only(&self, stage: &str, tries: Tries) -> Option<Self> {
        let mut stage = self.stages.iter().find(|s| s.name == stage)?.clone();
        for step in &mut stage.steps {
            step.mode = Mode::Inline;
            if step.tries == Tries::default() {
                step.tries = tries;
            }
        }
        let name = format!("{}.{}", self.name, stage.name);
        Some(Self { name, version: self.version, stages: vec![stage], alone: true })
    }

    /// The names of its stages, in order.
    pub fn stages(&self) -> impl Iterator<Item = &str> {
        self.stages.iter().map(|stage| stage.name.as_str())
    }

    /// What its first step may read.
    pub(super) fn outputs(&self, input: Value) -> Result<Outputs> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Alone {
            input: Value,
            outputs: BTreeMap<String, Value>,
        }
        if !self.alone {
            return Ok(Outputs::new(input));
        }
        let alone = Alone::deserialize(input).map_err(|_| {
            Error::invalid("workflow.input", "the input of a stage alone is an object with `input` and `outputs`")
        })?;
        let mut outputs = Outputs::new(alone.input);
        alone.outputs.into_iter().for_each(|(step, answer)| outputs.insert(&step, answer));
        Ok(outputs)
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The steps as `stage/step`, in order.
    pub fn paths(&self) -> impl Iterator<Item = String> {
        self.stages.iter().flat_map(|stage| stage.steps.iter().map(|s| path(stage, s)))
    }

    /// Of everything that a stored run depends on: names, order, employees, tools and modes.
    pub(super) fn digest(&self) -> Digest {
        let mut parts = vec![self.name.clone(), self.version.to_string()];
        for stage in &self.stages {
            parts.push(format!("stage:{}:{}", stage.name, stage.employee.as_deref().unwrap_or("")));
            parts.extend(stage.steps.iter().map(|s| format!("step:{}:{}:{:?}", s.name, s.body.kind(), s.mode)));
        }
        let bytes: Vec<&[u8]> = parts.iter().map(String::as_bytes).collect();
        Digest::of_parts(&bytes)
    }

    /// Every problem of the definition, given which tools there are.
    pub fn problems(&self, has_tool: &dyn Fn(&str) -> bool) -> Vec<Error> {
        let mut problems = Vec::new();
        let mut say = |what: &'static str, name: &str| {
            let e = Error::new(ErrorKind::Config, "workflow.check", what).with("workflow", self.name.clone());
            problems.push(e.with("name", name.to_owned()));
        };
        if Slug::parse(&self.name).is_err() {
            say("a workflow's name must be 1 to 64 of a-z, 0-9, `_`, `.` and `-`", &self.name);
        }
        if self.paths().next().is_none() {
            say("a workflow needs a step", &self.name);
        }
        let mut seen = BTreeSet::new();
        for stage in &self.stages {
            if Slug::parse(&stage.name).is_err() {
                say("a stage's name must be 1 to 64 of a-z, 0-9, `_`, `.` and `-`", &stage.name);
            }
            if stage.employee.as_deref().is_some_and(|e| EmployeeId::parse(e).is_err()) {
                say("a stage's employee is no employee id", &stage.name);
            }
            for step in &stage.steps {
                if Slug::parse(&step.name).is_err() {
                    say("a step's name must be 1 to 64 of a-z, 0-9, `_`, `.` and `-`", &step.name);
                }
                if !seen.insert(&step.name) {
                    say("two steps have this name; rename one with `named`", &step.name);
                }
                if let Body::Tool { tool, .. } = &step.body
                    && !has_tool(tool)
                {
                    say("a step calls a tool that is not registered", tool);
                }
            }
        }
        problems
    }
}

pub(super) fn path(stage: &Stage, step: &StepDef) -> String {
    format!("{}/{}", stage.name, step.name)
}

/// Steps in order, done by one employee.
#[derive(Debug, Clone)]
pub struct Stage {
    pub(super) name: String,
    pub(super) employee: Option<String>,
    pub(super) steps: Vec<StepDef>,
}

/// A stage without steps, done by whoever starts the run.
pub fn stage(name: impl Into<String>) -> Stage {
    Stage { name: name.into(), employee: None, steps: Vec::new() }
}

impl Stage {
    /// Names the employee who does it, on behalf of whoever starts the run.
    #[must_use]
    pub fn as_employee(mut self, employee: impl Into<String>) -> Self {
        self.employee = Some(employee.into());
        self
    }

    /// Sets its steps.
    #[must_use]
    pub fn steps(mut self, steps: impl IntoIterator<Item = StepDef>) -> Self {
        self.steps.extend(steps);
        self
    }
}

/// Where a step runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Inline,
    Queued,
}

type Args = Arc<dyn Fn(&Outputs) -> Result<Value> + Send + Sync>;
type Code = Arc<dyn Fn(StepContext) -> BoxFuture<'static, Result<Value>> + Send + Sync>;

#[derive(Clone)]
pub(super) enum Body {
    Tool { tool: String, args: Args },
    Code(Code),
}

impl Body {
    fn kind(&self) -> &str {
        match self {
            Self::Tool { tool, .. } => tool,
            Self::Code(_) => "code",
        }
    }
}

/// One step.
#[derive(Clone)]
pub struct StepDef {
    pub(super) name: String,
    pub(super) body: Body,
    pub(super) mode: Mode,
    pub(super) tries: Tries,
}

/// A step that calls a tool, by default without arguments and named after it.
pub fn tool(name: impl Into<String>) -> StepDef {
    let tool = name.into();
    let args: Args = Arc::new(|_| Ok(Value::Object(serde_json::Map::new())));
    StepDef { name: tool.clone(), body: Body::Tool { tool, args }, mode: Mode::Inline, tries: Tries::default() }
}

/// [`tool`], through the queue: for what takes long or much memory.
pub fn queued(name: impl Into<String>) -> StepDef {
    StepDef { mode: Mode::Queued, ..tool(name) }
}

/// A step that is the host's own code. It may run again after a crash: effects in it go through
/// [`StepContext::call`], which gives them stable keys.
pub fn step<F, Fut, T>(name: impl Into<String>, code: F) -> StepDef
where
    F: Fn(StepContext) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<T>> + Send + 'static,
    T: Serialize,
{
    let code: Code = Arc::new(move |cx| {
        let work = code(cx);
        async move {
            serde_json::to_value(work.await?)
                .map_err(|e| Error::unexpected("workflow.step", "the step's answer does not serialise").with_source(e))
        }
        .boxed()
    });
    StepDef { name: name.into(), body: Body::Code(code), mode: Mode::Inline, tries: Tries::default() }
}

impl StepDef {
    /// Computes the tool's arguments from the run's input and the answers of earlier steps. It must be pure: after a crash it
    /// is asked again and must give the same. A step of code has none.
    #[must_use]
    pub fn args(mut self, args: impl Fn(&Outputs) -> Result<Value> + Send + Sync + 'static) -> Self {
        if let Body::Tool { args: slot, .. } = &mut self.body {
            *slot = Arc::new(args);
        }
        self
    }

    /// Gives the step another name than the tool's.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How often to try; by default 3 tries, 1 second doubling to 60.
    #[must_use]
    pub fn tries(mut self, tries: Tries) -> Self {
        self.tries = tries;
        self
    }
}

impl fmt::Debug for StepDef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StepDef")
            .field("name", &self.name)
            .field("body", &self.body.kind())
            .field("mode", &self.mode)
            .finish()
    }
}
