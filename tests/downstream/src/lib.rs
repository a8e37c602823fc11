//! A tool and a host, with nothing but Forge's public interface.

use forge::prelude::*;
use serde_json::{Value, json};

/// Says how long a text is.
#[derive(Debug)]
pub struct Measure;

#[async_trait]
impl Tool for Measure {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("measure", "counts characters").input::<Value>().effect(Effect::Read)
    }

    async fn call(&self, _: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        let text: Value = call.args()?;
        Ok(json!({ "characters": text["text"].as_str().map_or(0, |t| t.chars().count()) }).into())
    }
}

/// The host, on embedded stores in a directory.
///
/// # Errors
/// Every problem at once.
pub async fn host(dir: &std::path::Path) -> std::result::Result<Forge, forge::BuildError> {
    let grants = json!({ "grants": { "analyst": ["tool.call:measure"] } });
    Forge::builder().config(Config::in_dir(dir)).tenant("acme", grants).tool(Measure).build().await
}
