//! Slack: one message, once.
//!
//! Slack has no idempotency key. The step's key goes out in the message's metadata, and where the outcome of a post is not known the
//! channel's history is asked for it. Source: <https://docs.slack.dev/reference/methods/chat.postMessage>.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use forge::core::secret::{Secret, SecretRef};
use forge::core::tool::{Probe, Probed};
use forge::core::{Retryability, TenantId};
use forge::prelude::*;
use forge_http::{HttpClient, Request, Response, may_have_been_sent};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

const EVENT: &str = "forge_step";
/// Slack splits or cuts longer texts.
const MAX_TEXT: usize = 3500;
/// Pages of the history that a probe reads, and messages on each; a message that was just posted is on the first.
const PAGES: usize = 5;
const PAGE: &str = "999";

/// What a tenant's Slack is to us.
#[derive(Debug, Clone)]
pub struct SlackWorkspace {
    /// Where the bot's token is.
    pub token: SecretRef,
}

/// The tool `slack_post`.
#[derive(Debug)]
pub struct SlackPost {
    http: HttpClient,
    base_url: String,
    workspaces: HashMap<TenantId, SlackWorkspace>,
}

#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    /// The channel's id.
    channel: String,
    /// For notifications, and where blocks cannot be shown.
    text: String,
    /// Block Kit.
    #[serde(default)]
    blocks: Vec<Value>,
}

impl SlackPost {
    /// A client for `https://slack.com`, or what stands in for it.
    pub fn new(http: HttpClient, base_url: impl Into<String>, workspaces: HashMap<TenantId, SlackWorkspace>) -> Self {
        Self { http, base_url: base_url.into(), workspaces }
    }

    async fn token(&self, ctx: &ExecutionContext, call: &ToolCall) -> Result<Secret> {
        let workspace = self
            .workspaces
            .get(ctx.tenant())
            .ok_or_else(|| Error::not_found("slack.post", "the tenant has no Slack workspace"))?;
        call.env().secrets.fetch(&workspace.token).await
    }
}

#[async_trait]
impl Tool for SlackPost {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("slack_post", "posts a message to a channel of the tenant's Slack")
            .input::<Args>()
            .effect(Effect::Send)
            .settles_in(Duration::from_secs(3))
            .resource_field("channel")
    }

    async fn call(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        let Args { channel, text, blocks } = call.args()?;
        if text.chars().count() > MAX_TEXT {
            return Err(Error::invalid("slack.post", "the text is too long for one message")
                .with("limit", MAX_TEXT.to_string()));
        }
        let token = self.token(ctx, &call).await?;
        let message = json!({
            "channel": channel, "text": text, "blocks": blocks, "unfurl_links": false, "unfurl_media": false,
            "metadata": { "event_type": EVENT, "event_payload": { "key": call.key() } },
        });
        let request = Request::post(format!("{}/api/chat.postMessage", self.base_url))?.bearer(token).json(&message)?;
        let posted = match self.http.send(ctx, "slack.post", request).await {
            Ok(answer) => ok("slack.post", &answer).map_err(unknown_if_done),
            Err(e) if may_have_been_sent(&e) => Err(unknown(e)),
            Err(e) => Err(e),
        }?;
        let warned = posted.pointer("/response_metadata/warnings").and_then(Value::as_array);
        if warned.is_some_and(|w| w.iter().any(|w| w == "message_truncated")) {
            return Err(Error::invalid("slack.post", "slack cut the message; it must be shorter"));
        }
        let Some(ts) = posted.get("ts").and_then(Value::as_str) else {
            return Err(unknown(Error::unexpected("slack.post", "the answer does not name the message")));
        };
        Ok(json!({ "channel": posted.get("channel"), "ts": ts }).into())
    }
}

#[async_trait]
impl Probe for SlackPost {
    async fn probe(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<Probed> {
        let Args { channel, .. } = call.args()?;
        let token = self.token(ctx, &call).await?;
        let mut cursor = String::new();
        for _ in 0..PAGES {
            let mut request = Request::get(format!("{}/api/conversations.history", self.base_url))?
                .bearer(token.clone())
                .query("channel", &channel)
                .query("include_all_metadata", "true")
                .query("limit", PAGE);
            if !cursor.is_empty() {
                request = request.query("cursor", &cursor);
            }
            let page = ok("slack.probe", &self.http.send(ctx, "slack.probe", request).await?)?;
            let Some(messages) = page.get("messages").and_then(Value::as_array) else {
                return Err(Error::unexpected("slack.probe", "the answer has no messages"));
            };
            let ours = |m: &&Value| {
                let at = |path| m.pointer(path).and_then(Value::as_str);
                at("/metadata/event_type") == Some(EVENT)
                    && at("/metadata/event_payload/key") == Some(call.key().as_str())
            };
            if let Some(found) = messages.iter().find(ours) {
                return Ok(Probed::Happened(json!({ "channel": channel, "ts": found.get("ts") }).into()));
            }
            cursor =
                page.pointer("/response_metadata/next_cursor").and_then(Value::as_str).unwrap_or_default().to_owned();
            if cursor.is_empty() {
                return Ok(Probed::NotHappened);
            }
        }
        Ok(Probed::Unknown)
    }
}

/// A post whose answer is missing may be in the channel.
fn unknown(e: Error) -> Error {
    let what = "the answer was lost or says nothing; the message may have been posted";
    Error::new(ErrorKind::UnknownOutcome, "slack.post", what).with_source(e)
}

/// Of an answer that is no clear refusal nobody knows whether the message is in the channel.
fn unknown_if_done(e: Error) -> Error {
    let refused_early = e.context().any(|(k, v)| k == "status" && v == "503");
    match e.kind() {
        ErrorKind::Unavailable if refused_early => e,
        ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::Unexpected => unknown(e),
        _ => e,
    }
}

/// What Slack says. HTTP is 200 for most failures; `ok` tells.
fn ok(operation: &'static str, answer: &Response) -> Result<Value> {
    if answer.status() != 200 {
        return Err(answer.error(operation));
    }
    let body: Value = answer.json(operation)?;
    if body.get("ok") == Some(&Value::Bool(true)) {
        return Ok(body);
    }
    let code = body.get("error").and_then(Value::as_str).unwrap_or_default();
    // a word of Slack's list; anything else is not repeated
    let known = !code.is_empty() && code.len() <= 64 && code.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    let kind = match code {
        "ratelimited" | "rate_limited" => ErrorKind::RateLimited,
        "internal_error" | "fatal_error" | "service_unavailable" => ErrorKind::Unavailable,
        "invalid_auth" | "not_authed" | "account_inactive" | "token_revoked" | "token_expired" | "missing_scope" => {
            ErrorKind::Unauthenticated
        }
        "channel_not_found" => ErrorKind::NotFound,
        _ if known => ErrorKind::InvalidInput,
        _ => return Err(Error::unexpected(operation, "slack says neither ok nor why not")),
    };
    let e = Error::new(kind, operation, "slack refused the request").with("slack_error", code.to_owned());
    Err(match kind {
        // its own limit is one message a second and channel
        ErrorKind::RateLimited => {
            e.with_retry(Retryability::After(answer.retry_after().unwrap_or(Duration::from_secs(1))))
        }
        _ => e,
    })
}
