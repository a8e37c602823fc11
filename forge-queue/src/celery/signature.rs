//! Signatures: the tasks that a task carries, to be sent after it.

use std::time::Duration;

use forge_core::Timestamp;
use serde_json::{Map, Value, json};

use super::body::owned;
use super::{Embed, Envelope, Malformed, parse, time};

/// A task that is not sent yet, as `callbacks`, `errbacks`, `chain` and `chord` hold it.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Signature {
    /// Which task, by name.
    pub task: String,
    /// Its own arguments; those of the parent go before them.
    pub args: Vec<Value>,
    /// Its keyword arguments.
    pub kwargs: Map<String, Value>,
    /// How it is sent: `queue`, `task_id`, `group_id`, `countdown`, `chain` and what else `apply_async` takes.
    pub options: Map<String, Value>,
    /// `chain`, `group`, `chord` and the like for a signature that is made of others: sending it means sending those.
    pub subtask_type: Option<String>,
    /// Whether the parent's result is kept from it.
    pub immutable: bool,
}

/// The options that have a field of the envelope, or say how to send and are no part of the message. Celery puts the rest into the
/// properties.
const OPTIONS: [&str; 40] = [
    "task_id",
    "queue",
    "exchange",
    "exchange_type",
    "routing_key",
    "priority",
    "reply_to",
    "group_id",
    "group_index",
    "root_id",
    "parent_id",
    "chain",
    "chord",
    "link",
    "link_error",
    "countdown",
    "eta",
    "expires",
    "expiration",
    "retries",
    "time_limit",
    "soft_time_limit",
    "shadow",
    "headers",
    "stamped_headers",
    "ignore_result",
    "replaced_task_nesting",
    "serializer",
    "compression",
    "retry",
    "retry_policy",
    "delivery_mode",
    "declare",
    "timeout",
    "confirm_timeout",
    "route_name",
    "add_to_parent",
    "mandatory",
    "immediate",
    "argsrepr",
];

impl Signature {
    /// A task without arguments and options.
    pub fn new(task: impl Into<String>) -> Self {
        Self {
            task: task.into(),
            args: Vec::new(),
            kwargs: Map::new(),
            options: Map::new(),
            subtask_type: None,
            immutable: false,
        }
    }

    /// Reads a signature out of an [`Embed`].
    ///
    /// # Errors
    /// [`Malformed::BadSignature`].
    pub fn read(value: &Value) -> Result<Self, Malformed> {
        let map = value.as_object().ok_or(Malformed::BadSignature)?;
        let list = optional(map, "args", |v| v.as_array().cloned())?;
        Ok(Self {
            task: optional(map, "task", owned)?.filter(|s| !s.is_empty()).ok_or(Malformed::BadSignature)?,
            args: list.unwrap_or_default(),
            kwargs: optional(map, "kwargs", |v| v.as_object().cloned())?.unwrap_or_default(),
            options: optional(map, "options", |v| v.as_object().cloned())?.unwrap_or_default(),
            subtask_type: optional(map, "subtask_type", owned)?,
            immutable: optional(map, "immutable", Value::as_bool)?.unwrap_or(false),
        })
    }

    /// The next task of the chain that `parent` is in, with the rest of the chain in its options; nothing at the chain's end.
    ///
    /// # Errors
    /// [`Malformed::BadSignature`].
    pub fn next_in_chain(parent: &Envelope) -> Result<Option<Self>, Malformed> {
        let Some((next, rest)) = parent.embed().chain.as_deref().and_then(<[Value]>::split_last) else {
            return Ok(None);
        };
        let mut next = Self::read(next)?;
        next.options.insert("chain".to_owned(), rest.into());
        Ok(Some(next))
    }

    /// As Celery writes it.
    pub fn to_value(&self) -> Value {
        json!({"task": self.task, "args": self.args, "kwargs": self.kwargs, "options": self.options,
            "subtask_type": self.subtask_type, "immutable": self.immutable})
    }

