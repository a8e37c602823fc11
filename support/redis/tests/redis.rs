//! Connections to a real Redis that goes away, comes back, and asks for a password.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::{code, open, writes};
use forge_core::{ErrorKind, Result};
use forge_redis::redis::{Script, cmd};
use forge_redis::{Redis, RedisConfig};
use forge_testkit::servers::RedisServer;

fn config(server: &RedisServer) -> RedisConfig {
    server.url().parse().unwrap()
}

async fn ping(redis: &Redis) -> Result<String> {
    redis.query("test.ping", &cmd("PING")).await
}

#[tokio::test]
async fn it_comes_back_after_a_restart_and_its_scripts_too() {
    let mut server = RedisServer::start();
    let redis = open(config(&server), "");
    let script = Script::new("return ARGV[1] .. 'x'");
    let run = async || redis.script::<String>("test.script", script.prepare_invoke().arg("a")).await;
    assert_eq!(run().await.unwrap(), "ax");
    server.kill9();
    assert_eq!(run().await.unwrap_err().kind(), ErrorKind::Unavailable);
    server.restart();
    writes(&redis).await;
    assert_eq!(run().await.unwrap(), "ax", "the new server is given the script");
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_a_timeout() {
    let server = RedisServer::start();
    let mut config = config(&server);
    config.timeout = Duration::from_millis(200);
    let redis = open(config, "");
    ping(&redis).await.unwrap();
    server.process().unwrap().pause();
    assert_eq!(ping(&redis).await.unwrap_err().kind(), ErrorKind::Timeout);
    server.process().unwrap().resume();
    writes(&redis).await;
}

#[tokio::test]
async fn the_password_is_a_reference_and_never_shown() {
    let server = RedisServer::builder().password("hunter2-correct").start();
    let with = |password: &str| open(config(&server).with_password("mem:redis".parse().unwrap()), password);
    assert_eq!(ping(&with("hunter2-correct")).await.unwrap(), "PONG");
    let wrong = with("hunter2-wrong");
    let e = ping(&wrong).await.unwrap_err();
    assert_eq!((code(&e), e.kind()), ("WRONGPASS", ErrorKind::Unauthenticated), "{e:?}");
    let source = std::error::Error::source(&e).map(ToString::to_string).unwrap_or_default();
    assert!(!format!("{e} {e:?} {source} {wrong:?}").contains("hunter2"), "{e:?}");
}

#[tokio::test]
async fn a_server_that_may_drop_tasks_is_refused() {
    let server = RedisServer::builder().arg("maxmemory-policy", "allkeys-lru").start();
    let redis = open(config(&server), "");
    let e = redis.verify().await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Config);
    assert!(e.to_string().contains("noeviction"), "{e}");
    server.cli(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    redis.verify().await.unwrap();
}

#[tokio::test]
async fn many_calls_share_a_connection() {
    let server = RedisServer::start();
    let redis = open(config(&server), "");
    let key = |n: usize| redis.key(format!("k{n}"));
    let calls = (0..500_usize).map(|n| {
        let redis = redis.clone();
        let key = key(n);
        async move { redis.query::<()>("test.set", cmd("SET").arg(key).arg(n)).await }
    });
    for outcome in futures::future::join_all(calls).await {
        outcome.unwrap();
    }
    assert_eq!(server.cli(&["DBSIZE"]).trim(), "500");
    let clients = server.cli(&["CLIENT", "LIST"]);
    assert_eq!(clients.lines().filter(|l| !l.contains("cmd=client")).count(), 1, "{clients}");
}
