//! From an [`Envelope`] to the bytes that are pushed.

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Number, Value};

use super::parse::{HEADERS, PROPERTIES};
use super::{Envelope, body, json, time};

/// How a message begins whose task has a UUID: the id follows, 36 characters, so that a script in Redis finds it at a fixed place
/// without parsing JSON.
pub const FORGE_PREFIX: &str = "{\"forge\": \"";

/// What follows the id.
const FORGE_SUFFIX: &str = "\", \"body\": \"";

/// The id at the front of a message, if it begins as Forge's do. A hint from whoever pushed the message;
/// [`Envelope::parse`] refuses one whose headers name another.
pub fn forge_id(raw: &[u8]) -> Option<&str> {
    let (id, rest) = raw.strip_prefix(FORGE_PREFIX.as_bytes())?.split_at_checked(36)?;
    let id = std::str::from_utf8(id).ok().filter(|id| is_uuid(id))?;
    rest.starts_with(FORGE_SUFFIX.as_bytes()).then_some(id)
}

impl Envelope {
    /// The bytes to push: every field that Celery 5.7 writes, in its order and with its separators, behind `forge` with the task's id
    /// where that is a UUID. A body that was parsed is written again byte by byte, inside base64 and, where it came so, inside zlib.
    pub fn to_bytes(&self) -> Vec<u8> {
        json::write(&Wire {
            forge: is_uuid(&self.id).then_some(&self.id),
            body: body::encode(&self.body, self.compressed),
            content_encoding: "utf-8",
            content_type: "application/json",
            headers: Headers(self),
            properties: Properties(self),
        })
    }
}

#[derive(Serialize)]
struct Wire<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    forge: Option<&'a String>,
    body: String,
    #[serde(rename = "content-encoding")]
    content_encoding: &'a str,
    #[serde(rename = "content-type")]
    content_type: &'a str,
    headers: Headers<'a>,
    properties: Properties<'a>,
}

struct Headers<'a>(&'a Envelope);

impl Serialize for Headers<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let e = self.0;
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("lang", &e.lang)?;
        map.serialize_entry("task", &e.task)?;
        map.serialize_entry("id", &e.id)?;
        map.serialize_entry("shadow", &e.shadow)?;
        map.serialize_entry("eta", &e.eta.map(time::iso))?;
        map.serialize_entry("expires", &e.expires.map(time::iso))?;
        map.serialize_entry("group", &e.group)?;
        map.serialize_entry("group_index", &e.group_index)?;
        map.serialize_entry("retries", &e.retries)?;
        map.serialize_entry("timelimit", &[e.time_limit.map(number), e.soft_time_limit.map(number)])?;
        map.serialize_entry("root_id", &e.root_id)?;
        map.serialize_entry("parent_id", &e.parent_id)?;
        map.serialize_entry("argsrepr", &e.argsrepr)?;
        map.serialize_entry("kwargsrepr", &e.kwargsrepr)?;
        map.serialize_entry("origin", &e.origin)?;
        map.serialize_entry("ignore_result", &e.ignore_result)?;
        map.serialize_entry("replaced_task_nesting", &e.replaced_task_nesting)?;
        map.serialize_entry("stamped_headers", &e.stamped_headers)?;
        map.serialize_entry("stamps", &e.stamps)?;
        if e.compressed {
            map.serialize_entry("compression", "application/x-gzip")?;
        }
        if e.redelivered {
            map.serialize_entry("redelivered", &true)?;
        }
        others(&mut map, &e.extra, &HEADERS)?;
        map.end()
    }
}

struct Properties<'a>(&'a Envelope);

impl Serialize for Properties<'_> {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        let e = self.0;
        let mut map = s.serialize_map(None)?;
        map.serialize_entry("correlation_id", &e.correlation_id)?;
        map.serialize_entry("reply_to", &e.reply_to)?;
        others(&mut map, &e.properties, &PROPERTIES)?;
        map.serialize_entry("delivery_mode", &2)?;
        map.serialize_entry("delivery_info", &DeliveryInfo::of(e))?;
        map.serialize_entry("priority", &e.priority.min(9))?;
        map.serialize_entry("body_encoding", "base64")?;
        // kombu's worker loses its connection over a message without a tag
        map.serialize_entry("delivery_tag", e.delivery_tag.as_ref().unwrap_or(&e.id))?;
        map.end()
    }
}

#[derive(Serialize)]
pub(super) struct DeliveryInfo<'a> {
    pub(super) exchange: &'a str,
    pub(super) routing_key: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) redelivered: Option<bool>,
}