    /// The message that a worker sends after `parent`: with `prepend` before its own arguments unless it is immutable, `parent` as its
    /// parent and `parent`'s root as its root. For callbacks and chains `prepend` is the result, for errbacks the id of the failed task.
    ///
    /// `id` is taken where the signature names none; derived from the parent's id and the place, it stays the same if a worker stops
    /// here and another comes this way again. `now` is what `countdown` and `expires` count from. Where the signature names no queue the
    /// routing key is empty, and the sender's own routing decides.
    ///
    /// A signature with a [`subtask_type`](Self::subtask_type) is to be taken apart first.
    ///
    /// # Errors
    /// [`Malformed::BadSignature`] for options of the wrong type, [`Malformed::TooDeep`].
    pub fn to_envelope(
        &self,
        parent: &Envelope,
        prepend: &[Value],
        id: &str,
        now: Timestamp,
    ) -> Result<Envelope, Malformed> {
        let o = &self.options;
        let id = optional(o, "task_id", owned)?.unwrap_or_else(|| id.to_owned());
        let mut args = if self.immutable { Vec::new() } else { prepend.to_vec() };
        args.extend(self.args.iter().cloned());
        let embed = Embed {
            callbacks: signatures(o, "link")?,
            errbacks: signatures(o, "link_error")?,
            chain: signatures(o, "chain")?,
            chord: o.get("chord").filter(|v| !v.is_null()).cloned(),
        };
        let mut e = Envelope::new(id, &self.task).with_content(args, self.kwargs.clone(), embed)?;
        e.root_id = Some(parent.root_id.clone().unwrap_or_else(|| parent.id.clone()));
        e.parent_id = Some(parent.id.clone());
        e.eta = match o.get("countdown").and_then(Value::as_f64).filter(|s| *s != 0.0) {
            Some(countdown) => Some(after(now, countdown)),
            None => time::read(o.get("eta")).map_err(|()| Malformed::BadSignature)?,
        };
        e.expires = match o.get("expires").and_then(Value::as_f64) {
            Some(seconds) => Some(after(now, seconds)),
            None => time::read(o.get("expires")).map_err(|()| Malformed::BadSignature)?,
        };
        e.retries = optional(o, "retries", Value::as_u64)?.map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX));
        e.replaced_task_nesting =
            optional(o, "replaced_task_nesting", Value::as_u64)?.map_or(0, |n| u32::try_from(n).unwrap_or(u32::MAX));
        e.time_limit = optional(o, "time_limit", Value::as_f64)?;
        e.soft_time_limit = optional(o, "soft_time_limit", Value::as_f64)?;
        e.group = optional(o, "group_id", owned)?;
        e.group_index = optional(o, "group_index", Value::as_u64)?;
        e.ignore_result = optional(o, "ignore_result", Value::as_bool)?;
        e.shadow = optional(o, "shadow", owned)?;
        e.reply_to = optional(o, "reply_to", owned)?;
        e.priority = o.get("priority").map_or(0, parse::priority);
        e.compressed =
            matches!(o.get("compression").and_then(Value::as_str), Some("gzip" | "zlib" | "application/x-gzip"));
        self.route(&mut e)?;
        self.stamp(&mut e)?;
        Ok(e)
    }

    /// To the queue by name through the empty exchange, as Celery does for direct exchanges; else to what exchange and key say.
    fn route(&self, e: &mut Envelope) -> Result<(), Malformed> {
        // kombu writes a declared queue as an object
        let queue = |v: &Value| v.as_str().or_else(|| v.get("name")?.as_str()).map(str::to_owned);
        match optional(&self.options, "queue", queue)? {
            Some(queue) => e.routing_key = queue,
            None => {
                e.exchange = optional(&self.options, "exchange", owned)?.unwrap_or_default();
                e.routing_key = optional(&self.options, "routing_key", owned)?.unwrap_or_default();
            }
        }
        Ok(())
    }

    /// Headers, stamps, and properties.
    fn stamp(&self, e: &mut Envelope) -> Result<(), Malformed> {
        let o = &self.options;
        e.extra = optional(o, "headers", |v| v.as_object().cloned())?.unwrap_or_default();
        e.extra.retain(|key, _| !parse::HEADERS.contains(&key.as_str()));
        e.stamped_headers = optional(o, "stamped_headers", |v| v.as_array()?.iter().map(owned).collect())?;
        let stamped = e.stamped_headers.as_deref().unwrap_or_default();
        e.stamps = stamped.iter().filter_map(|key| Some((key.clone(), o.get(key)?.clone()))).collect();
        let is_property =
            |key: &String| !OPTIONS.contains(&key.as_str()) && key != "kwargsrepr" && !stamped.contains(key);
        e.properties = o.iter().filter(|(k, _)| is_property(k)).map(|(k, v)| (k.clone(), v.clone())).collect();
        e.properties.retain(|key, _| !parse::PROPERTIES.contains(&key.as_str()));
        Ok(())
    }
}

/// One signature or a list of them, which is Celery's `maybe_list`.
fn signatures(o: &Map<String, Value>, name: &str) -> Result<Option<Vec<Value>>, Malformed> {
    optional(o, name, |v| match v {
        Value::Array(list) => Some(list.clone()),
        Value::Object(_) => Some(vec![v.clone()]),
        _ => None,
    })
}

