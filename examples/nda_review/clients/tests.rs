//! The clients against the stand-ins, fault by fault.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forge::core::secret::{Secret, Secrets, StaticSecrets};
use forge::core::testing::{self, ToolCase, context, tool_call, tool_env};
use forge::core::tool::{Probe, Probed, ToolEnv};
use forge::core::{Retryability, SystemClock, TenantId};
use forge::prelude::*;
use forge_http::{HttpClient, HttpOptions};
use forge_testkit::{DOCX, Fault, GOOGLE_DOC, GoogleStandIn, PDF, Play, SlackStandIn};
use serde_json::{Value, json};

use super::*;

struct World {
    dir: tempfile::TempDir,
    google: GoogleStandIn,
    slack: SlackStandIn,
    drive: DriveFetch,
    post: SlackPost,
    secrets: StaticSecrets,
}

/// Two tenants, a folder each; both folders are shared with both accounts, so that only the client's own check keeps them apart.
async fn world(drive_faults: Vec<Fault>, slack_faults: Vec<Fault>) -> World {
    let dir = tempfile::tempdir().unwrap();
    let google = GoogleStandIn::start(dir.path().join("google.jsonl"), drive_faults).await.unwrap();
    let slack = SlackStandIn::start(dir.path().join("slack.jsonl"), slack_faults).await.unwrap();
    let (mut drives, mut workspaces, mut secrets) = (HashMap::new(), HashMap::new(), StaticSecrets::default());
    for tenant in ["acme", "globex"] {
        let email = format!("{tenant}@x.example");
        secrets = secrets
            .with(format!("{tenant}.drive"), Secret::new(google.service_account(&email).unwrap()))
            .with(format!("{tenant}.slack"), Secret::new(format!("bot-{tenant}")));
        for folder in ["folder-acme", "folder-globex"] {
            google.share(folder, &email);
        }
        slack.install(tenant, &format!("bot-{tenant}"), &["C1"]);
        let id = TenantId::parse(tenant).unwrap();
        let key_file = format!("mem:{tenant}.drive").parse().unwrap();
        drives.insert(
            id.clone(),
            DriveAccount { key_file, folders: [(format!("folder-{tenant}"), vec![format!("of-{tenant}")])].into() },
        );
        workspaces.insert(id, SlackWorkspace { token: format!("mem:{tenant}.slack").parse().unwrap() });
    }
    let http = HttpClient::new(HttpOptions::default()).unwrap();
    let drive = DriveFetch::new(http.clone(), google.base_url(), drives);
    let post = SlackPost::new(http, slack.base_url(), workspaces);
    World { dir, google, slack, drive, post, secrets }
}

impl World {
    fn call(&self, tool: &str, args: Value) -> ToolCall {
        tool_call(tool, &args, env(&self.secrets)).unwrap()
    }

    async fn fetch(&self, tenant: &str, file: &str) -> Result<Fetched> {
        let call = self.call("drive_fetch", json!({ "file": file }));
        self.drive.call(&context(tenant, "ana", "lawyer"), call).await?.parse()
    }

    async fn probe(&self, tenant: &str, text: &str) -> Result<Probed> {
        let call = self.call("slack_post", json!({ "channel": "C1", "text": text }));
        self.post.probe(&context(tenant, "ana", "lawyer"), call).await
    }

    async fn send(&self, tenant: &str, text: &str) -> Result<ToolOutput> {
        let call = self.call("slack_post", json!({ "channel": "C1", "text": text }));
        self.post.call(&context(tenant, "ana", "lawyer"), call).await
    }
}

