//! Kombu's typed JSON: what Python's producers write for values that JSON does not have.

use data_encoding::BASE64;
use forge_core::TaskId;
use serde_json::{Map, Value};

use super::Malformed;
use super::body::text;

/// Checks every `{"__type__": …, "__value__": …}` in `value` and puts plain text in its place; everything else stays as it is.
///
/// | `__type__` | becomes |
/// |---|---|
/// | `datetime`, `date`, `time` | the ISO 8601 text, without an offset where Python's value had none |
/// | `decimal` | the digits as text, so that none is lost |
/// | `uuid` | the hyphenated form |
/// | `bytes` | the text that they are in UTF-8 |
/// | `base64` | base64, for bytes that are no UTF-8; the handler must know which of the two it asks for |
///
/// A step of its own, never part of [`Envelope::parse`](super::Envelope::parse): what is read must be what was signed, and a task that is
/// passed on to Python must keep its types. An object is typed if it has exactly these two keys, as in kombu; one that has more is data.
///
/// # Errors
/// [`Malformed::BadTypedValue`] for a type that is unknown, at which Python raises as well, or a value that does not fit its type.
pub fn untyped(value: Value) -> Result<Value, Malformed> {
    match value {
        Value::Array(items) => items.into_iter().map(untyped).collect::<Result<Vec<_>, _>>().map(Value::Array),
        Value::Object(map) => {
            // inside out, as Python's `object_hook` goes
            let entries = map.into_iter().map(|(k, v)| untyped(v).map(|v| (k, v)));
            let map = entries.collect::<Result<Map<_, _>, _>>()?;
            match (map.len(), map.get("__type__"), map.get("__value__")) {
                (2, Some(kind), Some(value)) => plain(kind, value).map(Value::String).ok_or(Malformed::BadTypedValue),
                _ => Ok(Value::Object(map)),
            }
        }
        other => Ok(other),
    }
}

fn plain(kind: &Value, value: &Value) -> Option<String> {
    let kind = kind.as_str()?;
    if kind == "uuid" {
        // an id of a task is a UUID, and the one kind of UUID that this crate has
        return TaskId::parse(text(value.get("hex"))?).ok().map(|id| id.to_string());
    }
    let s = value.as_str()?;
    let fits = match kind {
        "datetime" => is_datetime(s),
        "date" => s.parse::<jiff::civil::Date>().is_ok(),
        "time" => is_time(s),
        // digits, a point, an exponent, `NaN` and `Infinity`: the grammar of Rust's floats holds all that `str(Decimal)` writes
        "decimal" => s.parse::<f64>().is_ok(),
        "bytes" => true,
        "base64" => BASE64.decode(s.as_bytes()).is_ok(),
        _ => false,
    };
    fits.then(|| s.to_owned())
}

fn is_datetime(s: &str) -> bool {
    match s.get(10..).is_some_and(|time| time.contains(['+', '-', 'Z'])) {
        true => s.parse::<jiff::Timestamp>().is_ok(),
        false => s.parse::<jiff::civil::DateTime>().is_ok(),
    }
}

/// `12:30:00.5`, with an offset or without.
fn is_time(s: &str) -> bool {
    let (clock, offset) = s.split_at(s.find(['+', '-']).unwrap_or(s.len()));
    let offset = offset.get(1..).unwrap_or("00:00");
    [clock, offset].iter().all(|part| part.parse::<jiff::civil::Time>().is_ok())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn typed(kind: &str, value: impl Into<Value>) -> Value {
        json!({"__type__": kind, "__value__": value.into()})
    }

    #[test]
    fn what_kombu_writes_becomes_text() {
        for (kind, value, plain) in [
            ("datetime", json!("2026-01-02T03:04:05+00:00"), "2026-01-02T03:04:05+00:00"),
            ("datetime", json!("2026-01-02T03:04:05.000006"), "2026-01-02T03:04:05.000006"),
            ("date", json!("2026-01-02"), "2026-01-02"),
            ("time", json!("03:04:05.5"), "03:04:05.5"),
            ("time", json!("03:04:05+02:00"), "03:04:05+02:00"),
            ("decimal", json!("-1.50E+3"), "-1.50E+3"),
            ("decimal", json!("NaN"), "NaN"),
            ("uuid", json!({"hex": "00000000000000000000000000000005"}), "00000000-0000-0000-0000-000000000005"),
            ("bytes", json!("by"), "by"),
            ("base64", json!("//4="), "//4="),
        ] {
            let nested = json!({"a": [typed(kind, value)], "b": 1});
            assert_eq!(untyped(nested), Ok(json!({"a": [plain], "b": 1})), "{kind}");
        }
    }

    #[test]
    fn an_unknown_type_or_a_wrong_value_is_refused() {
        for bad in [
            typed("set", "1"),
            typed("datetime", "tomorrow"),
            typed("datetime", 5),
            typed("date", "2026-02-30"),
            typed("time", "25:00"),
            typed("decimal", "1,5"),
            typed("uuid", "00"),
            typed("uuid", json!({"int": 5})),
            typed("base64", "/"),
            json!({"__type__": ["datetime"], "__value__": 1}),
        ] {
            assert_eq!(untyped(json!([bad])), Err(Malformed::BadTypedValue), "{bad}");
        }
    }

    #[test]
    fn what_only_looks_typed_is_left_alone() {
        let more = json!({"__type__": "x", "__value__": 1, "more": 2});
        assert_eq!(untyped(more.clone()), Ok(more));
        let less = json!({"__type__": "x"});
        assert_eq!(untyped(less.clone()), Ok(less));
    }
}
