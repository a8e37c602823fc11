//! Events: what monitors such as Flower see of a worker.

use forge_core::Timestamp;
use serde::Serialize;
use serde_json::{Map, Value};

use super::write::DeliveryInfo;
use super::{body, json, time};

/// Bytes to `PUBLISH`, and where. A `global_keyprefix` goes before the channel.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Publication {
    /// `/{db}.celeryev/{routing key}`, or as the source's prefix and exchange have it.
    pub channel: String,
    /// The message.
    pub message: Vec<u8>,
}

/// Who speaks, and where it is heard.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventSource {
    /// The worker's name, `forge@host`.
    pub hostname: String,
    /// Its process.
    pub pid: u32,
    /// What stands before every channel, kombu's `fanout_prefix`: `/0.` in database 0.
    pub prefix: String,
    /// Celery's `event_exchange`, `celeryev`.
    pub exchange: String,
}

/// When something happened: by the wall clock and by the Lamport clock that orders the events of all workers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The wall clock.
    pub at: Timestamp,
    /// The Lamport clock: one more for each message sent, one more than the larger of both for each received.
    pub clock: u64,
}

/// What a worker says about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerEvent {
    /// It begins.
    Online,
    /// It is there. To monitors it is gone if nothing comes for twice [`WorkerLoad::freq`].
    Heartbeat,
    /// It ends.
    Offline,
}

/// What goes with a [`WorkerEvent`].
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct WorkerLoad {
    /// Seconds between two heartbeats, 2 in Celery.
    pub freq: f64,
    /// Tasks that run.
    pub active: u64,
    /// Tasks done since it began.
    pub processed: u64,
    /// The machine's load over 1, 5 and 15 minutes.
    pub loadavg: [f64; 3],
}

/// Something that happened to a task.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskEvent {
    /// The task's id.
    pub uuid: String,
    /// When.
    pub stamp: Stamp,
    /// What.
    pub kind: TaskEventKind,
}

/// What happened to a task. The texts are for people: redacted, and as [`value_repr`](super::value_repr) writes values.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum TaskEventKind {
    /// A worker took it.
    Received {
        /// Its name.
        name: String,
        /// Its arguments, as text.
        args: String,
        /// Its keyword arguments, as text.
        kwargs: String,
        /// The root of its tree.
        root_id: Option<String>,
        /// The task that sent it.
        parent_id: Option<String>,
        /// Tries before this one.
        retries: u32,
        /// Not before.
        eta: Option<Timestamp>,
        /// Not after.
        expires: Option<Timestamp>,
    },
    /// It runs.
    Started,
    /// It returned.
    Succeeded {
        /// What, as text.
        result: String,
        /// Seconds that it ran.
        runtime: f64,
    },
    /// It raised.
    Failed {
        /// What, as `ValueError('bad thing')`.
        exception: String,
        /// Where.
        traceback: Option<String>,
    },
    /// It raised and comes again.
    Retried {
        /// What it raised.
        exception: String,
        /// Where.
        traceback: Option<String>,
    },
    /// It was stopped or never begun.
    Revoked {
        /// While it ran.
        terminated: bool,
        /// By which signal.
        signum: Option<i32>,
        /// Because its time had passed.
        expired: bool,
    },
    /// A worker would not have it.
    Rejected {
        /// Whether it is in its queue again.
        requeue: bool,
    },
}

impl EventSource {
    /// A worker's word about itself. `tag` is the delivery tag, a fresh UUID in Celery.
    pub fn worker(&self, event: WorkerEvent, load: &WorkerLoad, stamp: Stamp, tag: &str) -> Publication {
        let name = match event {
            WorkerEvent::Online => "worker-online",
            WorkerEvent::Heartbeat => "worker-heartbeat",
            WorkerEvent::Offline => "worker-offline",
        };
        let fields = WorkerFields {
            freq: load.freq,
            active: load.active,
            processed: load.processed,
            loadavg: load.loadavg,
            sw_ident: "forge-queue",
            sw_ver: env!("CARGO_PKG_VERSION"),
            sw_sys: std::env::consts::OS,
        };
        self.publish(&name.replace('-', "."), &self.event(None, stamp, name, fields), tag)
    }

    /// Events of tasks, together in one `task.multi`; Celery's worker sends at most 24 at a time.
    pub fn tasks(&self, events: &[TaskEvent], tag: &str) -> Publication {
        let list: Vec<_> =
            events.iter().map(|e| self.event(Some(&e.uuid), e.stamp, e.kind.name(), e.kind.fields())).collect();
        self.publish("task.multi", &list, tag)
    }

    fn event<'a, F>(&'a self, uuid: Option<&'a str>, stamp: Stamp, name: &'a str, fields: F) -> Event<'a, F> {
        Event {
            hostname: &self.hostname,
            utcoffset: 0.0,
            pid: self.pid,
            clock: stamp.clock,
            uuid,
            fields,
            timestamp: time::seconds(stamp.at),
            name,
        }
    }

    fn publish<T: Serialize>(&self, routing_key: &str, event: &T, tag: &str) -> Publication {
        let headers = Map::from_iter([("hostname".to_owned(), Value::from(self.hostname.as_str()))]);
        Publication {
            channel: format!("{}{}/{routing_key}", self.prefix, self.exchange),
            message: message(event, headers, &self.exchange, routing_key, tag),
        }
    }
}

/// A message that nobody keeps: an event or the answer to a control message.
pub(crate) fn message<T: Serialize>(
    content: &T,
    headers: Map<String, Value>,
    exchange: &str,
    routing_key: &str,
    tag: &str,
) -> Vec<u8> {
    json::write(&Wire {
        body: body::encode(&json::write(content), false),
        content_encoding: "utf-8",
        content_type: "application/json",
        headers,
        properties: Properties {
            delivery_mode: 1,
            delivery_info: DeliveryInfo { exchange, routing_key, redelivered: None },
            priority: 0,
            body_encoding: "base64",
            delivery_tag: tag,
        },
    })
}

