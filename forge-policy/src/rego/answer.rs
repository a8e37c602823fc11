//! Reading what a policy answered. Anything that is not exactly a decision is none.

use std::collections::BTreeSet;

use forge_core::policy::{Obligations, Verdict};
use regorus::Value;

use super::Failure;

/// Reason codes of one answer.
const MAX_REASONS: usize = 64;

/// A policy's answer: `{"verdict", "reasons", "obligations"}`, all three present and nothing else.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Answer {
    pub(super) verdict: Verdict,
    pub(super) reasons: Vec<String>,
    pub(super) obligations: Obligations,
}

impl Answer {
    pub(super) fn read(value: &Value) -> Result<Self, Failure> {
        if *value == Value::Undefined {
            return Err(Failure::Undefined);
        }
        Self::shape(value).ok_or(Failure::Shape)
    }

    fn shape(value: &Value) -> Option<Self> {
        let (mut verdict, mut reasons, mut obligations) = (None, None, None);
        for (key, value) in value.as_object().ok()? {
            match key.as_string().ok()?.as_ref() {
                "verdict" => verdict = Some(word(value)?),
                "reasons" => reasons = Some(codes(value)?),
                "obligations" => obligations = Some(duties(value)?),
                _ => return None,
            }
        }
        let answer = Self { verdict: verdict?, reasons: reasons?.into_iter().collect(), obligations: obligations? };
        let sound = match answer.verdict {
            Verdict::Allow => true,
            Verdict::Deny => !answer.reasons.is_empty(),
            // a question that no role may answer would be open for ever
            Verdict::NeedsApproval => !answer.reasons.is_empty() && !answer.obligations.approver_roles.is_empty(),
        };
        sound.then_some(answer)
    }
}

fn word(value: &Value) -> Option<Verdict> {
    match value.as_string().ok()?.as_ref() {
        "allow" => Some(Verdict::Allow),
        "deny" => Some(Verdict::Deny),
        "needs_approval" => Some(Verdict::NeedsApproval),
        _ => None,
    }
}

/// Codes, never text: a policy cannot carry a payload into the audit log or to a caller by way of its reasons.
fn codes(value: &Value) -> Option<BTreeSet<String>> {
    let code = |v: &Value| -> Option<String> {
        let s = v.as_string().ok()?;
        let fits = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        let sound = (1..=64).contains(&s.len()) && s.bytes().all(fits) && !s.starts_with("policy_");
        sound.then(|| s.to_string())
    };
    let codes: Option<BTreeSet<String>> = match value {
        Value::Array(items) => items.iter().map(code).collect(),
        Value::Set(items) => items.iter().map(code).collect(),
        _ => None,
    };
    codes.filter(|c| c.len() <= MAX_REASONS)
}

fn duties(value: &Value) -> Option<Obligations> {
    if value.as_object().ok()?.is_empty() {
        return Some(Obligations::default());
    }
    serde_json::from_value(serde_json::to_value(value).ok()?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &str) -> Result<Answer, Failure> {
        Answer::read(&Value::from_json_str(json).unwrap())
    }

    #[test]
    fn a_whole_answer_is_read() {
        let a = read(
            r#"{"verdict": "needs_approval", "reasons": ["b", "a", "a"],
            "obligations": {"redact_input": ["EMAIL"], "max_rows": 5, "approver_roles": ["partner"]}}"#,
        )
        .unwrap();
        assert_eq!((a.verdict, a.reasons), (Verdict::NeedsApproval, vec!["a".to_owned(), "b".to_owned()]));
        assert_eq!((a.obligations.max_rows, a.obligations.redact_input.len()), (Some(5), 1));
    }

    #[test]
    fn whatever_is_not_exactly_a_decision_is_none() {
        assert_eq!(Answer::read(&Value::Undefined), Err(Failure::Undefined));
        for bad in [
            "true",
            "null",
            "{}",
            r#""allow""#,
            r#"{"verdict": "allow"}"#,
            r#"{"verdict": true, "reasons": [], "obligations": {}}"#,
            r#"{"verdict": "Allow", "reasons": [], "obligations": {}}"#,
            r#"{"verdict": "allow", "reasons": [], "obligations": {}, "allow": true}"#,
            r#"{"verdict": "allow", "reasons": "none", "obligations": {}}"#,
            r#"{"verdict": "allow", "reasons": [1], "obligations": {}}"#,
            r#"{"verdict": "allow", "reasons": [], "obligations": null}"#,
            r#"{"verdict": "allow", "reasons": [], "obligations": {"redact_inputs": ["EMAIL"]}}"#,
            r#"{"verdict": "allow", "reasons": [], "obligations": {"redact_input": ["E_MAIL"]}}"#,
            r#"{"verdict": "allow", "reasons": [], "obligations": {"max_rows": -1}}"#,
            r#"{"verdict": "deny", "reasons": [], "obligations": {}}"#,
            r#"{"verdict": "deny", "reasons": ["jane@example.com"], "obligations": {}}"#,
            r#"{"verdict": "deny", "reasons": ["policy_panic"], "obligations": {}}"#,
            r#"{"verdict": "needs_approval", "reasons": ["a"], "obligations": {}}"#,
        ] {
            assert_eq!(read(bad), Err(Failure::Shape), "{bad}");
        }
    }
}