fn after(now: Timestamp, seconds: f64) -> Timestamp {
    now.after(Duration::try_from_secs_f64(seconds).unwrap_or(if seconds < 0.0 {
        Duration::ZERO
    } else {
        Duration::MAX
    }))
}

fn optional<T>(
    map: &Map<String, Value>,
    name: &str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, Malformed> {
    match map.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or(Malformed::BadSignature),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp::from_nanos(1_000_000_000);

    fn signature(options: Value) -> Signature {
        let dict = json!({"task": "t.add", "args": [4], "kwargs": {"k": 1}, "options": options, "subtask_type": null, "immutable": false});
        let read = Signature::read(&dict).unwrap();
        assert_eq!(read.to_value(), dict);
        read
    }

    #[test]
    fn a_chain_goes_on_from_its_end() {
        let chain = vec![
            json!({"task": "t.last", "options": {"task_id": "c"}}),
            json!({"task": "t.second", "options": {"task_id": "b"}}),
        ];
        let embed = Embed { chain: Some(chain), ..Embed::default() };
        let first = Envelope::new("a", "t.first").with_content(Vec::new(), Map::new(), embed).unwrap();

        let second = Signature::next_in_chain(&first).unwrap().unwrap();
        let second = second.to_envelope(&first, &[json!(3)], "unused", NOW).unwrap();
        assert_eq!((second.id.as_str(), second.task.as_str(), second.args()), ("b", "t.second", &[json!(3)][..]));
        assert_eq!((second.root_id.as_deref(), second.parent_id.as_deref()), (Some("a"), Some("a")));

        let third = Signature::next_in_chain(&second).unwrap().unwrap();
        let third = third.to_envelope(&second, &[], "unused", NOW).unwrap();
        assert_eq!(
            (third.id.as_str(), third.root_id.as_deref(), third.parent_id.as_deref()),
            ("c", Some("a"), Some("b"))
        );
        assert_eq!(Signature::next_in_chain(&third), Ok(None));
    }

    #[test]
    fn options_become_fields() {
        let parent = Envelope::new("p", "t");
        let s = signature(
            json!({"queue": "q2", "group_id": "g", "group_index": 1, "countdown": 1.5, "expires": 60, "priority": 12,
            "link": {"task": "t.cb"}, "link_error": [{"task": "t.err"}], "chord": {"task": "t.sum"}, "user_id": "u", "serializer": "json",
            "stamped_headers": ["tenant"], "tenant": "acme", "headers": {"traceparent": "00", "id": "spoofed"}}),
        );
        let e = s.to_envelope(&parent, &[json!(3)], "derived", NOW).unwrap();
        assert_eq!(
            (e.id.as_str(), e.args(), e.routing_key.as_str(), e.priority),
            ("derived", &[json!(3), json!(4)][..], "q2", 9)
        );
        assert_eq!((e.group.as_deref(), e.group_index), (Some("g"), Some(1)));
        assert_eq!(e.eta, Some(Timestamp::from_nanos(2_500_000_000)));
        assert_eq!(e.expires, Some(Timestamp::from_nanos(61_000_000_000)));
        assert_eq!(e.embed().callbacks, Some(vec![json!({"task": "t.cb"})]));
        assert_eq!(e.embed().chord, Some(json!({"task": "t.sum"})));
        assert_eq!(Value::Object(e.stamps), json!({"tenant": "acme"}));
        assert_eq!(Value::Object(e.extra), json!({"traceparent": "00"}));
        assert_eq!(Value::Object(e.properties), json!({"user_id": "u"}));
    }

    #[test]
    fn an_immutable_signature_is_kept_from_the_result() {
        let mut s = signature(json!({"task_id": "x"}));
        s.immutable = true;
        assert_eq!(s.to_envelope(&Envelope::new("p", "t"), &[json!(3)], "", NOW).unwrap().args(), [json!(4)]);
    }

    #[test]
    fn what_is_no_signature_is_refused() {
        for bad in [
            json!(1),
            json!({}),
            json!({"task": ""}),
            json!({"task": "t", "args": {}}),
            json!({"task": "t", "options": []}),
        ] {
            assert_eq!(Signature::read(&bad), Err(Malformed::BadSignature), "{bad}");
        }
        let s = signature(json!({"chain": 5}));
        assert_eq!(s.to_envelope(&Envelope::new("p", "t"), &[], "", NOW), Err(Malformed::BadSignature));
    }
}
