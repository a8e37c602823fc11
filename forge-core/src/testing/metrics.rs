//! The suite of [`Metrics`].

#![expect(clippy::indexing_slicing, reason = "a suite says what failed by panicking")]

use std::fmt;
use std::sync::Arc;

use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use crate::metrics::{LABEL_MAX_SIZE, Labels, Metric, MetricKind, Metrics, OTHER};

spy! { Metrics:
    fn add(&self, metric: Metric, labels: Labels<'_>, amount: f64);
    fn observe(&self, metric: Metric, labels: Labels<'_>, seconds: f64);
}

/// Every series, with its label values in order and what was added or observed in all; and how many measurements were dropped.
type Reading = (Vec<(Metric, Vec<String>, f64)>, u64);

/// Metrics under test, and how to read what they show.
pub struct MetricsFixture {
    fixture: Fixture<dyn Metrics>,
    read: Box<dyn Fn() -> Reading>,
}

impl MetricsFixture {
    /// `read` gives every series that is shown, with its label values in order and the sum of what was added or observed; and how many
    /// measurements were dropped.
    pub fn new(metrics: Arc<dyn Metrics>, read: impl Fn() -> (Vec<(Metric, Vec<String>, f64)>, u64) + 'static) -> Self {
        Self { fixture: Fixture::new(metrics), read: Box::new(read) }
    }

    fn m(&self) -> &dyn Metrics {
        self.fixture.adapter.as_ref()
    }

    fn value(&self, metric: Metric, labels: Labels<'_>) -> Option<f64> {
        let (series, _) = (self.read)();
        let mut found = series.into_iter().filter(|(m, l, _)| *m == metric && l == labels);
        let value = found.next().map(|(_, _, sum)| sum);
        assert!(found.next().is_none(), "a series is shown once: {metric:?} {labels:?}");
        value
    }

    fn dropped(&self) -> u64 {
        (self.read)().1
    }

    fn series(&self) -> usize {
        (self.read)().0.len()
    }
}

impl fmt::Debug for MetricsFixture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("MetricsFixture")
    }
}

/// Runs every scenario on fresh metrics that `fresh` makes.
///
/// # Panics
/// With the scenario's name, where the metrics do not keep the [contract](Metrics).
pub async fn metrics(fresh: impl AsyncFn() -> MetricsFixture) {
    let called = Called::default();
    let made = async || {
        let mut f = fresh().await;
        f.fixture = f.fixture.map(|m| Arc::new(Spy::new(m, &called)));
        assert_eq!((f.series(), f.dropped()), (0, 0), "fresh: nothing is measured yet");
        f
    };
    keeps_tenants_apart(&made().await);
    adds_up(&made().await);
    drops_what_does_not_fit(&made().await);
    shows_any_text(&made().await);
    a_flood_stays_bounded(&made().await);
    adds_up_from_many_threads(&made().await);
    let f = made().await;
    f.m().add(Metric::Findings, &["acme", "EMAIL"], 1.0);
    prints_no_secret(f.m(), &["acme".to_owned()]);
    called.complete::<dyn Metrics>();
}

fn measure(m: &dyn Metrics, metric: Metric, labels: Labels<'_>, amount: f64) {
    match metric.describe().1 {
        MetricKind::Histogram => m.observe(metric, labels, amount),
        MetricKind::Counter | MetricKind::Gauge => m.add(metric, labels, amount),
    }
}

