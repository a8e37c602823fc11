//! Whoever can write to Redis chooses these bytes: any of them give a value or a word, and never a panic.

use forge_queue::celery::{
    ControlMessage, Envelope, Limits, Signature, TaskResult, args_repr, forge_id, kwargs_repr, untyped,
};
use proptest::prelude::*;
use serde_json::Value;

use crate::golden::all;

/// Reads `raw` in every way, and what was read is written and read again.
fn read(raw: &[u8]) {
    let limits = Limits::default();
    let _ = forge_id(raw);
    let _ = ControlMessage::parse(raw, &limits);
    if let Ok(mut result) = TaskResult::parse(raw, &limits) {
        // only what ended has a time of its end
        result.date_done = result.date_done.filter(|_| result.state.is_ready());
        assert_eq!(TaskResult::parse(&result.to_json(), &limits).as_ref(), Ok(&result));
    }
    if let Ok(mut envelope) = Envelope::parse(raw, &limits.with_body(64 * 1024)) {
        // a tag is always written
        envelope.delivery_tag.get_or_insert_with(|| envelope.id.clone());
        assert_eq!(Envelope::parse(&envelope.to_bytes(), &limits).as_ref(), Ok(&envelope));
        let _ = untyped(envelope.payload());
        let _ = (args_repr(envelope.args()), kwargs_repr(envelope.kwargs()));
        for signature in envelope.embed().callbacks.iter().flatten() {
            let _ = Signature::read(signature)
                .map(|s| s.to_envelope(&envelope, &[], "a", forge_core::Timestamp::from_nanos(0)));
        }
    }
}

/// A recorded message with some bytes changed, left out or doubled.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let messages: Vec<Vec<u8>> = all("").into_iter().map(|g| g.raw).collect();
    let change = (any::<prop::sample::Index>(), 0..3_u8, prop_oneof![any::<u8>(), Just(b'"'), Just(b'{'), Just(b'0')]);
    (prop::sample::select(messages), prop::collection::vec(change, 1..6)).prop_map(|(mut raw, changes)| {
        for (at, how, byte) in changes {
            let at = at.index(raw.len());
            match how {
                0 => raw[at] = byte,
                1 => raw.insert(at, byte),
                _ => raw.truncate(at.max(1)),
            }
        }
        raw
    })
}

/// Any JSON in place of one field of a recorded message, and so past the first checks.
fn refilled() -> impl Strategy<Value = Vec<u8>> {
    let messages: Vec<Value> = all("").iter().filter_map(|g| serde_json::from_slice(&g.raw).ok()).collect();
    (prop::sample::select(messages), any::<prop::sample::Index>(), value()).prop_map(|(mut message, which, value)| {
        let pointers = pointers(&message);
        *message.pointer_mut(&pointers[which.index(pointers.len())]).unwrap() = value;
        message.to_string().into_bytes()
    })
}

/// A body of any content in a message that is in order.
fn filled() -> impl Strategy<Value = Vec<u8>> {
    let signature = (value(), value(), value()).prop_map(|(args, options, id)| {
        serde_json::json!({"task": "t", "args": args, "options": {"task_id": id, "countdown": options, "queue": options, "link": options}})
    });
    let callbacks = prop_oneof![value(), prop::collection::vec(signature, 0..3).prop_map(Value::from)];
    let parts = prop_oneof![Just(serde_json::json!([1])), Just(serde_json::json!({"k": 1})), value()];
    (parts.clone(), parts, callbacks, value()).prop_map(|(args, kwargs, callbacks, chord)| {
        let body = serde_json::json!([args, kwargs, {"callbacks": callbacks, "chord": chord}]).to_string();
        let message =
            serde_json::json!({"body": body, "content-type": "application/json", "headers": {"id": "a", "task": "t"}});
        message.to_string().into_bytes()
    })
}

/// JSON of every type, and texts that are almost times.
fn value() -> impl Strategy<Value = Value> + Clone {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ -~]{0,12}".prop_map(Value::from),
        "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}(:[0-9]{2})?(Z|[+-][0-9]{2}:[0-9]{2})?".prop_map(Value::from),
        Just(Value::Array(Vec::new())),
        Just(serde_json::json!({"redelivered": true})),
    ]
    .boxed()
}

/// Where the fields of a message are, those of its objects included.
fn pointers(message: &Value) -> Vec<String> {
    let mut found = Vec::new();
    for (key, value) in message.as_object().unwrap() {
        found.push(format!("/{key}"));
        found.extend(value.as_object().into_iter().flat_map(|o| o.keys()).map(|inner| format!("/{key}/{inner}")));
    }
    found
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn any_bytes(raw in prop::collection::vec(any::<u8>(), 0..200)) {
        read(&raw);
    }

    #[test]
    fn changed_bytes(raw in mutated()) {
        read(&raw);
    }

    #[test]
    fn changed_fields(raw in refilled()) {
        read(&raw);
    }

    #[test]
    fn any_body(raw in filled()) {
        read(&raw);
    }
}
