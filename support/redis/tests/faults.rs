//! What a real server says when it cannot, and what becomes of the connection that it says it on.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::{code, open, until, writes};
use forge_core::{Error, ErrorKind, Result, Retryability};
use forge_redis::redis::{Cmd, Pipeline, Script, cmd};
use forge_redis::{Redis, RedisConfig};
use forge_testkit::servers::RedisServer;
use futures::future::join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn config(server: &RedisServer) -> RedisConfig {
    server.url().parse().unwrap()
}

fn set() -> Cmd {
    let mut set = cmd("SET");
    set.arg("k").arg("v");
    set
}

/// Connections that the server ever had, that of the question among them.
fn connections(server: &RedisServer) -> usize {
    let stats = server.cli(&["INFO", "stats"]);
    let line = stats.lines().find_map(|l| l.strip_prefix("total_connections_received:"));
    line.unwrap().trim().parse().unwrap()
}

/// The class of an error, and what it is called; alone, in a pipeline, in a transaction and in a script.
async fn is_everywhere(redis: &Redis, expected: &str, kind: ErrorKind, retry: Retryability) {
    let mut pipeline = Pipeline::new();
    pipeline.cmd("PING").add_command(set());
    let mut atomic = Pipeline::new();
    atomic.atomic().add_command(set());
    let script = Script::new("return redis.call('SET', KEYS[1], 'v')");
    let mut invocation = script.prepare_invoke();
    invocation.key("k");
    for way in ["command", "pipeline", "transaction", "script"] {
        let e = of_the_server(way, async || match way {
            "command" => redis.query("test.set", &set()).await,
            "pipeline" => redis.pipeline("test.set", &pipeline).await,
            "transaction" => redis.pipeline("test.set", &atomic).await,
            _ => redis.script("test.set", &invocation).await,
        })
        .await;
        assert_eq!((code(&e), e.kind(), e.retry()), (expected, kind, retry), "{way}: {e}");
    }
}

/// The error that the server gives. After it turned somebody away the connections rest for a moment, and say so themselves.
async fn of_the_server(way: &str, mut call: impl AsyncFnMut() -> Result<()>) -> Error {
    let mut said = None;
    until(way, async || {
        said = call().await.err();
        said.as_ref().is_none_or(|e| e.operation() != "redis.connect")
    })
    .await;
    said.unwrap_or_else(|| panic!("{way} is refused"))
}

#[tokio::test]
async fn a_server_that_is_a_replica_is_left_until_it_is_none() {
    let server = RedisServer::start();
    let redis = open(config(&server), "");
    writes(&redis).await;
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    is_everywhere(&redis, "READONLY", ErrorKind::Unavailable, Retryability::Transient).await;
    server.cli(&["CONFIG", "SET", "replica-serve-stale-data", "no"]);
    let e = of_the_server("a read", async || redis.query::<()>("test.get", cmd("GET").arg("k")).await).await;
    assert_eq!((code(&e), e.kind(), e.retry()), ("MASTERDOWN", ErrorKind::Unavailable, Retryability::Transient), "{e}");
    server.cli(&["REPLICAOF", "NO", "ONE"]);
    writes(&redis).await;
}

#[tokio::test]
async fn one_that_waits_when_the_server_becomes_a_replica_may_try_again() {
    let server = RedisServer::start();
    let redis = open(config(&server), "");
    let other = redis.clone();
    let waits = tokio::spawn(async move { other.query::<()>("test.pop", cmd("BLPOP").arg("list").arg(0)).await });
    until("it waits", async || server.cli(&["INFO", "clients"]).contains("blocked_clients:1")).await;
    server.cli(&["REPLICAOF", "127.0.0.1", "1"]);
    let e = waits.await.unwrap().unwrap_err();
    assert_eq!((code(&e), e.kind(), e.retry()), ("UNBLOCKED", ErrorKind::Unavailable, Retryability::Transient));
}