#[derive(Serialize)]
struct Wire<'a> {
    body: String,
    #[serde(rename = "content-encoding")]
    content_encoding: &'a str,
    #[serde(rename = "content-type")]
    content_type: &'a str,
    headers: Map<String, Value>,
    properties: Properties<'a>,
}

#[derive(Serialize)]
struct Properties<'a> {
    delivery_mode: u8,
    delivery_info: DeliveryInfo<'a>,
    priority: u8,
    body_encoding: &'a str,
    delivery_tag: &'a str,
}

#[derive(Serialize)]
struct Event<'a, F> {
    hostname: &'a str,
    utcoffset: f64,
    pid: u32,
    clock: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<&'a str>,
    #[serde(flatten)]
    fields: F,
    timestamp: f64,
    #[serde(rename = "type")]
    name: &'a str,
}

#[derive(Serialize)]
struct WorkerFields<'a> {
    freq: f64,
    active: u64,
    processed: u64,
    loadavg: [f64; 3],
    sw_ident: &'a str,
    sw_ver: &'a str,
    sw_sys: &'a str,
}

impl TaskEventKind {
    fn name(&self) -> &'static str {
        match self {
            Self::Received { .. } => "task-received",
            Self::Started => "task-started",
            Self::Succeeded { .. } => "task-succeeded",
            Self::Failed { .. } => "task-failed",
            Self::Retried { .. } => "task-retried",
            Self::Revoked { .. } => "task-revoked",
            Self::Rejected { .. } => "task-rejected",
        }
    }

    fn fields(&self) -> Map<String, Value> {
        let fields = match self {
            Self::Received { name, args, kwargs, root_id, parent_id, retries, eta, expires } => serde_json::json!({
                "name": name, "args": args, "kwargs": kwargs, "root_id": root_id, "parent_id": parent_id,
                "retries": retries, "eta": eta.map(time::iso), "expires": expires.map(time::iso),
            }),
            Self::Started => Value::Null,
            Self::Succeeded { result, runtime } => serde_json::json!({"result": result, "runtime": runtime}),
            Self::Failed { exception, traceback } | Self::Retried { exception, traceback } => {
                serde_json::json!({"exception": exception, "traceback": traceback})
            }
            Self::Revoked { terminated, signum, expired } => {
                serde_json::json!({"terminated": terminated, "signum": signum, "expired": expired})
            }
            Self::Rejected { requeue } => serde_json::json!({"requeue": requeue}),
        };
        match fields {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::celery::Limits;

    fn source() -> EventSource {
        EventSource {
            hostname: "forge@vm".to_owned(),
            pid: 7,
            prefix: "/0.".to_owned(),
            exchange: "celeryev".to_owned(),
        }
    }

    fn stamp(clock: u64) -> Stamp {
        Stamp { at: Timestamp::from_nanos(1_795_395_354_600_000_000), clock }
    }

    /// The event inside, as text: the order of its fields is part of the test.
    fn body_of(p: &Publication) -> String {
        let message: Value = serde_json::from_slice(&p.message).unwrap();
        String::from_utf8(body::decode(message.as_object().unwrap(), &Limits::default()).unwrap().bytes).unwrap()
    }

    #[test]
    fn a_heartbeat_is_as_celery_sends_it() {
        let load = WorkerLoad { freq: 2.0, active: 1, processed: 3, loadavg: [0.77, 0.73, 0.34] };
        let p = source().worker(WorkerEvent::Heartbeat, &load, stamp(2), "tag");
        assert_eq!(p.channel, "/0.celeryev/worker.heartbeat");
        let start = r#"{"hostname": "forge@vm", "utcoffset": 0.0, "pid": 7, "clock": 2, "freq": 2.0, "active": 1, "processed": 3, "loadavg": [0.77, 0.73, 0.34], "sw_ident": "forge-queue""#;
        assert!(body_of(&p).starts_with(start), "{}", body_of(&p));
        assert!(body_of(&p).ends_with(r#""timestamp": 1795395354.6, "type": "worker-heartbeat"}"#));
        let message: Value = serde_json::from_slice(&p.message).unwrap();
        assert_eq!(message["headers"], json!({"hostname": "forge@vm"}));
        assert_eq!(
            message["properties"]["delivery_info"],
            json!({"exchange": "celeryev", "routing_key": "worker.heartbeat"})
        );
    }

    #[test]
    fn events_of_tasks_go_together() {
        let event = |clock, kind| TaskEvent { uuid: "a".to_owned(), stamp: stamp(clock), kind };
        let p = source().tasks(
            &[
                event(3, TaskEventKind::Started),
                event(4, TaskEventKind::Succeeded { result: "5".to_owned(), runtime: 0.5 }),
                event(5, TaskEventKind::Revoked { terminated: true, signum: Some(15), expired: false }),
            ],
            "tag",
        );
        assert_eq!(p.channel, "/0.celeryev/task.multi");
        let events: Value = serde_json::from_str(&body_of(&p)).unwrap();
        assert_eq!(events[0]["type"], "task-started");
        assert_eq!(
            (&events[1]["result"], &events[1]["runtime"], &events[1]["uuid"]),
            (&json!("5"), &json!(0.5), &json!("a"))
        );
        assert_eq!(
            (&events[2]["terminated"], &events[2]["signum"], &events[2]["clock"]),
            (&json!(true), &json!(15), &json!(5))
        );
    }
}
