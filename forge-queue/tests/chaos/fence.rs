//! Fences rise whatever the server forgot, and a lease ends no task but its own.

use std::time::Duration;

use forge_core::ErrorKind;
use forge_core::queue::{Broker, Lease, LeaseRequest, NewTask, TaskQueue, TaskState};
use forge_queue::redis::RedisBroker;
use forge_testkit::servers::RedisServer;
use serde_json::json;

use crate::place::{Place, ctx, name, until};

async fn one(broker: &RedisBroker) -> Lease {
    let request = LeaseRequest::new(vec![name()], 1, Duration::from_secs(60));
    let mut found = None;
    until("a lease", Duration::from_secs(30), async || {
        // the first calls after a restart may find no connection
        found = broker.lease(&request).await.unwrap_or_default().pop();
        found.is_some()
    })
    .await;
    found.unwrap()
}

#[tokio::test]
async fn after_a_server_lost_everything_no_fence_comes_again_and_no_old_lease_counts() {
    let mut server = RedisServer::start();
    let broker = Place::at(server.url()).broker();
    let acme = ctx("acme");
    for _ in 0..20 {
        broker.enqueue(&acme, NewTask::new(name(), json!("before"))).await.unwrap();
        let lease = one(&broker).await;
        broker.ack(&lease, json!(null)).await.unwrap();
    }
    broker.enqueue(&acme, NewTask::new(name(), json!("old"))).await.unwrap();
    let old = one(&broker).await;
    server.restart();
    let mut id = None;
    until("a task", Duration::from_secs(30), async || {
        id = broker.enqueue(&acme, NewTask::new(name(), json!("new"))).await.ok();
        id.is_some()
    })
    .await;
    let new = one(&broker).await;
    assert!(new.fence > old.fence, "{} after {}", new.fence, old.fence);
    for outcome in
        [broker.ack(&old, json!("stale")).await, broker.renew(&old, Duration::from_secs(9)).await.map(|_| ())]
    {
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::LeaseLost);
    }
    broker.ack(&new, json!("good")).await.unwrap();
    let state = broker.status(&acme, id.unwrap()).await.unwrap().state;
    assert_eq!(state, TaskState::Succeeded { result: json!("good") });
}

#[tokio::test]
async fn a_lease_that_bears_the_fence_of_another_task_is_not_that_one() {
    let server = RedisServer::start();
    let broker = Place::at(server.url()).broker();
    let acme = ctx("acme");
    let ids = [
        broker.enqueue(&acme, NewTask::new(name(), json!(1))).await.unwrap(),
        broker.enqueue(&acme, NewTask::new(name(), json!(2))).await.unwrap(),
    ];
    let (first, second) = (one(&broker).await, one(&broker).await);
    assert_eq!([first.id, second.id], ids);
    let mixed = Lease { fence: second.fence, ..first.clone() };
    assert_eq!(broker.ack(&mixed, json!("stale")).await.unwrap_err().kind(), ErrorKind::LeaseLost);
    broker.ack(&second, json!("good")).await.unwrap();
}

#[tokio::test]
async fn what_is_acknowledged_twice_at_once_is_done_once() {
    let server = RedisServer::start();
    let broker = Place::at(server.url()).broker();
    let id = broker.enqueue(&ctx("acme"), NewTask::new(name(), json!(1))).await.unwrap();
    let lease = one(&broker).await;
    // the first call of a batcher goes alone: the others are one batch
    let acks = futures::future::join_all((0..9).map(|n| broker.ack(&lease, json!(n)))).await;
    let told: Vec<usize> = acks.iter().enumerate().filter(|(_, a)| a.is_ok()).map(|(n, _)| n).collect();
    assert_eq!(told.len(), 1, "{acks:?}");
    let state = broker.status(&ctx("acme"), id).await.unwrap().state;
    assert_eq!(state, TaskState::Succeeded { result: json!(told[0]) });
}
