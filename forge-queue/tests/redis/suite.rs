//! The shared suite.

use std::sync::Arc;

use forge_core::fake::ManualClock;
use forge_core::testing::{Fixture, WholeQueue, task_queue};
use forge_testkit::servers::RedisServer;

use crate::world;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_queue_keeps_its_contract() {
    task_queue(|| async {
        let server = Arc::new(std::sync::Mutex::new(
            RedisServer::builder().arg("appendonly", "yes").arg("appendfsync", "always").start(),
        ));
        let clock = Arc::new(ManualClock::default());
        let broker: Arc<dyn WholeQueue> = Arc::new(world::broker(&server.lock().unwrap(), clock.clone()));
        let (again, time) = (server.clone(), clock.clone());
        let reopen = move |old| async move {
            drop(old);
            let mut server = again.lock().unwrap();
            server.restart();
            let broker: Arc<dyn WholeQueue> = Arc::new(world::broker(&server, time));
            broker
        };
        let gone = server.clone();
        let gone = move || async move { gone.lock().unwrap().kill9() };
        Fixture::new(broker).with_clock(clock).reopening(reopen).server_gone(gone).keeping(server)
    })
    .await;
}
