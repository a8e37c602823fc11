//! The firm's own tools: reading a document, and asking its playbook.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge::core::blob::BlobRef;
use forge::core::guard::CacheFor;
use forge::core::{Namespace, Slug};
use forge::memory::Memory;
use forge::prelude::*;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::document::{self, Document, Limits, ParseError};
use crate::review::Passage;

/// The namespace that a firm shares its playbook in.
pub fn playbook(ctx: &ExecutionContext) -> Result<Namespace> {
    Ok(Namespace::shared(ctx, Slug::parse("firm")?, Slug::parse("playbook")?))
}

/// `document_parser`: a PDF, DOCX or TXT of the blob store becomes text, on a blocking thread, within limits.
#[derive(Debug)]
pub struct DocumentParser;

/// What `document_parser` answers; the text itself is a blob too.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Parsed {
    /// A [`Document`] as JSON.
    pub document: BlobRef,
    /// Pages.
    pub pages: u32,
    /// Unicode code points.
    pub characters: usize,
    /// What a reader should know.
    pub warnings: Vec<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ParseArgs {
    blob: BlobRef,
    name: String,
}

#[async_trait]
impl Tool for DocumentParser {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("document_parser", "turns a document into text")
            .input::<Value>()
            .effect(Effect::Read)
            .cached(Duration::from_secs(24 * 3600), CacheFor::Tenant)
            .timeout(Duration::from_secs(60))
    }

    async fn call(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        let ParseArgs { blob, name } = call.args()?;
        let bytes = call.env().blobs.get(ctx, &blob).await?;
        let parsed = tokio::task::spawn_blocking(move || document::parse(&name, &bytes, &Limits::default())).await;
        let parsed = parsed.map_err(|e| Error::unexpected("document.parse", "the parser stopped").with_source(e))?;
        let document = parsed.map_err(unreadable)?;
        let bytes = serde_json::to_vec(&document)
            .map_err(|e| Error::unexpected("document.parse", "the text does not serialise").with_source(e))?;
        let answer = Parsed {
            pages: document.pages,
            characters: document.characters(),
            warnings: document.warnings,
            document: call.env().blobs.put(ctx, Bytes::from(bytes)).await?,
        };
        Ok(json!(answer).into())
    }
}

fn unreadable(e: ParseError) -> Error {
    Error::invalid("document.parse", e.to_string()).with("code", e.code())
}

/// Reads a parsed document back.
pub async fn load(cx: &StepContext, parsed: &Parsed) -> Result<Document> {
    let bytes = cx.env().blobs.get(cx.ctx(), &parsed.document).await?;
    serde_json::from_slice(&bytes).map_err(|e| {
        Error::new(ErrorKind::Corrupt, "document.load", "the stored document does not parse").with_source(e)
    })
}

/// `kb_search`: what the firm's playbook says to each question.
#[derive(Debug)]
pub struct KbSearch;

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SearchArgs {
    /// What to ask.
    queries: Vec<String>,
}

#[async_trait]
impl Tool for KbSearch {
    fn spec(&self) -> ToolSpec {
        // what is found depends on what its asker may read
        ToolSpec::new("kb_search", "searches the firm's playbook")
            .input::<SearchArgs>()
            .effect(Effect::Read)
            .cached(Duration::from_secs(30 * 60), CacheFor::Employee)
    }

    async fn call(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        let SearchArgs { queries } = call.args()?;
        let env = call.env();
        let memory = Memory::new(env.vectors.clone(), env.embedder.clone(), env.redactor.clone());
        let per_query = call.max_rows().map_or(2, |n| usize::try_from(n).unwrap_or(usize::MAX).min(2));
        let mut found: Vec<Passage> = Vec::new();
        for query in queries {
            for hit in memory.recall(ctx, &playbook(ctx)?, &query, per_query).await? {
                if found.iter().all(|p| p.id != hit.id) {
                    found.push(Passage { id: hit.id, title: hit.title, text: hit.text, score: hit.score });
                }
            }
        }
        Ok(json!(found).into())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use forge::core::testing::{self, ToolCase, context, tool_env};

    use super::*;

    #[tokio::test]
    async fn they_keep_the_contract_of_tools() {
        testing::tool(async || {
            let env = tool_env();
            let ana = context("acme", "ana", "analyst");
            let blob = env.blobs.put(&ana, Bytes::from("Mutual non-disclosure agreement.")).await.unwrap();
            let args = json!({ "blob": blob, "name": "nda.txt" });
            ToolCase::new(Arc::new(DocumentParser) as Arc<dyn Tool>, args).with_env(env)
        })
        .await;
        testing::tool(async || ToolCase::new(Arc::new(KbSearch) as Arc<dyn Tool>, json!({ "queries": ["term"] })))
            .await;
    }
}
