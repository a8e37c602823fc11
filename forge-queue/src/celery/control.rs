//! Control messages: what `celery control`, `celery inspect` and Flower ask of workers.

use forge_core::Timestamp;
use serde_json::{Map, Value};

use super::body::text;
use super::glob::glob;
use super::method::strings;
use super::{Limits, Malformed, Method, body, event, json, time};

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

/// A command to all workers that listen to `exchange`, Celery's `control_exchange`. Nobody answers it.
pub(crate) fn control_message(method: &str, arguments: &Value, exchange: &str, clock: u64, tag: &str) -> Vec<u8> {
    let content = serde_json::json!({
        "method": method, "arguments": arguments, "destination": null, "pattern": null, "matcher": null,
    });
    let headers = Map::from_iter([("clock".to_owned(), Value::from(clock))]);
    event::message(&content, headers, &format!("{exchange}.pidbox"), "", tag)
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
}
