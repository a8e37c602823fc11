//! Nobody polls: what is pushed is noticed, by whomever and at how many tenants it may be.

use std::sync::Arc;
use std::time::Duration;

use forge_core::queue::{Broker, TaskQueue};
use forge_core::{Clock, SystemClock};
use forge_queue::celery::Envelope;

use crate::world::{self, PREFIX, World, ctx, index, lease};

/// Far longer than a push takes to be announced, and shorter than the next look at everything.
const LONG: Duration = Duration::from_secs(4);

/// A worker that has found nothing, and so has read the lists.
async fn idle(w: &World) {
    assert!(w.lease(1).await.is_empty());
    // the listener has read everything once it is subscribed and has armed what was drained
    for _ in 0..100 {
        if w.server.cli(&["INFO", "clients"]).contains("tracking_clients:1") {
            SystemClock.sleep(Duration::from_millis(50)).await;
            return;
        }
        SystemClock.sleep(Duration::from_millis(10)).await;
    }
    panic!("nobody listens: {}", w.server.cli(&["INFO", "clients"]));
}

async fn woken(w: &World, push: impl AsyncFnOnce(&World)) {
    let (broker, real) = (w.broker.clone(), SystemClock);
    // a wake-up that was left from before is not this one
    tokio::time::timeout(Duration::from_millis(20), broker.wait(Duration::from_secs(3600))).await.ok();
    let waiting = tokio::spawn(async move { broker.wait(Duration::from_secs(3600)).await });
    push(w).await;
    tokio::select! {
        done = waiting => done.unwrap(),
        () = real.sleep(LONG) => panic!("nobody was told"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_push_by_another_program_is_announced() {
    let w = World::bound();
    for list in ["celery", "celery\u{6}\u{16}3", "celery\u{6}\u{16}9"] {
        idle(&w).await;
        let message = Envelope::new("7", "index").to_bytes();
        woken(&w, async |w| w.push(list, std::str::from_utf8(&message).unwrap())).await;
        let lease = w.lease(1).await.remove(0);
        assert_eq!((lease.queue.as_str(), lease.tenant.as_str()), ("celery", "acme"));
        w.broker.ack(&lease, ().into()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_queued_by_another_process_is_announced_also_of_a_tenant_that_is_new() {
    let w = World::new();
    let other = world::broker(&w.server, w.clock.clone());
    for tenant in ["acme", "acme", "globex"] {
        idle(&w).await;
        woken(&w, async |_| drop(other.enqueue(&ctx(tenant), index(1)).await.unwrap().to_string())).await;
        let lease = w.lease(1).await.remove(0);
        assert_eq!(lease.tenant, tenant);
        w.broker.ack(&lease, ().into()).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_idle_tenants_cost_nothing_and_each_is_heard() {
    let w = World::new();
    for n in 0..1000 {
        w.broker.enqueue(&ctx(&format!("t{n}")), index(n)).await.unwrap();
    }
    let mut done = 0;
    while done < 1000 {
        let leases = w.lease(64).await;
        done += leases.len();
        futures::future::try_join_all(leases.iter().map(|l| w.broker.ack(l, ().into()))).await.unwrap();
    }
    idle(&w).await;
    let commands = || {
        let stats = w.server.cli(&["INFO", "stats"]);
        let line = stats.lines().find_map(|l| l.strip_prefix("total_commands_processed:")).map(str::to_owned);
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    let before = commands();
    tokio::time::timeout(Duration::from_secs(1), w.broker.wait(Duration::from_secs(3600))).await.ok();
    // the first look at the statistics is a command, too
    let asked = commands() - before;
    assert!(asked <= 2, "{asked} commands while nothing happened");
    for n in [0, 499, 999] {
        let other = world::broker(&w.server, w.clock.clone());
        woken(&w, async |_| drop(other.enqueue(&ctx(&format!("t{n}")), index(n)).await.unwrap().to_string())).await;
        assert_eq!(w.lease(1).await[0].tenant, format!("t{n}").as_str());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_pushed_while_the_connection_was_gone_is_found() {
    let w = World::bound();
    idle(&w).await;
    let message = Envelope::new("7", "index").to_bytes();
    woken(&w, async |w| {
        // both in one go, so that nobody listens in between
        let script = format!("redis.call('LPUSH', '{PREFIX}celery', ARGV[1])");
        w.server.cli(&["CLIENT", "KILL", "TYPE", "pubsub"]);
        w.server.cli(&["EVAL", &script, "0", std::str::from_utf8(&message).unwrap()]);
        // the pause before the next connection is one of the clock
        for _ in 0..200 {
            w.clock.advance(Duration::from_secs(1));
            tokio::task::yield_now().await;
            SystemClock.sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    assert_eq!(w.lease(1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delayed_task_is_waited_for_and_not_longer() {
    let w = World::new();
    w.broker.enqueue(&ctx("acme"), index(1).with_delay(Duration::from_secs(10))).await.unwrap();
    assert!(w.lease(1).await.is_empty());
    let broker = w.broker.clone();
    let waiting = tokio::spawn(async move { broker.wait(Duration::from_secs(3600)).await });
    w.clock.advance(Duration::from_secs(11));
    tokio::time::timeout(LONG, waiting).await.unwrap().unwrap();
    assert_eq!(lease(&w.broker, 1).await.len(), 1);
}

/// The listener ends with the broker: nothing is left that would keep a connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_dropped_listens_no_more() {
    let World { server, clock, broker } = World::new();
    let real: Arc<dyn Clock> = Arc::new(SystemClock);
    let w = World { server, clock, broker };
    idle(&w).await;
    let World { server, broker, .. } = w;
    drop(broker);
    for _ in 0..200 {
        if server.cli(&["INFO", "clients"]).contains("tracking_clients:0") {
            return;
        }
        real.sleep(Duration::from_millis(10)).await;
    }
    panic!("{}", server.cli(&["CLIENT", "LIST"]));
}