#[tokio::test]
async fn a_server_that_reads_its_data_is_not_run_over() {
    // a file of 3,000 keys that is read at a key a millisecond
    let mut server = RedisServer::builder()
        .arg("key-load-delay", "1000")
        .arg("loading-process-events-interval-bytes", "1024")
        .start();
    let fill = "for i = 1, 3000 do redis.call('SET', 'k' .. i, string.rep('x', 100)) end return redis.call('DBSIZE')";
    assert_eq!(server.cli(&["EVAL", fill, "0"]).trim(), "3000");
    server.cli(&["SAVE"]);
    server.restart();
    let redis = open(config(&server), "");
    let before = connections(&server);
    let e = redis.query::<()>("test.set", &set()).await.unwrap_err();
    assert_eq!((code(&e), e.kind(), e.retry()), ("LOADING", ErrorKind::Unavailable, Retryability::Transient), "{e}");
    for _ in 0..200 {
        assert_eq!(redis.query::<()>("test.set", &set()).await.unwrap_err().kind(), ErrorKind::Unavailable);
    }
    let made = connections(&server) - before;
    assert!(made < 20, "{made} connections for 200 calls to a server that was not ready");
    writes(&redis).await;
    assert_eq!(redis.query::<usize>("test.size", &cmd("DBSIZE")).await.unwrap(), 3001);
}

#[tokio::test]
async fn a_server_without_memory_disk_or_replicas_says_so() {
    let place = tempfile::tempdir().unwrap();
    let server = RedisServer::builder().arg("dir", &place.path().display().to_string()).start();
    let redis = open(config(&server), "");
    let transient = Retryability::Transient;
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    is_everywhere(&redis, "OOM", ErrorKind::Unavailable, transient).await;
    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "1"]);
    is_everywhere(&redis, "NOREPLICAS", ErrorKind::Unavailable, transient).await;
    server.cli(&["CONFIG", "SET", "min-replicas-to-write", "0"]);
    writes(&redis).await;
    place.close().unwrap();
    server.cli(&["CONFIG", "SET", "save", "3600 100000"]);
    server.cli(&["BGSAVE"]);
    until("the disk failed", async || server.cli(&["INFO", "persistence"]).contains("rdb_last_bgsave_status:err"))
        .await;
    is_everywhere(&redis, "MISCONF", ErrorKind::Unavailable, transient).await;
    server.cli(&["CONFIG", "SET", "save", ""]);
    writes(&redis).await;
}

#[tokio::test]
async fn a_server_that_is_busy_with_a_script_says_so() {
    let server = RedisServer::builder().arg("busy-reply-threshold", "10").start();
    let redis = open(config(&server).with_connections(2), "");
    writes(&redis).await;
    writes(&redis).await;
    let other = redis.clone();
    let runs =
        tokio::spawn(
            async move { other.query::<()>("test.script", cmd("EVAL").arg("while true do end").arg(0)).await },
        );
    let mut e = None;
    until("it is busy", async || {
        // one of the two connections waits for the script's end
        let wait = Duration::from_millis(100);
        if let Ok(Err(answer)) = tokio::time::timeout(wait, redis.query::<()>("test.set", &set())).await {
            e = Some(answer);
        }
        e.is_some()
    })
    .await;
    let e = e.unwrap();
    assert_eq!((code(&e), e.kind(), e.retry()), ("BUSY", ErrorKind::Unavailable, Retryability::Transient), "{e}");
    server.cli(&["SCRIPT", "KILL"]);
    assert_eq!(runs.await.unwrap().unwrap_err().kind(), ErrorKind::Unexpected);
    writes(&redis).await;
}

#[tokio::test]
async fn what_no_retry_mends_is_not_retried() {
    let server = RedisServer::start();
    let redis = open(config(&server), "");
    redis.query::<()>("test.push", cmd("LPUSH").arg("list").arg("hunter2-payload")).await.unwrap();
    let refused = async |command: &Cmd| redis.query::<String>("test.refused", command).await.unwrap_err();
    let before = connections(&server);
    for (command, expected, kind) in [
        (cmd("GET").arg("list").clone(), "WRONGTYPE", ErrorKind::Corrupt),
        (cmd("HUNTER2").arg("hunter2-argument").clone(), "ERR", ErrorKind::Unexpected),
        (cmd("EVAL").arg("error('hunter2: -hunter2')").arg(0).clone(), "ERR", ErrorKind::Unexpected),
    ] {
        let e = refused(&command).await;
        assert_eq!((code(&e), e.kind(), e.retry()), (expected, kind, Retryability::Never), "{e}");
        assert!(!format!("{e} {e:?}").to_lowercase().contains("hunter2"), "{e:?}");
    }
    assert_eq!(connections(&server), before + 1, "the connection is as good as before");
    server.cli(&["ACL", "SETUSER", "default", "-get"]);
    let e = refused(cmd("GET").arg("k")).await;
    assert_eq!((code(&e), e.kind(), e.retry()), ("NOPERM", ErrorKind::Unauthenticated, Retryability::Never), "{e}");

    let url = format!("{}/99", server.url());
    let e = open(url.parse().unwrap(), "").query::<()>("test.set", &set()).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Config, Retryability::Never), "{e}");
}

