//! Something an agent may call.
//!
//! ```
//! use forge_core::{ExecutionContext, Result, tool::{Effect, Tool, ToolCall, ToolOutput, ToolSpec}};
//! use serde_json::json;
//!
//! #[derive(serde::Deserialize, schemars::JsonSchema)]
//! #[serde(deny_unknown_fields)]
//! struct WeatherArgs { city: String }
//!
//! #[derive(Debug)]
//! struct Weather;
//!
//! #[async_trait::async_trait]
//! impl Tool for Weather {
//!     fn spec(&self) -> ToolSpec {
//!         ToolSpec::new("weather", "current weather of a city").input::<WeatherArgs>().effect(Effect::Read)
//!     }
//!     async fn call(&self, _ctx: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
//!         let args: WeatherArgs = call.args()?;
//!         Ok(json!({ "city": args.city, "sky": "clear" }).into())
//!     }
//! }
//! ```
//!
//! A [`ToolCall`] has private fields and only the guard makes one, so there is no way to a tool around it:
//!
//! ```compile_fail
//! let call = forge_core::tool::ToolCall { name: todo!(), args: todo!() };
//! ```

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::blob::BlobStore;
use crate::embed::Embedder;
use crate::guard::CacheFor;
use crate::redact::Redactor;
use crate::secret::Secrets;
use crate::time::Clock;
use crate::usage::Quantity;
use crate::vector::VectorStore;
use crate::{Error, ExecutionContext, OperationKey, Result, ToolName};

/// What a tool does to the world. Decides how soon its audit row must be on the disk and whether it may simply be repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// Looks.
    Read,
    /// Changes something that repeats harmlessly or can be changed back.
    Write,
    /// Sends something out: it cannot be taken back.
    Send,
}

impl Effect {
    /// The word in policy input, spans and audit rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Send => "send",
        }
    }
}

/// A tool's readable definition.
#[derive(Debug, Clone)]
pub struct ToolSpec {
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) schema: Value,
    pub(crate) effect: Effect,
    pub(crate) idempotent: bool,
    pub(crate) timeout: Duration,
    pub(crate) settles: Duration,
    pub(crate) max_input: usize,
    pub(crate) resource_fields: Vec<&'static str>,
    pub(crate) cache: Option<(Duration, CacheFor)>,
}

impl ToolSpec {
    /// A tool by this name; the rest says what is not the default: no arguments, effect `Send`, not idempotent, 30 seconds
    /// an attempt, 256 KiB of arguments. The name must parse as a [`ToolName`], checked at `build()`.
    pub fn new(name: impl Into<String>, description: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            description: description.into(),
            schema: serde_json::json!({ "type": "object", "additionalProperties": false }),
            effect: Effect::Send,
            idempotent: false,
            timeout: Duration::from_secs(30),
            settles: Duration::from_secs(1),
            max_input: 256 * 1024,
            resource_fields: Vec::new(),
            cache: None,
        }
    }

    /// The type of the arguments; derive `Deserialize` with `deny_unknown_fields`, and `JsonSchema`.
    #[must_use]
    pub fn input<T: JsonSchema>(mut self) -> Self {
        self.schema = schemars::schema_for!(T).to_value();
        self
    }

    /// What it does to the world. `Read` is idempotent too.
    #[must_use]
    pub fn effect(mut self, effect: Effect) -> Self {
        self.effect = effect;
        self.idempotent |= effect == Effect::Read;
        self
    }

    /// Calling it twice with the same key is harmless: a crash in the middle simply repeats it.
    #[must_use]
    pub fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// The time limit of one attempt.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// How long after its effect a look may still not find it; 1 second where nothing is said. A probe that finds nothing is asked
    /// once more after this time, and then believed: where it is too short, the effect is made twice.
    #[must_use]
    pub fn settles_in(mut self, time: Duration) -> Self {
        self.settles = time;
        self
    }

    /// The same arguments may be given the same answer for so long: a parsed document a day, a knowledge base half an hour. For
    /// tools that read; a hit is decided, audited and metered (as `cached`, nothing used) like any other call.
    #[must_use]
    pub fn cached(mut self, time: Duration, whose: CacheFor) -> Self {
        self.cache = Some((time, whose));
        self
    }

    /// The most bytes of arguments.
    #[must_use]
    pub fn max_input(mut self, bytes: usize) -> Self {
        self.max_input = bytes;
        self
    }

    /// Names a top-level string argument that policies may read, such as `channel`. Never one that holds personal data.
    #[must_use]
    pub fn resource_field(mut self, field: &'static str) -> Self {
        self.resource_fields.push(field);
        self
    }

    /// The name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One sentence for people and models.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// JSON Schema of the arguments.
    pub fn schema(&self) -> &Value {
        &self.schema
    }

    /// What it does to the world.
    pub fn declared_effect(&self) -> Effect {
        self.effect
    }

    /// Whether a repeat with the same key is harmless.
    pub fn is_idempotent(&self) -> bool {
        self.idempotent
    }
}

