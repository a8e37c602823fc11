#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod builder;
mod config;
mod embedded;
mod forge;
mod problems;
mod scope;
pub mod tasks;
#[cfg(feature = "testing")]
pub mod testing;

pub use builder::{ForgeBuilder, Policies};
pub use config::{
    Config, ConfigError, ConfigKey, ConfigProblem, Layers, MemoryConfig, Origin, QueueConfig, RedisQueueConfig,
};
pub use forge::{Forge, HealthReport};
pub use problems::BuildError;
pub use scope::Scope;

pub use forge_core as core;
pub use forge_core::{Error, ErrorKind, ExecutionContext, Principal, Result};
#[doc(inline)]
pub use forge_dlp as dlp;
#[doc(inline)]
pub use forge_memory as memory;
#[doc(inline)]
pub use forge_metering as metering;
#[doc(inline)]
pub use forge_policy as policy;
#[doc(inline)]
pub use forge_queue as queue;
#[doc(inline)]
pub use forge_telemetry as telemetry;

/// What a host's code begins with.
pub mod prelude {
    pub use crate::{Config, Forge, Policies, Scope};
    pub use async_trait::async_trait;
    pub use forge_core::guard::{CallOptions, ToolSet};
    pub use forge_core::tool::{Effect, Tool, ToolCall, ToolOutput, ToolSpec};
    pub use forge_core::{Error, ErrorKind, ExecutionContext, Principal, Result};
    pub use forge_queue::workflow::{Outcome, RunHandle, StepContext, Workflow, queued, stage, step, tool};
}
