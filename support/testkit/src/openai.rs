//! A chat-completions endpoint as OpenAI's: `POST /v1/chat/completions`, `GET /v1/models`, bearer keys, usage, error codes.
//!
//! What it answers is scripted: a function of the request's messages. Source: <https://platform.openai.com/docs/api-reference/chat>.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use crate::fault::Fault;
use crate::record::{Record, Recorded};
use crate::serve::{Refusal, Serving, faulty, refusal, serve};

/// Answers a request's `messages` with what the model says.
type Script = Box<dyn Fn(&Value) -> String + Send + Sync>;

/// The server. Dropping it ends it.
pub struct OpenAiStandIn {
    shared: Arc<Shared>,
    serving: Serving,
}

struct Shared {
    record: Record,
    key: String,
    script: Mutex<Script>,
}

impl OpenAiStandIn {
    /// Starts it; `record` is the file of what it receives, `key` what a caller must bear. Until it is scripted, it says `hello`.
    ///
    /// # Errors
    /// If the port or the file cannot be had.
    pub async fn start(record: impl AsRef<Path>, key: &str, faults: Vec<Fault>) -> std::io::Result<Self> {
        let record = Record::open(record.as_ref(), faults)?;
        let script: Script = Box::new(|_| "hello".to_owned());
        let shared = Arc::new(Shared { record, key: key.to_owned(), script: Mutex::new(script) });
        let app = Router::new()
            .route("/v1/chat/completions", post(complete))
            .route("/v1/models", get(models))
            .with_state(shared.clone());
        Ok(Self { shared, serving: serve(app).await? })
    }

    /// `http://127.0.0.1:PORT/v1`
    pub fn base_url(&self) -> String {
        format!("http://{}/v1", self.serving.address)
    }

    /// Says what it answers from now on.
    pub fn script(&self, script: impl Fn(&Value) -> String + Send + Sync + 'static) {
        *self.shared.script.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(script);
    }

    /// What was received, by earlier processes too.
    pub fn received(&self) -> Vec<Recorded> {
        self.shared.record.all()
    }
}

fn failure(code: &str) -> Value {
    json!({ "error": { "message": "the stand-in refuses", "type": "invalid_request_error", "param": null, "code": code } })
}

/// A fault as OpenAI says it.
fn words(why: Refusal) -> (u16, Value) {
    match why {
        Refusal::Status(status) => (status, failure("server_error")),
        Refusal::Named("insufficient_quota") => (429, failure("insufficient_quota")),
        Refusal::Named("model_not_found") => (404, failure("model_not_found")),
        Refusal::Named(code) => (400, failure(code)),
    }
}

fn allowed(shared: &Shared, headers: &HeaderMap) -> bool {
    let bearer =
        headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()).and_then(|v| v.strip_prefix("Bearer "));
    bearer == Some(shared.key.as_str())
}

async fn models(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    if !allowed(&shared, &headers) {
        return (StatusCode::UNAUTHORIZED, Json(failure("invalid_api_key"))).into_response();
    }
    Json(json!({ "object": "list", "data": [{ "id": "stand-in", "object": "model" }] })).into_response()
}

async fn complete(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let (nth, play) = shared.record.next("chat.completions");
    let request: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let known = allowed(&shared, &headers);
    let log = |outcome: &str, effect: Option<Value>| {
        shared.record.append(Recorded {
            route: "chat.completions".into(),
            nth,
            who: known.then(|| "key".to_owned()),
            request: request.clone(),
            outcome: outcome.into(),
            effect,
        });
    };
    if let Some(refused) = refusal(play, words) {
        log("fault", None);
        return refused;
    }
    if !known {
        log("invalid_api_key", None);
        return (StatusCode::UNAUTHORIZED, Json(failure("invalid_api_key"))).into_response();
    }
    let messages = &request["messages"];
    let roles = ["system", "user", "assistant"].map(Some);
    let fits = |m: &Value| roles.contains(&m["role"].as_str()) && m["content"].is_string();
    if !request["model"].is_string() || messages.as_array().is_none_or(|m| m.is_empty() || !m.iter().all(fits)) {
        log("invalid_request", None);
        return (StatusCode::BAD_REQUEST, Json(failure("invalid_request"))).into_response();
    }
    let said = (shared.script.lock().unwrap_or_else(PoisonError::into_inner))(messages);
    let limit = request["max_tokens"].as_u64().or(request["max_completion_tokens"].as_u64()).unwrap_or(u64::MAX);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX).saturating_mul(4);
    // four characters a token, which is near enough to be counted with
    let (text, finish) = match said.char_indices().nth(limit) {
        Some((at, _)) => (said[..at].to_owned(), "length"),
        None => (said, "stop"),
    };
    let tokens = |text: &str| text.chars().count().div_ceil(4);
    let prompt: usize =
        messages.as_array().into_iter().flatten().map(|m| tokens(m["content"].as_str().unwrap_or_default())).sum();
    log("ok", Some(json!({ "completion": nth })));
    let answer = json!({
        "id": format!("chatcmpl-{nth}"), "object": "chat.completion", "created": 0, "model": format!("{}-0613", request["model"].as_str().unwrap_or_default()),
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": text }, "finish_reason": finish }],
        "usage": { "prompt_tokens": prompt, "completion_tokens": tokens(&text), "total_tokens": prompt + tokens(&text) },
    });
    faulty(play, Json(answer).into_response()).await
}
