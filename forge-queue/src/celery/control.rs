//! Control messages: what `celery control`, `celery inspect` and Flower ask of workers.

use forge_core::Timestamp;
use serde_json::{Map, Value};

use super::body::text;
use super::{Limits, Malformed, body, event, json, time};

/// A message of `/{db}.celery.pidbox`.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct ControlMessage {
    /// What is asked.
    pub method: Method,
    /// Only these workers; all, or those of the pattern, where there is none.
    pub destination: Option<Vec<String>>,
    /// Only workers of this pattern.
    pub pattern: Option<Pattern>,
    /// Where the answer goes; nowhere for a command that wants none.
    pub reply_to: Option<ReplyTo>,
    /// The sender's Lamport clock.
    pub clock: u64,
    /// Not to be obeyed after this time: nobody waits any longer.
    pub expires: Option<Timestamp>,
}

/// Which workers, by name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Pattern {
    /// As file names are matched: `*`, `?`, `[seq]`, `[!seq]`.
    Glob(String),
    /// A regular expression of Python's, or a matcher that somebody registered. No worker of ours is meant.
    Other(String),
}

/// Where an answer goes: to the queue that is bound to `exchange` under `routing_key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplyTo {
    /// `reply.celery.pidbox`.
    pub exchange: String,
    /// The asking process.
    pub routing_key: String,
    /// Which question it was.
    pub ticket: String,
}

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

impl ControlMessage {
    /// Reads a message of the control channel. Total, as [`Envelope::parse`](super::Envelope::parse) is.
    ///
    /// # Errors
    /// [`Malformed::BadControl`], and what is wrong with a message of any kind.
    pub fn parse(raw: &[u8], limits: &Limits) -> Result<Self, Malformed> {
        if raw.len() > limits.envelope {
            return Err(Malformed::TooLarge);
        }
        let message = json::parse(raw)?;
        let message = message.as_object().ok_or(Malformed::NotAnObject)?;
        let content = json::parse(&body::decode(message, limits)?.bytes)?;
        let content = content.as_object().ok_or(Malformed::BadControl)?;
        let headers = message.get("headers").and_then(Value::as_object);
        let header = |name: &str| headers.and_then(|h| h.get(name));
        let method = text(content.get("method")).ok_or(Malformed::BadControl)?;
        let arguments = match content.get("arguments") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(arguments)) => arguments.clone(),
            Some(_) => return Err(Malformed::BadControl),
        };
        Ok(Self {
            method: Method::read(method, arguments)?,
            destination: match content.get("destination") {
                None | Some(Value::Null) => None,
                // an empty list is nobody in particular, so everybody
                Some(names) => Some(strings(names).ok_or(Malformed::BadControl)?).filter(|names| !names.is_empty()),
            },
            pattern: Pattern::read(content),
            reply_to: ReplyTo::read(content)?,
            clock: header("clock").and_then(Value::as_u64).unwrap_or(0),
            expires: time::read(header("expires")).map_err(|()| Malformed::BadControl)?,
        })
    }

    /// Whether the worker of this name is meant.
    pub fn is_for(&self, hostname: &str) -> bool {
        match (&self.destination, &self.pattern) {
            (Some(names), _) => names.iter().any(|name| name == hostname),
            (None, Some(Pattern::Glob(pattern))) => glob(pattern, hostname),
            (None, Some(Pattern::Other(_))) => false,
            (None, None) => true,
        }
    }

    /// Whether nobody waits for it any longer.
    pub fn is_expired(&self, now: Timestamp) -> bool {
        self.expires.is_some_and(|expires| now > expires)
    }
}

impl ReplyTo {
    /// The message to push to the queue behind [`exchange`](Self::exchange) and [`routing_key`](Self::routing_key): the worker's name and
    /// its answer. `clock` is the worker's Lamport clock, `tag` the delivery tag.
    pub fn message(&self, hostname: &str, answer: Value, clock: u64, tag: &str) -> Vec<u8> {
        let content = Map::from_iter([(hostname.to_owned(), answer)]);
        let headers = Map::from_iter([
            ("ticket".to_owned(), Value::from(self.ticket.as_str())),
            ("clock".to_owned(), Value::from(clock)),
        ]);
        event::message(&content, headers, &self.exchange, &self.routing_key, tag)
    }

