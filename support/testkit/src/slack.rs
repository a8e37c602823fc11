//! Slack's Web API: `chat.postMessage`, `conversations.history`, `auth.test`.
//!
//! Source: <https://docs.slack.dev/reference/methods/chat.postMessage>; HTTP is 200 for most failures too, `ok` tells.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Bytes;
use axum::extract::{Query, RawQuery, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, post};
use axum::{Json, Router};
use forge_core::{Clock, SystemClock};
use serde_json::{Value, json};

use crate::fault::Fault;
use crate::record::{Record, Recorded};
use crate::serve::{Refusal, Serving, faulty, refusal, serve};

/// Characters after which Slack cuts a text, and says so in a warning beside `ok: true`.
const MAX_TEXT: usize = 40_000;

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

    /// How many requests a route got, in earlier processes too; those that a fault refused count.
    pub fn requests(&self, route: &str) -> usize {
        self.shared.record.count(route)
    }

    /// What was received, by earlier processes too.
    pub fn received(&self) -> Vec<Recorded> {
        self.shared.record.all()
    }
}

fn failure(error: &str) -> Value {
    json!({ "ok": false, "error": error })
}

/// A fault as Slack says it.
fn words(why: Refusal) -> (u16, Value) {
    match why {
        Refusal::Status(429) => (429, failure("ratelimited")),
        Refusal::Status(code) => (code, failure("internal_error")),
        Refusal::Named(error) => (200, failure(error)),
    }
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
    if let Some(refused) = refusal(play, words) {
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
    let text = request["text"].as_str().unwrap_or_default();
    let cut = text.char_indices().nth(MAX_TEXT).map(|(at, _)| &text[..at]);
    if let Some(kept) = cut {
        message["text"] = json!(kept);
    }
    log("ok", Some(message.clone()));
    let mut answer = json!({ "ok": true, "channel": request["channel"], "ts": ts, "message": message });
    if cut.is_some() {
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
    let characters = |v: &Value| v.as_str().map_or(0, |t| t.chars().count());
    let fits = |b: &Value| match b["type"].as_str() {
        Some("section") => {
            let none = Vec::new();
            let fields = b["fields"].as_array().unwrap_or(&none);
            let small = fields.len() <= 10 && fields.iter().all(|f| characters(&f["text"]) <= 2000);
            characters(&b["text"]["text"]) <= 3000 && small && b["text"].is_object() | !fields.is_empty()
        }
        Some("header") => (1..=150).contains(&characters(&b["text"]["text"])),
        Some(_) => true,
        None => false,
    };
    if blocks.len() > 50 || !blocks.iter().all(fits) {
        return Err("invalid_blocks");
    }
    if blocks.iter().map(|b| characters(&b["text"]["text"])).sum::<usize>() > 11_000 {
        return Err("msg_blocks_too_long");
    }
    let metadata = &request["metadata"];
    if !(metadata.is_null() || metadata["event_type"].is_string() && metadata["event_payload"].is_object()) {
        return Err("invalid_metadata_format");
    }
    Ok(())
}

/// Arguments of a read: in the query of a GET, in the form or the JSON of a POST.
fn arguments(query: &str, headers: &HeaderMap, body: &[u8]) -> BTreeMap<String, String> {
    let pairs = |text: &[u8]| -> BTreeMap<String, String> {
        let uri = format!("/?{}", String::from_utf8_lossy(text)).parse();
        uri.ok().and_then(|u| Query::try_from_uri(&u).ok()).map(|Query(pairs)| pairs).unwrap_or_default()
    };
    let mut found = pairs(query.as_bytes());
    let json = headers.get(header::CONTENT_TYPE).is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
    if json {
        let body: BTreeMap<String, Value> = serde_json::from_slice(body).unwrap_or_default();
        let plain = |v: Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
        found.extend(body.into_iter().map(|(k, v)| (k, plain(v))));
    } else {
        found.extend(pairs(body));
    }
    found
}

async fn history(
    State(shared): State<Arc<Shared>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let (nth, play) = shared.record.next("conversations.history");
    let query = arguments(query.as_deref().unwrap_or_default(), &headers, &body);
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
    if let Some(refused) = refusal(play, words) {
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
    let (nth, play) = shared.record.next("auth.test");
    let who = shared.caller(&headers).map(|(workspace, _)| workspace);
    let refused = refusal(play, words);
    let outcome = match (&refused, &who) {
        (Some(_), _) => "fault",
        (None, Some(_)) => "ok",
        (None, None) => "invalid_auth",
    };
    let (route, request) = ("auth.test".into(), Value::Null);
    shared.record.append(Recorded { route, nth, who: who.clone(), request, outcome: outcome.into(), effect: None });
    if let Some(refused) = refused {
        return refused;
    }
    let answer = match who {
        Some(workspace) => json!({ "ok": true, "team": workspace, "team_id": workspace }),
        None => failure("invalid_auth"),
    };
    faulty(play, Json(answer).into_response()).await
}
