//! A tool of LlamaIndex, asked for through the queue.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use forge_core::queue::{NewTask, TaskQueue, TaskState};
use forge_core::tool::{Effect, Tool, ToolCall, ToolOutput, ToolSpec};
use forge_core::{Clock, Error, ErrorKind, ExecutionContext, Result, Retryability, Slug};
use serde::Deserialize;
use serde_json::{Value, json};

const OP: &str = "tasks.llamaindex";
/// How long the tool may take where nothing is said.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long after its time limit a task is still looked at, to learn that nobody began it.
const GRACE: Duration = Duration::from_secs(5);
/// The longest pause between two looks.
const PAUSE: Duration = Duration::from_millis(200);

/// A tool like any other (decided, audited, metered, its answer cleaned), whose work a Python worker does: the task `execute_llamaindex_tool`, with
/// `tool_name` and `params`, that `clients/python/forge_llamaindex.py` serves. Route the task to a queue that is bound to the tenant
/// ([`RedisQueueConfig::routes`](crate::RedisQueueConfig)); who calls it needs `task.enqueue` of the task too.
///
/// The answer is LlamaIndex's `ToolOutput`: `content`, `tool_name`, `raw_input`, `raw_output`, `is_error`. What the tool itself failed at is an
/// answer with `is_error`, and is paid for; what the worker could not do after its 3 retries is an error, which nobody tries again. Personal
/// data in the arguments reaches Python as tokens.
///
/// Register it with [`ForgeBuilder::llamaindex_tool`](crate::ForgeBuilder::llamaindex_tool).
#[derive(Clone)]
pub struct LlamaIndexTool {
    spec: ToolSpec,
    remote: String,
    deadline: Duration,
    asked: Asked,
}

/// The queue of the host, known once it is assembled.
#[derive(Clone, Default)]
pub(crate) struct Asked(Arc<OnceLock<Host>>);

type Host = (Arc<dyn TaskQueue>, Arc<dyn Clock>);

impl Asked {
    pub(crate) fn connect(&self, queue: Arc<dyn TaskQueue>, clock: Arc<dyn Clock>) {
        // a tool that two hosts share keeps to the first
        let _ = self.0.set((queue, clock));
    }
}

/// LlamaIndex's `ToolOutput`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    content: String,
    tool_name: String,
    raw_input: Value,
    raw_output: Value,
    is_error: bool,
}

impl LlamaIndexTool {
    /// The task's name.
    pub const TASK: &'static str = "execute_llamaindex_tool";

    /// The tool of this definition, whose name is LlamaIndex's too. Its time limit is that of [`with_deadline`](Self::with_deadline).
    pub fn new(spec: ToolSpec) -> Self {
        let remote = spec.name().to_owned();
        Self { spec, remote, deadline: DEADLINE, asked: Asked::default() }
    }

    /// The name that it has in Python, where that is another.
    #[must_use]
    pub fn with_remote_name(mut self, name: impl Into<String>) -> Self {
        self.remote = name.into();
        self
    }

    /// How long a call may take, with its wait in the queue and its retries; a minute by default. A task that nobody began by then is
    /// not begun any more.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    pub(crate) fn asked(&self) -> Asked {
        self.asked.clone()
    }
}

#[async_trait]
impl Tool for LlamaIndexTool {
    fn spec(&self) -> ToolSpec {
        self.spec.clone().timeout(self.deadline + 2 * GRACE)
    }

    async fn call(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        let unregistered = || Error::new(ErrorKind::Config, OP, "register the tool with ForgeBuilder::llamaindex_tool");
        let (queue, clock) = self.asked.0.get().ok_or_else(unregistered)?;
        let payload = json!({ "tool_name": self.remote, "params": call.args::<Value>()? });
        let task = NewTask::new(Slug::parse(Self::TASK)?, payload).with_unique(call.key().clone());
        let id = queue.enqueue(ctx, task.with_max_retries(3).with_expires(self.deadline)).await?;
        let ends = clock.monotonic() + self.deadline + GRACE;
        let mut pause = Duration::from_millis(5);
        loop {
            match queue.status(ctx, id).await.map(|s| s.state) {
                Ok(TaskState::Succeeded { result }) => return self.answer(result),
                Ok(TaskState::Dead { report }) => {
                    return Err(report.into_error(OP).with_retry(Retryability::Never).with("task", id.to_string()));
                }
                // it expired: nobody has begun it
                Ok(TaskState::Cancelled) => {
                    return Err(Error::new(ErrorKind::Timeout, OP, "no worker took the tool's task in time"));
                }
                Ok(TaskState::Ready | TaskState::Leased) => {}
                // the worker goes on whether we can look or not
                Err(e) if e.kind() == ErrorKind::Unavailable => {}
                Err(e) => return Err(e),
            }
            if clock.monotonic() >= ends {
                return Err(self.late().with("task", id.to_string()));
            }
            clock.sleep(pause).await;
            pause = (pause * 2).min(PAUSE);
        }
    }
}

impl LlamaIndexTool {
    fn answer(&self, result: Value) -> Result<ToolOutput> {
        let shape = || Error::unexpected(OP, "the worker's answer is no ToolOutput; update forge_llamaindex.py");
        let Answer { content, tool_name, raw_input, raw_output, is_error } =
            Answer::deserialize(result).map_err(|_| shape().with_retry(Retryability::Never))?;
        Ok(ToolOutput::new(json!({
            "content": content, "tool_name": tool_name, "raw_input": raw_input, "raw_output": raw_output,
            "is_error": is_error,
        })))
    }

    fn late(&self) -> Error {
        let harmless = self.spec.declared_effect() == Effect::Read || self.spec.is_idempotent();
        let kind = if harmless { ErrorKind::Timeout } else { ErrorKind::UnknownOutcome };
        let e = Error::new(kind, OP, "the tool did not answer in time; it may be at work still");
        e.with_retry(Retryability::Never)
    }
}

impl fmt::Debug for LlamaIndexTool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LlamaIndexTool")
            .field("name", &self.spec.name())
            .field("remote", &self.remote)
            .finish_non_exhaustive()
    }
}
