//! The detectors: one file a family, and one place that decides between them.
//!
//! Rules are forms plus checks (check digits, valid ranges, the words before); there is no statistical model, so a finding can
//! always be explained. One look tells where digits, `@` and the words that announce secrets are; clean text costs that look.

mod assigned;
mod card;
mod email;
mod iban;
mod names;
mod phone;
mod scan;
mod secret;
mod ssn;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::LazyLock;

use forge_core::redact::{EntityKind, Finding, Text};
use regex::Regex;

use scan::Scan;

/// What the families claim, in any order, overlapping or not.
type Candidates = Vec<(EntityKind, Range<usize>)>;

/// The placeholder that a mask puts in the place of a finding.
pub(crate) fn mask(kind: EntityKind) -> [&'static str; 3] {
    ["[", kind.as_str(), "]"]
}

/// Stands between kind and token: `[EMAIL:tok_…]` has no quote and no backslash, so it may stand in JSON.
pub(crate) const TOKEN: &str = ":tok_";

/// How often a text is looked at again after values were taken out. More than one is needed only by text made to need it.
const ROUNDS: usize = 8;

/// Findings of these kinds, in order, without overlap, on character boundaries.
///
/// A value that is taken out no longer joins its neighbours: what could not be told from a longer number before may be one
/// now. So the text is looked at again as it will be, and redacting twice is redacting once.
pub(crate) fn find(text: Text<'_>, kinds: &BTreeSet<EntityKind>) -> Vec<Finding> {
    let Text { field, text } = text;
    if kinds.contains(&EntityKind::Secret) && field.is_some_and(names::is_secret_name) {
        return whole(text);
    }
    let mut found = look(text, field, kinds);
    for _ in 0..ROUNDS {
        if found.is_empty() {
            break;
        }
        let more = look(&masked(text, &found), field, kinds);
        if more.is_empty() {
            break;
        }
        found = merged(&found, &more);
    }
    found
}

/// One round. Where two families claim the same characters, the graver one wins, then the longer.
fn look(text: &str, field: Option<&str>, kinds: &BTreeSet<EntityKind>) -> Vec<Finding> {
    let scan = Scan::new(text, field);
    let mut claims = Candidates::new();
    let mut ask = |kind, family: fn(&Scan<'_>, &mut Candidates)| {
        if kinds.contains(&kind) {
            family(&scan, &mut claims);
        }
    };
    ask(EntityKind::Secret, secret::find);
    ask(EntityKind::Email, email::find);
    if !scan.clusters.is_empty() {
        ask(EntityKind::Iban, iban::find);
        ask(EntityKind::CreditCard, card::find);
        ask(EntityKind::UsSsn, ssn::find);
        ask(EntityKind::Phone, phone::find);
    }
    if claims.is_empty() {
        return Vec::new();
    }
    claims.sort_by_key(|(kind, r)| (rank(*kind), Reverse(r.len()), r.start));
    let mut taken: BTreeMap<usize, Finding> = BTreeMap::new();
    for (kind, r) in claims {
        let before = taken.range(..r.end).next_back().is_none_or(|(_, f)| f.end <= r.start);
        let placeholder = scan.reserved.partition_point(|p| p.end <= r.start);
        let clear = scan.reserved.get(placeholder).is_none_or(|p| r.end <= p.start);
        if before && clear && !r.is_empty() {
            taken.insert(r.start, Finding { start: r.start, end: r.end, kind });
        }
    }
    taken.into_values().collect()
}

fn rank(kind: EntityKind) -> u8 {
    match kind {
        EntityKind::Secret => 0,
        EntityKind::Iban => 1,
        EntityKind::CreditCard => 2,
        EntityKind::UsSsn => 3,
        EntityKind::Email => 4,
        _ => 5,
    }
}

/// The text with its findings masked.
fn masked(text: &str, found: &[Finding]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut from = 0;
    for f in found {
        out.push_str(text.get(from..f.start).unwrap_or_default());
        out.extend(mask(f.kind));
        from = f.end;
    }
    out.push_str(text.get(from..).unwrap_or_default());
    out
}

/// Old findings, and those of the masked text put back to their places in the text.
fn merged(found: &[Finding], more: &[Finding]) -> Vec<Finding> {
    let mut out = Vec::with_capacity(found.len() + more.len());
    let mut more = more.iter().peekable();
    // where the stretch of clean text after the last finding begins, in the text and in the masked one
    let (mut plain, mut hidden) = (0, 0);
    for next in found.iter().map(Some).chain([None]) {
        let stretch_end = next.map_or(usize::MAX, |f| hidden + (f.start - plain));
        while let Some(m) = more.next_if(|m| m.start < stretch_end) {
            out.push(Finding { start: m.start - hidden + plain, end: m.end - hidden + plain, kind: m.kind });
        }
        if let Some(f) = next {
            out.push(*f);
            hidden = stretch_end + mask(f.kind).iter().map(|s| s.len()).sum::<usize>();
            plain = f.end;
        }
    }
    out
}