impl<'a> DeliveryInfo<'a> {
    fn of(e: &'a Envelope) -> Self {
        Self { exchange: &e.exchange, routing_key: &e.routing_key, redelivered: e.redelivered.then_some(true) }
    }
}

/// The entries of `more` that have no field of their own: a key is written once.
fn others<M: serde::ser::SerializeMap>(map: &mut M, more: &Map<String, Value>, known: &[&str]) -> Result<(), M::Error> {
    more.iter().filter(|(k, _)| !known.contains(&k.as_str())).try_for_each(|(k, v)| map.serialize_entry(k, v))
}

/// Whole seconds as an integer, as Celery's producers write them; `null` for what is no number.
fn number(seconds: f64) -> Value {
    let whole = (seconds.fract() == 0.0).then(|| format!("{seconds:.0}").parse::<i64>().ok()).flatten();
    whole.map(Number::from).or_else(|| Number::from_f64(seconds)).map_or(Value::Null, Value::Number)
}

fn is_uuid(id: &str) -> bool {
    id.len() == 36
        && id
            .bytes()
            .enumerate()
            .all(|(i, b)| if matches!(i, 8 | 13 | 18 | 23) { b == b'-' } else { b.is_ascii_hexdigit() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::Limits;

    const ID: &str = "1db5982d-e505-425a-b8b6-d5ce35897a4c";

    #[test]
    fn a_message_has_every_field_of_celery_in_its_order() {
        let mut task = Envelope::new(ID, "t.add");
        task.routing_key = "celery".to_owned();
        task.time_limit = Some(30.0);
        task.soft_time_limit = Some(2.5);
        task.extra.insert("traceparent".to_owned(), "00-1".into());
        task.extra.insert("id".to_owned(), "spoofed".into());
        let body = data_encoding::BASE64.encode(task.body());
        let expected = format!(
            concat!(
                r#"{{"forge": "{id}", "body": "{body}", "content-encoding": "utf-8", "content-type": "application/json", "#,
                r#""headers": {{"lang": "rust", "task": "t.add", "id": "{id}", "shadow": null, "eta": null, "expires": null, "#,
                r#""group": null, "group_index": null, "retries": 0, "timelimit": [30, 2.5], "root_id": "{id}", "parent_id": null, "#,
                r#""argsrepr": null, "kwargsrepr": null, "origin": null, "ignore_result": false, "replaced_task_nesting": 0, "#,
                r#""stamped_headers": null, "stamps": {{}}, "traceparent": "00-1"}}, "#,
                r#""properties": {{"correlation_id": "{id}", "reply_to": null, "delivery_mode": 2, "#,
                r#""delivery_info": {{"exchange": "", "routing_key": "celery"}}, "priority": 0, "body_encoding": "base64", "delivery_tag": "{id}"}}}}"#
            ),
            id = ID,
            body = body
        );
        assert_eq!(String::from_utf8(task.to_bytes()).unwrap(), expected);
    }

    #[test]
    fn a_restored_message_says_so_where_kombu_does() {
        let mut task = Envelope::new(ID, "t");
        task.set_redelivered();
        let message: Value = serde_json::from_slice(&task.to_bytes()).unwrap();
        assert_eq!(message["headers"]["redelivered"], true);
        assert_eq!(message["properties"]["delivery_info"]["redelivered"], true);
    }

    #[test]
    fn only_a_uuid_goes_to_the_front() {
        assert_eq!(forge_id(&Envelope::new(ID, "t").to_bytes()), Some(ID));
        for id in ["a", "", "1db5982d-e505-425a-b8b6-d5ce35897a4", "1db5982dxe505-425a-b8b6-d5ce35897a4c", "ä\"\\"] {
            let bytes = Envelope::new(id, "t").to_bytes();
            assert!(bytes.starts_with(b"{\"body\": "), "{id}");
            assert_eq!(forge_id(&bytes), None);
        }
        assert_eq!(forge_id(b"{\"forge\": \"short"), None);
        assert_eq!(forge_id(format!("{FORGE_PREFIX}{ID}\"}}").as_bytes()), None);
    }

    #[test]
    fn a_body_keeps_its_bytes() {
        // spaces and an escape that we would write otherwise
        let raw = r#"{"body": "[ [\"\\u00e4\"],{} ,null ]", "content-type": "application/json", "headers": {"id": "a", "task": "t"}}"#;
        let mut task = Envelope::parse(raw.as_bytes(), &Limits::default()).unwrap();
        task.compressed = true;
        let again = Envelope::parse(&task.to_bytes(), &Limits::default()).unwrap();
        assert_eq!(again.body(), br#"[ ["\u00e4"],{} ,null ]"#);
        assert!(again.compressed);
    }
}
