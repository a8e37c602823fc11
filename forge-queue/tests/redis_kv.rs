//! Key-values on a real Redis: the shared suite, what the server is shown, what rests in its file, and what happens without it.
#![cfg(feature = "redis")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "helpers of tests")]

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use forge_core::fake::StrictKeyring;
use forge_core::kv::{KeyValue, PutMode, PutOptions, SingleFlight};
use forge_core::secret::Secrets;
use forge_core::testing::{Fixture, HOSTILE, context, health_check, key_value};
use forge_core::{
    Adapter, Clock, Depth, ErrorKind, ExecutionContext, HealthCheck, Namespace, Slug, Status, SystemClock,
};
use forge_queue::redis::RedisKeyValue;
use forge_redis::Redis;
use forge_testkit::servers::RedisServer;

const PREFIX: &str = "host-7:";

fn connections(server: &RedisServer) -> Redis {
    let config: forge_redis::RedisConfig = server.url().parse().unwrap();
    Redis::new(config.with_prefix(PREFIX), Secrets::standard(), Arc::new(SystemClock)).unwrap()
}

fn open(server: &RedisServer, keyring: &StrictKeyring) -> RedisKeyValue {
    RedisKeyValue::new(connections(server), Arc::new(keyring.reopened()))
}

fn notes(ctx: &ExecutionContext) -> Namespace {
    Namespace::of(ctx, Slug::parse("notes").unwrap())
}

/// A server that writes every command to its disk before it answers.
fn durable() -> RedisServer {
    RedisServer::builder().arg("appendonly", "yes").arg("appendfsync", "always").start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_values_keep_their_contract() {
    key_value(|| async {
        let (server, keyring) = (durable(), StrictKeyring::default());
        let store: Arc<dyn KeyValue> = Arc::new(open(&server, &keyring));
        let server = Arc::new(Mutex::new(server));
        let (restarted, killed) = (server.clone(), server.clone());
        let again = move |old| async move {
            drop(old);
            let mut server = restarted.lock().unwrap();
            server.restart();
            let store: Arc<dyn KeyValue> = Arc::new(open(&server, &keyring));
            store
        };
        let gone = move || async move { killed.lock().unwrap().kill9() };
        Fixture::new(store).reopening(again).server_gone(gone).keeping(server)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn its_health_is_a_write() {
    health_check(|| async {
        let server = RedisServer::start();
        let store: Arc<dyn Adapter> = Arc::new(open(&server, &StrictKeyring::default()));
        let server = Mutex::new(server);
        Fixture::new(store).server_gone(move || async move { server.lock().unwrap().kill9() })
    })
    .await;
    let server = RedisServer::start();
    let store = open(&server, &StrictKeyring::default());
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);
    let health = store.check(Depth::Deep).await;
    assert_eq!(health.status, Status::Down, "a server without memory answers pings and takes nothing");
    assert!(health.detail.contains("maxmemory"), "it says what to do: {}", health.detail);
}

#[tokio::test]
async fn whatever_the_key_the_server_sees_the_tenants_own() {
    let server = RedisServer::start();
    let store = open(&server, &StrictKeyring::default());
    let acme = context("acme", "ana", "analyst");
    let watch = Watch::start(&server);
    for key in HOSTILE {
        let space = notes(&acme);
        let version = store.put(&acme, &space, key, "a".into(), PutOptions::default()).await.unwrap();
        let options = PutOptions::default().with_mode(PutMode::Match(version)).with_ttl(Duration::from_secs(60));
        store.put(&acme, &space, key, "b".into(), options).await.unwrap();
        assert_eq!(store.get(&acme, &space, key).await.unwrap().unwrap().value, "b");
        assert!(store.delete(&acme, &space, key).await.unwrap());
        let globex = context("globex", "ana", "analyst");
        let refused = store.get(&globex, &space, key).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::TenantMismatch);
    }
    let keys = watch.keys(&server);
    assert!(keys.len() >= HOSTILE.len() * 8, "it saw {} keys", keys.len());
    for key in keys {
        let own = key.starts_with("host-7:forge:acme:kv:ana:notes:") || key == "host-7:forge:acme:kv-version";
        assert!(own, "isolation: a command for acme names {key:?}");
    }
}

#[tokio::test]
async fn no_value_rests_in_clear() {
    const CANARY: &str = "canary-4929-1234";
    let server = RedisServer::builder().arg("rdbcompression", "no").start();
    let store = open(&server, &StrictKeyring::default());
    let acme = context("acme", "ana", "analyst");
    store.put(&acme, &notes(&acme), "name", CANARY.into(), PutOptions::default()).await.unwrap();
    server.cli(&["SET", "control", "plain-4929-1234"]);
    assert_eq!(server.cli(&["SAVE"]).trim(), "OK");
    let dir = server.cli(&["CONFIG", "GET", "dir"]);
    let file = std::path::Path::new(dir.lines().nth(1).unwrap()).join("dump.rdb");
    let bytes = std::fs::read(file).unwrap();
    let holds = |text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    assert!(holds("plain-4929-1234") && holds("kv:ana:notes:name"), "the search itself works");
    assert!(!holds(CANARY), "a value rests in clear");
    assert_eq!(store.get(&acme, &notes(&acme), "name").await.unwrap().unwrap().value, CANARY);
}

#[tokio::test]
async fn a_value_that_was_moved_or_made_by_somebody_is_corrupt() {
    let server = RedisServer::start();
    let store = open(&server, &StrictKeyring::default());
    let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "ana", "analyst"));
    for c in [&acme, &globex] {
        store.put(c, &notes(c), "from", "x".into(), PutOptions::default()).await.unwrap();
    }
    let place = |tenant, key| format!("host-7:forge:{tenant}:kv:ana:notes:{key}");
    assert_eq!(server.cli(&["COPY", &place("acme", "from"), &place("acme", "to")]).trim(), "1");
    assert_eq!(server.cli(&["COPY", &place("acme", "from"), &place("globex", "to")]).trim(), "1");
    server.cli(&["SET", &place("acme", "made"), "not ours"]);
    server.cli(&["RPUSH", &place("acme", "list"), "not ours"]);
    for (c, key) in [(&acme, "to"), (&globex, "to"), (&acme, "made"), (&acme, "list")] {
        let e = store.get(c, &notes(c), key).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Corrupt, "{key}: {e}");
    }
    let over = PutOptions::default();
    store.put(&acme, &notes(&acme), "list", "ours".into(), over).await.unwrap();
    assert_eq!(store.get(&acme, &notes(&acme), "list").await.unwrap().unwrap().value, "ours", "a write mends it");
    let create = PutOptions::default().with_mode(PutMode::Create);
    let e = store.put(&acme, &notes(&acme), "made", "ours".into(), create).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Conflict, "what somebody made is there");
}

