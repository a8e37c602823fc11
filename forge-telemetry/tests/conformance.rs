//! The shared suite of metrics on the Prometheus exposition, read back as a scraper reads it.
#![cfg(feature = "prometheus")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use forge_core::metrics::{Metric, MetricKind};
use forge_core::testing::{MetricsFixture, metrics};
use forge_telemetry::PrometheusMetrics;

#[tokio::test]
async fn the_exposition_keeps_the_contract_of_metrics() {
    metrics(async || {
        let prometheus = Arc::new(PrometheusMetrics::new());
        MetricsFixture::new(prometheus.clone(), move || read(&prometheus.encode().unwrap()))
    })
    .await;
}

/// The sums of all series, with their label values in order; and the dropped measurements.
fn read(text: &str) -> (Vec<(Metric, Vec<String>, f64)>, u64) {
    let (mut series, mut dropped) = (Vec::new(), 0);
    for line in text.lines().filter(|l| !l.starts_with('#')) {
        let (name, labels, value) = sample(line);
        if name == "forge_telemetry_dropped_measurements_total" {
            dropped = value.parse().unwrap();
        }
        let metric = Metric::ALL.into_iter().find(|m| name == shown(*m));
        series.extend(metric.map(|m| (m, labels, value.parse().unwrap())));
    }
    (series, dropped)
}

/// The name of the sample that holds a metric's sum.
fn shown(metric: Metric) -> String {
    match metric.describe() {
        (name, MetricKind::Counter, ..) => format!("{name}_total"),
        (name, MetricKind::Histogram, ..) => format!("{name}_sum"),
        (name, MetricKind::Gauge, ..) => name.to_owned(),
    }
}

/// Name, label values, value of one line (OpenMetrics 1.0, section 5.1: `\\`, `\"` and `\n` are escaped).
fn sample(line: &str) -> (&str, Vec<String>, &str) {
    let end = line.find(['{', ' ']).unwrap();
    let (name, mut rest) = line.split_at(end);
    let mut labels = Vec::new();
    while let Some((_, value)) = rest.strip_prefix(['{', ',']).and_then(|r| r.split_once("=\"")) {
        let (mut text, mut chars) = (String::new(), value.char_indices());
        let quote = loop {
            match chars.next().unwrap() {
                (_, '\\') => text.push(match chars.next().unwrap().1 {
                    'n' => '\n',
                    other => other,
                }),
                (i, '"') => break i,
                (_, c) => text.push(c),
            }
        };
        labels.push(text);
        rest = &value[quote + 1..];
    }
    (name, labels, rest.strip_prefix('}').unwrap_or(rest).trim())
}
