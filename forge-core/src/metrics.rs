//! Business metrics: a closed catalogue and a closed set of labels, so that no request id can ever become one.

use std::fmt;

/// What kind of series a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// Only rises.
    Counter,
    /// Rises and falls.
    Gauge,
    /// A distribution; in seconds.
    Histogram,
}

/// The catalogue. The exposition, the dashboards and the tests are made from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[non_exhaustive]
pub enum Metric {
    /// Decisions of the guard, by `tenant`, `resource` and `result`.
    Decisions,
    /// Tool calls that were executed, by `tenant`, `resource` and `result`.
    ToolCalls,
    /// Their duration.
    ToolDuration,
    /// Attempts, retries included.
    Attempts,
    /// Model calls, by `tenant`, `resource` and `result`.
    ModelCalls,
    /// Findings of sensitive text, by `tenant` and `kind`.
    Findings,
    /// Usage events recorded, by `tenant` and `resource`.
    UsageEvents,
    /// Workflow runs that ended, by `tenant`, `resource` and `result`.
    Runs,
    /// Duration of workflow steps, by `tenant` and `resource`.
    StepDuration,
    /// Queued tasks that ended, by `tenant`, `resource` and `result`.
    Tasks,
}

impl Metric {
    /// Every metric.
    pub const ALL: [Self; 10] = [
        Self::Decisions,
        Self::ToolCalls,
        Self::ToolDuration,
        Self::Attempts,
        Self::ModelCalls,
        Self::Findings,
        Self::UsageEvents,
        Self::Runs,
        Self::StepDuration,
        Self::Tasks,
    ];

    /// Name (without the suffix that the exposition adds), kind, help and label names.
    pub fn describe(self) -> (&'static str, MetricKind, &'static str, &'static [&'static str]) {
        use MetricKind::{Counter, Histogram};
        const TRR: &[&str] = &["tenant", "resource", "result"];
        const TR: &[&str] = &["tenant", "resource"];
        match self {
            Self::Decisions => ("forge_guard_decisions", Counter, "decisions of the guard", TRR),
            Self::ToolCalls => ("forge_tool_calls", Counter, "tool calls that were executed", TRR),
            Self::ToolDuration => ("forge_tool_call_duration_seconds", Histogram, "duration of tool calls", TR),
            Self::Attempts => ("forge_guard_attempts", Counter, "attempts at calls, retries included", TRR),
            Self::ModelCalls => ("forge_model_calls", Counter, "model calls that were executed", TRR),
            Self::Findings => ("forge_dlp_findings", Counter, "sensitive spans found", &["tenant", "kind"]),
            Self::UsageEvents => ("forge_usage_events", Counter, "usage events recorded", TR),
            Self::Runs => ("forge_workflow_runs", Counter, "workflow runs that ended", TRR),
            Self::StepDuration => ("forge_workflow_step_duration_seconds", Histogram, "duration of workflow steps", TR),
            Self::Tasks => ("forge_queue_tasks", Counter, "queued tasks that ended", TRR),
        }
    }
}

/// Label values, in the order of the metric's label names. A tenant slug may be a value; an employee, request or case never.
pub type Labels<'a> = &'a [&'a str];

/// Takes measurements. Never blocks, never fails.
///
/// # Contract
/// - What does not fit is dropped and counted, and leaves no series: a wrong number of labels, a metric of another kind, a value that is no
///   finite number, a counter that would fall, a duration below zero.
/// - Series are apart by all their labels, the tenant's first of all. A label may hold any text: it is escaped where it is shown.
/// - A label has no more than 10,000 different values, unless the host asks for more, and none longer than [`LABEL_MAX_SIZE`]; the rest is
///   counted together as [`OTHER`], so that sums hold. What has a series of its own keeps it.
pub trait Metrics: fmt::Debug + Send + Sync + 'static {
    /// Adds to a counter or a gauge.
    fn add(&self, metric: Metric, labels: Labels<'_>, amount: f64);

    /// Puts a value into a histogram, in seconds.
    fn observe(&self, metric: Metric, labels: Labels<'_>, seconds: f64);
}

/// Stands for the values of a label that have no series of their own. No id begins with an underscore.
pub const OTHER: &str = "_other";

/// The longest value of a label, in bytes.
pub const LABEL_MAX_SIZE: usize = 128;

/// Takes measurements and drops them: for a host without telemetry.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoMetrics;

impl Metrics for NoMetrics {
    fn add(&self, _: Metric, _: Labels<'_>, _: f64) {}
    fn observe(&self, _: Metric, _: Labels<'_>, _: f64) {}
}
