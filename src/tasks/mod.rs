//! Ready tasks, under the names by which other programs queue them.
//!
//! | task | does | retries |
//! |---|---|---|
//! | [`process_document_embedding`](EmbedDocument) | a document becomes passages that are recalled | 3, by the queue |
//! | [`execute_mcae_stage`](ExecuteStage) | one stage of a workflow, as its employee, journalled | 5, of each step, by the journal |
//! | [`execute_llamaindex_tool`](LlamaIndexTool) | a tool of LlamaIndex in a Python worker | 3, by that worker |
//!
//! Every host serves the first two, unless it has handlers of its own by these names; who may queue and run them is the policy's to say
//! (`task.enqueue`, `task.run`). A Python program queues them with the fields below as keyword arguments.

mod embed;
mod llamaindex;
mod stage;

pub(crate) use embed::Embed;
pub use embed::EmbedDocument;
pub(crate) use llamaindex::Asked;
pub use llamaindex::LlamaIndexTool;
pub use stage::ExecuteStage;
pub(crate) use stage::{Stages, stages_of};

use forge_core::queue::Lease;
use forge_core::{Error, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

fn read<T: DeserializeOwned>(operation: &'static str, task: &Lease) -> Result<T> {
    // serde's own message quotes values
    T::deserialize(&task.payload)
        .map_err(|_| Error::invalid(operation, "a field of the task is missing, unknown or of another type"))
}

fn written(operation: &'static str, request: &impl Serialize) -> Result<Value> {
    serde_json::to_value(request).map_err(|e| Error::invalid(operation, "the task does not serialise").with_source(e))
}
