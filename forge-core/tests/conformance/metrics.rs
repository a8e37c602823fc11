//! Metrics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use forge_core::fake::FakeMetrics;
use forge_core::metrics::{Labels, Metric, Metrics};
use forge_core::testing::{MetricsFixture, metrics};
use futures::FutureExt;

#[tokio::test]
async fn metrics_in_memory() {
    metrics(async || fixture(|m| Arc::new(m))).await;
}

#[tokio::test]
async fn metrics_that_forget_the_tenant_are_found() {
    let suite = metrics(async || fixture(|m| Arc::new(Forgetful(m))));
    let panic = AssertUnwindSafe(suite).catch_unwind().await.unwrap_err();
    let message = panic.downcast_ref::<String>().cloned().unwrap();
    assert!(message.contains("isolation"), "{message}");
}

fn fixture(wrap: impl FnOnce(FakeMetrics) -> Arc<dyn Metrics>) -> MetricsFixture {
    let fake = FakeMetrics::default();
    let metrics = wrap(fake.clone());
    MetricsFixture::new(metrics, move || (fake.series(), fake.dropped()))
}

/// Counts everybody's calls as those of `acme`.
#[derive(Debug)]
struct Forgetful(FakeMetrics);

fn of_acme<'a>(labels: Labels<'a>) -> Vec<&'a str> {
    labels.iter().enumerate().map(|(i, l)| if i == 0 { "acme" } else { *l }).collect()
}

impl Metrics for Forgetful {
    fn add(&self, metric: Metric, labels: Labels<'_>, amount: f64) {
        self.0.add(metric, &of_acme(labels), amount);
    }

    fn observe(&self, metric: Metric, labels: Labels<'_>, seconds: f64) {
        self.0.observe(metric, &of_acme(labels), seconds);
    }
}
