//! How much of what runs at a time.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use forge_core::Clock;
use forge_core::fake::ManualClock;
use forge_core::queue::{TaskHandler, TaskState};
use forge_queue::worker::{HandlerOptions, Settings};
use serde_json::Value;

use crate::bench::{Bench, calm, does, secs, serve, slug};

/// How many run, and how many ran at most, by tenant and handler.
#[derive(Clone, Default)]
struct Gauge(Arc<Mutex<BTreeMap<String, (usize, usize)>>>);

impl Gauge {
    /// Works for a second.
    fn working(&self, clock: Arc<ManualClock>) -> Arc<dyn TaskHandler> {
        let gauge = self.clone();
        does(move |_, task| {
            let (gauge, clock) = (gauge.clone(), clock.clone());
            async move {
                let keys = [task.tenant.to_string(), task.name.to_string()];
                for key in &keys {
                    let mut all = gauge.0.lock().unwrap();
                    let (now, most) = all.entry(key.clone()).or_default();
                    *now += 1;
                    *most = (*most).max(*now);
                }
                clock.sleep(secs(1)).await;
                keys.iter().for_each(|key| gauge.0.lock().unwrap().get_mut(key).unwrap().0 -= 1);
                Ok(Value::Null)
            }
        })
    }

    fn most(&self, key: &str) -> usize {
        self.0.lock().unwrap().get(key).map_or(0, |(_, most)| *most)
    }
}

async fn all_done(b: &Bench, tenant: &str, ids: &[forge_core::TaskId]) {
    for id in ids {
        let status = b.status(tenant, *id).await;
        assert!(matches!(status.state, TaskState::Succeeded { .. }), "{status:?}");
        assert_eq!(status.attempts, 1, "a task that waits for a place has no try counted");
    }
}

#[tokio::test]
async fn no_tenant_and_no_handler_has_more_than_its_share_and_none_waits_for_another() {
    for generous in [false, true] {
        let (b, gauge) = (Bench::with(|broker| broker.generous = generous), Gauge::default());
        let mut settings = Settings::default();
        settings.per_tenant = Some(3);
        let worker = b.worker(8).with_settings(settings).handler(&slug("fast"), gauge.working(b.clock.clone()));
        let one = HandlerOptions::default().with_concurrency(1);
        let worker = worker.handler_with(&slug("slow"), gauge.working(b.clock.clone()), one);
        let mut acme = Vec::new();
        for _ in 0..6 {
            acme.push(b.enqueue("acme", "slow").await);
            acme.push(b.enqueue("acme", "fast").await);
        }
        let globex = [b.enqueue("globex", "fast").await, b.enqueue("globex", "fast").await];
        serve(&worker);
        calm().await;
        b.pass(3).await;
        all_done(&b, "globex", &globex).await;
        b.pass(9).await;
        all_done(&b, "acme", &acme).await;
        assert_eq!((gauge.most("acme"), gauge.most("slow")), (3, 1), "generous: {generous}");
        assert!(gauge.most("fast") > 2, "the others fill the rest");
        if !generous {
            assert!(b.nacks().is_empty(), "what there is no room for is not taken");
        }
    }
}

#[tokio::test]
async fn a_place_that_is_free_is_filled_at_once() {
    let (b, gauge) = (Bench::new(), Gauge::default());
    let one = HandlerOptions::default().with_concurrency(1);
    let worker = b.worker(4).handler_with(&slug("slow"), gauge.working(b.clock.clone()), one);
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(b.enqueue("acme", "slow").await);
    }
    serve(&worker);
    calm().await;
    b.pass(5).await;
    all_done(&b, "acme", &ids).await;
}
