//! The review as a workflow: intake, lawyer, research.

use forge::core::model::{Completion, CompletionRequest, Finish, LanguageModel, Message};
use forge::memory::ExtractiveModel;
use forge::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clients::Fetched;
use crate::document::Document;
use crate::review::{self, Passage, Quote, Review};
use crate::tools::{Parsed, load};

/// The firm's channel for reviews.
pub const CHANNEL: &str = "C0NDAREVIEW";

/// What a review is asked with.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NdaRequest {
    /// The file's id in Drive.
    pub file: String,
    /// The matter.
    pub case: String,
}

/// What `compose` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Composed {
    /// The review.
    pub review: Review,
    /// Sentences that the model chose, with their places in the document.
    pub summary: Vec<Quote>,
    /// For Slack.
    pub message: Value,
}

/// Three stages; each acts as its own employee, on behalf of whoever asked.
pub fn workflow() -> Workflow {
    Workflow::new("nda_review", 1)
        .stage(stage("intake").as_employee("intake_001").steps([step("validate", validate)]))
        .stage(stage("lawyer").as_employee("lawyer_001").steps([
            tool("drive_fetch").args(|o| Ok(json!({ "file": o.input::<NdaRequest>()?.file }))),
            queued("document_parser").args(|o| {
                let fetched: Fetched = o.get("drive_fetch")?;
                Ok(json!({ "blob": fetched.blob, "name": fetched.name }))
            }),
            tool("kb_search").args(|_| {
                Ok(json!({ "queries": review::questions().into_iter().map(|q| q.query).collect::<Vec<_>>() }))
            }),
            step("compose", compose),
            tool("slack_post").args(|o| {
                let mut message = o.get::<Composed>("compose")?.message;
                if let Some(fields) = message.as_object_mut() {
                    fields.insert("channel".into(), json!(CHANNEL));
                }
                Ok(message)
            }),
        ]))
        .stage(stage("research").as_employee("research_001").steps([step("verify_quotes", verify_quotes)]))
}

async fn validate(cx: StepContext) -> Result<Value> {
    let request: NdaRequest = cx.outputs().input()?;
    if request.file.is_empty() || request.file.len() > 128 {
        return Err(Error::invalid("nda.validate", "the request names no file"));
    }
    Ok(json!({ "case": request.case }))
}

async fn compose(cx: StepContext) -> Result<Composed> {
    let document = load(&cx, &cx.outputs().get::<Parsed>("document_parser")?).await?;
    let passages: Vec<Passage> = cx.outputs().get("kb_search")?;
    let questions: Vec<String> = review::questions().into_iter().map(|q| q.query).collect();
    let ask = vec![Message::system(questions.join("\n")), Message::user(document.text.clone())];
    // it chooses sentences word for word; with a language model beside it, it still makes the summary
    let ask = CompletionRequest::new(ask).with_max_tokens(600).with_model(ExtractiveModel.model());
    let chosen = cx.complete(ask).await?;
    // by its name: where it cannot be had, the run waits and tries again, rather than taking another's answer for its own
    let language_model = cx.models().iter().find(|m| m.capability().language_model).map(|m| m.model().to_owned());
    let answer = match language_model {
        Some(name) => {
            let ask = vec![Message::system(review::prompt()), Message::user(document.text.clone())];
            Some(cx.complete(CompletionRequest::new(ask).with_max_tokens(8000).with_model(name)).await?)
        }
        None => None,
    };
    let (mut review, document) = blocking(document, passages, answer).await?;
    if !review.model.is_language_model {
        review.model.name = chosen.model;
    }
    let places =
        chosen.citations.iter().filter_map(|c| document.text.get(c.source.clone()).map(|text| (c.source.start, text)));
    let summary = places.map(|(at, text)| quote(&document, at, text)).collect();
    let message = review::slack_message(&review);
    Ok(Composed { review, summary, message })
}

/// Rules are CPU work.
async fn blocking(
    document: Document,
    passages: Vec<Passage>,
    answer: Option<Completion>,
) -> Result<(Review, Document)> {
    let work = tokio::task::spawn_blocking(move || {
        let review = match answer {
            None => review::review(&document, &passages),
            Some(said) => {
                let mut review = review::with_model(&document, &passages, &said.model, &said.text);
                if said.finish != Finish::Stop {
                    review.warnings.push("the language model's answer was cut off".to_owned());
                }
                review
            }
        };
        (review, document)
    });
    work.await.map_err(|e| Error::unexpected("nda.compose", "the reader stopped").with_source(e))
}

/// Bytes to code points.
fn quote(document: &Document, at: usize, text: &str) -> Quote {
    let start = document.text.get(..at).unwrap_or_default().chars().count();
    Quote { start, end: start + text.chars().count(), text: text.to_owned() }
}

/// Every quotation must stand in the document, word for word: the one that does not fails the run.
async fn verify_quotes(cx: StepContext) -> Result<Value> {
    let document = load(&cx, &cx.outputs().get::<Parsed>("document_parser")?).await?;
    let composed: Composed = cx.outputs().get("compose")?;
    let wrong = |why: String| Error::new(ErrorKind::Corrupt, "nda.verify_quotes", why);
    let mut checked = review::verify_quotes(&document, &composed.review).map_err(|e| wrong(e.to_string()))?;
    for q in &composed.summary {
        let there: String = document.text.chars().skip(q.start).take(q.end - q.start).collect();
        if there != q.text {
            return Err(wrong(format!("a sentence of the summary is not at {}..{}", q.start, q.end)));
        }
        checked += 1;
    }
    Ok(json!({ "quotes": checked }))
}
