//! The catalogue in the OpenMetrics text format, on prometheus-client.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Mutex, PoisonError};

use forge_core::metrics::{LABEL_MAX_SIZE, Labels, Metric, MetricKind, Metrics, OTHER};
use forge_core::{Error, Result};
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The content type of [`PrometheusMetrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Seconds; from a cache hit to a slow model.
const BUCKETS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];
/// The default of [`PrometheusMetrics::with_tenant_cap`].
const TENANTS: usize = 1000;
/// The same for the values of any other label.
const VALUES: usize = 1000;

type Names = Vec<(&'static str, String)>;
type Amounts = Counter<f64, std::sync::atomic::AtomicU64>;
type Levels = Gauge<f64, std::sync::atomic::AtomicU64>;

enum Series {
    Counter(Family<Names, Amounts>),
    Gauge(Family<Names, Levels>),
    Histogram(Family<Names, Histogram, fn() -> Histogram>),
}

/// The metrics of one host, in a registry of its own.
///
/// What does not fit is dropped and counted in `forge_telemetry_dropped_measurements_total`: a wrong number of labels, a counter that
/// would fall, a metric of another kind, a duration below
/// zero, a value that is no finite number. Histograms have the buckets 1, 5, 10, 50, 100, 250 and
/// 500 ms, 1, 2.5, 5, 10 and 30 s.
pub struct PrometheusMetrics {
    registry: Registry,
    series: BTreeMap<Metric, Series>,
    dropped: Counter,
    /// The values that have series of their own, by the label's name.
    known: Mutex<BTreeMap<&'static str, BTreeSet<String>>>,
    cap: usize,
}

impl Default for PrometheusMetrics {
    fn default() -> Self {
        Self::new()
    }
}

impl PrometheusMetrics {
    /// Registers the whole catalogue.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let mut series = BTreeMap::new();
        for metric in Metric::ALL {
            let (name, kind, help, _) = metric.describe();
            let one = match kind {
                MetricKind::Counter => {
                    let family = Family::default();
                    registry.register(name, help, family.clone());
                    Series::Counter(family)
                }
                MetricKind::Gauge => {
                    let family = Family::default();
                    registry.register(name, help, family.clone());
                    Series::Gauge(family)
                }
                MetricKind::Histogram => {
                    let make: fn() -> Histogram = || Histogram::new(BUCKETS);
                    let family = Family::new_with_constructor(make);
                    registry.register(name, help, family.clone());
                    Series::Histogram(family)
                }
            };
            series.insert(metric, one);
        }
        let dropped = Counter::default();
        registry.register(
            "forge_telemetry_dropped_measurements",
            "measurements with wrong labels, of a wrong kind or without a finite value",
            dropped.clone(),
        );
        Self { registry, series, dropped, known: Mutex::default(), cap: TENANTS }
    }

    /// How many tenants, the first ones seen, have series of their own; the rest is counted together as tenant `_other`. 1,000 unless
    /// set. Beyond it the sums of the process still hold, a late tenant's do not exist. Every other label has 1,000 values, likewise.
    #[must_use]
    pub fn with_tenant_cap(mut self, tenants: usize) -> Self {
        self.cap = tenants;
        self
    }

    /// The exposition, ending with `# EOF`. A metric without a measurement yet is there with its help and type, so that a dashboard
    /// can tell "nothing happened" from "not measured".
    ///
    /// # Errors
    /// `Unexpected` if a label does not encode.
    pub fn encode(&self) -> Result<String> {
        let mut text = String::new();
        encode(&mut text, &self.registry)
            .map_err(|e| Error::unexpected("metrics.encode", "the exposition does not encode").with_source(e))?;
        let end = "# EOF\n";
        text.truncate(text.len() - text.strip_suffix(end).map_or(0, |_| end.len()));
        // by line, since a label may hold such words too; it cannot hold the end of a line
        let typed = |l: &str| l.strip_prefix("# TYPE ").and_then(|l| l.split(' ').next()).map(str::to_owned);
        let present: BTreeSet<String> = text.lines().filter_map(typed).collect();
        for metric in Metric::ALL {
            let (name, kind, help, _) = metric.describe();
            if !present.contains(name) {
                let kind = match kind {
                    MetricKind::Counter => "counter",
                    MetricKind::Gauge => "gauge",
                    MetricKind::Histogram => "histogram",
                };
                // prometheus-client leaves out families without series, and ends a help with a full stop
                text.push_str(&format!("# HELP {name} {help}.\n# TYPE {name} {kind}\n"));
            }
        }
        text.push_str(end);
        Ok(text)
    }

    /// Names and values side by side; `None` if their numbers differ.
    fn label(&self, metric: Metric, values: Labels<'_>) -> Option<Names> {
        let (_, _, _, names) = metric.describe();
        if names.len() != values.len() {
            return None;
        }
        Some(names.iter().zip(values).map(|(name, value)| (*name, self.bounded(name, value))).collect())
    }

    /// A flood of tenants, or of names that come from outside, must not become a flood of series.
    fn bounded(&self, name: &'static str, value: &str) -> String {
        let cap = if name == "tenant" { self.cap } else { VALUES };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let known = known.entry(name).or_default();
        if known.len() < cap && value.len() <= LABEL_MAX_SIZE && !known.contains(value) {
            known.insert(value.to_owned());
        }
        if known.contains(value) { value.to_owned() } else { OTHER.to_owned() }
    }
}

