//! The stand-ins speak their protocols: what a real server refuses, they refuse; what they received survives them.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use forge_core::secret::Secret;
use forge_core::testing::context;
use forge_core::{Clock, ExecutionContext, SystemClock};
use forge_http::{HttpClient, HttpOptions, Request, may_have_been_sent};
use forge_testkit::{Fault, GoogleStandIn, Play, SlackStandIn, TEXT};
use ring::rand::SystemRandom;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};

fn ctx() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

fn http() -> HttpClient {
    HttpClient::new(HttpOptions::default()).unwrap()
}

/// A signed assertion, with the claims changed as the test likes.
fn assertion(key_file: &str, change: &dyn Fn(&mut Value)) -> String {
    let account: Value = serde_json::from_str(key_file).unwrap();
    let now = SystemClock.now().as_millis() / 1000;
    let mut claims = json!({
        "iss": account["client_email"], "scope": "https://www.googleapis.com/auth/drive.readonly", "aud": account["token_uri"],
        "iat": now, "exp": now + 3600,
    });
    change(&mut claims);
    let unsigned =
        format!("{}.{}", URL_SAFE_NO_PAD.encode(r#"{"alg":"RS256"}"#), URL_SAFE_NO_PAD.encode(claims.to_string()));
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

type Change = Box<dyn Fn(&mut Value)>;

#[tokio::test]
async fn a_token_is_for_a_good_assertion_and_a_file_for_whom_it_is_shared_with() {
    let dir = tempfile::tempdir().unwrap();
    let g = google(dir.path()).await;
    let (ours, theirs) = (g.service_account("a@x.example").unwrap(), g.service_account("b@x.example").unwrap());
    let file = g.add_file("folder", "nda.txt", TEXT, "text");
    g.share("folder", "a@x.example");
    let wrong: [(&str, Change); 4] = [
        ("issuer of another key", Box::new(|c| c["iss"] = json!("b@x.example"))),
        ("expired", Box::new(|c| c["exp"] = json!(1))),
        ("audience", Box::new(|c| c["aud"] = json!("https://elsewhere.example"))),
        ("scope", Box::new(|c| c["scope"] = json!("https://www.googleapis.com/auth/drive.metadata"))),
    ];
    for (what, change) in wrong {
        assert_eq!(token(&g, &assertion(&ours, &change)).await.0, 400, "{what}");
    }
    let look = |bearer: String| {
        let url = format!("{}/drive/v3/files/{file}?fields=id", g.base_url());
        async move { http().send(&ctx(), "t", Request::get(url).unwrap().bearer(Secret::new(bearer))).await.unwrap() }
    };
    for (key_file, status) in [(ours, 200), (theirs, 404)] {
        let granted = token(&g, &assertion(&key_file, &|_| {})).await.1["access_token"].as_str().unwrap().to_owned();
        assert_eq!(look(granted).await.status(), status);
    }
    assert_eq!(look("made-up".into()).await.status(), 401);
    let text = std::fs::read_to_string(dir.path().join("google.jsonl")).unwrap();
    assert!(!text.contains("ya29.") && !text.contains("made-up"), "no credential is recorded");
}

async fn post(slack: &SlackStandIn, token: &str, message: Value) -> forge_core::Result<Value> {
    let url = format!("{}/api/chat.postMessage", slack.base_url());
    let request = Request::post(url).unwrap().bearer(Secret::new(token)).json(&message).unwrap();
    http().send(&ctx(), "t", request).await?.json("t")
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
    for (token, message, error) in [
        ("none", json!({ "channel": "C1", "text": "x" }), "invalid_auth"),
        ("bot", json!({ "channel": "#general", "text": "x" }), "channel_not_found"),
        ("bot", json!({ "channel": "C2", "text": "x" }), "not_in_channel"),
        ("bot", json!({ "channel": "C1", "text": "" }), "no_text"),
        ("bot", json!({ "channel": "C1", "text": "x", "blocks": [section(3001)] }), "invalid_blocks"),
        ("bot", json!({ "channel": "C1", "text": "x", "blocks": vec![section(1); 51] }), "invalid_blocks"),
        ("bot", json!({ "channel": "C1", "text": "x", "blocks": vec![section(3000); 4] }), "msg_blocks_too_long"),
    ] {
        assert_eq!(post(&slack, token, message).await.unwrap(), json!({ "ok": false, "error": error }));
    }
    assert!(slack.messages().is_empty());
    let fits = json!({ "channel": "C1", "text": "x", "blocks": [section(3000)] });
    assert_eq!(post(&slack, "bot", fits).await.unwrap()["ok"], true);
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
    drop(first);
    let second = SlackStandIn::start(&record, faults()).await.unwrap();
    second.install("acme", "bot", &["C1"]);
    second.install("globex", "other", &["C1"]);
    assert_eq!(history(&second, "bot").await["messages"][0]["metadata"]["event_payload"]["key"], "k1");
    let foreign = history(&second, "other").await;
    assert!(foreign["messages"].as_array().unwrap().is_empty(), "another workspace has a history of its own");
    assert_eq!(post(&second, "bot", message).await.unwrap()["error"], "ratelimited", "the count of requests goes on");
}
