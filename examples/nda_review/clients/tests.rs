//! The clients against the stand-ins, fault by fault.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use forge::core::secret::{Secret, Secrets, StaticSecrets};
use forge::core::testing::{context, tool_call, tool_env};
use forge::core::tool::{Probe, Probed};
use forge::core::{Retryability, SystemClock, TenantId};
use forge::prelude::*;
use forge_http::{HttpClient, HttpOptions};
use forge_testkit::{Fault, GoogleStandIn, PDF, Play, SlackStandIn};
use serde_json::{Value, json};

use super::*;

struct World {
    _dir: tempfile::TempDir,
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
        drives.insert(id.clone(), DriveAccount { key_file, folders: vec![format!("folder-{tenant}")] });
        workspaces.insert(id, SlackWorkspace { token: format!("mem:{tenant}.slack").parse().unwrap() });
    }
    let http = HttpClient::new(HttpOptions::default()).unwrap();
    let drive = DriveFetch::new(http.clone(), google.base_url(), drives);
    let post = SlackPost::new(http, slack.base_url(), workspaces);
    World { _dir: dir, google, slack, drive, post, secrets }
}

impl World {
    fn call(&self, tool: &str, args: Value) -> ToolCall {
        let mut env = tool_env();
        env.clock = Arc::new(SystemClock);
        env.secrets = Secrets::standard().with(self.secrets.clone());
        tool_call(tool, &args, env).unwrap()
    }

    async fn fetch(&self, tenant: &str, file: &str) -> Result<Fetched> {
        let call = self.call("drive_fetch", json!({ "file": file }));
        self.drive.call(&context(tenant, "ana", "lawyer"), call).await?.parse()
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
async fn a_lost_answer_is_unknown_and_can_be_looked_up_by_its_own_tenant() {
    let faults = vec![
        Fault::new("chat.postMessage", 1, Play::Status(429, None)),
        Fault::new("chat.postMessage", 2, Play::LoseAnswer),
    ];
    let w = world(vec![], faults).await;
    assert_eq!(w.send("acme", "hello").await.unwrap_err().kind(), ErrorKind::RateLimited);
    let probe = |tenant: &'static str| {
        let call = w.call("slack_post", json!({ "channel": "C1", "text": "hello" }));
        let post = &w.post;
        async move { post.probe(&context(tenant, "ana", "lawyer"), call).await.unwrap() }
    };
    assert_eq!(probe("acme").await, Probed::NotHappened);
    let lost = w.send("acme", "hello").await.unwrap_err();
    assert_eq!((lost.kind(), lost.retry()), (ErrorKind::UnknownOutcome, Retryability::Never));
    assert!(matches!(probe("acme").await, Probed::Happened(_)));
    assert_eq!(probe("globex").await, Probed::NotHappened);
    assert_eq!(w.slack.messages().len(), 1);
}

#[tokio::test]
async fn what_slack_refuses_is_final_and_tells_no_secret() {
    let w = world(vec![], vec![Fault::new("chat.postMessage", 1, Play::Status(500, None))]).await;
    assert_eq!(
        w.send("acme", "x").await.unwrap_err().kind(),
        ErrorKind::UnknownOutcome,
        "a server that failed may have posted"
    );
    let long = w.send("acme", &"x".repeat(3501)).await.unwrap_err();
    assert_eq!(long.kind(), ErrorKind::InvalidInput);
    let call = w.call("slack_post", json!({ "channel": "C9", "text": "x" }));
    let elsewhere = w.post.call(&context("acme", "ana", "lawyer"), call).await.unwrap_err();
    assert!(elsewhere.to_string().contains("not_in_channel"), "{elsewhere}");
    for shown in [format!("{:?}", w.post), format!("{:?}", w.drive), format!("{elsewhere:?}")] {
        assert!(!shown.contains("bot-acme") && !shown.contains("PRIVATE KEY"), "{shown}");
    }
}
