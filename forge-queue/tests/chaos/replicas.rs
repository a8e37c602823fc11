//! A promise that waits for a replica.

use std::time::Duration;

use forge_core::queue::{Broker, LeaseRequest, NewTask, TaskQueue};
use forge_core::{ErrorKind, Retryability};
use forge_testkit::servers::RedisServer;
use serde_json::json;

use crate::place::{Place, ctx, name, until};

#[tokio::test]
async fn what_too_few_replicas_have_is_not_promised() {
    let (master, replica) = (RedisServer::start(), RedisServer::start());
    let broker = Place { replicas: Some((1, 600)), ..Place::at(master.url()) }.broker();
    let acme = ctx("acme");
    let send = async || broker.enqueue(&acme, NewTask::new(name(), json!(1))).await;
    let alone = send().await.unwrap_err();
    assert_eq!((alone.kind(), alone.retry()), (ErrorKind::Unavailable, Retryability::Transient));
    assert_eq!(alone.context().collect::<Vec<_>>(), [("replicas", "0")]);
    let depth = broker.depth(&acme).await.unwrap();
    assert_eq!(depth.ready, 1, "the outcome was not known: the master has it");

    replica.cli(&["REPLICAOF", "127.0.0.1", &master.port().to_string()]);
    until("the replica", Duration::from_secs(30), async || send().await.is_ok()).await;
    let list = "{t}:acme.default";
    let waiting = || (master.cli(&["LLEN", list]), replica.cli(&["LLEN", list]));
    let (here, there) = waiting();
    assert_eq!(here, there, "what was answered is there already");

    let request = LeaseRequest::new(vec![name()], 2, Duration::from_secs(60));
    let leases = broker.lease(&request).await.unwrap();
    broker.ack(&leases[0], json!("kept")).await.unwrap();
    let key = format!("{{t}}:celery-task-meta-{}", leases[0].id);
    assert!(replica.cli(&["GET", &key]).contains("kept"));

    replica.process().unwrap().pause();
    let e = broker.ack(&leases[1], json!("not known")).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::Unavailable, "{e}");
    assert_eq!(send().await.unwrap_err().kind(), ErrorKind::Unavailable);
    replica.process().unwrap().resume();
    until("the replica", Duration::from_secs(30), async || send().await.is_ok()).await;
    // a server that was started again does not know the scripts
    master.cli(&["SCRIPT", "FLUSH"]);
    send().await.unwrap();
}
