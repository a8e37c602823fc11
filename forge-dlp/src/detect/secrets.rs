//! Credentials: by the name of what holds them, or by a form that only credentials have.

use std::ops::Range;

use aho_corasick::AhoCorasick;
use regex::Regex;

use super::{Candidates, pattern};

pub(super) struct Secrets {
    hints: Option<AhoCorasick>,
    assigned: Option<Regex>,
    forms: Vec<Regex>,
}

/// What a text with a secret in it holds at least one of, in any case.
const HINTS: &[&str] = &[
    "passw",
    "pwd",
    "passphrase",
    "secret",
    "token",
    "key",
    "credential",
    "authorization",
    "bearer",
    "sk-",
    "ghp_",
    "gho_",
    "github_pat_",
    "akia",
    "xox",
    "eyj",
    "private",
];

/// Forms by which services mark their credentials; sources: the issuers' documentation.
const FORMS: &[&str] = &[
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----[^-]*-----END [A-Z ]*PRIVATE KEY-----",
    r"\bsk-[A-Za-z0-9_-]{16,}",
    r"\bgh[pousr]_[A-Za-z0-9]{20,}",
    r"\bgithub_pat_[A-Za-z0-9_]{22,}",
    r"\bAKIA[0-9A-Z]{16}\b",
    r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}",
];

impl Secrets {
    pub(super) fn new() -> Self {
        let assigned = r#"(?i)\b([A-Za-z][A-Za-z0-9_.-]*)["']?[ \t]{0,4}(?::|=>|=)[ \t]{0,4}(?:"([^"\n]+)"|'([^'\n]+)'|((?:bearer |basic )?[^\s"',;<>()\[\]{}]{3,}))"#;
        Self {
            hints: AhoCorasick::builder().ascii_case_insensitive(true).build(HINTS).ok(),
            assigned: pattern(assigned),
            forms: FORMS.iter().filter_map(|f| pattern(f)).collect(),
        }
    }

    pub(super) fn may_be_in(&self, text: &str) -> bool {
        self.hints.as_ref().is_none_or(|h| h.is_match(text))
    }

    pub(super) fn find(&self, text: &str) -> Candidates {
        let mut out: Candidates = self.forms.iter().flat_map(|p| p.find_iter(text)).map(|m| m.range()).collect();
        let assigned = self.assigned.iter().flat_map(|p| p.captures_iter(text)).filter_map(|c| {
            let name = c.get(1)?.as_str();
            let value = c.get(2).or_else(|| c.get(3)).or_else(|| c.get(4))?;
            is_secret_name(name).then(|| trimmed(text, value.range())).flatten()
        });
        out.extend(assigned);
        out
    }
}

/// Without the punctuation of the sentence around it; `None` if nothing is left.
fn trimmed(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let value = text.get(range.clone())?;
    let end = range.start + value.trim_end_matches(['.', ',', ';', ':', '!', '?']).len();
    // an exclamation mark may be the password's own: only one at the very end of a sentence is dropped
    let end = if value.ends_with('!') { range.end } else { end };
    (end > range.start).then_some(range.start..end)
}

/// Whether a field, a variable or a label of this name holds a secret: by its words, in snake, kebab or camel case.
pub(super) fn is_secret_name(name: &str) -> bool {
    let words = words(name);
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let any = |w: &&str| {
        matches!(
            *w,
            "password"
                | "passwd"
                | "pwd"
                | "passphrase"
                | "passcode"
                | "secret"
                | "apikey"
                | "credential"
                | "credentials"
                | "authorization"
                | "bearer"
        )
    };
    if words.last() == Some(&"token") || words.iter().any(any) {
        // the name or the reference of a secret is none
        return !matches!(words.last(), Some(&"name" | &"ref" | &"id" | &"policy" | &"expires" | &"length"));
    }
    let kinds_of_key = ["api", "access", "private", "secret", "signing", "encryption", "master", "service", "ssh"];
    words.windows(2).any(|w| matches!(w, [kind, "key"] if kinds_of_key.contains(kind)))
}

fn words(name: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut lower = false;
    for c in name.chars() {
        if !c.is_alphanumeric() || (c.is_uppercase() && lower) {
            words.push(String::new());
        }
        if c.is_alphanumeric()
            && let Some(word) = words.last_mut()
        {
            word.extend(c.to_lowercase());
        }
        lower = c.is_lowercase();
    }
    words.retain(|w| !w.is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::*;
    use forge_core::redact::EntityKind::Secret;

    #[test]
    fn names() {
        for yes in [
            "password",
            "db_password",
            "dbPassword",
            "X-Api-Key",
            "access_token",
            "client_secret",
            "Authorization",
            "private-key",
            "token",
            "PGPASSWORD".to_lowercase().replace("pg", "pg_").as_str(),
        ] {
            assert!(is_secret_name(yes), "{yes}");
        }
        for no in [
            "token_type",
            "tokens_in",
            "max_tokens",
            "idempotency_key",
            "public_key",
            "key",
            "secrets",
            "secret_name",
            "password_policy",
            "secretary",
            "keyboard",
        ] {
            assert!(!is_secret_name(no), "{no}");
        }
    }

    #[test]
    fn values() {
        for (text, value) in [
            ("portal_password: Blue-Heron-42", "Blue-Heron-42"),
            ("password=hunter2.", "hunter2"),
            (r#"{"apiKey": "a b c"}"#, "a b c"),
            ("export API_KEY='x-y-z'", "x-y-z"),
            ("Authorization: Bearer abc.def-ghi", "Bearer abc.def-ghi"),
            ("key AKIAIOSFODNN7EXAMPLE here", "AKIAIOSFODNN7EXAMPLE"),
            ("xoxb-123456789012-abcdefghij", "xoxb-123456789012-abcdefghij"),
        ] {
            assert_eq!(found(Secret, text), [value], "{text}");
        }
        for no in [
            "Trade Secrets: information that is not public",
            "the token of our esteem",
            "tokens_in: 850",
            "public_key = abcdef",
            "a secret handshake",
            "key: value pairs",
        ] {
            assert!(found(Secret, no).is_empty(), "{no}: {:?}", found(Secret, no));
        }
    }

    #[test]
    fn every_pattern_compiles() {
        let s = Secrets::new();
        assert_eq!(s.forms.len(), FORMS.len());
        assert!(s.assigned.is_some() && s.hints.is_some());
    }
}
