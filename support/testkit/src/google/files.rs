//! The part of Drive v3 that reads files.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::Json;
use axum::extract::{Path as UrlPath, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{DOCX, Drive, GOOGLE_DOC, PDF, Shared, Stored, TEXT, hex, now};
use crate::record::Recorded;
use crate::serve::{Refusal, faulty, refusal};

/// Bytes that an export may have.
const EXPORT_CAP: usize = 10_000_000;

impl Stored {
    /// Google's own: a document of its editors, or a shortcut.
    fn is_native(&self) -> bool {
        self.mime.starts_with("application/vnd.google-apps.")
    }
}

/// Metadata, or with `alt=media` the bytes.
pub(super) async fn file(
    State(shared): State<Arc<Shared>>,
    UrlPath(id): UrlPath<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    let media = query.get("alt").is_some_and(|a| a == "media");
    answer(&shared, if media { "files.download" } else { "files.get" }, &id, &headers, |f| match media {
        true if f.is_native() => forbidden("fileNotDownloadable"),
        true => ([(header::CONTENT_TYPE, f.mime.clone())], f.bytes.clone()).into_response(),
        false => Json(chosen(metadata(&id, f), query.get("fields"))).into_response(),
    })
    .await
}

pub(super) async fn export(
    State(shared): State<Arc<Shared>>,
    UrlPath(id): UrlPath<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Response {
    answer(&shared, "files.export", &id, &headers, |f| {
        if f.mime != GOOGLE_DOC {
            return forbidden("fileNotExportable");
        }
        if f.bytes.len() > EXPORT_CAP {
            return forbidden("exportSizeLimitExceeded");
        }
        match query.get("mimeType").map(String::as_str) {
            Some(wanted @ (DOCX | TEXT)) => {
                ([(header::CONTENT_TYPE, wanted.to_owned())], f.bytes.clone()).into_response()
            }
            Some(_) => (StatusCode::BAD_REQUEST, Json(problem(400, "badRequest"))).into_response(),
            None => (StatusCode::BAD_REQUEST, Json(problem(400, "required"))).into_response(),
        }
    })
    .await
}

fn metadata(id: &str, f: &Stored) -> Value {
    let mut m = json!({
        "kind": "drive#file", "id": id, "name": f.name, "mimeType": f.mime, "parents": [f.folder], "trashed": f.trashed,
        "version": "1", "modifiedTime": "2026-01-05T09:00:00.000Z", "capabilities": { "canDownload": true },
    });
    if let Some(target) = &f.target {
        m["shortcutDetails"] = json!({ "targetId": target, "targetMimeType": PDF });
    } else if !f.is_native() {
        m["size"] = json!(f.bytes.len().to_string());
        m["sha256Checksum"] = json!(f.sha256.clone().unwrap_or_else(|| hex(&Sha256::digest(&f.bytes))));
    }
    m
}

/// The fields that were asked for; without a choice Drive gives four.
fn chosen(whole: Value, fields: Option<&String>) -> Value {
    let fields = fields.map_or("kind,id,name,mimeType", String::as_str);
    let mut depth = 0;
    let top = fields.split(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        c == ',' && depth == 0
    });
    let names: BTreeSet<&str> = top.filter_map(|f| f.trim().split(['(', '/']).next()).collect();
    match whole {
        Value::Object(m) if !names.contains("*") => {
            m.into_iter().filter(|(k, _)| names.contains(k.as_str())).collect::<Map<_, _>>().into()
        }
        whole => whole,
    }
}

async fn answer(
    shared: &Shared,
    route: &'static str,
    id: &str,
    headers: &HeaderMap,
    good: impl FnOnce(&Stored) -> Response,
) -> Response {
    let (nth, play) = shared.record.next(route);
    let (who, found) = {
        let drive = shared.drive();
        let who = account(&drive, headers);
        let shared_with =
            |f: &&Stored| who.as_ref().is_some_and(|w| drive.folders.get(&f.folder).is_some_and(|a| a.contains(w)));
        (who.clone(), drive.files.get(id).filter(shared_with).cloned())
    };
    let log = |outcome: &str| {
        shared.record.append(Recorded {
            route: route.into(),
            nth,
            who: who.clone(),
            request: json!({ "file": id }),
            outcome: outcome.into(),
            effect: None,
        });
    };
    let words = |why| match why {
        Refusal::Status(code) => (code, problem(code, usual(code))),
        Refusal::Named(reason) => (403, problem(403, reason)),
    };
    if let Some(refused) = refusal(play, words) {
        log("fault");
        return refused;
    }
    if who.is_none() {
        log("authError");
        return (StatusCode::UNAUTHORIZED, Json(problem(401, "authError"))).into_response();
    }
    let Some(found) = found else {
        log("notFound");
        return (StatusCode::NOT_FOUND, Json(problem(404, "notFound"))).into_response();
    };
    log("ok");
    faulty(play, good(&found)).await
}

fn account(drive: &Drive, headers: &HeaderMap) -> Option<String> {
    let token = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Bearer ")?;
    drive.tokens.get(token).filter(|(_, ends)| *ends > now()).map(|(account, _)| account.clone())
}

fn forbidden(reason: &str) -> Response {
    (StatusCode::FORBIDDEN, Json(problem(403, reason))).into_response()
}

/// The reason that Google gives most often with a status.
fn usual(code: u16) -> &'static str {
    match code {
        401 => "authError",
        403 => "userRateLimitExceeded",
        404 => "notFound",
        429 => "rateLimitExceeded",
        _ => "backendError",
    }
}

fn problem(code: u16, reason: &str) -> Value {
    json!({ "error": { "code": code, "message": reason, "errors": [{ "domain": "global", "reason": reason, "message": reason }] } })
}
