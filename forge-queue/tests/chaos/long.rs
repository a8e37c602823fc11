//! A task that takes ten leases' time is run once, by who renews.

use std::sync::Arc;
use std::time::Duration;

use forge_core::fake::{FakeKeyring, ManualClock};
use forge_core::queue::{Broker, LeaseRequest, NewTask, TaskQueue, TaskState};
use forge_queue::redis::{Options, RedisBroker};
use forge_testkit::servers::RedisServer;
use serde_json::json;

use crate::place::{Place, ctx, name, until};

const VISIBILITY: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_task_of_ten_leases_is_run_once_while_it_is_renewed_also_across_a_restart() {
    let mut server = RedisServer::builder().arg("appendonly", "yes").arg("appendfsync", "always").start();
    // by the clock of the test, so that a slow machine cannot let a lease run out
    let clock = Arc::new(ManualClock::default());
    let broker = || {
        let mut options = Options::default();
        options.local_time = true;
        let redis = Place::at(server.url()).redis();
        RedisBroker::new(redis, Arc::new(FakeKeyring), clock.clone()).with_options(options)
    };
    let (mine, other) = (broker(), broker());
    let acme = ctx("acme");
    let id = mine.enqueue(&acme, NewTask::new(name(), json!("long"))).await.unwrap();
    let request = LeaseRequest::new(vec![name()], 4, VISIBILITY);
    let lease = mine.lease(&request).await.unwrap().remove(0);
    for step in 0..40 {
        clock.advance(VISIBILITY / 4);
        if step == 20 {
            server.kill9();
            assert!(mine.renew(&lease, VISIBILITY).await.is_err(), "nobody is there");
            assert!(!lease.lost.is_cancelled(), "that says nothing of the lease");
            clock.advance(VISIBILITY / 4);
            server.restart();
        }
        until("the renewal", Duration::from_secs(30), async || mine.renew(&lease, VISIBILITY).await.is_ok()).await;
        let mut taken = None;
        until("an answer", Duration::from_secs(30), async || {
            taken = other.lease(&request).await.ok();
            taken.is_some()
        })
        .await;
        assert!(taken.unwrap().is_empty(), "step {step}: nobody else gets it");
    }
    mine.ack(&lease, json!("once")).await.unwrap();
    let status = mine.status(&acme, id).await.unwrap();
    assert_eq!((status.attempts, status.state), (1, TaskState::Succeeded { result: json!("once") }));

    // one that is not renewed is another's
    mine.enqueue(&acme, NewTask::new(name(), json!("left"))).await.unwrap();
    let left = mine.lease(&request).await.unwrap().remove(0);
    clock.advance(VISIBILITY);
    let mut again = None;
    until("the other to get it", Duration::from_secs(30), async || {
        again = other.lease(&request).await.unwrap().pop();
        again.is_some()
    })
    .await;
    assert!(again.unwrap().fence > left.fence);
}
