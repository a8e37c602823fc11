//! Arguments and results for people to read, as Python prints them. Flower and Celery's logs show these texts.

use std::fmt::Write as _;

use serde_json::{Map, Value};

/// Characters of a text before it is cut, Celery's `argsrepr_maxsize`.
pub const REPR_MAX: usize = 1024;

/// `argsrepr`: the arguments as a tuple, `(2, 3)` or `(1,)`. Not redacted: the caller gives what may be seen.
pub fn args_repr(args: &[Value]) -> String {
    let mut out = Out::default();
    out.sequence('(', args, if args.len() == 1 { ",)" } else { ")" });
    out.finish()
}

/// `kwargsrepr`: the keyword arguments, `{'a': 'x'}`. Not redacted.
pub fn kwargs_repr(kwargs: &Map<String, Value>) -> String {
    let mut out = Out::default();
    out.map(kwargs);
    out.finish()
}

/// A single value, such as the `result` of `task-succeeded`. Not redacted.
pub fn value_repr(value: &Value) -> String {
    let mut out = Out::default();
    out.value(value);
    out.finish()
}

/// Text with room for [`REPR_MAX`] characters: what is beyond is not rendered, so that a large payload costs no more than a small one.
#[derive(Default)]
struct Out {
    text: String,
    used: usize,
    cut: bool,
}

impl Out {
    fn push(&mut self, c: char) {
        if self.used == REPR_MAX {
            self.cut = true;
            return;
        }
        self.text.push(c);
        self.used += 1;
    }

    fn push_str(&mut self, s: &str) {
        s.chars().for_each(|c| self.push(c));
    }

    fn finish(mut self) -> String {
        if self.cut {
            self.text.push_str("...");
        }
        self.text
    }

    fn value(&mut self, value: &Value) {
        match value {
            Value::Null => self.push_str("None"),
            Value::Bool(true) => self.push_str("True"),
            Value::Bool(false) => self.push_str("False"),
            Value::Number(n) => match n.as_f64().filter(|_| n.is_f64()) {
                Some(f) => self.push_str(&float(f)),
                None => self.push_str(&n.to_string()),
            },
            Value::String(s) => self.quoted(s),
            Value::Array(items) => self.sequence('[', items, "]"),
            Value::Object(map) => self.map(map),
        }
    }

    fn sequence(&mut self, open: char, items: &[Value], close: &str) {
        self.push(open);
        for (i, item) in items.iter().enumerate() {
            if self.cut {
                return;
            }
            self.push_str(if i == 0 { "" } else { ", " });
            self.value(item);
        }
        self.push_str(close);
    }

    fn map(&mut self, map: &Map<String, Value>) {
        self.push('{');
        for (i, (key, value)) in map.iter().enumerate() {
            if self.cut {
                return;
            }
            self.push_str(if i == 0 { "" } else { ", " });
            self.quoted(key);
            self.push_str(": ");
            self.value(value);
        }
        self.push('}');
    }

    /// As `repr` of a `str`: double quotes only where there are single ones inside and no double ones.
    fn quoted(&mut self, s: &str) {
        let quote = if s.contains('\'') && !s.contains('"') { '"' } else { '\'' };
        self.push(quote);
        for c in s.chars() {
            if self.cut {
                return;
            }
            self.escaped(c, quote);
        }
        self.push(quote);
    }

    fn escaped(&mut self, c: char, quote: char) {
        let mut escape = String::new();
        // writing to a string cannot fail
        let _ = match c {
            '\n' => write!(escape, "\\n"),
            '\r' => write!(escape, "\\r"),
            '\t' => write!(escape, "\\t"),
            '\\' => write!(escape, "\\\\"),
            c if c == quote => write!(escape, "\\{c}"),
            '\0'..='\u{1f}' | '\u{7f}'..='\u{a0}' | '\u{ad}' => write!(escape, "\\x{:02x}", u32::from(c)),
            // marks that hide or turn the text around them in a log
            '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202f}' | '\u{2060}'..='\u{206f}' | '\u{feff}' => {
                write!(escape, "\\u{:04x}", u32::from(c))
            }
            c => return self.push(c),
        };
        self.push_str(&escape);
    }
}

/// As `repr` of a `float`: the shortest digits that read back, an exponent of at least two digits below 1e-4 and from 1e16.
fn float(f: f64) -> String {
    let scientific = format!("{f:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>().unwrap_or(0) {
        -4..16 if f.fract() == 0.0 => format!("{f:.1}"),
        -4..16 => format!("{f}"),
        e if e < 0 => format!("{digits}e-{:02}", e.unsigned_abs()),
        e => format!("{digits}e+{e:02}"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_looks_as_python_prints_it() {
        assert_eq!(args_repr(&[]), "()");
        assert_eq!(args_repr(&[json!(1)]), "(1,)");
        assert_eq!(args_repr(&[json!(2), json!([true, null, {"a": false}])]), "(2, [True, None, {'a': False}])");
        assert_eq!(kwargs_repr(json!({"a": "x"}).as_object().unwrap()), "{'a': 'x'}");
        assert_eq!(kwargs_repr(&Map::new()), "{}");
    }

    #[test]
    fn text_is_escaped_as_python_does() {
        for (s, repr) in [
            ("it's", r#""it's""#),
            ("\"", r#"'"'"#),
            ("'\"", r#"'\'"'"#),
            ("a\\b\n\r\t\0\x1b\x7f", r"'a\\b\n\r\t\x00\x1b\x7f'"),
            ("ä€😀", "'ä€😀'"),
            ("\u{a0}\u{202e}", r"'\xa0\u202e'"),
        ] {
            assert_eq!(value_repr(&json!(s)), repr);
        }
    }

    #[test]
    fn floats_are_written_as_python_does() {
        for (f, repr) in [
            (1.0, "1.0"),
            (-0.0, "-0.0"),
            (2.5, "2.5"),
            (1e15, "1000000000000000.0"),
            (1e16, "1e+16"),
            (1.5e300, "1.5e+300"),
            (0.0001, "0.0001"),
            (0.000_012, "1.2e-05"),
        ] {
            assert_eq!(value_repr(&json!(f)), repr);
        }
        assert_eq!(value_repr(&json!(u64::MAX)), "18446744073709551615");
    }

    #[test]
    fn it_is_cut_at_the_limit_and_not_inside_a_character() {
        let long = args_repr(&vec![json!("ä"); 1_000_000]);
        assert_eq!(long.chars().count(), REPR_MAX + 3);
        assert!(long.ends_with("..."));
        let fits = "a".repeat(REPR_MAX - 2);
        assert_eq!(value_repr(&json!(fits)).len(), REPR_MAX);
        assert!(value_repr(&json!(fits + "a")).ends_with("a..."));
    }
}
