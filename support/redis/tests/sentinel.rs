//! Failovers under real sentinels.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::{code, open, until, writes};
use forge_core::{ErrorKind, Result, Retryability};
use forge_redis::redis::{Pipeline, PushKind, Value, cmd};
use forge_redis::{Pushes, Redis, RedisConfig};
use forge_testkit::servers::Sentinels;

fn config(sentinels: &Sentinels) -> RedisConfig {
    let mut config: RedisConfig = sentinels.url().parse().unwrap();
    (config.timeout, config.connect_timeout) = (Duration::from_millis(400), Duration::from_millis(1200));
    config
}

/// Writes a key and waits for a replica to have it; whether both happened.
async fn replicated(redis: &Redis, n: usize) -> Result<bool> {
    let mut commands = Pipeline::new();
    commands.cmd("SET").arg(format!("k{n}")).arg(n).ignore().cmd("WAIT").arg(1).arg(300);
    let (replicas,): (usize,) = redis.pipeline("test.replicated", &commands).await?;
    Ok(replicas >= 1)
}

async fn subscribed(redis: &Redis) -> Pushes {
    let mut made = None;
    until("pushes are made", async || {
        let Ok(pushes) = redis.pushes().await else { return false };
        let subscribed = pushes.subscribe("test.subscribe", &["news".to_owned()]).await.is_ok();
        made = Some(pushes);
        subscribed
    })
    .await;
    made.unwrap()
}

async fn are_told(redis: &Redis, pushes: &mut Pushes) {
    redis.query::<()>("test.publish", cmd("PUBLISH").arg("news").arg("good")).await.unwrap();
    let wait = Duration::from_secs(10);
    while let Some(push) = tokio::time::timeout(wait, pushes.next()).await.unwrap() {
        if push.kind == PushKind::Message {
            assert_eq!(push.data.last(), Some(&Value::BulkString(b"good".to_vec())));
            return;
        }
    }
    panic!("the connection for pushes is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_go_on_when_the_master_dies_and_comes_back_as_a_replica() {
    let mut sentinels = Sentinels::start();
    let redis = open(config(&sentinels), "");
    let mut pushes = subscribed(&redis).await;
    are_told(&redis, &mut pushes).await;
    let mut kept = Vec::new();
    for n in 0..300 {
        if replicated(&redis, n).await.unwrap() {
            kept.push(n);
        }
    }
    let old = sentinels.kill_master();
    until("the end of the pushes", async || pushes.next().await.is_none()).await;
    let (mut failed, mut written) = (0, Vec::new());
    until("a hundred are written", async || {
        while written.len() < 100 {
            let n = 300 + failed + written.len();
            match redis.query::<()>("test.set", cmd("SET").arg(format!("k{n}")).arg(n)).await {
                Ok(()) => written.push(n),
                // the dying one says that it may be tried again, and nothing that is not so
                Err(e) => {
                    assert_eq!(e.retry(), Retryability::Transient, "{e}");
                    failed += 1;
                    return false;
                }
            }
        }
        true
    })
    .await;
    sentinels.wait_for_failover(old);
    let mut pushes = subscribed(&redis).await;
    are_told(&redis, &mut pushes).await;

    sentinels.server(old).restart();
    let back = &sentinels.servers()[old];
    until("the old master is a replica", async || back.cli(&["ROLE"]).starts_with("slave")).await;
    let direct = open(back.url().parse().unwrap(), "");
    let e = direct.query::<()>("test.set", cmd("SET").arg("k").arg("v")).await.unwrap_err();
    assert_eq!((code(&e), e.kind(), e.retry()), ("READONLY", ErrorKind::Unavailable, Retryability::Transient));
    writes(&redis).await;

    let mut lost = 0;
    for n in kept.iter().chain(&written) {
        let there: Option<usize> = redis.query("test.get", cmd("GET").arg(format!("k{n}"))).await.unwrap();
        lost += usize::from(there != Some(*n));
    }
    println!(
        "ledger: {} replicated, {} written after, {failed} failed meanwhile, {lost} lost",
        kept.len(),
        written.len()
    );
    assert!(kept.len() > 100, "the replica kept up");
    assert_eq!(lost, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_master_and_a_sentinel_that_stop_answering_are_passed_over() {
    let sentinels = Sentinels::builder().replicas(2).start();
    let redis = open(config(&sentinels), "");
    writes(&redis).await;
    let pushes = subscribed(&redis).await;
    // the first sentinel is asked first and takes connections, as a machine does that hangs
    sentinels.sentinel(0).pause();
    let old = sentinels.pause_master();
    let e = redis.query::<()>("test.set", cmd("SET").arg("k").arg("v")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout, "it may have been done");
    let e = pushes.query::<String>("test.ping", &cmd("PING")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    sentinels.wait_for_failover(old);
    writes(&redis).await;
    let mut pushes = subscribed(&redis).await;
    are_told(&redis, &mut pushes).await;

    sentinels.servers()[old].process().unwrap().resume();
    let back = &sentinels.servers()[old];
    until("the old master is a replica", async || back.cli(&["ROLE"]).starts_with("slave")).await;
    writes(&redis).await;
    are_told(&redis, &mut pushes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_planned_failover_is_followed_and_sentinels_have_a_password_of_their_own() {
    let sentinels = Sentinels::start();
    for server in sentinels.servers() {
        server.cli(&["ACL", "SETUSER", "ana", "on", ">hunter2", "~*", "&*", "+@all"]);
    }
    let mut config = config(&sentinels);
    (config.username, config.password) = (Some("ana".to_owned()), Some("mem:redis".parse().unwrap()));
    // the user is one of the servers, not of the sentinels
    let redis = open(config.clone(), "hunter2");
    writes(&redis).await;
    let old = sentinels.fail_over();
    sentinels.wait_for_failover(old);
    writes(&redis).await;

    sentinels.tell_sentinels(&["ACL", "SETUSER", "default", ">hunter2"]);
    let e = open(config.clone(), "hunter2").query::<()>("test.set", cmd("SET").arg("k").arg("v")).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Unauthenticated, Retryability::Never), "{e}");
    config.sentinel_password = config.password.clone();
    writes(&open(config, "hunter2")).await;
}
