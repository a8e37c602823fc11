//! The operator's side, by the suite that every backend passes.

use std::sync::Arc;

use forge_core::fake::ManualClock;
use forge_testkit::servers::RedisServer;

use crate::control_suite::{self, Sides};
use crate::world;

async fn sides() -> Sides {
    let (server, clock) = (RedisServer::start(), Arc::new(ManualClock::default()));
    let broker = Arc::new(world::broker(&server, clock.clone()));
    Sides { control: broker.clone(), queue: broker.clone(), broker, clock, _keep: Box::new(server) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_control_keeps_its_contract() {
    control_suite::all(sides).await;
}

#[test]
fn no_order_of_events_passes_a_cap_or_loses_a_task() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    control_suite::in_any_order(&runtime, sides);
}
