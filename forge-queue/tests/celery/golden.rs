//! Everything recorded is read, and written again with the same meaning.

use std::path::PathBuf;

use data_encoding::BASE64;
use forge_core::Timestamp;
use forge_queue::celery::{
    ControlMessage, Envelope, EventSource, Limits, Malformed, Method, ResultState, Revocation, Signature, Stamp,
    TaskEvent, TaskEventKind, TaskResult, WorkerEvent, WorkerLoad, args_repr, forge_id, meta_key, queue_for, untyped,
};
use serde_json::{Map, Value, json};

const LIMITS: fn() -> Limits = Limits::default;

/// A recorded message.
pub(crate) struct Golden {
    pub(crate) name: String,
    key: String,
    pub(crate) raw: Vec<u8>,
}

impl Golden {
    fn named(name: &str) -> Self {
        all("").into_iter().find(|g| g.name == name).unwrap_or_else(|| panic!("{name} was not recorded"))
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.raw).unwrap()
    }

    fn envelope(&self) -> Envelope {
        Envelope::parse(&self.raw, &LIMITS()).unwrap_or_else(|e| panic!("{}: {e}", self.name))
    }
}

/// The recorded messages whose names begin so, in order.
pub(crate) fn all(prefix: &str) -> Vec<Golden> {
    let dir = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/celery/golden");
    let mut found: Vec<Golden> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            let entry: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
            let raw = match entry.get("base64") {
                Some(base64) => BASE64.decode(base64.as_str().unwrap().as_bytes()).unwrap(),
                None => entry["raw"].as_str().unwrap().as_bytes().to_vec(),
            };
            let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
            Golden { name, key: entry["key"].as_str().unwrap().to_owned(), raw }
        })
        .filter(|g| g.name.starts_with(prefix))
        .collect();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!found.is_empty(), "nothing was recorded as {prefix}");
    found
}

/// What a message says, apart from the text of its body.
fn meaning(mut message: Value) -> Value {
    message["body"].take();
    message.as_object_mut().unwrap().remove("forge");
    message
}

fn body_of(message: &Value) -> Value {
    serde_json::from_slice(&BASE64.decode(message["body"].as_str().unwrap().as_bytes()).unwrap()).unwrap()
}

#[test]
fn envelopes_are_written_with_the_same_meaning() {
    for golden in all("envelope-") {
        let read = golden.envelope();
        let bytes = read.to_bytes();
        assert_eq!(Envelope::parse(&bytes, &LIMITS()).as_ref(), Ok(&read), "{}", golden.name);
        assert_eq!(forge_id(&bytes), Some(read.id.as_str()), "{}", golden.name);
        let written: Value = serde_json::from_slice(&bytes).unwrap();
        if golden.name == "envelope-protocol1" {
            assert_eq!(written["body"], golden.json()["body"]);
            continue;
        }
        assert_eq!(meaning(written.clone()), meaning(golden.json()), "{}", golden.name);
        if golden.name != "envelope-gzip" {
            assert_eq!(written["body"], golden.json()["body"], "{}", golden.name);
        }
    }
}

#[test]
fn a_task_of_ours_differs_from_celerys_in_the_id_at_the_front_alone() {
    let golden = Golden::named("envelope-plain");
    let theirs = golden.envelope();
    let mut ours = Envelope::new(&theirs.id, "t.add")
        .with_content(vec![json!(2), json!(3)], Map::new(), theirs.embed().clone())
        .unwrap();
    ours.lang = Some("py".to_owned());
    ours.argsrepr = Some(args_repr(ours.args()));
    ours.kwargsrepr = Some("{}".to_owned());
    ours.origin = theirs.origin.clone();
    ours.reply_to = theirs.reply_to.clone();
    ours.routing_key = "celery".to_owned();
    ours.delivery_tag = theirs.delivery_tag.clone();
    let front = format!("{{\"forge\": \"{}\", ", theirs.id);
    let ours = String::from_utf8(ours.to_bytes()).unwrap();
    assert_eq!(ours.replacen(&front, "{", 1), String::from_utf8(golden.raw).unwrap());
}