/// The adapters that a tool may use, each behind the guard and bound to the call's tenant by its context.
#[derive(Debug, Clone)]
pub struct ToolEnv {
    /// Documents too large for arguments and answers.
    pub blobs: Arc<dyn BlobStore>,
    /// What the tenant remembers.
    pub vectors: Arc<dyn VectorStore>,
    /// Text to vectors.
    pub embedder: Arc<dyn Embedder>,
    /// Puts the values of the tenant's tokens back into what it remembers.
    pub redactor: Arc<dyn Redactor>,
    /// Credentials, by reference.
    pub secrets: Secrets,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// One attempt at a call, made by the guard after every check.
pub struct ToolCall {
    name: ToolName,
    args: Arc<RawValue>,
    key: OperationKey,
    attempt: u32,
    max_rows: Option<u32>,
    env: ToolEnv,
}

impl ToolCall {
    pub(crate) fn new(
        name: ToolName,
        args: Arc<RawValue>,
        key: OperationKey,
        attempt: u32,
        max_rows: Option<u32>,
        env: ToolEnv,
    ) -> Self {
        Self { name, args, key, attempt, max_rows, env }
    }

    /// The tool.
    pub fn name(&self) -> &ToolName {
        &self.name
    }

    /// Parses the arguments.
    ///
    /// # Errors
    /// `InvalidInput` with the place in the JSON; the arguments are not repeated in it.
    pub fn args<T: DeserializeOwned>(&self) -> Result<T> {
        parse_args(self.name.as_str(), &self.args)
    }

    /// The arguments as they came, after redaction.
    pub fn raw_args(&self) -> &RawValue {
        &self.args
    }

    /// The stable key of the operation: the same on every attempt and after a crash. Send it with the effect.
    pub fn key(&self) -> &OperationKey {
        &self.key
    }

    /// Which attempt, from 1.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The most rows or hits that the policy allows.
    pub fn max_rows(&self) -> Option<u32> {
        self.max_rows
    }

    /// The adapters that it may use.
    pub fn env(&self) -> &ToolEnv {
        &self.env
    }
}

impl fmt::Debug for ToolCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ToolCall")
            .field("name", &self.name)
            .field("key", &self.key)
            .field("attempt", &self.attempt)
            .finish_non_exhaustive()
    }
}

/// Parses JSON arguments without repeating them in the error: serde's own message quotes values, so only the place is kept.
pub(crate) fn parse_args<T: DeserializeOwned>(tool: &str, raw: &RawValue) -> Result<T> {
    serde_json::from_str(raw.get()).map_err(|e| {
        let what = match e.classify() {
            serde_json::error::Category::Data => "an argument is missing, unknown or of another type",
            _ => "the arguments are not JSON",
        };
        Error::invalid("tool.args", what)
            .with("tool", tool.to_owned())
            .with("line", e.line().to_string())
            .with("column", e.column().to_string())
    })
}

/// A tool's answer.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolOutput {
    pub(crate) content: Value,
    pub(crate) quantity: Quantity,
    pub(crate) documents: BTreeSet<String>,
}

impl ToolOutput {
    /// The answer; everything in it is data to whoever reads it, never an instruction.
    pub fn new(content: Value) -> Self {
        Self { content, quantity: Quantity::TOOL_CALL, documents: BTreeSet::new() }
    }

    /// Says that content of documents with these tags is in it: before it is handed on, the policy decides about
    /// `document.read` by them.
    #[must_use]
    pub fn with_documents(mut self, tags: impl IntoIterator<Item = impl Into<String>>) -> Self {
        self.documents.extend(tags.into_iter().map(Into::into));
        self
    }

    /// Reports what was used, where it is more than one call.
    #[must_use]
    pub fn with_quantity(mut self, quantity: Quantity) -> Self {
        self.quantity = quantity;
        self
    }

    /// The content.
    pub fn content(&self) -> &Value {
        &self.content
    }

    /// The content, parsed.
    ///
    /// # Errors
    /// `Unexpected` if the tool answered another shape.
    pub fn parse<T: DeserializeOwned>(&self) -> Result<T> {
        T::deserialize(&self.content)
            .map_err(|_| Error::unexpected("tool.output", "the answer has another shape than expected"))
    }
}

impl From<Value> for ToolOutput {
    fn from(content: Value) -> Self {
        Self::new(content)
    }
}

/// Something an agent may call.
///
/// # Contract
/// One attempt a call: no retry inside. The key goes out with an effect. Dropping the future must leave nothing half done
/// that a repeat with the same key does not mend. Errors hold no payload.
#[async_trait]
pub trait Tool: fmt::Debug + Send + Sync + 'static {
    /// The definition; read once, at registration.
    fn spec(&self) -> ToolSpec;

    /// Does it.
    ///
    /// # Errors
    /// Any kind; the retryability decides whether the guard tries again. `UnknownOutcome` where an effect may have happened.
    async fn call(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<ToolOutput>;
}

/// What a look at the far side showed.
#[derive(Debug, Clone, PartialEq)]
pub enum Probed {
    /// The effect is there; this is its answer.
    Happened(ToolOutput),
    /// It is not there.
    NotHappened,
    /// Nobody can tell: the step is parked for a person.
    Unknown,
}

/// A tool whose effect cannot be repeated but can be looked up by its key: after a crash between intent and answer the
/// engine asks here before it sends anything.
#[async_trait]
pub trait Probe: Tool {
    /// Looks for the effect of `call.key()`.
    ///
    /// # Errors
    /// As for [`Tool::call`]; the engine then parks the step.
    async fn probe(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<Probed>;
}