    fn read(content: &Map<String, Value>) -> Result<Option<Self>, Malformed> {
        let to = match content.get("reply_to") {
            None | Some(Value::Null) => return Ok(None),
            Some(to) => to,
        };
        let part = |value: Option<&Value>| text(value).map(str::to_owned).ok_or(Malformed::BadControl);
        Ok(Some(Self {
            exchange: part(to.get("exchange"))?,
            routing_key: part(to.get("routing_key"))?,
            ticket: part(content.get("ticket"))?,
        }))
    }
}

impl Pattern {
    /// Kombu asks for both: a pattern without a matcher is passed over.
    fn read(content: &Map<String, Value>) -> Option<Self> {
        let pattern = text(content.get("pattern")).filter(|s| !s.is_empty())?.to_owned();
        match text(content.get("matcher")).filter(|s| !s.is_empty())? {
            "glob" => Some(Self::Glob(pattern)),
            _ => Some(Self::Other(pattern)),
        }
    }
}

impl Method {
    /// The names that start with `dump_` are those of old versions.
    fn read(method: &str, arguments: Map<String, Value>) -> Result<Self, Malformed> {
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
fn strings(value: &Value) -> Option<Vec<String>> {
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

/// Python's `fnmatch`, in time proportional to the product of the lengths whatever the pattern.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    // which prefixes of the pattern match the name so far, as offsets into the pattern
    let mut at = past_stars(&pattern, vec![0]);
    for c in name {
        let next = at.into_iter().filter_map(|p| step(&pattern, p, c)).collect();
        at = past_stars(&pattern, next);
    }
    at.contains(&pattern.len())
}

/// Adds the places behind a `*`, which may stand for nothing.
fn past_stars(pattern: &[char], mut at: Vec<usize>) -> Vec<usize> {
    let mut i = 0;
    while let Some(p) = at.get(i).copied() {
        if pattern.get(p) == Some(&'*') {
            at.push(p + 1);
        }
        i += 1;
    }
    at.sort_unstable();
    at.dedup();
    at
}

/// Where the pattern goes on from `p` after the character `c`.
fn step(pattern: &[char], p: usize, c: char) -> Option<usize> {
    let rest = pattern.get(p..)?;
    match rest.first()? {
        '*' => Some(p),
        '?' => Some(p + 1),
        '[' => match class(rest) {
            Some((len, set, negated)) => (contains(set, c) != negated).then_some(p + len),
            None => (c == '[').then_some(p + 1),
        },
        literal => (*literal == c).then_some(p + 1),
    }
}

/// The length of `[…]` at the front, what is inside, and whether it begins with `!`. A `]` right after the opening is a member.
fn class(rest: &[char]) -> Option<(usize, &[char], bool)> {
    let negated = rest.get(1) == Some(&'!');
    let start = if negated { 2 } else { 1 };
    let close = rest.iter().skip(start + 1).position(|c| *c == ']')? + start + 1;
    Some((close + 1, rest.get(start..close)?, negated))
}

fn contains(set: &[char], c: char) -> bool {
    let ranges = set.windows(3).any(|w| matches!(w, [a, '-', b] if (a..=b).contains(&&c)));
    ranges || set.contains(&c)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn control(content: Value) -> Result<ControlMessage, Malformed> {
        let headers = Map::from_iter([("clock".to_owned(), json!(4)), ("expires".to_owned(), json!(100.5))]);
        ControlMessage::parse(&event::message(&content, headers, "celery.pidbox", "", "tag"), &Limits::default())
    }

    #[test]
    fn a_question_is_answered_where_it_came_from() {
        let m =
            control(json!({"method": "ping", "arguments": {}, "destination": null, "pattern": null, "matcher": null,
            "ticket": "t", "reply_to": {"exchange": "reply.celery.pidbox", "routing_key": "oid"}}))
            .unwrap();
        assert_eq!((&m.method, m.clock), (&Method::Ping, 4));
        assert!(m.is_for("w1@vm") && !m.is_expired(Timestamp::from_nanos(100_500_000_000)));
        assert!(m.is_expired(Timestamp::from_nanos(100_500_001_000)));

        let reply: Value =
            serde_json::from_slice(&m.reply_to.unwrap().message("w1@vm", json!({"ok": "pong"}), 5, "d")).unwrap();
        assert_eq!(reply["headers"], json!({"ticket": "t", "clock": 5}));
        assert_eq!(
            reply["properties"]["delivery_info"],
            json!({"exchange": "reply.celery.pidbox", "routing_key": "oid"})
        );
        let answer = body::decode(reply.as_object().unwrap(), &Limits::default()).unwrap().bytes;
        assert_eq!(answer, br#"{"w1@vm": {"ok": "pong"}}"#);
    }

    #[test]
    fn methods_are_read_with_their_arguments() {
        for (method, arguments, read) in [
            (
                "revoke",
                json!({"task_id": "a"}),
                Method::Revoke { ids: vec!["a".into()], terminate: false, signal: None },
            ),
            (
                "terminate",
                json!({"task_id": ["a", "b"], "signal": "KILL"}),
                Method::Revoke { ids: vec!["a".into(), "b".into()], terminate: true, signal: Some("KILL".into()) },
            ),
            (
                "rate_limit",
                json!({"task_name": "t", "rate_limit": 5}),
                Method::RateLimit { task_name: "t".into(), rate_limit: "5".into() },
            ),
            ("dump_tasks", json!(null), Method::Registered),
            ("pool_grow", json!({}), Method::PoolGrow { n: 1 }),
            (
                "election",
                json!({"id": 1}),
                Method::Other { method: "election".into(), arguments: Map::from_iter([("id".into(), json!(1))]) },
            ),
        ] {
            assert_eq!(control(json!({"method": method, "arguments": arguments})).unwrap().method, read);
        }
        for bad in [
            json!([]),
            json!({"arguments": {}}),
            json!({"method": "revoke", "arguments": {}}),
            json!({"method": "ping", "arguments": []}),
            json!({"method": "ping", "destination": 5}),
            json!({"method": "ping", "reply_to": {"exchange": "e", "routing_key": "r"}}),
        ] {
            assert_eq!(control(bad.clone()), Err(Malformed::BadControl), "{bad}");
        }
    }

    #[test]
    fn only_those_who_are_meant_listen() {
        let to = |destination: Value, pattern: Value, matcher: Value| {
            control(json!({"method": "ping", "destination": destination, "pattern": pattern, "matcher": matcher}))
                .unwrap()
        };
        assert!(to(json!(["w1@vm"]), json!(null), json!(null)).is_for("w1@vm"));
        assert!(!to(json!(["w2@vm"]), json!("*"), json!("glob")).is_for("w1@vm"));
        assert!(to(json!([]), json!(null), json!(null)).is_for("w1@vm"));
        assert!(to(json!(null), json!("w?@*"), json!("glob")).is_for("w1@vm"));
        assert!(!to(json!(null), json!(".*"), json!("pcre")).is_for("w1@vm"));
    }

    #[test]
    fn patterns_match_as_in_python() {
        for (pattern, name, matches) in [
            ("", "", true),
            ("*", "", true),
            ("a*c", "abbc", true),
            ("a*c", "abb", false),
            ("w[0-9]@*", "w1@vm", true),
            ("w[!0-9]@*", "w1@vm", false),
            ("w[]x]", "w]", true),
            ("w[", "w[", true),
            ("?", "ab", false),
            ("ä*", "ä€", true),
        ] {
            assert_eq!(glob(pattern, name), matches, "{pattern} {name}");
        }
        assert!(!glob(&"*a".repeat(500), &"a".repeat(400)));
    }
}