#[tokio::test]
async fn a_file_is_fetched_whole_and_only_from_the_tenants_own_folders() {
    let w = world(vec![], vec![]).await;
    let file = w.google.add_file("folder-acme", "nda.pdf", PDF, &b"%PDF-1.7"[..]);
    let fetched = w.fetch("acme", &file).await.unwrap();
    assert_eq!((fetched.name.as_str(), fetched.size), ("nda.pdf", 8));
    assert_eq!(w.fetch("globex", &file).await.unwrap_err().kind(), ErrorKind::TenantMismatch);
    let near = w.google.add_shortcut("folder-acme", "short", &file);
    assert_eq!(w.fetch("acme", &near).await.unwrap().sha256, fetched.sha256);
    let foreign = w.google.add_file("folder-globex", "theirs.pdf", PDF, &b"%PDF-2"[..]);
    let far = w.google.add_shortcut("folder-acme", "trap", &foreign);
    assert_eq!(
        w.fetch("acme", &far).await.unwrap_err().kind(),
        ErrorKind::TenantMismatch,
        "the target is checked, not the shortcut"
    );
    assert_eq!(w.fetch("initech", &file).await.unwrap_err().kind(), ErrorKind::NotFound, "a tenant without an account");
    assert_eq!(w.fetch("acme", "../../etc").await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn what_drive_answers_decides_whether_to_try_again() {
    let second = Some(Duration::from_secs(2));
    let faults = vec![
        Fault::new("files.get", 1, Play::Status(503, None)),
        Fault::new("files.get", 2, Play::Status(429, second)),
        Fault::new("files.download", 1, Play::Truncate),
        Fault::new("token", 2, Play::Status(500, None)),
    ];
    let w = world(faults, vec![]).await;
    let file = w.google.add_file("folder-acme", "nda.pdf", PDF, vec![b'x'; 10_000]);
    let e = w.fetch("acme", &file).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Unavailable, Retryability::Transient));
    let e = w.fetch("acme", &file).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::RateLimited, Retryability::After(Duration::from_secs(2))));
    let e = w.fetch("acme", &file).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Unavailable, Retryability::Transient), "a download that was cut off");
    assert!(w.fetch("acme", &file).await.is_ok());
    w.google.expire_tokens();
    assert_eq!(w.fetch("acme", &file).await.unwrap_err().kind(), ErrorKind::Unavailable, "the token endpoint is down");
    assert!(w.fetch("acme", &file).await.is_ok(), "an expired token is renewed");
    w.google.spoil_digest(&file);
    let e = w.fetch("acme", &file).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Corrupt, Retryability::Transient));
    w.google.trash(&file);
    assert_eq!(w.fetch("acme", &file).await.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn a_refusal_of_drive_says_whether_to_come_back() {
    let faults = vec![
        Fault::new("files.get", 2, Play::Status(401, None)),
        Fault::range("files.get", 4..=5, Play::Status(401, None)),
        Fault::new("files.get", 6, Play::Status(403, Some(Duration::from_secs(9)))),
        Fault::new("files.get", 7, Play::Refuse("insufficientFilePermissions")),
        Fault::new("files.download", 3, Play::Shorten),
    ];
    let w = world(faults, vec![]).await;
    let file = w.google.add_file("folder-acme", "nda.pdf", PDF, &b"%PDF-1.7"[..]);
    w.fetch("acme", &file).await.unwrap();
    w.fetch("acme", &file).await.unwrap();
    assert_eq!(w.google.requests("token"), 2, "a token that ended early is renewed within the call");
    let e = w.fetch("acme", &file).await.unwrap_err();
    assert_eq!((e.kind(), w.google.requests("token")), (ErrorKind::Unauthenticated, 3), "once");
    let e = w.fetch("acme", &file).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::RateLimited, Retryability::After(Duration::from_secs(9))));
    let e = w.fetch("acme", &file).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Unauthenticated, Retryability::Never));
    assert!(e.to_string().contains("reason=insufficientFilePermissions"), "{e}");
    let e = w.fetch("acme", &file).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Corrupt, Retryability::Transient), "half of it, as if it were all");
    assert!(e.to_string().contains("shorter"), "seen by its size, where Drive gives no digest: {e}");
}

