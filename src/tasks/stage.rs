//! One stage of a workflow as a task: a run of that stage alone, in the journal, under an id that the task's id makes.
//!
//! A task that is delivered again finds the run and waits for its end: what is done stays done. What fails is tried again by the journal, step by
//! step, and by nobody else; so a run that failed is a dead letter at once.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use forge_core::guard::Tries;
use forge_core::queue::{Lease, NewTask, TaskHandler};
use forge_core::redact::{RedactOptions, Redactor, RedactorExt};
use forge_core::{ExecutionContext, Result, Retryability, Slug};
use forge_queue::workflow::{Engine, Outcome, Workflow};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

const OP: &str = "tasks.execute_stage";
/// After the first try, of a step that does not say itself.
const RETRIES: u32 = 5;

/// A stage of a registered workflow, done by its employee on behalf of whoever queues the task.
///
/// The task answers `{"run", "state": "completed", "outputs": {step: answer}}`, or `"state": "parked"` where a person is waited for: the run then
/// goes on by itself once they answered. Outputs rest as tokens there, as a payload does. It needs `workflow.start` of `<workflow>.<stage>`.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[non_exhaustive]
pub struct ExecuteStage {
    /// The workflow.
    pub workflow: Slug,
    /// The stage.
    pub stage: Slug,
    /// The workflow's input.
    #[serde(default)]
    pub input: Value,
    /// Answers of earlier steps that the stage's steps read, by step.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub outputs: BTreeMap<String, Value>,
}

impl ExecuteStage {
    /// The task's name.
    pub const NAME: &'static str = "execute_mcae_stage";

    /// A stage with the workflow's input and no earlier answers.
    pub fn new(workflow: Slug, stage: Slug, input: Value) -> Self {
        Self { workflow, stage, input, outputs: BTreeMap::new() }
    }

    /// Hands it the answer of an earlier step.
    #[must_use]
    pub fn with_output(mut self, step: impl Into<String>, answer: Value) -> Self {
        self.outputs.insert(step.into(), answer);
        self
    }

    /// The task. Its 5 retries are for workers that are lost; the journal retries what fails as often. The circuit of a tool may open before:
    /// by default after its fifth failure, and then the last try does not reach it.
    ///
    /// # Errors
    /// `InvalidInput` if it does not serialise.
    pub fn task(&self) -> Result<NewTask> {
        Ok(NewTask::new(Slug::parse(Self::NAME)?, super::written(OP, self)?).with_max_retries(RETRIES))
    }
}

impl fmt::Debug for ExecuteStage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecuteStage")
            .field("workflow", &self.workflow)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

/// Each stage of these workflows as a workflow of its own, where its name fits and the host has none of that name.
pub(crate) fn stages_of(workflows: &[Workflow]) -> Vec<Workflow> {
    let taken: BTreeSet<&str> = workflows.iter().map(Workflow::name).collect();
    let tries = Tries { max: RETRIES + 1, ..Tries::default() };
    let each = workflows.iter().flat_map(|w| w.stages().filter_map(move |stage| w.only(stage, tries)));
    let each = each.filter(|w| w.paths().next().is_some());
    each.filter(|w| Slug::parse(w.name()).is_ok() && !taken.contains(w.name())).collect()
}

/// The handler.
#[derive(Debug)]
pub(crate) struct Stages {
    pub(crate) engine: Engine,
    pub(crate) redactor: Arc<dyn Redactor>,
}

#[async_trait]
impl TaskHandler for Stages {
    async fn handle(&self, ctx: &ExecutionContext, task: &Lease) -> Result<Value> {
        let request: ExecuteStage = super::read(OP, task)?;
        let workflow = format!("{}.{}", request.workflow, request.stage);
        let input = json!({ "input": request.input, "outputs": request.outputs });
        let run = self.engine.start(ctx, &workflow, input, Some(&task.id.to_string())).await?;
        let state = match run.wait().await? {
            Outcome::Completed => "completed",
            Outcome::Parked => "parked",
            // the journal has tried
            Outcome::Ended(report) => return Err(report.into_error(OP).with_retry(Retryability::Never)),
        };
        let mut outputs = Map::new();
        for step in run.status().await?.steps {
            if state == "completed"
                && let Some((_, name)) = step.path.split_once('/')
            {
                outputs.insert(name.to_owned(), run.output(&step.path).await?);
            }
        }
        // a queue's result store is not the journal
        let mut outputs = Value::Object(outputs);
        self.redactor.redact_json(ctx.tenant(), &mut outputs, &RedactOptions::tokenize_all())?;
        Ok(json!({ "run": run.reference().run, "state": state, "outputs": outputs }))
    }
}
