//! From the bytes of a queue item to an [`Envelope`].

use serde_json::{Map, Value};

use super::body::{owned, text};
use super::{Embed, Envelope, Limits, Malformed, body, json, time};

/// The headers that have a field of their own. `compression` is undone, `redelivered` is set by kombu when it restores a message.
pub(super) const HEADERS: [&str; 21] = [
    "lang",
    "task",
    "id",
    "shadow",
    "eta",
    "expires",
    "group",
    "group_index",
    "retries",
    "timelimit",
    "root_id",
    "parent_id",
    "argsrepr",
    "kwargsrepr",
    "origin",
    "ignore_result",
    "replaced_task_nesting",
    "stamped_headers",
    "stamps",
    "compression",
    "redelivered",
];

/// The properties that have a field of their own or are always the same.
pub(super) const PROPERTIES: [&str; 7] =
    ["correlation_id", "reply_to", "delivery_mode", "delivery_info", "priority", "body_encoding", "delivery_tag"];

impl Envelope {
    /// Reads an item of a queue. Total: any bytes give an envelope or a reason, and never a panic.
    ///
    /// More is read than by Celery's own worker, which loses its connection or stops at some of it: no `properties`, no
    /// `delivery_info`, no `delivery_tag`; `eta` as seconds since 1970 or without an offset (UTC); a body without an encoding. Messages
    /// of protocol 1 are read, and written again as protocol 2 around the same body, which Celery accepts.
    ///
    /// Integers beyond 64 bits become floats, as JSON readers other than Python's make them; [`body`](Self::body) has the digits.
    ///
    /// # Errors
    /// The first thing that is wrong. Such an item belongs in quarantine: given back to the queue it comes again for ever.
    pub fn parse(raw: &[u8], limits: &Limits) -> Result<Self, Malformed> {
        if raw.len() > limits.envelope {
            return Err(Malformed::TooLarge);
        }
        let message = match json::parse(raw)? {
            Value::Object(message) => message,
            _ => return Err(Malformed::NotAnObject),
        };
        let headers = match message.get("headers") {
            None | Some(Value::Null) => Map::new(),
            Some(Value::Object(headers)) => headers.clone(),
            Some(_) => return Err(Malformed::NoHeaders),
        };
        let body = body::decode(&message, limits)?;
        let content = Content::read(&body.bytes)?;
        if headers.is_empty() && content.headers.is_empty() {
            return Err(Malformed::NoHeaders);
        }
        let properties = message.get("properties").and_then(Value::as_object);

        let mut envelope = from_headers(headers, content.headers)?;
        agree(&envelope.id, raw, message.get("forge"))?;
        set_properties(&mut envelope, properties);
        (envelope.args, envelope.kwargs, envelope.embed) = (content.args, content.kwargs, content.embed);
        (envelope.body, envelope.compressed) = (body.bytes, body.compressed);
        Ok(envelope)
    }
}

/// What a body says. `headers` are those that protocol 1 keeps there.
struct Content {
    args: Vec<Value>,
    kwargs: Map<String, Value>,
    embed: Embed,
    headers: Map<String, Value>,
}

impl Content {
    fn read(body: &[u8]) -> Result<Self, Malformed> {
        let value = json::parse(body).map_err(|e| if e == Malformed::NotJson { Malformed::BodyShape } else { e })?;
        match value {
            Value::Array(parts) => match <[Value; 3]>::try_from(parts) {
                Ok([Value::Array(args), Value::Object(kwargs), embed]) => {
                    Ok(Self { args, kwargs, embed: Embed::read(&embed)?, headers: Map::new() })
                }
                _ => Err(Malformed::BodyShape),
            },
            Value::Object(body) => Self::read_protocol_1(body),
            _ => Err(Malformed::BodyShape),
        }
    }

    fn read_protocol_1(mut body: Map<String, Value>) -> Result<Self, Malformed> {
        let args = match body.remove("args") {
            None => Vec::new(),
            Some(Value::Array(args)) => args,
            Some(_) => return Err(Malformed::BodyShape),
        };
        let kwargs = match body.remove("kwargs") {
            None => Map::new(),
            Some(Value::Object(kwargs)) => kwargs,
            Some(_) => return Err(Malformed::BodyShape),
        };
        if let Some(group) = body.remove("taskset").filter(|v| !v.is_null()) {
            body.insert("group".to_owned(), group);
        }
        // a chain was no part of protocol 1
        body.remove("chain");
        let embed = Embed::read(&Value::Object(body.clone()))?;
        body.retain(|key, _| HEADERS.contains(&key.as_str()));
        Ok(Self { args, kwargs, embed, headers: body })
    }
}