#[tokio::test]
async fn what_is_no_file_is_exported_or_refused() {
    let w = world(vec![], vec![]).await;
    let document = w.google.add_file("folder-acme", "draft", GOOGLE_DOC, &b"PK as exported"[..]);
    let fetched = w.fetch("acme", &document).await.unwrap();
    assert_eq!((fetched.mime_type.as_str(), fetched.size), (DOCX, 14));
    let sheet = w.google.add_file("folder-acme", "sums", "application/vnd.google-apps.spreadsheet", &b""[..]);
    let file = w.google.add_file("folder-acme", "nda.pdf", PDF, &b"%PDF-1.7"[..]);
    let near = w.google.add_shortcut("folder-acme", "near", &file);
    let twice = w.google.add_shortcut("folder-acme", "twice", &near);
    let large = w.google.add_file("folder-acme", "large.pdf", PDF, vec![b'x'; 25 * 1024 * 1024 + 1]);
    for id in [sheet, twice, large] {
        assert_eq!(w.fetch("acme", &id).await.unwrap_err().kind(), ErrorKind::InvalidInput);
    }
    assert_eq!(w.google.requests("files.download"), 0, "nothing was downloaded to find that out");
}

#[tokio::test]
async fn a_lost_answer_is_unknown_and_can_be_looked_up_by_its_own_tenant() {
    let faults = vec![
        Fault::new("chat.postMessage", 1, Play::Status(429, None)),
        Fault::new("chat.postMessage", 2, Play::LoseAnswer),
    ];
    let w = world(vec![], faults).await;
    assert_eq!(w.send("acme", "hello").await.unwrap_err().kind(), ErrorKind::RateLimited);
    assert_eq!(w.probe("acme", "hello").await.unwrap(), Probed::NotHappened);
    let lost = w.send("acme", "hello").await.unwrap_err();
    assert_eq!((lost.kind(), lost.retry()), (ErrorKind::UnknownOutcome, Retryability::Never));
    assert!(matches!(w.probe("acme", "hello").await.unwrap(), Probed::Happened(_)));
    assert_eq!(w.probe("globex", "hello").await.unwrap(), Probed::NotHappened);
    assert_eq!(w.slack.messages().len(), 1);
}

#[tokio::test]
async fn an_answer_that_says_nothing_clear_is_unknown_and_a_clear_refusal_is_not() {
    let unclear = [Play::LoseAnswer, Play::Truncate, Play::Shorten];
    let refused =
        [Play::Status(500, None), Play::Status(504, None), Play::Status(302, None), Play::Refuse("fatal_error")];
    let faults = (1..).zip(unclear.into_iter().chain(refused)).map(|(n, play)| Fault::new("chat.postMessage", n, play));
    let mut faults: Vec<Fault> = faults.collect();
    faults.push(Fault::new("chat.postMessage", 8, Play::Status(503, None)));
    faults.push(Fault::new("chat.postMessage", 9, Play::Refuse("is_archived")));
    faults.push(Fault::new("conversations.history", 1, Play::Refuse("internal_error")));
    let w = world(vec![], faults).await;
    for n in 1..=7 {
        let e = w.send("acme", &format!("message {n}")).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::UnknownOutcome, "{n}: {e:?}");
    }
    let e = w.send("acme", "message 8").await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Unavailable, Retryability::Transient), "turned away at the door");
    assert_eq!(w.send("acme", "message 9").await.unwrap_err().kind(), ErrorKind::InvalidInput);
    let e = w.probe("acme", "message 1").await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Unavailable, Retryability::Transient), "a look may be repeated");
    for (n, happened) in [(1, true), (2, true), (3, true), (4, false), (7, false)] {
        let probed = w.probe("acme", &format!("message {n}")).await.unwrap();
        assert_eq!(matches!(probed, Probed::Happened(_)), happened, "{n}: {probed:?}");
    }
    assert_eq!(w.slack.messages().len(), 3);
}

