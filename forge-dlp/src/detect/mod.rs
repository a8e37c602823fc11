//! The detectors: one file a family, one pass that decides between them.
//!
//! Rules are patterns plus checks (check digits, valid ranges, the words before); there is no statistical model, so a finding can
//! always be explained. Clean text is told by a scan for `@`, digits and the names of secrets, and costs no more than that.

mod numbers;
mod patterns;
mod secrets;

use std::ops::Range;
use std::sync::OnceLock;

use forge_core::redact::{EntityKind, Finding, Text};
use regex::Regex;

/// A family's candidates, in the order of their start.
type Candidates = Vec<Range<usize>>;

/// Compiled once a process.
pub(crate) struct Detectors {
    secrets: secrets::Secrets,
    numbers: numbers::Numbers,
    patterns: patterns::Patterns,
}

impl Detectors {
    pub(crate) fn shared() -> &'static Self {
        static SHARED: OnceLock<Detectors> = OnceLock::new();
        SHARED.get_or_init(|| Self {
            secrets: secrets::Secrets::new(),
            numbers: numbers::Numbers::new(),
            patterns: patterns::Patterns::new(),
        })
    }

    /// Findings in order, without overlap. Where two families claim the same characters, the graver one wins.
    pub(crate) fn find(&self, text: Text<'_>) -> Vec<Finding> {
        let Text { field, text } = text;
        if field.is_some_and(secrets::is_secret_name) {
            return whole(text);
        }
        let digits = text.bytes().filter(u8::is_ascii_digit).count();
        let at = text.contains('@');
        let secret = self.secrets.may_be_in(text);
        if !at && !secret && digits < 7 {
            return Vec::new();
        }
        let mut taken: Vec<Finding> = Vec::new();
        let reserved = placeholders(text);
        let mut claim = |kind: EntityKind, candidates: Candidates| {
            for c in candidates {
                let free = |r: &Range<usize>| r.end <= c.start || c.end <= r.start;
                if reserved.iter().all(free) && taken.iter().all(|f| free(&(f.start..f.end))) {
                    taken.push(Finding { start: c.start, end: c.end, kind });
                }
            }
        };
        if secret {
            claim(EntityKind::Secret, self.secrets.find(text));
        }
        if digits >= 7 {
            claim(EntityKind::Iban, self.numbers.ibans(text));
            claim(EntityKind::CreditCard, self.numbers.cards(text));
            claim(EntityKind::UsSsn, self.numbers.ssns(text));
        }
        if at {
            claim(EntityKind::Email, self.patterns.emails(text));
        }
        if digits >= 7 {
            claim(EntityKind::Phone, self.patterns.phones(text));
        }
        taken.sort_by_key(|f| f.start);
        taken
    }
}

/// The value of a field that is named as a secret, whatever it looks like; a placeholder is none any more.
fn whole(text: &str) -> Vec<Finding> {
    let replaced = placeholders(text).first().is_some_and(|p| *p == (0..text.len()));
    if text.is_empty() || replaced {
        return Vec::new();
    }
    vec![Finding { start: 0, end: text.len(), kind: EntityKind::Secret }]
}

/// Masks and tokens that stand in the text already: nothing in them is found again.
pub(crate) fn placeholders(text: &str) -> Vec<Range<usize>> {
    static PLACEHOLDER: OnceLock<Option<Regex>> = OnceLock::new();
    if !text.contains('[') {
        return Vec::new();
    }
    let pattern = PLACEHOLDER.get_or_init(|| {
        let kinds: Vec<_> = EntityKind::ALL.iter().map(|k| k.as_str()).collect();
        Regex::new(&format!(r"\[(?:{})(?::tok_[A-Za-z0-9_-]+)?\]", kinds.join("|"))).ok()
    });
    pattern.iter().flat_map(|p| p.find_iter(text)).map(|m| m.range()).collect()
}

/// A pattern of this crate's own; the tests compile each, so a wrong one cannot ship.
fn pattern(source: &str) -> Option<Regex> {
    Regex::new(source).ok()
}

/// The character before and the one after a range.
fn around(text: &str, range: &Range<usize>) -> (Option<char>, Option<char>) {
    let before = text.get(..range.start).and_then(|t| t.chars().next_back());
    let after = text.get(range.end..).and_then(|t| t.chars().next());
    (before, after)
}

/// Whether one of the words stands in the 40 bytes before a place.
fn words_before(text: &str, at: usize, words: &[&str]) -> bool {
    let mut from = at.saturating_sub(40);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    let before = text.get(from..at).unwrap_or_default().to_ascii_lowercase();
    words.iter().any(|w| before.contains(w))
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn found(kind: EntityKind, text: &str) -> Vec<String> {
        let all = Detectors::shared().find(text.into());
        all.into_iter().filter(|f| f.kind == kind).map(|f| text[f.start..f.end].to_owned()).collect()
    }

    #[test]
    fn a_field_named_as_a_secret_is_one_and_a_placeholder_is_not_found_again() {
        let d = Detectors::shared();
        let named = |text| d.find(Text { field: Some("db_password"), text });
        assert_eq!(named("correct horse").len(), 1);
        assert!(named("[SECRET]").is_empty());
        assert!(d.find("[EMAIL] [IBAN:tok_AbC-9_x1234567890123] password: [SECRET]".into()).is_empty());
    }

    #[test]
    fn the_graver_family_wins() {
        let d = Detectors::shared();
        let kinds: Vec<_> = d.find("password: ana@example.com".into()).iter().map(|f| f.kind).collect();
        assert_eq!(kinds, [EntityKind::Secret]);
    }
}
