//! TLS against a real Redis: who is believed, who is not, and that nothing secret is said about it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "helpers of tests")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{code, open, writes};
use forge_core::secret::Secrets;
use forge_core::{Error, ErrorKind, Retryability, SystemClock};
use forge_redis::redis::cmd;
use forge_redis::{Redis, RedisConfig};
use forge_testkit::servers::{Authority, RedisServer};

const PASSWORD: &str = "hunter2-correct";

fn config(url: &str, trusted: Option<&Authority>) -> RedisConfig {
    let mut config: RedisConfig = url.parse().unwrap();
    config.connect_timeout = Duration::from_secs(2);
    let config = config.with_password("mem:redis".parse().unwrap());
    trusted.map_or(config.clone(), |authority| config.with_ca_file(authority.ca()))
}

async fn refused(config: RedisConfig) -> Error {
    let redis = open(config, PASSWORD);
    let e = redis.query::<String>("test.ping", &cmd("PING")).await.unwrap_err();
    let mut said = format!("{e} {e:?} {redis:?}");
    let mut source = std::error::Error::source(&e);
    while let Some(inner) = source {
        said.push_str(&format!("{inner} {inner:?}"));
        source = inner.source();
    }
    assert!(!said.contains("hunter2"), "{said}");
    e
}

#[tokio::test]
async fn the_right_authority_and_name_are_believed() {
    let authority = Authority::new();
    let mut server = RedisServer::builder().password(PASSWORD).tls(&authority).start();
    for host in ["localhost", "127.0.0.1"] {
        writes(&open(config(&server.tls_url(host), Some(&authority)), PASSWORD)).await;
    }
    // also after the server was away, and with an answer of many records
    let redis = open(config(&server.tls_url("localhost"), Some(&authority)), PASSWORD);
    server.restart();
    writes(&redis).await;
    let large = vec![b'x'; 1_000_000];
    redis.query::<()>("test.set", cmd("SET").arg("large").arg(&large)).await.unwrap();
    assert_eq!(redis.query::<Vec<u8>>("test.get", cmd("GET").arg("large")).await.unwrap(), large);
}

#[tokio::test]
async fn another_authority_or_name_is_refused_before_the_password_is_sent() {
    let authority = Authority::new();
    let server = RedisServer::builder().password(PASSWORD).tls(&authority).start();
    let never = Retryability::Never;
    let e = refused(config(&server.tls_url("localhost"), Some(&Authority::new()))).await;
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Config, never), "{e}");
    assert!(e.message().contains("ca_file"), "{e}");
    let e = refused(config(&server.tls_url("localhost"), None)).await;
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Config, never), "{e}");

    let other = Authority::naming("DNS:redis.example");
    let server = RedisServer::builder().password(PASSWORD).tls(&other).start();
    let e = refused(config(&server.tls_url("localhost"), Some(&other))).await;
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Config, never), "{e}");
    assert!(e.message().contains("name"), "{e}");
    let auths = server.cli(&["INFO", "commandstats"]);
    assert!(!auths.contains("cmdstat_hello"), "{auths}");
}

#[tokio::test]
async fn the_wrong_port_or_a_missing_certificate_are_errors_that_say_so() {
    let authority = Authority::new();
    let server = RedisServer::builder().password(PASSWORD).tls(&authority).start();
    let plain = format!("rediss://localhost:{}", server.port());
    let e = refused(config(&plain, Some(&authority))).await;
    println!("TLS to a plain port: {e}");
    assert!(matches!(e.kind(), ErrorKind::Config | ErrorKind::Unavailable | ErrorKind::Timeout), "{e}");
    let e = refused(config(&server.tls_url("localhost").replace("rediss", "redis"), None)).await;
    println!("no TLS to a TLS port: {e}");
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e} {}", code(&e));

    let strict = RedisServer::builder().password(PASSWORD).tls(&authority).arg("tls-auth-clients", "yes").start();
    let e = refused(config(&strict.tls_url("localhost"), Some(&authority))).await;
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    assert!(e.to_string().contains("client_certificate"), "{e}");
    let shown = config(&strict.tls_url("localhost"), Some(&authority))
        .with_client_certificate(authority.certificate(), authority.key());
    writes(&open(shown, PASSWORD)).await;
}

#[tokio::test]
async fn a_file_that_does_not_fit_is_found_at_once() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let made = |config: RedisConfig| Redis::new(config, Secrets::standard(), Arc::new(SystemClock));
    let tls = config("rediss://localhost", None);
    let (authority, other) = (Authority::new(), Authority::new());
    for wrong in [
        tls.clone().with_ca_file(file.path()),
        tls.clone().with_ca_file(file.path().with_extension("none")),
        tls.clone().with_ca_file(authority.key()),
        tls.clone().with_client_certificate(authority.certificate(), file.path()),
        tls.clone().with_client_certificate(authority.certificate(), other.key()),
    ] {
        let e = made(wrong).unwrap_err();
        assert_eq!(e.kind(), ErrorKind::Config, "{e}");
        assert!(!format!("{e:?}").contains("PRIVATE"), "{e:?}");
    }
    let right = tls.with_ca_file(authority.ca()).with_client_certificate(authority.certificate(), authority.key());
    assert!(made(right).is_ok());
}
