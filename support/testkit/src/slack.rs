//! Slack's Web API: `chat.postMessage`, `conversations.history`, `auth.test`.
//!
//! Source: <https://docs.slack.dev/reference/methods/chat.postMessage>; HTTP is 200 for most failures too, `ok` tells.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use axum::extract::{Query, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use axum::{Json, Router};
use forge_core::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::fault::Fault;
use crate::record::{Record, Recorded};
use crate::serve::{Serving, faulty, refusal, serve};

/// The server. Dropping it ends it.
pub struct SlackStandIn {
    shared: Arc<Shared>,
    serving: Serving,
}

struct Shared {
    record: Record,
    /// Token to workspace and the channels that its bot is in.
    workspaces: Mutex<BTreeMap<String, (String, BTreeSet<String>)>>,
}

impl Shared {
    fn workspaces(&self) -> MutexGuard<'_, BTreeMap<String, (String, BTreeSet<String>)>> {
        self.workspaces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn caller(&self, headers: &HeaderMap) -> Option<(String, BTreeSet<String>)> {
        let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
        self.workspaces().get(token).cloned()
    }
}

impl SlackStandIn {
    /// Starts it; `record` is the file of what it receives. Messages that an earlier process accepted are in the history.
    ///
    /// # Errors
    /// If the port or the file cannot be had.
    pub async fn start(record: impl AsRef<Path>, faults: Vec<Fault>) -> std::io::Result<Self> {
        let shared = Arc::new(Shared { record: Record::open(record.as_ref(), faults)?, workspaces: Mutex::default() });
        let app = Router::new()
            .route("/api/chat.postMessage", post(post_message))
            .route("/api/conversations.history", any(history))
            .route("/api/auth.test", any(auth_test))
            .with_state(shared.clone());
        Ok(Self { shared, serving: serve(app).await? })
    }

    /// `http://127.0.0.1:PORT`
    pub fn base_url(&self) -> String {
        format!("http://{}", self.serving.address)
    }

    /// Installs a bot into a workspace, with the channels that it is a member of.
    pub fn install(&self, workspace: &str, token: &str, channels: &[&str]) {
        let channels = channels.iter().map(|c| (*c).to_owned()).collect();
        self.shared.workspaces().insert(token.to_owned(), (workspace.to_owned(), channels));
    }

    /// Messages that were accepted, by earlier processes too.
    pub fn messages(&self) -> Vec<Value> {
        self.shared.record.all().into_iter().filter_map(|r| r.effect).collect()
    }

    /// What was received, by earlier processes too.
    pub fn received(&self) -> Vec<Recorded> {
        self.shared.record.all()
    }
}

fn failure(error: &str) -> Value {
    json!({ "ok": false, "error": error })
}

async fn post_message(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let (nth, play) = shared.record.next("chat.postMessage");
    let request: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let caller = shared.caller(&headers);
    let log = |outcome: &str, effect: Option<Value>| {
        let who = caller.as_ref().map(|(workspace, _)| workspace.clone());
        shared.record.append(Recorded {
            route: "chat.postMessage".into(),
            nth,
            who,
            request: request.clone(),
            outcome: outcome.into(),
            effect,
        });
    };
    if let Some(refused) = refusal(play, |code| failure(if code == 429 { "ratelimited" } else { "internal_error" })) {
        log("fault", None);
        return refused;
    }
    if let Err(error) = check(&request, caller.as_ref().map(|(_, channels)| channels)) {
        log(error, None);
        return Json(failure(error)).into_response();
    }
    let workspace = caller.as_ref().map(|(w, _)| w.clone()).unwrap_or_default();
    let ts = format!("{}.{nth:06}", SystemClock.now().as_millis() / 1000);
    let mut message = request.clone();
    message["ts"] = json!(ts);
    message["workspace"] = json!(workspace);
    log("ok", Some(message.clone()));
    let mut answer = json!({ "ok": true, "channel": request["channel"], "ts": ts, "message": message });
    if request["text"].as_str().is_some_and(|t| t.chars().count() > 40_000) {
        answer["response_metadata"] = json!({ "warnings": ["message_truncated"] });
    }
    faulty(play, Json(answer).into_response()).await
}