impl Metrics for PrometheusMetrics {
    fn add(&self, metric: Metric, labels: Labels<'_>, amount: f64) {
        let added = match self.series.get(&metric) {
            _ if !amount.is_finite() => None,
            Some(Series::Counter(family)) if amount >= 0.0 => {
                self.label(metric, labels).map(|names| family.get_or_create(&names).inc_by(amount))
            }
            Some(Series::Gauge(family)) => {
                self.label(metric, labels).map(|names| family.get_or_create(&names).inc_by(amount))
            }
            _ => None,
        };
        if added.is_none() {
            self.dropped.inc();
        }
    }

    fn observe(&self, metric: Metric, labels: Labels<'_>, seconds: f64) {
        let observed = match self.series.get(&metric) {
            Some(Series::Histogram(family)) if seconds.is_finite() && seconds >= 0.0 => {
                self.label(metric, labels).map(|names| family.get_or_create(&names).observe(seconds))
            }
            _ => None,
        };
        if observed.is_none() {
            self.dropped.inc();
        }
    }
}

impl fmt::Debug for PrometheusMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PrometheusMetrics")
    }
}

/// `GET /metrics`. Serve it on a listener of its own, not beside tenants' requests.
#[cfg(feature = "axum")]
pub fn router(metrics: std::sync::Arc<PrometheusMetrics>) -> axum::Router {
    use axum::http::{StatusCode, header};
    use axum::response::IntoResponse;
    let answer = move || {
        let metrics = metrics.clone();
        async move {
            match metrics.encode() {
                Ok(text) => ([(header::CONTENT_TYPE, CONTENT_TYPE)], text).into_response(),
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            }
        }
    };
    axum::Router::new().route("/metrics", axum::routing::get(answer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_catalogue_is_exposed_with_help_and_type() {
        let m = PrometheusMetrics::new();
        let before = m.encode().unwrap();
        assert!(Metric::ALL.iter().all(|m| before.contains(&format!("# TYPE {} ", m.describe().0))), "{before}");
        for metric in Metric::ALL {
            let (_, kind, _, names) = metric.describe();
            let labels = vec!["x\"y\\\n"; names.len()];
            match kind {
                MetricKind::Histogram => m.observe(metric, &labels, 0.2),
                _ => m.add(metric, &labels, 1.0),
            }
        }
        let text = m.encode().unwrap();
        for metric in Metric::ALL {
            let (name, _, help, _) = metric.describe();
            assert!(
                text.contains(&format!("# HELP {name} {help}")) && text.contains(&format!("# TYPE {name} ")),
                "{name}\n{text}"
            );
        }
        assert!(text.contains(r#"tenant="x\"y\\\n""#) && text.ends_with("# EOF\n"), "{text}");
    }

    #[test]
    fn wrong_labels_are_counted_and_tenants_are_capped() {
        let m = PrometheusMetrics::new();
        m.add(Metric::Findings, &["acme"], 1.0);
        m.observe(Metric::Findings, &["acme", "EMAIL"], 1.0);
        m.add(Metric::ToolDuration, &["acme", "weather"], 1.0);
        for bad in [-1.0, f64::NAN, f64::INFINITY] {
            m.add(Metric::Findings, &["acme", "EMAIL"], bad);
            m.observe(Metric::ToolDuration, &["acme", "weather"], bad);
        }
        for n in 0..TENANTS + 5 {
            m.add(Metric::Findings, &[&format!("t{n}"), "EMAIL"], 1.0);
        }
        let text = m.encode().unwrap();
        assert!(text.contains("forge_telemetry_dropped_measurements_total 9"), "{text}");
        assert!(!text.contains(r#"tenant="acme""#), "nothing of what was dropped has a series");
        assert!(text.contains(r#"forge_dlp_findings_total{tenant="_other",kind="EMAIL"} 5.0"#));
    }

    #[test]
    fn the_cap_holds_for_all_metrics_together() {
        let m = PrometheusMetrics::new().with_tenant_cap(1);
        m.add(Metric::Findings, &["acme", "EMAIL"], 1.0);
        m.add(Metric::UsageEvents, &["globex", "weather"], 1.0);
        m.add(Metric::UsageEvents, &["acme", "weather"], 1.0);
        let text = m.encode().unwrap();
        assert!(!text.contains("globex") && text.contains(r#"{tenant="_other",resource="weather"} 1.0"#), "{text}");
        assert!(text.contains(r#"{tenant="acme",resource="weather"} 1.0"#), "{text}");
    }

    #[test]
    fn a_label_cannot_forge_a_line() {
        let m = PrometheusMetrics::new();
        let hostile =
            "x\n# TYPE forge_queue_tasks gauge\n# EOF\nforge_queue_tasks 7 # TYPE forge_workflow_runs counter ";
        m.add(Metric::Findings, &["acme", hostile], 1.0);
        let text = m.encode().unwrap();
        let lines = |start: &str| text.lines().filter(|l| l.starts_with(start)).count();
        assert_eq!((lines("# EOF"), lines("forge_queue_tasks 7")), (1, 0), "{text}");
        assert!(Metric::ALL.iter().all(|m| lines(&format!("# TYPE {} ", m.describe().0)) == 1), "{text}");
    }

    #[test]
    fn tenants_have_series_of_their_own() {
        let m = PrometheusMetrics::new();
        m.add(Metric::Findings, &["acme", "EMAIL"], 2.0);
        m.add(Metric::Findings, &["globex", "EMAIL"], 3.0);
        let text = m.encode().unwrap();
        assert!(
            text.contains(r#"{tenant="acme",kind="EMAIL"} 2.0"#)
                && text.contains(r#"{tenant="globex",kind="EMAIL"} 3.0"#)
        );
    }
}
