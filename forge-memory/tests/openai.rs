//! The provider against a scripted endpoint: the suite, what each refusal means, and that no key or text shows.
#![cfg(feature = "openai")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;
use std::time::Duration;

use forge_core::model::{CompletionRequest, Finish, LanguageModel, Message};
use forge_core::secret::{Secret, Secrets, StaticSecrets};
use forge_core::testing::{Fixture, context, language_model};
use forge_core::{Depth, ErrorKind, HealthCheck, Retryability, Status};
use forge_memory::openai::{OpenAiConfig, OpenAiModel};
use forge_testkit::{Fault, OpenAiStandIn, Play};

const KEY: &str = "sk-of-a-test";

fn model(server: &OpenAiStandIn, key: &str) -> OpenAiModel {
    let secrets = Secrets::standard().with(StaticSecrets::default().with("key", Secret::new(key)));
    let config = OpenAiConfig::new(server.base_url(), "stand-in").with_key("mem:key".parse().unwrap());
    OpenAiModel::new(config, secrets).unwrap()
}

fn ask(text: &str) -> CompletionRequest {
    CompletionRequest::new(vec![Message::system("Be brief."), Message::user(text)])
}

#[tokio::test]
async fn it_keeps_the_contract() {
    language_model(async || {
        let dir = tempfile::tempdir().unwrap();
        let server = OpenAiStandIn::start(dir.path().join("openai.jsonl"), KEY, vec![]).await.unwrap();
        let model = Arc::new(model(&server, KEY)) as Arc<dyn LanguageModel>;
        Fixture::new(model).with_secret(KEY).keeping(dir).server_gone(move || async move { drop(server) })
    })
    .await;
}

#[tokio::test]
async fn a_request_is_sent_as_written_and_its_answer_counted_as_told() {
    let dir = tempfile::tempdir().unwrap();
    let server = OpenAiStandIn::start(dir.path().join("openai.jsonl"), KEY, vec![]).await.unwrap();
    server.script(|messages| messages[1]["content"].as_str().unwrap().to_uppercase());
    let (model, ana) = (model(&server, KEY), context("acme", "ana", "analyst"));
    let mut request = ask("good morning, all");
    request.key = Some(ana.next_operation());
    let done = model.complete(&ana, request).await.unwrap();
    assert_eq!(
        (done.text.as_str(), done.model.as_str(), done.finish),
        ("GOOD MORNING, ALL", "openai/stand-in", Finish::Stop)
    );
    assert_eq!((done.quantity.tokens_in, done.quantity.tokens_out), (8, 5));
    assert_eq!(done.response_id.as_deref(), Some("chatcmpl-1"), "what the provider bills by");
    let sent = &server.received()[0].request;
    assert_eq!(sent["messages"][0]["role"], "system");
    assert_eq!((sent["model"].as_str(), sent["max_tokens"].as_u64()), (Some("stand-in"), Some(1024)));
    let cut = model.complete(&ana, ask("good morning, all").with_max_tokens(2)).await.unwrap();
    assert_eq!((cut.text.as_str(), cut.finish), ("GOOD MOR", Finish::Length), "an answer that was cut off says so");
}

#[tokio::test]
async fn each_refusal_says_whether_to_try_again() {
    let second = Some(Duration::from_secs(2));
    let route = "chat.completions";
    let faults = vec![
        Fault::new(route, 1, Play::Status(429, second)),
        Fault::new(route, 2, Play::Refuse("insufficient_quota")),
        Fault::new(route, 3, Play::Status(503, None)),
        Fault::new(route, 4, Play::Refuse("context_length_exceeded")),
        Fault::new(route, 5, Play::Refuse("model_not_found")),
        Fault::new(route, 6, Play::Truncate),
        Fault::new(route, 7, Play::Shorten),
        Fault::new(route, 8, Play::LoseAnswer),
    ];
    let dir = tempfile::tempdir().unwrap();
    let server = OpenAiStandIn::start(dir.path().join("openai.jsonl"), KEY, faults).await.unwrap();
    let (right, ana) = (model(&server, KEY), context("acme", "ana", "analyst"));
    let expected = [
        (ErrorKind::RateLimited, Retryability::After(Duration::from_secs(2))),
        (ErrorKind::QuotaExceeded, Retryability::Never),
        (ErrorKind::Unavailable, Retryability::Transient),
        (ErrorKind::InvalidInput, Retryability::Never),
        (ErrorKind::Config, Retryability::Never),
        (ErrorKind::Unavailable, Retryability::Transient),
        (ErrorKind::Unexpected, Retryability::Never),
        (ErrorKind::Unavailable, Retryability::Transient),
    ];
    for (nth, expected) in expected.into_iter().enumerate() {
        let e = right.complete(&ana, ask("a private word")).await.unwrap_err();
        assert_eq!((e.kind(), e.retry()), expected, "request {}: {e}", nth + 1);
        let shown = format!("{e} {e:?}");
        assert!(!shown.contains("private word") && !shown.contains(KEY), "{shown}");
    }
    assert!(right.complete(&ana, ask("again")).await.is_ok());

    let wrong = model(&server, "sk-wrong");
    assert_eq!(wrong.complete(&ana, ask("hello")).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
    assert_eq!(wrong.check(Depth::Deep).await.status, Status::Down);
    assert_eq!(right.check(Depth::Deep).await.status, Status::Up);
}

#[test]
fn what_cannot_be_called_is_refused_at_once() {
    for config in [
        OpenAiConfig::new("api.openai.com/v1", "m"),
        OpenAiConfig::new("https://ana:hunter2@api.openai.com/v1", "m"),
        OpenAiConfig::new("https://api.openai.com/v1", ""),
        OpenAiConfig::new("https://api.openai.com/v1", "m").with_provider("a/b"),
    ] {
        let e = OpenAiModel::new(config, Secrets::standard()).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Config);
        assert!(!format!("{e} {e:?}").contains("hunter2"));
    }
}
