//! Metrics that a test can read.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::metrics::{LABEL_MAX_SIZE, Labels, Metric, MetricKind, Metrics, OTHER};

/// How many values a label has.
const VALUES: usize = 1000;

/// Adds up in memory. Clones share what they have.
#[derive(Clone, Default)]
pub struct FakeMetrics(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    series: BTreeMap<(Metric, Vec<String>), f64>,
    known: BTreeMap<&'static str, BTreeSet<String>>,
    dropped: u64,
}

impl FakeMetrics {
    /// What was added, or observed in all, under exactly these labels.
    pub fn value(&self, metric: Metric, labels: Labels<'_>) -> Option<f64> {
        let labels = labels.iter().map(|l| (*l).to_owned()).collect();
        self.state().series.get(&(metric, labels)).copied()
    }

    /// Every series: metric, label values, sum.
    pub fn series(&self) -> Vec<(Metric, Vec<String>, f64)> {
        self.state().series.iter().map(|((metric, labels), sum)| (*metric, labels.clone(), *sum)).collect()
    }

    /// How many measurements did not fit.
    pub fn dropped(&self) -> u64 {
        self.state().dropped
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, metric: Metric, labels: Labels<'_>, amount: f64, histogram: bool) {
        let mut state = self.state();
        let (_, kind, _, names) = metric.describe();
        let fits = (kind == MetricKind::Histogram) == histogram
            && names.len() == labels.len()
            && amount.is_finite()
            && (kind == MetricKind::Gauge || amount >= 0.0);
        if !fits {
            state.dropped += 1;
            return;
        }
        let labels = names.iter().zip(labels).map(|(name, value)| state.bounded(name, value)).collect();
        *state.series.entry((metric, labels)).or_default() += amount;
    }
}

impl State {
    fn bounded(&mut self, name: &'static str, value: &str) -> String {
        let known = self.known.entry(name).or_default();
        if known.len() < VALUES && value.len() <= LABEL_MAX_SIZE {
            known.insert(value.to_owned());
        }
        if known.contains(value) { value.to_owned() } else { OTHER.to_owned() }
    }
}

impl Metrics for FakeMetrics {
    fn add(&self, metric: Metric, labels: Labels<'_>, amount: f64) {
        self.take(metric, labels, amount, false);
    }

    fn observe(&self, metric: Metric, labels: Labels<'_>, seconds: f64) {
        self.take(metric, labels, seconds, true);
    }
}

impl fmt::Debug for FakeMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeMetrics")
    }
}
