//! A remote model sees masks, never a person's data; the host that asked keeps its own text.
//!
//! ```sh
//! cargo run --example redact_before_model
//! ```

#![allow(
    clippy::print_stdout,
    clippy::expect_used,
    clippy::panic,
    reason = "a program that prints what it shows, and asserts it"
)]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use forge::core::model::{Completion, CompletionRequest, LanguageModel, Message, ModelCapability};
use forge::core::usage::Quantity;
use forge::core::{Depth, Health, HealthCheck};
use forge::prelude::*;
use serde_json::json;

/// A provider outside this process; it keeps what it is sent, as they do.
#[derive(Debug, Default, Clone)]
struct Remote(Arc<Mutex<Vec<String>>>);

#[async_trait]
impl HealthCheck for Remote {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl LanguageModel for Remote {
    async fn complete(&self, _: &ExecutionContext, request: CompletionRequest) -> Result<Completion> {
        let said: Vec<String> = request.messages.into_iter().map(|m| m.text).collect();
        self.0.lock().expect("nobody panicked").extend(said);
        let quantity = Quantity { tokens_in: 40, tokens_out: 6, ..Quantity::default() };
        Ok(Completion {
            text: "A reply to [EMAIL].".into(),
            model: "acme/large".into(),
            response_id: None,
            citations: vec![],
            quantity,
            finish: Default::default(),
        })
    }

    fn model(&self) -> &str {
        "acme/large"
    }

    fn capability(&self) -> ModelCapability {
        // a language model, without citations, outside this process
        ModelCapability::new(true, false, true)
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let (dir, remote) = (tempfile::tempdir()?, Remote::default());
    let forge = Forge::builder()
        .config(Config::in_dir(dir.path()))
        .tenant("acme", json!({ "grants": { "analyst": ["model.complete:acme/large"] } }))
        .model(Arc::new(remote.clone()))
        .build()
        .await?;
    let ana = forge.context(Principal::employee("acme", "ana", "analyst")?);
    let letter = "Write to bob.miller@example.com, card 4111 1111 1111 1111, phone (212) 555-0142, api_key = sk-live-4f9a8b7c6d5e4f3a2b1c.";
    let request = CompletionRequest::new(vec![Message::system("Draft a reply."), Message::user(letter)]);
    let answer = forge.scope(&ana).complete(request).await?;

    let seen = remote.0.lock().expect("nobody panicked").join("\n");
    println!(
        "ana wrote:       {letter}\nthe model saw:   {}\nit answered:     {}",
        seen.replace('\n', " | "),
        answer.text
    );
    for datum in ["bob.miller@example.com", "4111 1111", "555-0142", "sk-live"] {
        assert!(!seen.contains(datum), "{datum} left the house");
    }
    assert!(seen.contains("[EMAIL]") && seen.contains("[CREDIT_CARD]"));
    forge.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