#[tokio::test]
async fn a_server_that_has_no_place_left_is_tried_again() {
    let server = RedisServer::builder().arg("maxclients", "3").start();
    let taken: Vec<_> = (0..3).map(|_| std::net::TcpStream::connect(("127.0.0.1", server.port())).unwrap()).collect();
    until("all places are taken", async || server.cli(&["PING"]).contains("max number of clients")).await;
    let redis = open(config(&server), "");
    let e = redis.query::<()>("test.set", &set()).await.unwrap_err();
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Unavailable, Retryability::Transient), "{e}");
    drop(taken);
    writes(&redis).await;
}

#[tokio::test]
async fn a_password_that_changed_is_taken_by_the_next_connection() {
    let set_user = ["ACL", "SETUSER", "ana", "on", "resetpass", ">hunter2-new", "~*", "+@all"];
    let set_default = ["CONFIG", "SET", "requirepass", "hunter2-new"];
    for (user, change) in [("ana@", &set_user[..]), ("", &set_default[..])] {
        let server = RedisServer::builder().password("hunter2-old").start();
        server.cli(&["ACL", "SETUSER", "ana", "on", ">hunter2-old", "~*", "+@all"]);
        let secret = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&secret, "hunter2-old").unwrap();
        let config: RedisConfig = format!("redis://{user}127.0.0.1:{}", server.port()).parse().unwrap();
        let redis = open(config.with_password(format!("file:{}", secret.path().display()).parse().unwrap()), "");
        redis.query::<()>("test.set", &set()).await.unwrap();

        assert_eq!(server.cli(change).trim(), "OK");
        redis.query::<()>("test.set", &set()).await.unwrap();
        let mut cut = cmd("CLIENT");
        cut.arg("KILL").arg("TYPE").arg("normal").arg("SKIPME").arg("no");
        let _ = redis.query::<()>("test.cut", &cut).await;
        until("the old password is refused", async || {
            let e = redis.query::<()>("test.set", &set()).await.err();
            if let Some(e) = &e {
                assert!(!format!("{e} {e:?}").contains("hunter2"), "{e:?}");
            }
            e.is_some_and(|e| e.kind() == ErrorKind::Unauthenticated && e.retry() == Retryability::Never)
        })
        .await;
        // also while nobody tries: it is not said to be away
        assert_eq!(redis.query::<()>("test.set", &set()).await.unwrap_err().kind(), ErrorKind::Unauthenticated);
        std::fs::write(&secret, "hunter2-new").unwrap();
        writes(&redis).await;
    }
}

#[tokio::test]
async fn no_more_calls_are_in_flight_than_allowed() {
    const LIMIT: usize = 4;
    const CALLS: usize = 40;
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut config: RedisConfig = format!("redis://{}", listener.local_addr().unwrap()).parse().unwrap();
    config.in_flight = LIMIT;
    // answers a call when as many wait as may, so that more would be seen
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let (mut text, mut greeted, mut answered, mut most) = (String::new(), false, 0, 0);
        let mut buffer = [0; 4096];
        while answered < CALLS {
            let read = stream.read(&mut buffer).await.unwrap();
            text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            if !greeted {
                greeted = true;
                stream.write_all(b"+OK\r\n").await.unwrap();
            }
            let came = text.matches("PING").count();
            most = most.max(came - answered);
            let answers = if came == CALLS { CALLS - answered } else { usize::from(came - answered >= LIMIT) };
            stream.write_all("+PONG\r\n".repeat(answers).as_bytes()).await.unwrap();
            answered += answers;
        }
        most
    });
    let redis = open(config, "");
    let ping = cmd("PING");
    for outcome in join_all((0..CALLS).map(|_| redis.query::<String>("test.ping", &ping))).await {
        assert_eq!(outcome.unwrap(), "PONG");
    }
    assert_eq!(server.await.unwrap(), LIMIT);
}