#[tokio::test]
async fn a_probe_reads_on_until_it_knows_or_says_that_it_does_not() {
    let w = world(vec![], vec![]).await;
    let key = w.call("slack_post", json!({ "channel": "C1", "text": "hello" })).key().clone();
    for (messages, happened) in [(1000, true), (5000, false)] {
        // an old channel: ours was the first message of all
        let record = w.dir.path().join(format!("{messages}.jsonl"));
        let line = |n: u32| {
            let metadata = json!({ "event_type": "forge_step", "event_payload": { "key": if n == 1 { key.as_str() } else { "other" } } });
            let effect = json!({ "channel": "C1", "workspace": "acme", "ts": format!("1.{n:06}"), "text": "x", "metadata": metadata });
            json!({ "route": "chat.postMessage", "nth": n, "who": "acme", "request": null, "outcome": "ok", "effect": effect })
                .to_string()
        };
        std::fs::write(&record, (1..=messages).map(line).collect::<Vec<_>>().join("\n")).unwrap();
        let slack = SlackStandIn::start(&record, Vec::new()).await.unwrap();
        slack.install("acme", "bot-acme", &["C1"]);
        let token = SlackWorkspace { token: "mem:acme.slack".parse().unwrap() };
        let workspaces = HashMap::from([(TenantId::parse("acme").unwrap(), token)]);
        let post = SlackPost::new(HttpClient::new(HttpOptions::default()).unwrap(), slack.base_url(), workspaces);
        let call = w.call("slack_post", json!({ "channel": "C1", "text": "hello" }));
        let probed = post.probe(&context("acme", "ana", "lawyer"), call).await.unwrap();
        let expected = json!({ "channel": "C1", "ts": "1.000001" }).into();
        assert_eq!(probed, if happened { Probed::Happened(expected) } else { Probed::Unknown });
    }
}

#[tokio::test]
async fn what_slack_refuses_is_final_and_tells_no_secret() {
    let w = world(vec![], vec![]).await;
    let long = w.send("acme", &"x".repeat(3501)).await.unwrap_err();
    assert_eq!(long.kind(), ErrorKind::InvalidInput);
    let call = w.call("slack_post", json!({ "channel": "C9", "text": "x" }));
    let elsewhere = w.post.call(&context("acme", "ana", "lawyer"), call).await.unwrap_err();
    assert!(elsewhere.to_string().contains("not_in_channel"), "{elsewhere}");
    assert_eq!(w.send("initech", "x").await.unwrap_err().kind(), ErrorKind::NotFound, "a tenant without a workspace");
    assert!(w.slack.messages().is_empty());
    for shown in [format!("{:?}", w.post), format!("{:?}", w.drive), format!("{elsewhere:?}")] {
        assert!(!shown.contains("bot-acme") && !shown.contains("PRIVATE KEY"), "{shown}");
    }
}

/// The tools keep the contracts of tools, and the one that sends that of probes.
#[tokio::test]
async fn the_clients_keep_the_contracts() {
    testing::tool(async || {
        let w = world(vec![], vec![]).await;
        let file = w.google.add_file("folder-acme", "nda.pdf", PDF, &b"%PDF-1.7"[..]);
        let World { dir, google, drive, secrets, .. } = w;
        let case = ToolCase::new(Arc::new(drive) as Arc<dyn Tool>, json!({ "file": file }));
        case.with_env(env(&secrets)).with_secret("PRIVATE KEY").keeping((dir, google))
    })
    .await;
    testing::tool(async || {
        let w = world(vec![], vec![]).await;
        posting(Arc::new(w.post) as Arc<dyn Tool>, w.slack, &w.secrets).keeping(w.dir)
    })
    .await;
    testing::probe(async || {
        let w = world(vec![], vec![]).await;
        posting(Arc::new(w.post) as Arc<dyn Probe>, w.slack, &w.secrets).keeping(w.dir)
    })
    .await;
}

fn posting<T: ?Sized>(tool: Arc<T>, slack: SlackStandIn, secrets: &StaticSecrets) -> ToolCase<T> {
    let slack = Arc::new(slack);
    let seen = slack.clone();
    ToolCase::new(tool, json!({ "channel": "C1", "text": "hello" }))
        .with_env(env(secrets))
        .with_effects(move || seen.messages().len())
        .with_secret("bot-acme")
        .keeping(slack)
}

fn env(secrets: &StaticSecrets) -> ToolEnv {
    let mut env = tool_env();
    env.clock = Arc::new(SystemClock);
    env.secrets = Secrets::standard().with(secrets.clone());
    env
}