/// Slack's limits, as far as they are documented, and the cumulative one that is not.
fn check(request: &Value, channels: Option<&BTreeSet<String>>) -> Result<(), &'static str> {
    let channels = channels.ok_or("invalid_auth")?;
    let channel = request["channel"].as_str().ok_or("channel_not_found")?;
    if !channel.starts_with('C') {
        return Err("channel_not_found");
    }
    if !channels.contains(channel) {
        return Err("not_in_channel");
    }
    let none = Vec::new();
    let blocks = request["blocks"].as_array().unwrap_or(&none);
    if request["text"].as_str().is_none_or(str::is_empty) && blocks.is_empty() {
        return Err("no_text");
    }
    let texts: Vec<usize> =
        blocks.iter().filter_map(|b| b["text"]["text"].as_str()).map(|t| t.chars().count()).collect();
    if blocks.len() > 50 || texts.iter().any(|n| *n > 3000) || blocks.iter().any(|b| b["type"].as_str().is_none()) {
        return Err("invalid_blocks");
    }
    if texts.iter().sum::<usize>() > 11_000 {
        return Err("msg_blocks_too_long");
    }
    Ok(())
}

async fn history(
    State(shared): State<Arc<Shared>>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let (nth, play) = shared.record.next("conversations.history");
    let caller = shared.caller(&headers);
    let log = |outcome: &str| {
        let who = caller.as_ref().map(|(w, _)| w.clone());
        let request = json!(query);
        shared.record.append(Recorded {
            route: "conversations.history".into(),
            nth,
            who,
            request,
            outcome: outcome.into(),
            effect: None,
        });
    };
    if let Some(refused) = refusal(play, |_| failure("internal_error")) {
        log("fault");
        return refused;
    }
    let channel = query.get("channel").cloned().unwrap_or_default();
    let Some((workspace, _)) = caller.as_ref().filter(|(_, channels)| channels.contains(&channel)) else {
        let error = if caller.is_none() { "invalid_auth" } else { "not_in_channel" };
        log(error);
        return Json(failure(error)).into_response();
    };
    log("ok");
    let metadata = query.get("include_all_metadata").is_some_and(|v| v == "true" || v == "1");
    let limit = query.get("limit").and_then(|l| l.parse().ok()).unwrap_or(100_usize).clamp(1, 999);
    let skip: usize = query.get("cursor").and_then(|c| c.parse().ok()).unwrap_or(0);
    let mut all: Vec<Value> = shared
        .record
        .all()
        .into_iter()
        .filter_map(|r| r.effect)
        .filter(|m| m["channel"] == channel.as_str() && m["workspace"] == workspace.as_str())
        .collect();
    all.reverse();
    let more = all.len() > skip + limit;
    let page: Vec<Value> = all
        .into_iter()
        .skip(skip)
        .take(limit)
        .map(|m| {
            let mut out = json!({ "type": "message", "ts": m["ts"], "text": m["text"], "blocks": m["blocks"] });
            if metadata {
                out["metadata"] = m["metadata"].clone();
            }
            out
        })
        .collect();
    let cursor = if more { (skip + limit).to_string() } else { String::new() };
    let answer =
        json!({ "ok": true, "messages": page, "has_more": more, "response_metadata": { "next_cursor": cursor } });
    faulty(play, Json(answer).into_response()).await
}

async fn auth_test(State(shared): State<Arc<Shared>>, headers: HeaderMap) -> Response {
    match shared.caller(&headers) {
        Some((workspace, _)) => Json(json!({ "ok": true, "team": workspace, "team_id": workspace })).into_response(),
        None => Json(failure("invalid_auth")).into_response(),
    }
}