#[tokio::test]
async fn a_server_that_lost_everything_gives_no_version_again() {
    let mut server = RedisServer::start();
    let keyring = StrictKeyring::default();
    let acme = context("acme", "ana", "analyst");
    let mut versions = Vec::new();
    for _ in 0..3 {
        let store = open(&server, &keyring);
        for _ in 0..50 {
            versions.push(store.put(&acme, &notes(&acme), "k", "x".into(), PutOptions::default()).await.unwrap());
        }
        server.restart();
        assert_eq!(server.cli(&["DBSIZE"]).trim(), "0", "this server keeps nothing");
    }
    // its clock was set back: the count goes on from the last
    let ahead = versions.iter().max().unwrap() + 3_600_000_000;
    server.cli(&["SET", "host-7:forge:acme:kv-version", &ahead.to_string()]);
    for n in 1..=3 {
        let store = open(&server, &keyring);
        let version = store.put(&acme, &notes(&acme), "k", "x".into(), PutOptions::default()).await.unwrap();
        assert_eq!(version, ahead + n);
        versions.push(version);
    }
    assert!(versions.is_sorted_by(|a, b| a < b), "each is later than all before: {versions:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_write_over_one_version_one_does() {
    let server = RedisServer::start();
    let keyring = StrictKeyring::default();
    let stores = [open(&server, &keyring), open(&server, &keyring)];
    let acme = context("acme", "ana", "analyst");
    for round in 0..20 {
        let key = format!("k{round}");
        let at_once = async |mode: PutMode| {
            let options = PutOptions::default().with_mode(mode);
            let (acme, key) = (&acme, key.as_str());
            let writes = (0..16).map(|n: usize| {
                let (store, value) = (stores[n % 2].clone(), n.to_string().into());
                async move { store.put(acme, &notes(acme), key, value, options).await }
            });
            let outcomes = futures::future::join_all(writes).await;
            let lost = outcomes.iter().filter(|o| o.as_ref().is_err_and(|e| e.kind() == ErrorKind::Conflict)).count();
            assert_eq!(lost, 15, "{mode:?}: {outcomes:?}");
            outcomes.into_iter().find_map(Result::ok).unwrap()
        };
        let version = at_once(PutMode::Create).await;
        at_once(PutMode::Match(version)).await;
    }
}

#[tokio::test]
async fn without_its_server_every_call_fails_and_with_it_they_work_again() {
    let mut server = durable();
    let store = open(&server, &StrictKeyring::default());
    let acme = context("acme", "ana", "analyst");
    store.put(&acme, &notes(&acme), "k", "before".into(), PutOptions::default()).await.unwrap();
    server.kill9();
    let kinds = [
        store.get(&acme, &notes(&acme), "k").await.map(|_| ()).map_err(|e| e.kind()),
        store.put(&acme, &notes(&acme), "k", "x".into(), PutOptions::default()).await.map(|_| ()).map_err(|e| e.kind()),
        store.delete(&acme, &notes(&acme), "k").await.map(|_| ()).map_err(|e| e.kind()),
    ];
    assert_eq!(kinds, [Err(ErrorKind::Unavailable); 3]);
    server.restart();
    for _ in 0..500 {
        if store.check(Depth::Deep).await.status == Status::Up {
            break;
        }
        SystemClock.sleep(Duration::from_millis(10)).await;
    }
    let entry = store.get(&acme, &notes(&acme), "k").await.unwrap().unwrap();
    assert_eq!(entry.value, "before");
    let over = PutOptions::default().with_mode(PutMode::Match(entry.version));
    store.put(&acme, &notes(&acme), "k", "after".into(), over).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_that_miss_a_value_one_computes_it() {
    let server = RedisServer::start();
    let keyring = StrictKeyring::default();
    let process = || SingleFlight::new(Arc::new(open(&server, &keyring)), Arc::new(SystemClock));
    let (here, there) = (process(), process());
    let acme = context("acme", "ana", "analyst");
    for round in 0..5 {
        let (computed, key) = (AtomicUsize::new(0), format!("k{round}"));
        let (computed, key, acme) = (&computed, key.as_str(), &acme);
        let asked = [&here, &there].repeat(32).into_iter().map(|process| async move {
            let compute = async {
                computed.fetch_add(1, Ordering::SeqCst);
                // others get in between
                process.invalidate(acme, &notes(acme), "other").await?;
                Ok("a".into())
            };
            process.get_or_compute(acme, &notes(acme), key, None, compute).await
        });
        let values = futures::future::try_join_all(asked).await.unwrap();
        assert!(values.iter().all(|v| v == "a"));
        assert_eq!(computed.load(Ordering::SeqCst), 1);
    }
}

/// What MONITOR shows from now on.
struct Watch(BufReader<TcpStream>);

impl Watch {
    fn start(server: &RedisServer) -> Self {
        let mut stream = TcpStream::connect(server.url().strip_prefix("redis://").unwrap()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(b"MONITOR\r\n").unwrap();
        let mut lines = BufReader::new(stream);
        let mut ok = String::new();
        lines.read_line(&mut ok).unwrap();
        assert_eq!(ok, "+OK\r\n");
        Self(lines)
    }

    /// The keys of all commands so far, those inside scripts too.
    fn keys(self, server: &RedisServer) -> Vec<String> {
        server.cli(&["ECHO", "enough"]);
        let mut keys = Vec::new();
        for line in self.0.lines() {
            let line = line.unwrap();
            // +1700000000.000000 [0 127.0.0.1:4711] "GET" "key"
            let (_, command) = line.split_once("] \"").unwrap();
            let words: Vec<&str> = command.trim_end_matches('"').split("\" \"").collect();
            match words[0].to_ascii_uppercase().as_str() {
                "ECHO" => break,
                "EVAL" | "EVALSHA" => {
                    let n: usize = words[2].parse().unwrap();
                    keys.extend(words[3..3 + n].iter().map(ToString::to_string));
                }
                "HELLO" | "CLIENT" | "SCRIPT" | "TIME" | "COMMAND" => {}
                _ => keys.push(words[1].to_owned()),
            }
        }
        keys
    }
}
