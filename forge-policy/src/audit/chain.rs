//! The hash of a row: SHA-256 over the hash before it and the canonical JSON of what it holds.
//!
//! The canonical text is written here rather than left to `serde_json`, whose order of keys is a feature that any crate of
//! the tree may switch.

use forge_core::{Digest, Error, ErrorKind, Result};
use serde_json::Value;
use sha2::{Digest as _, Sha256};

/// What the first row follows.
pub(super) const GENESIS: Digest = Digest::from_bytes([0; 32]);

/// The hash of the row `seq`, whose record has this canonical text, after the row with the hash `prev`.
pub(super) fn link(prev: &Digest, seq: u64, record: &str) -> Digest {
    let mut hash = Sha256::new();
    hash.update(prev.as_bytes());
    hash.update(b"{\"record\":");
    hash.update(record.as_bytes());
    hash.update(b",\"seq\":");
    hash.update(seq.to_string().as_bytes());
    hash.update(b"}");
    Digest::from_bytes(hash.finalize().into())
}

/// Keys in the order of their code points, no white space, strings with the fewest escapes, integers in decimal.
pub(super) fn canonical(value: &Value) -> Result<String> {
    let mut out = String::new();
    write(value, &mut out)?;
    Ok(out)
}

fn write(value: &Value, out: &mut String) -> Result<()> {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(b) => out.push_str(if *b { "true" } else { "false" }),
        Value::Number(n) if n.is_u64() || n.is_i64() => out.push_str(&n.to_string()),
        Value::Number(_) => {
            return Err(Error::new(
                ErrorKind::InvalidInput,
                "audit.canonical",
                "an audit row holds whole numbers only",
            ));
        }
        Value::String(s) => string(s, out),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write(item, out)?;
            }
            out.push(']');
        }
        Value::Object(fields) => {
            let mut sorted: Vec<_> = fields.iter().collect();
            sorted.sort_by_key(|(key, _)| *key);
            out.push('{');
            for (i, (key, value)) in sorted.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                string(key, out);
                out.push(':');
                write(value, out)?;
            }
            out.push('}');
        }
    }
    Ok(())
}

fn string(s: &str, out: &mut String) {
    out.push('"');
    for c in s.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c < ' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_text_is_canonical() {
        let value = json!({"b": [1, -2, null, true], "a": {"é": "\u{1}\n\"\\/\u{7f}\u{2028}", "Z": {}}, "": []});
        let text = canonical(&value).unwrap();
        assert_eq!(
            text,
            "{\"\":[],\"a\":{\"Z\":{},\"é\":\"\\u0001\\n\\\"\\\\/\u{7f}\u{2028}\"},\"b\":[1,-2,null,true]}"
        );
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), value);
        assert!(canonical(&json!(0.5)).is_err());
    }

    /// Computed by hand with `printf` and `sha256sum`: the rule in the docs, not this code, is the measure.
    #[test]
    fn a_hash_that_a_stranger_computed() {
        let hash = link(&GENESIS, 1, r#"{"a":1}"#);
        assert_eq!(hash.to_string(), GOLDEN);
    }

    const GOLDEN: &str = "e5137d0b5ff75a6ff23ef73e1df3263869a4e0d55684f8936168e0696ef2cf83";
}
