//! No memory is left: nothing new is taken in, and what is there is worked off.

use std::time::Duration;

use forge_core::ErrorKind;
use forge_core::error::ErrorReport;
use forge_core::queue::{Broker, LeaseRequest, Nack, NewTask, TaskQueue, TaskState};
use forge_core::{Error, TaskId};
use forge_testkit::servers::RedisServer;
use serde_json::json;

use crate::place::{Place, ctx, name};

const LONG: Duration = Duration::from_secs(60);

fn report() -> ErrorReport {
    Error::new(ErrorKind::Unavailable, "test.work", "no luck").report()
}

#[tokio::test]
async fn a_full_server_refuses_tasks_and_lets_those_that_wait_be_done() {
    let server = RedisServer::start();
    let broker = Place::at(server.url()).broker();
    let acme = ctx("acme");
    let mut ids: Vec<TaskId> = Vec::new();
    for n in 0..4 {
        ids.push(broker.enqueue(&acme, NewTask::new(name(), json!(n))).await.unwrap());
    }
    let soon = NewTask::new(name(), json!(4)).with_delay(Duration::from_millis(1));
    ids.push(broker.enqueue(&acme, soon).await.unwrap());
    server.cli(&["CONFIG", "SET", "maxmemory", "1"]);

    let refused = broker.enqueue(&acme, NewTask::new(name(), json!(9))).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Unavailable, "{refused}");
    assert_eq!(broker.depth(&acme).await.unwrap().ready, 5, "nothing of it is left");

    let request = LeaseRequest::new(vec![name()], 8, LONG);
    let mut leases = Vec::new();
    while leases.len() < 5 {
        leases.extend(broker.lease(&request).await.unwrap());
    }
    for lease in &leases {
        broker.renew(lease, LONG).await.unwrap();
    }
    leases.sort_by_key(|l| l.payload.as_u64());
    let retry = Nack::Retry { after: Duration::ZERO, report: report() };
    broker.nack(&leases[1], retry).await.unwrap();
    broker.nack(&leases[2], Nack::Dead { report: report() }).await.unwrap();
    assert!(broker.cancel(&acme, ids[3]).await.unwrap());
    for n in [0, 4] {
        broker.ack(&leases[n], json!("done")).await.unwrap();
    }
    let again = broker.lease(&request).await.unwrap().remove(0);
    assert_eq!((again.id, again.attempt), (ids[1], 2));
    broker.ack(&again, json!("done")).await.unwrap();

    server.cli(&["CONFIG", "SET", "maxmemory", "0"]);
    for (n, id) in ids.iter().enumerate() {
        let state = broker.status(&acme, *id).await.unwrap().state;
        match n {
            2 => assert!(matches!(state, TaskState::Dead { .. })),
            3 => assert_eq!(state, TaskState::Cancelled),
            _ => assert_eq!(state, TaskState::Succeeded { result: json!("done") }),
        }
    }
    broker.enqueue(&acme, NewTask::new(name(), json!(9))).await.unwrap();
}

#[tokio::test]
async fn a_key_that_is_not_as_it_should_be_is_its_own_tenants_matter() {
    let server = RedisServer::start();
    let broker = Place::at(server.url()).broker();
    server.cli(&["SET", "{t}:forge:acme:open", "not a hash"]);
    let tenants = ["acme", "globex", "acme", "umbrella", "globex"];
    let contexts = tenants.map(ctx);
    for _ in 0..3 {
        // one batch holds all of them
        let tasks = contexts.iter().map(|ctx| broker.enqueue(ctx, NewTask::new(name(), json!(1))));
        for (tenant, outcome) in tenants.iter().zip(futures::future::join_all(tasks).await) {
            match *tenant {
                "acme" => assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Corrupt),
                _ => drop(outcome.unwrap().to_string()),
            }
        }
    }
}