/// The value of a field that is named as a secret, whatever it looks like; a placeholder is none any more.
fn whole(text: &str) -> Vec<Finding> {
    let replaced = placeholders(text).first().is_some_and(|p| *p == (0..text.len()));
    if text.trim().is_empty() || replaced {
        return Vec::new();
    }
    vec![Finding { start: 0, end: text.len(), kind: EntityKind::Secret }]
}

/// Masks and tokens that stand in the text already, in order: nothing in them is found again.
pub(crate) fn placeholders(text: &str) -> Vec<Range<usize>> {
    static PLACEHOLDER: LazyLock<Regex> = LazyLock::new(|| {
        let kinds = EntityKind::ALL.map(EntityKind::as_str).join("|");
        pattern(&format!(r"\[(?:{kinds})(?:{TOKEN}[A-Za-z0-9_-]+)?\]"))
    });
    if !text.contains('[') {
        return Vec::new();
    }
    // a number in the dress of a token is none: a token of ours without one letter does not happen
    let real = |r: &Range<usize>| {
        let token = text.get(r.clone()).and_then(|p| p.split_once(TOKEN)).map(|(_, token)| token);
        token.is_none_or(|t| t.contains(|c: char| c.is_ascii_alphabetic()))
    };
    PLACEHOLDER.find_iter(text).map(|m| m.range()).filter(real).collect()
}

/// A pattern of this crate's own. It is a constant that the tests build, so a wrong one cannot ship; and if it did, nothing
/// must pass in silence.
#[expect(clippy::expect_used, reason = "a constant, built by the tests")]
fn pattern(source: &str) -> Regex {
    Regex::new(source).expect("the pattern of a detector is a regular expression")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn found(kind: EntityKind, text: &str) -> Vec<String> {
        found_in(None, kind, text)
    }

    pub(crate) fn found_in(field: Option<&str>, kind: EntityKind, text: &str) -> Vec<String> {
        let all = find(Text { field, text }, &EntityKind::ALL.into());
        all.into_iter().filter(|f| f.kind == kind).map(|f| text[f.start..f.end].to_owned()).collect()
    }

    fn kinds(text: &str) -> Vec<EntityKind> {
        find(text.into(), &EntityKind::ALL.into()).iter().map(|f| f.kind).collect()
    }

    #[test]
    fn a_field_named_as_a_secret_is_one_and_a_placeholder_is_not_found_again() {
        assert_eq!(found_in(Some("db_password"), EntityKind::Secret, "correct horse"), ["correct horse"]);
        assert!(found_in(Some("db_password"), EntityKind::Secret, "[SECRET]").is_empty());
        assert!(found_in(Some("db_password"), EntityKind::Secret, "  ").is_empty());
        assert!(found_in(Some("token_type"), EntityKind::Secret, "Bearer").is_empty());
        assert!(kinds("[EMAIL] [IBAN:tok_AbC-9_x1234567890123] password: [SECRET]").is_empty());
        assert_eq!(kinds("[IBAN:tok_4111-1111-1111-1111]"), [EntityKind::CreditCard], "a number in a token's dress");
    }

    #[test]
    fn the_graver_family_wins() {
        assert_eq!(kinds("password: ana@example.com"), [EntityKind::Secret]);
        assert_eq!(kinds("phone 4111 1111 1111 1111"), [EntityKind::CreditCard]);
        assert_eq!(kinds("call 536-22-8726"), [EntityKind::UsSsn]);
    }

    #[test]
    fn only_the_wanted_kinds_compete() {
        let only = |kind| find("password: ana@example.com".into(), &BTreeSet::from([kind]));
        assert_eq!(only(EntityKind::Email).len(), 1, "an address is one, whoever else would claim it");
        assert!(only(EntityKind::Phone).is_empty());
        let field = Text { field: Some("password"), text: "ana@example.com" };
        assert_eq!(find(field, &BTreeSet::from([EntityKind::Email]))[0].kind, EntityKind::Email);
    }

    #[test]
    fn what_a_replaced_neighbour_uncovers_is_found_in_the_first_pass() {
        let text = "ä 555-0142.4111111111111111 phone [EMAIL] 555-0142-212-555-0142 ö tel 555-0199";
        let found = find(text.into(), &EntityKind::ALL.into());
        assert!(found.windows(2).all(|w| w[0].end <= w[1].start));
        let again = masked(text, &found);
        assert!(find(again.as_str().into(), &EntityKind::ALL.into()).is_empty(), "{again}");
    }
}
