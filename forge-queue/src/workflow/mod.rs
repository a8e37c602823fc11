//! Workflows: stages of named steps that survive the process.
//!
//! The engine walks the graph; user code runs only inside steps; no code is replayed. A step's body runs at least once; its
//! completion is journalled exactly once; an effect carries a key that is stable over retries and restarts; an effect that
//! cannot be repeated writes its intent first, and after a crash its outcome is probed or parked for a person.
//!
//! ```
//! use forge_queue::workflow::{StepContext, Workflow, stage, step, tool};
//! use serde_json::{Value, json};
//!
//! async fn greet(cx: StepContext) -> forge_core::Result<Value> {
//!     let name: String = cx.outputs().input()?;
//!     Ok(json!({ "text": format!("good morning, {name}") }))
//! }
//!
//! let workflow = Workflow::new("greeting", 1)
//!     .stage(stage("front_desk").as_employee("desk_001").steps([
//!         step("greet", greet),
//!         tool("send").args(|o| Ok(json!({ "text": o.get::<Value>("greet")?["text"] }))),
//!     ]));
//! # drop(workflow);
//! ```

mod bells;
mod context;
mod definition;
mod drive;
mod engine;
mod handle;
mod outputs;
mod perform;
mod relay;
mod remote;

pub use context::StepContext;
pub use definition::{Stage, StepDef, Workflow, queued, stage, step, tool};
pub use engine::{Engine, EngineParts, Limits, Observer};
pub use handle::{FailedRun, Outcome, Progress, RunHandle, RunRef, RunStatus, StepStatus};
pub use outputs::Outputs;
pub(crate) use remote::StepHandler;
