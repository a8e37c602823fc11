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
/// Pages of the history that a probe reads; a message that was just posted is on the first.
const PAGES: usize = 5;

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
        let answer = self.http.send(ctx, "slack.post", request).await.map_err(unknown_if_sent)?;
        let posted = ok("slack.post", &answer)?;
        let warned = posted.pointer("/response_metadata/warnings").and_then(Value::as_array);
        if warned.is_some_and(|w| w.iter().any(|w| w == "message_truncated")) {
            return Err(Error::invalid("slack.post", "slack cut the message; it must be shorter"));
        }
        Ok(json!({ "channel": posted.get("channel"), "ts": posted.get("ts") }).into())
    }
}

#[async_trait]
impl Probe for SlackPost {
    async fn probe(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<Probed> {
        let Args { channel, .. } = call.args()?;
        let token = self.token(ctx, &call).await?;
        let mut cursor = String::new();
        for _ in 0..PAGES {
            let request = Request::get(format!("{}/api/conversations.history", self.base_url))?
                .bearer(token.clone())
                .query("channel", &channel)
                .query("include_all_metadata", "true")
                .query("limit", "200")
                .query("cursor", &cursor);
            let page = ok("slack.probe", &self.http.send(ctx, "slack.probe", request).await?)?;
            let messages = page.get("messages").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
            let ours = |m: &&Value| {
                m.pointer("/metadata/event_payload/key").and_then(Value::as_str) == Some(call.key().as_str())
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
fn unknown_if_sent(e: Error) -> Error {
    if may_have_been_sent(&e) {
        return Error::new(
            ErrorKind::UnknownOutcome,
            "slack.post",
            "the answer was lost; the message may have been posted",
        )
        .with_source(e);
    }
    e
}

/// HTTP is 200 for most failures; `ok` tells.
fn ok(operation: &'static str, answer: &Response) -> Result<Value> {
    if answer.status() != 200 {
        let e = answer.error(operation);
        // of a server's failure nobody knows whether the message is in the channel
        return Err(if e.kind() == ErrorKind::Unavailable && operation == "slack.post" && answer.status() != 503 {
            Error::new(ErrorKind::UnknownOutcome, operation, "slack failed after it may have posted").with_source(e)
        } else {
            e
        });
    }
    let body: Value = answer.json(operation)?;
    if body.get("ok") == Some(&Value::Bool(true)) {
        return Ok(body);
    }
    let code = body.get("error").and_then(Value::as_str).unwrap_or("no_error_given");
    let (kind, retry) = match code {
        "ratelimited" | "rate_limited" => (
            ErrorKind::RateLimited,
            answer.retry_after().map_or(Retryability::After(Duration::from_secs(1)), Retryability::After),
        ),
        "internal_error" | "fatal_error" => (ErrorKind::UnknownOutcome, Retryability::Never),
        "invalid_auth" | "not_authed" | "account_inactive" | "token_revoked" | "missing_scope" => {
            (ErrorKind::Unauthenticated, Retryability::Never)
        }
        "channel_not_found" => (ErrorKind::NotFound, Retryability::Never),
        _ => (ErrorKind::InvalidInput, Retryability::Never),
    };
    Err(Error::new(kind, operation, "slack refused the request").with("slack_error", code.to_owned()).with_retry(retry))
}