#[test]
fn what_was_asked_for_is_what_is_read() {
    let read = |name| Golden::named(name).envelope();
    assert_eq!(read("envelope-plain").payload(), json!([2, 3]));
    assert_eq!(read("envelope-kwargs").payload(), json!({"args": [2], "kwargs": {"y": 3.5, "text": "ä€😀'\"\n"}}));
    let eta: Timestamp = "2026-01-02T03:04:05.000006Z".parse().unwrap();
    assert_eq!(read("envelope-eta").eta, Some(eta));
    assert!(read("envelope-countdown").eta.is_some());
    let expires = read("envelope-expires");
    assert!(expires.expires.is_some());
    assert_eq!(expires.properties["expiration"], "120000");
    let priority = Golden::named("envelope-priority");
    assert_eq!(queue_for(&priority.envelope().routing_key, priority.envelope().priority), priority.key);
    let limits = read("envelope-limits");
    assert_eq!((limits.time_limit, limits.soft_time_limit), (Some(30.0), Some(2.5)));
    let headers = read("envelope-headers");
    assert_eq!((headers.extra["x-tenant"].as_str(), headers.shadow.as_deref()), (Some("acme"), Some("shown")));
    assert_eq!(headers.properties["user_id"], "u");
    let stamped = read("envelope-stamped");
    assert_eq!(
        (stamped.stamped_headers.unwrap(), &stamped.stamps["tenant"]),
        (vec!["tenant".to_owned()], &json!("acme"))
    );
    assert_eq!(read("envelope-unregistered").ignore_result, None);
    assert_eq!(read("envelope-gzip").args()[0], "a".repeat(500));
    assert_eq!(read("envelope-protocol1").embed().callbacks.as_ref().unwrap().len(), 1);
    let parts = [read("envelope-group"), read("envelope-group-2")];
    assert_eq!(parts[0].group, parts[1].group);
    assert_eq!([parts[0].group_index, parts[1].group_index], [Some(0), Some(1)]);
}

#[test]
fn a_retry_of_ours_is_celerys() {
    let theirs = Golden::named("envelope-retry").envelope();
    let mut first = theirs.clone();
    (first.retries, first.eta, first.parent_id) = (0, None, None);
    assert_eq!(first.with_retry(1, theirs.eta), theirs);
}

#[test]
fn signatures_are_read_and_written() {
    let now = Timestamp::from_nanos(0);
    let chain = Golden::named("envelope-chain").envelope();
    let second = Signature::next_in_chain(&chain).unwrap().unwrap().to_envelope(&chain, &[json!(3)], "-", now).unwrap();
    assert_eq!((second.args(), second.parent_id.as_ref()), (&[json!(3), json!(3)][..], Some(&chain.id)));
    let third =
        Signature::next_in_chain(&second).unwrap().unwrap().to_envelope(&second, &[json!(6)], "-", now).unwrap();
    assert_eq!((third.args(), third.routing_key.as_str()), (&[json!(6), json!(4)][..], "q2"));
    assert_eq!(third.root_id.as_ref(), Some(&chain.id));

    let link = Golden::named("envelope-link").envelope();
    let embed = link.embed();
    let chord = Golden::named("envelope-chord").envelope().embed().chord.clone().unwrap();
    for value in [&embed.callbacks.as_ref().unwrap()[0], &embed.errbacks.as_ref().unwrap()[0], &chord] {
        assert_eq!(Signature::read(value).unwrap().to_value(), *value);
    }
    // a callback has no id of its own
    let callback = Signature::read(&embed.callbacks.as_ref().unwrap()[0]).unwrap();
    assert_eq!(callback.to_envelope(&link, &[json!(2)], "derived", now).unwrap().id, "derived");
}

#[test]
fn typed_values_become_text() {
    let args = Golden::named("envelope-typed").envelope().payload();
    let plain = json!([
        "2026-01-02T03:04:05.000006+00:00",
        "2026-01-02T03:04:05.000006",
        "2026-01-02",
        "03:04:05.000006",
        "1.5",
        "00000000-0000-0000-0000-000000000005",
        "by",
        "//4="
    ]);
    assert_eq!(untyped(args), Ok(plain));
}

