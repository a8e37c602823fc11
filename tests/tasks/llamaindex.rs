//! Tools of the real LlamaIndex, in a Celery worker.

use std::path::Path;
use std::time::Duration;

use forge::RedisQueueConfig;
use forge::core::usage::{Resource, UsageQuery};
use forge::prelude::*;
use forge::tasks::LlamaIndexTool;
use forge_testkit::servers::{Celery, Process, RedisServer};
use serde_json::{Value, json};

use crate::ana;

fn tool_of(name: &str) -> LlamaIndexTool {
    let spec = ToolSpec::new(name, "a tool of LlamaIndex").input::<Value>().effect(Effect::Read);
    LlamaIndexTool::new(spec).with_deadline(Duration::from_secs(30))
}

async fn host(dir: &Path, server: &RedisServer) -> Forge {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/python/golden/seal.json");
    let golden: Value = serde_json::from_slice(&std::fs::read(golden).unwrap()).unwrap();
    let master = dir.join("master");
    std::fs::write(&master, golden["master_key"].as_str().unwrap()).unwrap();
    let mut config = Config::in_dir(dir.join("data"));
    config.master_key = Some(format!("file:{}", master.display()).parse().unwrap());
    let mut redis = RedisQueueConfig::default();
    (redis.url, redis.prefix) = (server.url(), "{t}:".to_owned());
    (redis.bind, redis.leave) = ("tools=acme/tools/worker".to_owned(), "tools".to_owned());
    redis.routes = "execute_llamaindex_tool=tools".to_owned();
    config.queue.redis = Some(redis);
    let called = ["weather", "nowhere", "unlucky", "whoami", "slow"].map(|t| format!("tool.call:{t}"));
    let mut grants = called.to_vec();
    grants.extend(["task.enqueue:execute_llamaindex_tool", "usage.read:*"].map(str::to_owned));
    let mut builder = Forge::builder().config(config).tenant("acme", json!({ "grants": { "analyst": grants } }));
    for name in ["weather", "nowhere", "unlucky", "whoami"] {
        builder = builder.llamaindex_tool(tool_of(name));
    }
    let denied = tool_of("forbidden").with_remote_name("weather");
    let slow = tool_of("slow").with_remote_name("weather").with_deadline(Duration::from_secs(1));
    builder.llamaindex_tool(denied).llamaindex_tool(slow).build().await.unwrap()
}

fn worker(server: &RedisServer, dir: &Path) -> Process {
    let app = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/tasks/tools.py");
    let extra = ["--pool", "threads", "--concurrency", "2", "--without-gossip", "--without-mingle"];
    Celery::llamaindex_worker(&app, &server.url(), "tools", &dir.join("celery.log"), &extra)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_tool_is_decided_metered_and_answered_like_any_other() {
    let (server, dir) = (RedisServer::start(), tempfile::tempdir().unwrap());
    let forge = host(dir.path(), &server).await;
    let ctx = ana(&forge);
    let scope = forge.scope(&ctx);

    let e = scope.call("slow", json!({ "city": "Bern" })).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout, "nobody serves the queue yet: {e}");

    let e = scope.call("forbidden", json!({ "city": "Bern" })).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::PolicyDenied);
    assert_eq!(server.cli(&["LLEN", "{t}:tools"]).trim(), "1", "only the first was queued");

    let _python = worker(&server, dir.path());
    let answer = scope.call("weather", json!({ "city": "Bern", "days": 2 })).await.unwrap();
    let raw = json!({ "city": "Bern", "sky": ["clear", "clear"] });
    let expected = json!({ "content": "{'city': 'Bern', 'sky': ['clear', 'clear']}", "tool_name": "weather",
        "raw_input": { "city": "Bern", "days": 2 }, "raw_output": raw, "is_error": false });
    assert_eq!(answer.content(), &expected);

    let answer = scope.call("nowhere", json!({ "city": "Ur" })).await.unwrap();
    let expected = json!({ "content": "ValueError: no such city: Ur", "tool_name": "nowhere",
        "raw_input": { "city": "Ur" }, "raw_output": null, "is_error": true });
    assert_eq!(answer.content(), &expected);

    let who = scope.call("whoami", json!({})).await.unwrap().content()["raw_output"].clone();
    let expected = json!({ "tenant": "acme", "employee": "ana", "role": "analyst", "compliance_flags": ["gdpr", "hipaa"],
        "request": ctx.request_id() });
    assert_eq!(who, expected, "isolation: the tool works for whoever asked");

    let e = scope.call("unlucky", json!({})).await.unwrap_err();
    assert_eq!(e.context().filter(|(_, v)| v.contains("ConnectionError")).count(), 1, "{e}");
    assert_eq!(server.cli(&["GET", "{t}:tries"]).trim(), "4", "3 retries after the first try, by the worker alone");

    let used = scope.usage(ctx.tenant(), &UsageQuery::default(), 100).await.unwrap();
    let calls = |name: &str| {
        let of = used.iter().filter(|e| e.resource == Resource::Tool(name.to_owned()));
        of.map(|e| e.quantity.tool_calls).sum::<u64>()
    };
    assert_eq!((calls("weather"), calls("nowhere"), calls("whoami"), calls("forbidden")), (1, 1, 1, 0));
}
