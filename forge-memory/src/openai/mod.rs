//! A language model behind the chat-completions interface that OpenAI defined and most servers and routers speak.
//!
//! Source: <https://platform.openai.com/docs/api-reference/chat>. One attempt a call: the guard retries, limits, decides, masks and pays.
//! The client needs the feature `openai`; what it is configured with does not.
#![cfg_attr(
    feature = "openai",
    doc = r#"
```no_run
use forge_core::secret::Secrets;
use forge_memory::openai::{OpenAiConfig, OpenAiModel};
let config = OpenAiConfig::new("https://api.openai.com/v1", "gpt-4.1-mini").with_key("env:OPENAI_API_KEY".parse()?);
let model = OpenAiModel::new(config, Secrets::standard())?;
assert_eq!(forge_core::model::LanguageModel::model(&model), "openai/gpt-4.1-mini");
# Ok::<(), forge_core::Error>(())
```"#
)]

mod config;
#[cfg(feature = "openai")]
mod core;
#[cfg(feature = "openai")]
mod error;
#[cfg(feature = "openai")]
mod model;

pub use config::{LimitField, OpenAiConfig};
#[cfg(feature = "openai")]
pub use model::OpenAiModel;