#[tokio::test]
async fn those_who_wait_for_a_place_do_not_wait_one_after_the_other() {
    let server = RedisServer::start();
    let mut config = config(&server);
    (config.in_flight, config.timeout) = (1, Duration::from_millis(200));
    let redis = open(config, "");
    redis.query::<()>("test.set", &set()).await.unwrap();
    server.process().unwrap().pause();
    let set = set();
    let calls = join_all((0..200).map(|_| redis.query::<()>("test.set", &set)));
    // one after the other they would take 40 seconds
    let outcomes = tokio::time::timeout(Duration::from_secs(15), calls).await.expect("all have an answer");
    assert!(outcomes.into_iter().all(|o| o.unwrap_err().kind() == ErrorKind::Timeout));
    server.process().unwrap().resume();
    writes(&redis).await;
}

#[tokio::test]
async fn those_who_wait_for_a_connection_do_not_each_try() {
    let server = RedisServer::start();
    let mut config = config(&server);
    config.connect_timeout = Duration::from_millis(300);
    let redis = open(config, "");
    server.process().unwrap().pause();
    let set = set();
    let mut tried = 0;
    for outcome in join_all((0..20).map(|_| redis.query::<()>("test.set", &set))).await {
        let e = outcome.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Timeout);
        tried += usize::from(!e.message().contains("trying again soon"));
    }
    // the pause may be over at once, but then the next one is longer
    assert!(tried <= 2, "{tried} of 20 waited for a connection of their own");
    server.process().unwrap().resume();
    writes(&redis).await;
}

#[tokio::test]
async fn nothing_is_left_behind_of_a_server_that_takes_nothing() {
    let server = RedisServer::start();
    let mut config = config(&server);
    config.timeout = Duration::from_millis(200);
    let redis = open(config, "");
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    assert_eq!(tasks(), 0);
    writes(&redis).await;
    assert_eq!(tasks(), 1);
    server.process().unwrap().pause();
    // more than the buffers between here and there hold
    let large = vec![b'x'; 32 << 20];
    let e = redis.query::<()>("test.set", cmd("SET").arg("large").arg(large)).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    until("the task that sends is over", async || tasks() == 0).await;
    server.process().unwrap().resume();
    writes(&redis).await;
}

#[tokio::test]
async fn a_call_that_is_dropped_does_not_disturb_the_next() {
    let server = RedisServer::start();
    let redis = open(config(&server), "");
    redis.query::<()>("test.set", &set()).await.unwrap();
    let before = connections(&server);
    for n in 0..300_usize {
        let command = cmd("ECHO").arg(format!("dropped {n}")).clone();
        let dropped = redis.query::<String>("test.echo", &command);
        // not begun, sent or nearly answered
        let steps = async {
            for _ in 0..n % 7 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! { biased; _ = dropped => {}, () = steps => {} }
        let answer: String = redis.query("test.echo", cmd("ECHO").arg(n)).await.unwrap();
        assert_eq!(answer, n.to_string());
    }
    assert_eq!(connections(&server), before + 1, "on the connection that was there");
}

#[tokio::test]
async fn connections_close_with_the_last_clone_and_when_they_are_left() {
    let server = RedisServer::start();
    let mut config = config(&server);
    config.timeout = Duration::from_millis(200);
    let redis = open(config, "");
    let clients = || server.cli(&["CLIENT", "LIST"]).lines().filter(|l| !l.contains("cmd=client")).count();
    redis.query::<()>("test.set", &set()).await.unwrap();
    assert_eq!(clients(), 1);
    // the server never answers this one
    let e = redis.query::<()>("test.pop", cmd("BLPOP").arg("list").arg(0)).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Timeout);
    until("the one that is left is closed", async || clients() == 0).await;
    writes(&redis).await;
    drop(redis);
    until("the last one is closed", async || clients() == 0).await;
}
