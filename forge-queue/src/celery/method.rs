//! What control messages ask, by Celery's names.

use serde_json::{Map, Value};

use super::Malformed;
use super::body::text;

/// What is asked of a worker. Celery knows more; they are [`Other`](Self::Other).
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// Are you there?
    Ping,
    /// A worker that begins asks for the revoked ids.
    Hello {
        /// Its name.
        from_node: String,
        /// The ids that it knows.
        revoked: Value,
    },
    /// Counts and configuration of the worker.
    Stats,
    /// Tasks that run.
    Active,
    /// Tasks taken and not begun.
    Reserved,
    /// Tasks taken that wait for their time.
    Scheduled,
    /// Ids revoked.
    Revoked,
    /// Names of the tasks it has.
    Registered,
    /// Queues that it takes from.
    ActiveQueues,
    /// Its configuration.
    Conf,
    /// A report for people.
    Report,
    /// Its Lamport clock.
    Clock,
    /// What is known of these tasks.
    QueryTask {
        /// Which.
        ids: Vec<String>,
    },
    /// A heartbeat event, now.
    Heartbeat,
    /// Events on.
    EnableEvents,
    /// Events off.
    DisableEvents,
    /// Do not begin these tasks; with `terminate` stop those that run.
    Revoke {
        /// Which.
        ids: Vec<String>,
        /// Those that run too. `terminate` of the older name is this.
        terminate: bool,
        /// By which signal.
        signal: Option<String>,
    },
    /// The same for all tasks with one of these stamps.
    RevokeByStampedHeaders {
        /// Values by stamp.
        headers: Map<String, Value>,
        /// Those that run too.
        terminate: bool,
        /// By which signal.
        signal: Option<String>,
    },
    /// How often a task may run: `10/m`.
    RateLimit {
        /// Which task.
        task_name: String,
        /// How often; 0 for as often as it comes.
        rate_limit: String,
    },
    /// Time limits of a task.
    TimeLimit {
        /// Which task.
        task_name: String,
        /// Hard limit in seconds.
        hard: Option<f64>,
        /// Soft limit in seconds.
        soft: Option<f64>,
    },
    /// Take from this queue too.
    AddConsumer {
        /// Which.
        queue: String,
    },
    /// Take no more from this queue.
    CancelConsumer {
        /// Which.
        queue: String,
    },
    /// More tasks at a time.
    PoolGrow {
        /// How many more.
        n: u64,
    },
    /// Fewer tasks at a time.
    PoolShrink {
        /// How many fewer.
        n: u64,
    },
    /// Between so many tasks at a time.
    Autoscale {
        /// At most.
        max: Option<u64>,
        /// At least.
        min: Option<u64>,
    },
    /// End.
    Shutdown,
    /// Something else.
    Other {
        /// Its name.
        method: String,
        /// Its arguments.
        arguments: Map<String, Value>,
    },
}

impl Method {
    /// The names that start with `dump_` are those of old versions.
    pub(super) fn read(method: &str, arguments: Map<String, Value>) -> Result<Self, Malformed> {
        let a = &arguments;
        let wrong = Malformed::BadControl;
        let name = |key: &str| text(a.get(key)).map(str::to_owned);
        let flag = |key: &str| a.get(key).and_then(Value::as_bool).unwrap_or(false);
        let ids = |key: &str| a.get(key).and_then(strings).ok_or(wrong);
        let number = |key: &str| a.get(key).and_then(Value::as_u64);
        Ok(match method {
            "ping" => Self::Ping,
            "hello" => Self::Hello {
                from_node: name("from_node").ok_or(wrong)?,
                revoked: a.get("revoked").cloned().unwrap_or_default(),
            },
            "stats" => Self::Stats,
            "active" | "dump_active" => Self::Active,
            "reserved" | "dump_reserved" => Self::Reserved,
            "scheduled" | "dump_schedule" => Self::Scheduled,
            "revoked" | "dump_revoked" => Self::Revoked,
            "registered" | "dump_tasks" => Self::Registered,
            "active_queues" => Self::ActiveQueues,
            "conf" | "dump_conf" => Self::Conf,
            "report" => Self::Report,
            "clock" => Self::Clock,
            "query_task" => Self::QueryTask { ids: ids("ids")? },
            "heartbeat" => Self::Heartbeat,
            "enable_events" => Self::EnableEvents,
            "disable_events" => Self::DisableEvents,
            "revoke" => Self::Revoke { ids: ids("task_id")?, terminate: flag("terminate"), signal: name("signal") },
            "terminate" => Self::Revoke { ids: ids("task_id")?, terminate: true, signal: name("signal") },
            "revoke_by_stamped_headers" => Self::RevokeByStampedHeaders {
                headers: stamps(a.get("headers")).ok_or(wrong)?,
                terminate: flag("terminate"),
                signal: name("signal"),
            },
            "rate_limit" => Self::RateLimit {
                task_name: name("task_name").ok_or(wrong)?,
                rate_limit: match a.get("rate_limit") {
                    Some(Value::String(rate)) => rate.clone(),
                    Some(Value::Number(rate)) => rate.to_string(),
                    None | Some(Value::Null) => "0".to_owned(),
                    Some(_) => return Err(wrong),
                },
            },
            "time_limit" => Self::TimeLimit {
                task_name: name("task_name").ok_or(wrong)?,
                hard: a.get("hard").and_then(Value::as_f64),
                soft: a.get("soft").and_then(Value::as_f64),
            },
            "add_consumer" => Self::AddConsumer { queue: name("queue").ok_or(wrong)? },
            "cancel_consumer" => Self::CancelConsumer { queue: name("queue").ok_or(wrong)? },
            "pool_grow" => Self::PoolGrow { n: number("n").unwrap_or(1) },
            "pool_shrink" => Self::PoolShrink { n: number("n").unwrap_or(1) },
            "autoscale" => Self::Autoscale { max: number("max"), min: number("min") },
            "shutdown" => Self::Shutdown,
            other => Self::Other { method: other.to_owned(), arguments },
        })
    }
}

/// One text or a list of texts.
pub(super) fn strings(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(one) => Some(vec![one.clone()]),
        Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

/// `{"stamp": value}`, or `["stamp=value"]` from the command line.
fn stamps(value: Option<&Value>) -> Option<Map<String, Value>> {
    match value? {
        Value::Object(map) => Some(map.clone()),
        list => strings(list)?
            .iter()
            .map(|pair| pair.split_once('=').map(|(k, v)| (k.to_owned(), Value::from(v))))
            .collect(),
    }
}