/// `headers` go before what the body of protocol 1 says, as in Celery's `hybrid_to_proto2`.
fn from_headers(headers: Map<String, Value>, older: Map<String, Value>) -> Result<Envelope, Malformed> {
    let mut h = older;
    h.extend(headers);
    let name = |key| text(h.get(key)).filter(|s| !s.is_empty());
    let mut e =
        Envelope::new(name("id").ok_or(Malformed::NoId)?.to_owned(), name("task").ok_or(Malformed::NoTask)?.to_owned());

    e.eta = time::read(h.get("eta")).map_err(|()| Malformed::BadEta)?;
    e.expires = time::read(h.get("expires")).map_err(|()| Malformed::BadExpires)?;
    e.retries = count(&h, "retries")?.unwrap_or(0);
    e.replaced_task_nesting = count(&h, "replaced_task_nesting")?.unwrap_or(0);
    e.group_index = optional(&h, "group_index", Value::as_u64)?;
    (e.time_limit, e.soft_time_limit) = time_limits(h.get("timelimit"))?;
    e.group = optional(&h, "group", owned)?;
    e.root_id = optional(&h, "root_id", owned)?;
    e.parent_id = optional(&h, "parent_id", owned)?;
    e.ignore_result = optional(&h, "ignore_result", Value::as_bool)?;
    e.stamped_headers = optional(&h, "stamped_headers", |v| v.as_array()?.iter().map(owned).collect())?;
    e.stamps = optional(&h, "stamps", |v| v.as_object().cloned())?.unwrap_or_default();
    // for people to look at: a value of another type is no reason to lose a task
    e.argsrepr = h.get("argsrepr").and_then(owned);
    e.kwargsrepr = h.get("kwargsrepr").and_then(owned);
    e.origin = h.get("origin").and_then(owned);
    e.shadow = h.get("shadow").and_then(owned);
    e.lang = h.get("lang").and_then(owned);
    e.redelivered = h.get("redelivered").and_then(Value::as_bool).unwrap_or(false);

    h.retain(|key, _| !HEADERS.contains(&key.as_str()));
    e.extra = h;
    Ok(e)
}

fn set_properties(e: &mut Envelope, properties: Option<&Map<String, Value>>) {
    let empty = Map::new();
    let p = properties.unwrap_or(&empty);
    let info = p.get("delivery_info");
    let of_info = |key: &str| info.and_then(|i| i.get(key)).and_then(owned).unwrap_or_default();
    e.correlation_id = p.get("correlation_id").and_then(owned);
    e.reply_to = p.get("reply_to").and_then(owned);
    e.delivery_tag = p.get("delivery_tag").and_then(owned).filter(|tag| !tag.is_empty());
    e.priority = p.get("priority").map_or(0, priority);
    e.exchange = of_info("exchange");
    e.routing_key = of_info("routing_key");
    e.redelivered |= info.and_then(|i| i.get("redelivered")).and_then(Value::as_bool).unwrap_or(false);
    e.properties =
        p.iter().filter(|(k, _)| !PROPERTIES.contains(&k.as_str())).map(|(k, v)| (k.clone(), v.clone())).collect();
}

/// The id that scripts find at the front must be the id that workers act on.
fn agree(id: &str, raw: &[u8], forge: Option<&Value>) -> Result<(), Malformed> {
    let at_front = super::forge_id(raw).is_none_or(|found| found == id);
    let by_key = forge.is_none_or(|found| found.as_str() == Some(id));
    if at_front && by_key { Ok(()) } else { Err(Malformed::IdMismatch) }
}

/// As kombu reads it: an integer, or something that Python's `int()` takes, held to 0 to 9; else 0.
pub(super) fn priority(value: &Value) -> u8 {
    match value {
        Value::Number(n) => {
            let n = n.as_f64().unwrap_or(0.0);
            (0..=9_u8).rev().find(|step| f64::from(*step) <= n).unwrap_or(0)
        }
        Value::String(s) => s.trim().parse::<i64>().map_or(0, |n| u8::try_from(n.clamp(0, 9)).unwrap_or(0)),
        _ => 0,
    }
}