#[test]
fn results_are_read_and_written_byte_by_byte() {
    for golden in all("result-") {
        let read = TaskResult::parse(&golden.raw, &LIMITS()).unwrap_or_else(|e| panic!("{}: {e}", golden.name));
        assert_eq!(golden.key, meta_key(&read.task_id));
        let state = match golden.name.trim_start_matches("result-") {
            "started" => matches!(read.state, ResultState::Started { .. }),
            "progress" => matches!(read.state, ResultState::Progress(_)),
            "retry" => matches!(read.state, ResultState::Retry { .. }),
            "revoked" => matches!(read.state, ResultState::Revoked { reason: Revocation::Revoked }),
            "terminated" => matches!(read.state, ResultState::Revoked { reason: Revocation::Terminated }),
            "expired" => matches!(read.state, ResultState::Revoked { reason: Revocation::Expired }),
            name if name.starts_with("failure") => matches!(read.state, ResultState::Failure { .. }),
            _ => matches!(read.state, ResultState::Success { .. }),
        };
        assert!(state, "{}: {read:?}", golden.name);
        match golden.name.as_str() {
            "result-compressed" => assert_eq!(read.state, ResultState::Success { result: json!(5) }),
            _ => {
                assert_eq!(serde_json::from_slice::<Value>(&read.to_json()).unwrap(), golden.json(), "{}", golden.name)
            }
        }
    }
    let success = Golden::named("result-success");
    assert_eq!(TaskResult::parse(&success.raw, &LIMITS()).unwrap().to_json(), success.raw);
}

#[test]
fn control_messages_are_understood_and_answered_as_celery_answers() {
    let ping = ControlMessage::parse(&Golden::named("control-ping").raw, &LIMITS()).unwrap();
    assert_eq!(ping.method, Method::Ping);
    assert!(ping.is_for("w1@vm") && ping.expires.is_some() && ping.clock > 0);
    assert_eq!(ping.reply_to.unwrap().exchange, "reply.celery.pidbox");
    let revoke = ControlMessage::parse(&Golden::named("control-revoke").raw, &LIMITS()).unwrap();
    let ids = vec!["11111111-1111-1111-1111-111111111111".to_owned()];
    assert_eq!(revoke.method, Method::Revoke { ids, terminate: true, signal: Some("SIGKILL".to_owned()) });
    assert!(revoke.is_for("w1@vm") && !revoke.is_for("w2@vm") && revoke.reply_to.is_none());

    let theirs = Golden::named("reply-ping");
    let message = theirs.json();
    let mut to = ControlMessage::parse(&Golden::named("control-ping").raw, &LIMITS()).unwrap().reply_to.unwrap();
    to.routing_key = message["properties"]["delivery_info"]["routing_key"].as_str().unwrap().to_owned();
    to.ticket = message["headers"]["ticket"].as_str().unwrap().to_owned();
    let tag = message["properties"]["delivery_tag"].as_str().unwrap();
    let ours = to.message("w1@vm", json!({"ok": "pong"}), message["headers"]["clock"].as_u64().unwrap(), tag);
    assert_eq!(serde_json::from_slice::<Value>(&ours).unwrap(), message);
}

#[test]
fn events_have_celerys_fields() {
    let source =
        EventSource { hostname: "w1@vm".to_owned(), pid: 1, prefix: "/0.".to_owned(), exchange: "celeryev".to_owned() };
    let stamp = Stamp { at: Timestamp::from_nanos(1), clock: 1 };
    let load = WorkerLoad { freq: 2.0, active: 0, processed: 0, loadavg: [0.0; 3] };
    let success = TaskEventKind::Succeeded { result: "5".to_owned(), runtime: 0.1 };
    let task = TaskEvent { uuid: "a".to_owned(), stamp, kind: success };
    let fields = |event: &Value| event.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    for (name, ours) in [
        ("event-heartbeat", source.worker(WorkerEvent::Heartbeat, &load, stamp, "tag")),
        ("event-task", source.tasks(&[task], "tag")),
    ] {
        let (theirs, message) = (Golden::named(name), serde_json::from_slice::<Value>(&ours.message).unwrap());
        assert_eq!(ours.channel, theirs.key);
        let (ours, theirs) = (body_of(&message), body_of(&theirs.json()));
        let last = |body: &Value| body.as_array().map_or(body.clone(), |events| events.last().unwrap().clone());
        assert_eq!(fields(&last(&ours)), fields(&last(&theirs)), "{name}");
        let mut expected = meaning(Golden::named(name).json());
        expected["properties"]["delivery_tag"] = "tag".into();
        assert_eq!(meaning(message), expected);
    }
}

#[test]
fn a_message_of_another_kind_is_no_task() {
    for golden in all("control-").into_iter().chain(all("event-")).chain(all("reply-")).chain(all("result-")) {
        let read = Envelope::parse(&golden.raw, &LIMITS());
        let refused = [
            Malformed::BodyShape,
            Malformed::NoHeaders,
            Malformed::NoId,
            Malformed::NotJson,
            Malformed::UnsupportedContentType,
        ];
        assert!(read.as_ref().is_err_and(|e| refused.contains(e)), "{}: {read:?}", golden.name);
    }
}
