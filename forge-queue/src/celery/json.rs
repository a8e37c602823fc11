//! JSON as Python writes it, and a look at JSON before it is parsed.

use std::io;

use serde::Serialize;
use serde_json::Value;
use serde_json::ser::Formatter;

use super::Malformed;

/// Deepest nesting that is read or written. Below the 128 at which `serde_json` stops, so that this module says it by name.
pub(crate) const MAX_DEPTH: usize = 100;

/// Parses JSON that somebody else wrote.
pub(crate) fn parse(bytes: &[u8]) -> Result<Value, Malformed> {
    if depth(bytes) > MAX_DEPTH {
        return Err(Malformed::TooDeep);
    }
    serde_json::from_slice(bytes).map_err(|_| Malformed::NotJson)
}

/// Writes `value` with `json.dumps`'s separators. Characters beyond ASCII stay as they are, which Python reads as well.
pub(crate) fn write<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    // what is written here has text keys and finite numbers, and a vector takes all of it
    let _ = value.serialize(&mut serde_json::Serializer::with_formatter(&mut out, Python));
    out
}

/// How deeply brackets are nested, outside of strings. An upper bound where `bytes` are not JSON.
pub(crate) fn depth(bytes: &[u8]) -> usize {
    let (mut now, mut deepest, mut quoted, mut escaped) = (0_usize, 0, false, false);
    for b in bytes {
        match b {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b'[' | b'{' if !quoted => {
                now += 1;
                deepest = deepest.max(now);
            }
            b']' | b'}' if !quoted => now = now.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

/// `", "` between elements and `": "` behind keys.
struct Python;

impl Formatter for Python {
    fn begin_array_value<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(&mut self, w: &mut W, first: bool) -> io::Result<()> {
        if first { Ok(()) } else { w.write_all(b", ") }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, w: &mut W) -> io::Result<()> {
        w.write_all(b": ")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_looks_as_python_writes_it() {
        let value = serde_json::json!({"a": [1, 2.5, "ä\"\n"], "b": {}, "c": []});
        assert_eq!(String::from_utf8(write(&value)).unwrap(), r#"{"a": [1, 2.5, "ä\"\n"], "b": {}, "c": []}"#);
    }

    #[test]
    fn depth_is_counted_outside_of_strings() {
        assert_eq!(depth(br#"{"a": "[[[[\"[[[[[[", "b": [[1]]}"#), 3);
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(parse(deep.as_bytes()).is_ok());
        assert_eq!(parse(format!("[{deep}]").as_bytes()), Err(Malformed::TooDeep));
    }
}