fn time_limits(value: Option<&Value>) -> Result<(Option<f64>, Option<f64>), Malformed> {
    let wrong = Malformed::BadHeader("timelimit");
    let limit = |v: &Value| match v {
        Value::Null => Ok(None),
        v => v.as_f64().filter(|s| *s >= 0.0).map(Some).ok_or(wrong),
    };
    match value {
        None | Some(Value::Null) => Ok((None, None)),
        Some(Value::Array(limits)) => match limits.as_slice() {
            [] => Ok((None, None)),
            [hard, soft] => Ok((limit(hard)?, limit(soft)?)),
            _ => Err(wrong),
        },
        Some(_) => Err(wrong),
    }
}

fn count(h: &Map<String, Value>, name: &'static str) -> Result<Option<u32>, Malformed> {
    Ok(optional(h, name, Value::as_u64)?.map(|n| u32::try_from(n).unwrap_or(u32::MAX)))
}

/// A header that may be missing or `null`, but not of another type.
fn optional<T>(
    h: &Map<String, Value>,
    name: &'static str,
    read: impl Fn(&Value) -> Option<T>,
) -> Result<Option<T>, Malformed> {
    match h.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => read(value).map(Some).ok_or(Malformed::BadHeader(name)),
    }
}

#[cfg(test)]
mod tests {
    use data_encoding::BASE64;
    use forge_core::Timestamp;
    use serde_json::json;

    use super::*;

    const BODY: &str = r#"[[2, 3], {}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;

    fn message(body: &str) -> Value {
        json!({"body": BASE64.encode(body.as_bytes()), "content-type": "application/json", "headers": {"id": "a", "task": "t.add"},
            "properties": {"body_encoding": "base64", "delivery_info": {"exchange": "", "routing_key": "celery"}, "delivery_tag": "d"}})
    }

    fn with(path: &str, value: Value) -> Value {
        let mut m = message(BODY);
        let (parent, key) = path.rsplit_once('/').unwrap();
        m.pointer_mut(parent).unwrap()[key] = value;
        m
    }

    fn without(path: &str) -> Value {
        let mut m = message(BODY);
        let (parent, key) = path.rsplit_once('/').unwrap();
        m.pointer_mut(parent).unwrap().as_object_mut().unwrap().remove(key).unwrap();
        m
    }

    fn parse(m: &Value) -> Result<Envelope, Malformed> {
        Envelope::parse(m.to_string().as_bytes(), &Limits::default())
    }

    #[test]
    fn what_celery_accepts_and_what_it_stops_at_is_read() {
        let mut plain = with("/body", BODY.into());
        plain["properties"] = json!({"delivery_info": null});
        for m in [
            message(BODY),
            message("[[2, 3], {}, {}]"),
            message("[[2, 3], {}, null]"),
            without("/properties"),
            without("/properties/delivery_tag"),
            without("/properties/delivery_info"),
            without("/properties/body_encoding"),
            with("/content-encoding", Value::Null),
            with("/headers/timelimit", Value::Null),
            with("/headers/x-new", json!({"deep": [1]})),
            with("/unknown", json!(1)),
            plain,
        ] {
            let e = parse(&m).unwrap_or_else(|e| panic!("{e}: {m}"));
            assert_eq!((e.args(), e.id.as_str(), e.task.as_str()), (&[json!(2), json!(3)][..], "a", "t.add"), "{m}");
        }
    }

