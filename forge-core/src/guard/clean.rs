//! Phase 11: what a tool or a model answered is data. Control sequences that could steer a terminal or hide text go.

use serde_json::Value;

/// Removes control characters (line ends and tabs stay), escape sequences' introducers and bidirectional overrides.
pub(super) fn clean(value: &mut Value) {
    match value {
        Value::String(s) if s.chars().any(steers) => s.retain(|c| !steers(c)),
        Value::Array(items) => items.iter_mut().for_each(clean),
        Value::Object(map) => map.values_mut().for_each(clean),
        _ => {}
    }
}

fn steers(c: char) -> bool {
    (c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
        || matches!(c, '\u{202A}'..='\u{202E}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_cannot_steer_a_terminal() {
        let mut v = serde_json::json!({ "a": ["x\u{1b}[2J\u{202E}y\n"] });
        clean(&mut v);
        assert_eq!(v, serde_json::json!({ "a": ["x[2Jy\n"] }));
    }
}