/// Label values for a metric, with the tenant first.
fn labels(metric: Metric, tenant: &'static str) -> Vec<&'static str> {
    metric.describe().3.iter().map(|name| if *name == "tenant" { tenant } else { "x" }).collect()
}

fn adds_up(f: &MetricsFixture) {
    for metric in Metric::ALL {
        for amount in [0.5, 0.0, 2.0] {
            measure(f.m(), metric, &labels(metric, "acme"), amount);
        }
        assert_eq!(f.value(metric, &labels(metric, "acme")), Some(2.5), "sums: {metric:?}");
    }
    assert_eq!((f.series(), f.dropped()), (Metric::ALL.len(), 0), "sums: nothing else is measured");
}

fn keeps_tenants_apart(f: &MetricsFixture) {
    for metric in Metric::ALL {
        assert_eq!(
            metric.describe().3.first(),
            Some(&"tenant"),
            "isolation: {metric:?} says whose it is, first of all"
        );
        measure(f.m(), metric, &labels(metric, "acme"), 1.0);
        // one name is the beginning of the other
        measure(f.m(), metric, &labels(metric, "acme-2"), 2.0);
        measure(f.m(), metric, &labels(metric, "globex"), 4.0);
        for (tenant, sum) in [("acme", 1.0), ("acme-2", 2.0), ("globex", 4.0)] {
            let found = f.value(metric, &labels(metric, tenant));
            assert_eq!(found, Some(sum), "isolation: {metric:?} of {tenant} holds another tenant's");
        }
    }
    f.m().add(Metric::ToolCalls, &["acme", "globex", "ok"], 8.0);
    assert_eq!(
        f.value(Metric::ToolCalls, &["globex", "x", "x"]),
        Some(4.0),
        "isolation: by the label, not by the word"
    );
    assert_eq!(f.value(Metric::ToolCalls, &["globex", "acme", "ok"]), None, "isolation: labels keep their order");
}

fn drops_what_does_not_fit(f: &MetricsFixture) {
    let mut wrong = 0;
    let mut dropped = |what: &str| {
        wrong += 1;
        assert_eq!((f.series(), f.dropped()), (0, wrong), "dropped and counted, without a series: {what}");
    };
    for metric in Metric::ALL {
        let (name, kind, _, names) = metric.describe();
        let right = labels(metric, "acme");
        for n in [0, 1, names.len() - 1, names.len() + 1, 100] {
            if n != names.len() {
                measure(f.m(), metric, &vec!["acme"; n], 1.0);
                dropped(&format!("{name} with {n} labels"));
            }
        }
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0] {
            if !(kind == MetricKind::Gauge && bad.is_finite()) {
                measure(f.m(), metric, &right, bad);
                dropped(&format!("{name} of {bad}"));
            }
        }
        match kind {
            MetricKind::Histogram => f.m().add(metric, &right, 1.0),
            MetricKind::Counter | MetricKind::Gauge => f.m().observe(metric, &right, 1.0),
        }
        dropped(&format!("{name} as another kind"));
    }
}

fn shows_any_text(f: &MetricsFixture) {
    let texts = HOSTILE.into_iter().chain(["", "\n# EOF\n", "x\"} 7\nforged{a=\"b", "\\", "\\n", "a\\\"", "\r", "é"]);
    let texts: Vec<&str> = texts.collect();
    for (text, n) in texts.iter().zip(1_u32..) {
        f.m().add(Metric::ToolCalls, &["acme", text, "ok"], f64::from(n));
    }
    for (text, n) in texts.iter().zip(1_u32..) {
        let found = f.value(Metric::ToolCalls, &["acme", text, "ok"]);
        assert_eq!(found, Some(f64::from(n)), "any text: {text:?} is shown as it is, and is no other");
    }
    assert_eq!(f.series(), texts.len(), "any text: none forges a series");
}

fn a_flood_stays_bounded(f: &MetricsFixture) {
    f.m().add(Metric::ToolCalls, &["acme", "first", "ok"], 1.0);
    for label in 0..3 {
        for n in 0..20_000 {
            let flood = format!("flood-{n}");
            let mut labels = ["acme", "first", "ok"];
            labels[label] = &flood;
            f.m().add(Metric::ToolCalls, &labels, 1.0);
        }
        let (series, _) = (f.read)();
        let values = series.iter().filter(|(_, l, _)| l[label].starts_with("flood-")).count();
        assert!(values <= 10_000, "a flood: {values} values of label {label}");
        let sum: f64 = series.iter().map(|(_, _, sum)| sum).sum();
        let expected = 1.0 + 20_000.0 * f64::from(u32::try_from(label + 1).expect("small"));
        assert!((sum - expected).abs() < 0.5, "a flood: sums hold, in {OTHER:?}: {sum} of {expected}");
    }
    f.m().add(Metric::ToolCalls, &["acme", "first", "ok"], 1.0);
    assert_eq!(f.value(Metric::ToolCalls, &["acme", "first", "ok"]), Some(2.0), "a flood: who had a series keeps it");
    let (longest, too_long) = ("k".repeat(LABEL_MAX_SIZE), "k".repeat(LABEL_MAX_SIZE + 1));
    for kind in [&longest, &too_long, &"k".repeat(100_000)] {
        f.m().add(Metric::Findings, &["acme", kind], 1.0);
    }
    assert_eq!(f.value(Metric::Findings, &["acme", &longest]), Some(1.0), "a long value: the longest is shown");
    assert_eq!(
        f.value(Metric::Findings, &["acme", OTHER]),
        Some(2.0),
        "a long value: longer ones are counted together"
    );
    assert_eq!(f.dropped(), 0, "a flood: nothing is dropped");
}

fn adds_up_from_many_threads(f: &MetricsFixture) {
    let m = f.m();
    std::thread::scope(|threads| {
        for _ in 0..4 {
            threads.spawn(|| {
                for _ in 0..1000 {
                    m.add(Metric::Runs, &["acme", "x", "ok"], 1.0);
                    m.observe(Metric::StepDuration, &["acme", "x"], 1.0);
                }
            });
        }
    });
    assert_eq!(f.value(Metric::Runs, &["acme", "x", "ok"]), Some(4000.0), "many threads: nothing is lost");
    assert_eq!(f.value(Metric::StepDuration, &["acme", "x"]), Some(4000.0), "many threads: nothing is lost");
}