    #[test]
    fn the_rest_is_refused_with_a_word() {
        let parse_raw = |raw: &str| Envelope::parse(raw.as_bytes(), &Limits::default()).unwrap_err();
        assert_eq!(parse_raw("not json"), Malformed::NotJson);
        assert_eq!(parse_raw("[1]"), Malformed::NotAnObject);
        assert_eq!(parse_raw(&"[".repeat(200)), Malformed::TooDeep);
        assert_eq!(parse_raw(&" ".repeat(300_000)), Malformed::TooLarge);
        for (m, reason) in [
            (without("/headers"), "no_headers"),
            (with("/headers", json!([])), "no_headers"),
            (without("/headers/id"), "no_id"),
            (with("/headers/id", json!(7)), "no_id"),
            (without("/headers/task"), "no_task"),
            (without("/body"), "no_body"),
            (with("/body", json!([[], {}, {}])), "body_shape"),
            (with("/body", json!("W1td%%%%")), "bad_base64"),
            (without("/content-type"), "unsupported_content_type"),
            (with("/content-type", json!("application/x-python-serialize")), "unsupported_content_type"),
            (with("/content-encoding", json!("utf-16")), "unsupported_encoding"),
            (with("/properties/body_encoding", json!("hex")), "unsupported_encoding"),
            (with("/headers/compression", json!("application/x-bz2")), "unsupported_compression"),
            (with("/headers/compression", json!("application/x-gzip")), "bad_compression"),
            (with("/headers/eta", json!("soon")), "bad_eta"),
            (with("/headers/expires", json!("late")), "bad_expires"),
            (with("/headers/retries", json!(-1)), "bad_header"),
            (with("/headers/timelimit", json!([1])), "bad_header"),
            (with("/forge", json!("b")), "id_mismatch"),
            (message("[[2, 3], {}]"), "body_shape"),
            (message("[[2, 3], [], {}]"), "body_shape"),
            (message("[[2, 3], {}, {\"chain\": 1}]"), "body_shape"),
            (message("[[NaN], {}, {}]"), "body_shape"),
        ] {
            assert_eq!(parse(&m).unwrap_err().reason(), reason, "{m}");
        }
    }

    #[test]
    fn an_id_that_scripts_would_take_for_another_is_refused() {
        let (one, other) = ("1db5982d-e505-425a-b8b6-d5ce35897a4c", "2db5982d-e505-425a-b8b6-d5ce35897a4c");
        let bytes = Envelope::new(one, "t").to_bytes();
        assert_eq!(super::super::forge_id(&bytes), Some(one));
        let forged = String::from_utf8(bytes).unwrap().replacen(one, other, 1);
        assert_eq!(Envelope::parse(forged.as_bytes(), &Limits::default()), Err(Malformed::IdMismatch));
        // the last of two equal keys is the one that JSON readers see
        let twice = forged.replacen("\"headers\"", &format!("\"forge\": \"{one}\", \"headers\""), 1);
        assert_eq!(Envelope::parse(twice.as_bytes(), &Limits::default()), Err(Malformed::IdMismatch));
    }

    #[test]
    fn properties_are_read_as_kombu_reads_them() {
        for (given, priority) in
            [(json!(7), 7), (json!(70), 9), (json!(-1), 0), (json!("4"), 4), (json!(2.9), 2), (json!({}), 0)]
        {
            assert_eq!(parse(&with("/properties/priority", given)).unwrap().priority, priority);
        }
        let restored =
            with("/properties/delivery_info", json!({"exchange": "e", "routing_key": "r", "redelivered": true}));
        let e = parse(&restored).unwrap();
        assert_eq!((e.exchange.as_str(), e.routing_key.as_str(), e.redelivered), ("e", "r", true));
        assert_eq!(Envelope::parse(&e.to_bytes(), &Limits::default()), Ok(e));
        let extra = parse(&with("/properties/expiration", json!("1000"))).unwrap();
        assert_eq!(extra.properties["expiration"], "1000");
    }

    #[test]
    fn protocol_1_becomes_a_hybrid_that_reads_the_same() {
        let body = json!({"task": "t.old", "id": "a", "args": [1], "kwargs": {"k": 2}, "retries": 2, "eta": "2026-11-23T00:00:00",
            "expires": null, "utc": true, "callbacks": [{"task": "t"}], "errbacks": null, "timelimit": [30, null], "taskset": "g", "chord": null});
        let mut m = message(&body.to_string());
        m["headers"] = json!({});
        let e = parse(&m).unwrap();
        assert_eq!((e.task.as_str(), e.retries, e.group.as_deref(), e.time_limit), ("t.old", 2, Some("g"), Some(30.0)));
        assert_eq!(e.eta.map(Timestamp::as_nanos), Some(1_795_392_000_000_000_000));
        let again = Envelope::parse(&e.clone().with_retry(3, None).to_bytes(), &Limits::default()).unwrap();
        assert_eq!((again.retries, again.eta, again.body()), (3, None, e.body()));
    }
}
