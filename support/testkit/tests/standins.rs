//! The stand-ins speak their protocols: what a real server refuses, they refuse; what they received survives them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use forge_core::secret::Secret;
use forge_core::testing::context;
use forge_core::{Clock, ExecutionContext, SystemClock};
use forge_http::{HttpClient, HttpOptions, Request, may_have_been_sent};
use forge_testkit::{Fault, GOOGLE_DOC, GoogleStandIn, Play, SlackStandIn, TEXT};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

fn ctx() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

fn http() -> HttpClient {
    HttpClient::new(HttpOptions::default()).unwrap()
}

/// A signed assertion, with the header and the claims changed as the test likes.
fn assertion(key_file: &str, change: &dyn Fn(&mut Value, &mut Value)) -> String {
    let account: Value = serde_json::from_str(key_file).unwrap();
    let now = SystemClock.now().as_millis() / 1000;
    let mut claims = json!({
        "iss": account["client_email"], "scope": "https://www.googleapis.com/auth/drive.readonly", "aud": account["token_uri"],
        "iat": now, "exp": now + 3600,
    });
    let mut header = json!({ "alg": "RS256", "kid": account["private_key_id"] });
    change(&mut header, &mut claims);
    let unsigned =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims.to_string()));
    let pem = account["private_key"].as_str().unwrap();
    let der = STANDARD.decode(pem.lines().filter(|l| !l.starts_with('-')).collect::<String>()).unwrap();
    let key = RsaKeyPair::from_pkcs8(&der).unwrap();
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), unsigned.as_bytes(), &mut signature).unwrap();
    format!("{unsigned}.{}", URL_SAFE_NO_PAD.encode(signature))
}

async fn token(google: &GoogleStandIn, assertion: &str) -> (u16, Value) {
    let grant = [("grant_type", "urn:ietf:params:oauth:grant-type:jwt-bearer"), ("assertion", assertion)];
    let request = Request::post(format!("{}/token", google.base_url())).unwrap().form(&grant);
    let answer = http().send(&ctx(), "t", request).await.unwrap();
    (answer.status(), answer.json("t").unwrap())
}

async fn google(dir: &Path) -> GoogleStandIn {
    GoogleStandIn::start(dir.join("google.jsonl"), Vec::new()).await.unwrap()
}

type Change = Box<dyn Fn(&mut Value, &mut Value)>;

/// One request of Drive with a token: status and body.
async fn ask(google: &GoogleStandIn, bearer: &str, path: &str) -> (u16, Value) {
    let request = Request::get(format!("{}/drive/v3/files/{path}", google.base_url())).unwrap();
    let answer = http().send(&ctx(), "t", request.bearer(Secret::new(bearer))).await.unwrap();
    let body = answer.json("t").unwrap_or_else(|_| json!(String::from_utf8_lossy(answer.body())));
    (answer.status(), body)
}

async fn granted(google: &GoogleStandIn, key_file: &str) -> String {
    token(google, &assertion(key_file, &|_, _| {})).await.1["access_token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_is_for_a_good_assertion_and_a_file_for_whom_it_is_shared_with() {
    let dir = tempfile::tempdir().unwrap();
    let g = google(dir.path()).await;
    let (ours, theirs) = (g.service_account("a@x.example").unwrap(), g.service_account("b@x.example").unwrap());
    let file = g.add_file("folder", "nda.txt", TEXT, "text");
    g.share("folder", "a@x.example");
    let kid = serde_json::from_str::<Value>(&theirs).unwrap()["private_key_id"].clone();
    let elsewhere = "https://elsewhere.example/token";
    let wrong: [(&str, Change); 9] = [
        ("key of another account", Box::new(move |h, c| (h["kid"], c["iss"]) = (kid.clone(), json!("b@x.example")))),
        ("account", Box::new(|_, c| c["iss"] = json!("nobody@x.example"))),
        ("key id", Box::new(|h, _| h["kid"] = json!("0"))),
        ("algorithm", Box::new(|h, _| h["alg"] = json!("none"))),
        ("expired", Box::new(|_, c| (c["iat"], c["exp"]) = (json!(1), json!(3600)))),
        ("not yet", Box::new(|_, c| c["iat"] = json!(c["iat"].as_u64().unwrap() + 600))),
        ("longer than an hour", Box::new(|_, c| c["exp"] = json!(c["exp"].as_u64().unwrap() + 600))),
        ("audience", Box::new(move |_, c| c["aud"] = json!(elsewhere))),
        ("scope", Box::new(|_, c| c["scope"] = json!("https://www.googleapis.com/auth/drive.metadata.readonly"))),
    ];
    for (what, change) in wrong {
        let (status, answer) = token(&g, &assertion(&ours, &change)).await;
        assert_eq!((status, &answer["error"]), (400, &json!("invalid_grant")), "{what}");
    }
    for (key_file, status) in [(ours, 200), (theirs, 404)] {
        let token = granted(&g, &key_file).await;
        for what in ["", "?alt=media"] {
            assert_eq!(ask(&g, &token, &format!("{file}{what}")).await.0, status);
        }
    }
    let (status, error) = ask(&g, "made-up", &file).await;
    assert_eq!((status, &error["error"]["errors"][0]["reason"]), (401, &json!("authError")));
    let text = std::fs::read_to_string(dir.path().join("google.jsonl")).unwrap();
    assert!(!text.contains("ya29.") && !text.contains("made-up"), "no credential is recorded");
}

#[tokio::test]
async fn drive_speaks_as_drive_does() {
    let dir = tempfile::tempdir().unwrap();
    let g = google(dir.path()).await;
    let key_file = g.service_account("a@x.example").unwrap();
    let token = granted(&g, &key_file).await;
    g.share("folder", "a@x.example");
    let file = g.add_file("folder", "nda.txt", TEXT, "text");
    let (_, bare) = ask(&g, &token, &file).await;
    assert_eq!(bare, json!({ "kind": "drive#file", "id": file, "name": "nda.txt", "mimeType": TEXT }));
    let (_, chosen) = ask(&g, &token, &format!("{file}?fields=size,parents,capabilities(canDownload)")).await;
    assert_eq!(chosen, json!({ "size": "4", "parents": ["folder"], "capabilities": { "canDownload": true } }));
    let document = g.add_file("folder", "draft", GOOGLE_DOC, "exported");
    let (_, all) = ask(&g, &token, &format!("{document}?fields=*")).await;
    assert!(all["size"].is_null() && all["sha256Checksum"].is_null(), "it has no bytes of its own: {all}");
    let reason = |(status, error): (u16, Value)| (status, error["error"]["errors"][0]["reason"].clone());
    assert_eq!(reason(ask(&g, &token, &format!("{document}?alt=media")).await), (403, json!("fileNotDownloadable")));
    assert_eq!(
        reason(ask(&g, &token, &format!("{file}/export?mimeType={TEXT}")).await),
        (403, json!("fileNotExportable"))
    );
    assert_eq!(reason(ask(&g, &token, &format!("{document}/export")).await), (400, json!("required")));
    assert_eq!(ask(&g, &token, &format!("{document}/export?mimeType={TEXT}")).await, (200, json!("exported")));
    let big = g.add_file("folder", "long", GOOGLE_DOC, vec![b'x'; 10_000_001]);
    let too_big = ask(&g, &token, &format!("{big}/export?mimeType={TEXT}")).await;
    assert_eq!(reason(too_big), (403, json!("exportSizeLimitExceeded")));
    assert_eq!(g.requests("files.export"), 4);
}

#[tokio::test]
async fn accounts_and_files_outlive_the_process() {
    let dir = tempfile::tempdir().unwrap();
    let first = google(dir.path()).await;
    let before: Value = serde_json::from_str(&first.service_account("a@x.example").unwrap()).unwrap();
    let file = first.add_file("folder", "nda.txt", TEXT, "text");
    drop(first);
    #[cfg(unix)]
    for entry in std::fs::read_dir(dir.path().join("google.keys")).unwrap() {
        let mode = std::os::unix::fs::PermissionsExt::mode(&entry.unwrap().metadata().unwrap().permissions());
        assert_eq!(mode & 0o777, 0o600);
    }
    let second = google(dir.path()).await;
    let after = second.service_account("a@x.example").unwrap();
    let key: Value = serde_json::from_str(&after).unwrap();
    assert_eq!((&key["private_key"], &key["private_key_id"]), (&before["private_key"], &before["private_key_id"]));
    second.share("folder", "a@x.example");
    let token = granted(&second, &after).await;
    assert_eq!(ask(&second, &token, &format!("{file}?alt=media")).await, (200, json!("text")));
}

#[tokio::test]
async fn faults_are_played_by_the_number_of_the_request() {
    let dir = tempfile::tempdir().unwrap();
    let faults = vec![
        Fault::range("files.get", 2..=3, Play::Status(503, None)),
        Fault::new("files.get", 4, Play::Refuse("userRateLimitExceeded")),
        Fault::new("files.get", 5, Play::Status(401, None)),
        Fault::new("files.download", 1, Play::Shorten),
    ];
    let g = GoogleStandIn::start(dir.path().join("google.jsonl"), faults).await.unwrap();
    let token = granted(&g, &g.service_account("a@x.example").unwrap()).await;
    g.share("folder", "a@x.example");
    let file = g.add_file("folder", "nda.txt", TEXT, "0123456789");
    let mut seen = Vec::new();
    for _ in 0..6 {
        let (status, body) = ask(&g, &token, &file).await;
        seen.push((status, body["error"]["errors"][0]["reason"].as_str().unwrap_or("none").to_owned()));
    }
    let seen: Vec<(u16, &str)> = seen.iter().map(|(status, reason)| (*status, reason.as_str())).collect();
    let busy = (503, "backendError");
    assert_eq!(seen, [(200, "none"), busy, busy, (403, "userRateLimitExceeded"), (401, "authError"), (200, "none")]);
    assert_eq!(ask(&g, &token, &format!("{file}?alt=media")).await, (200, json!("01234")), "a half that looks whole");
    let outcomes: Vec<String> =
        g.received().into_iter().filter(|r| r.route == "files.get").map(|r| r.outcome).collect();
    assert_eq!(outcomes, ["ok", "fault", "fault", "fault", "fault", "ok"]);
}

async fn post(slack: &SlackStandIn, token: &str, message: Value) -> forge_core::Result<Value> {
    let url = format!("{}/api/chat.postMessage", slack.base_url());
    let request = Request::post(url).unwrap().bearer(Secret::new(token)).json(&message).unwrap();
    http().send(&ctx(), "t", request).await?.json("t")
}

/// A method of Slack that reads, asked with these arguments.
async fn read(slack: &SlackStandIn, token: &str, method: &str, arguments: &[(&str, &str)]) -> Value {
    let request = Request::post(format!("{}/api/{method}", slack.base_url())).unwrap().form(arguments);
    http().send(&ctx(), "t", request.bearer(Secret::new(token))).await.unwrap().json("t").unwrap()
}

async fn history(slack: &SlackStandIn, token: &str) -> Value {
    let url = format!("{}/api/conversations.history?channel=C1&include_all_metadata=true", slack.base_url());
    let request = Request::get(url).unwrap().bearer(Secret::new(token));
    http().send(&ctx(), "t", request).await.unwrap().json("t").unwrap()
}

#[tokio::test]
async fn slack_holds_to_its_limits() {
    let dir = tempfile::tempdir().unwrap();
    let slack = SlackStandIn::start(dir.path().join("slack.jsonl"), Vec::new()).await.unwrap();
    slack.install("acme", "bot", &["C1"]);
    let section = |n: usize| json!({ "type": "section", "text": { "type": "mrkdwn", "text": "x".repeat(n) } });
    let header = |n: usize| json!({ "type": "header", "text": { "type": "plain_text", "text": "x".repeat(n) } });
    for (token, message, error) in [
        ("none", json!({ "channel": "C1", "text": "x" }), "invalid_auth"),
        ("bot", json!({ "channel": "#general", "text": "x" }), "channel_not_found"),
        ("bot", json!({ "channel": "C2", "text": "x" }), "not_in_channel"),
        ("bot", json!({ "channel": "C1", "text": "" }), "no_text"),
        ("bot", json!({ "channel": "C1", "text": "x", "blocks": [section(3001)] }), "invalid_blocks"),
        ("bot", json!({ "channel": "C1", "text": "x", "blocks": vec![section(1); 51] }), "invalid_blocks"),
        ("bot", json!({ "channel": "C1", "text": "x", "blocks": vec![section(3000); 4] }), "msg_blocks_too_long"),
        ("bot", json!({ "channel": "C1", "text": "x", "blocks": [header(151)] }), "invalid_blocks"),
        ("bot", json!({ "channel": "C1", "text": "x", "blocks": [{ "type": "section" }] }), "invalid_blocks"),
        ("bot", json!({ "channel": "C1", "text": "x", "metadata": { "event_type": "t" } }), "invalid_metadata_format"),
    ] {
        assert_eq!(post(&slack, token, message).await.unwrap(), json!({ "ok": false, "error": error }));
    }
    assert!(slack.messages().is_empty());
    let fits = json!({ "channel": "C1", "text": "x", "blocks": [section(3000), header(150)] });
    assert_eq!(post(&slack, "bot", fits).await.unwrap()["ok"], true);
    let cut = post(&slack, "bot", json!({ "channel": "C1", "text": "ä".repeat(40_001) })).await.unwrap();
    assert_eq!((&cut["ok"], &cut["response_metadata"]["warnings"][0]), (&json!(true), &json!("message_truncated")));
    assert_eq!(slack.messages()[1]["text"].as_str().unwrap().chars().count(), 40_000);
    let text = std::fs::read_to_string(dir.path().join("slack.jsonl")).unwrap();
    assert!(!text.contains("Bearer") && !text.contains(r#""bot""#), "no credential is recorded");
}

#[tokio::test]
async fn the_history_comes_in_pages_newest_first() {
    let dir = tempfile::tempdir().unwrap();
    let faults = vec![Fault::new("conversations.history", 1, Play::Refuse("internal_error"))];
    let slack = SlackStandIn::start(dir.path().join("slack.jsonl"), faults).await.unwrap();
    slack.install("acme", "bot", &["C1"]);
    for text in ["one", "two", "three"] {
        post(&slack, "bot", json!({ "channel": "C1", "text": text })).await.unwrap();
    }
    assert_eq!(history(&slack, "bot").await, json!({ "ok": false, "error": "internal_error" }));
    let page = read(&slack, "bot", "conversations.history", &[("channel", "C1"), ("limit", "2")]).await;
    let texts = [&page["messages"][0]["text"], &page["messages"][1]["text"]];
    assert_eq!((texts, &page["has_more"]), ([&json!("three"), &json!("two")], &json!(true)));
    assert!(page["messages"][0]["metadata"].is_null(), "metadata are given to who asks for them");
    let cursor = page["response_metadata"]["next_cursor"].as_str().unwrap();
    let last = [("channel", "C1"), ("limit", "2"), ("cursor", cursor)];
    let page = read(&slack, "bot", "conversations.history", &last).await;
    assert_eq!((&page["messages"][0]["text"], &page["has_more"]), (&json!("one"), &json!(false)));
    assert_eq!(read(&slack, "bot", "auth.test", &[]).await["team"], "acme");
    assert_eq!(read(&slack, "none", "auth.test", &[]).await["error"], "invalid_auth");
    assert_eq!((slack.requests("conversations.history"), slack.requests("auth.test")), (3, 2));
}

#[tokio::test]
async fn a_torn_last_line_costs_that_line_alone() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("slack.jsonl");
    let first = SlackStandIn::start(&record, Vec::new()).await.unwrap();
    first.install("acme", "bot", &["C1"]);
    post(&first, "bot", json!({ "channel": "C1", "text": "ä" })).await.unwrap();
    drop(first);
    let mut bytes = std::fs::read(&record).unwrap();
    let line = bytes.clone();
    let inside = line.iter().position(|b| *b == 0xc3).unwrap() + 1;
    bytes.extend_from_slice(&line[..inside]);
    std::fs::write(&record, bytes).unwrap();
    for messages in 1..3 {
        let next = SlackStandIn::start(&record, Vec::new()).await.unwrap();
        assert_eq!(next.messages().len(), messages);
        next.install("acme", "bot", &["C1"]);
        post(&next, "bot", json!({ "channel": "C1", "text": "ä" })).await.unwrap();
    }
}

#[tokio::test]
async fn a_message_whose_answer_was_lost_is_in_the_history_of_the_next_process_too() {
    let dir = tempfile::tempdir().unwrap();
    let record = dir.path().join("slack.jsonl");
    let faults = || {
        let limited = Fault::new("chat.postMessage", 2, Play::Status(429, None));
        vec![Fault::new("chat.postMessage", 1, Play::LoseAnswer), limited]
    };
    let first = SlackStandIn::start(&record, faults()).await.unwrap();
    first.install("acme", "bot", &["C1"]);
    let payload = json!({ "event_type": "t", "event_payload": { "key": "k1" } });
    let message = json!({ "channel": "C1", "text": "x", "metadata": payload });
    let lost = post(&first, "bot", message.clone()).await.unwrap_err();
    assert!(may_have_been_sent(&lost), "{lost}");
    assert!(std::fs::read_to_string(&record).unwrap().contains(r#""key":"k1""#), "on the disk before the answer");
    drop(first);
    let second = SlackStandIn::start(&record, faults()).await.unwrap();
    second.install("acme", "bot", &["C1"]);
    second.install("globex", "other", &["C1"]);
    assert_eq!(history(&second, "bot").await["messages"][0]["metadata"]["event_payload"]["key"], "k1");
    let foreign = history(&second, "other").await;
    assert!(foreign["messages"].as_array().unwrap().is_empty(), "another workspace has a history of its own");
    assert_eq!(post(&second, "bot", message).await.unwrap()["error"], "ratelimited", "the count of requests goes on");
}
