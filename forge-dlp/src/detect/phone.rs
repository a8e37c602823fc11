//! Telephone numbers: E.164 with its plus, North American and trunk-zero national forms, and shorter ones where a word says so.
//!
//! A bare number is none unless a word near it or the name of its field says "phone": dates, amounts, clauses and order numbers
//! look the same.

use std::ops::Range;
use std::sync::LazyLock;

use forge_core::redact::EntityKind;
use regex::Regex;

use super::{
    Candidates, pattern,
    scan::{Scan, digits, separates},
};

/// A separator of groups.
const S: &str = r"[ ./\-\u{a0}\u{2007}\u{2009}\u{202f}\u{2010}-\u{2013}]";

static DATE: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r"\b(?:[0-3]?[0-9][./-][0-3]?[0-9][./-](?:19|20)[0-9]{2}|(?:19|20)[0-9]{2}[./-][01]?[0-9][./-][0-3]?[0-9])\b",
    )
});
static INTERNATIONAL: LazyLock<Regex> =
    LazyLock::new(|| pattern(&format!(r"(?:\+|\b00{S}?)[1-9][0-9]{{0,2}}(?:{S}{{0,2}}\(?[0-9]{{1,5}}\)?){{2,6}}")));
static NORTH_AMERICAN: LazyLock<Regex> = LazyLock::new(|| {
    pattern(&format!(r"(?:\b1{S})?(?:\([2-9][0-9]{{2}}\){S}?|\b[2-9][0-9]{{2}}{S})[2-9][0-9]{{2}}{S}[0-9]{{4}}\b"))
});
static NATIONAL: LazyLock<Regex> =
    LazyLock::new(|| pattern(&format!(r"\(?\b0[1-9][0-9]{{0,4}}\)?(?:{S}{{1,2}}[0-9]{{2,8}}){{1,4}}")));
static GROUPS: LazyLock<Regex> =
    LazyLock::new(|| pattern(&format!(r"\(?\b[0-9]{{1,13}}\)?(?:{S}{{0,2}}\(?[0-9]{{1,9}}\)?){{0,5}}")));
static EXTENSION: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\A,?[ ]?(?:x|ext\.?|extension)[ ]?[0-9]{1,6}\b"));
static LABEL_BEHIND: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)\A[ ,-]{1,3}\(?(?:(fax|mobile|cell|phone|tel)|office|home|desk)\b"));
static AMOUNT_BEHIND: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)\A ?(?:[$€£¥%]|usd|eur|gbp|chf|jpy|dollars?|euros?|pounds?|shares?)"));
static ADDRESS_OF_HOST: LazyLock<Regex> = LazyLock::new(|| pattern(r"\A[0-9]{1,3}(?:\.[0-9]{1,3}){3}\z"));

pub(super) fn find(scan: &Scan<'_>, out: &mut Candidates) {
    for cluster in &scan.clusters {
        for part in without_dates(scan, cluster) {
            let found = candidates(scan, &part);
            out.extend(found.into_iter().map(|r| (EntityKind::Phone, with_extension(scan, r))));
        }
    }
}

/// The stretches of a cluster between dates, with the plus and the parenthesis before it.
fn without_dates(scan: &Scan<'_>, cluster: &Range<usize>) -> Vec<Range<usize>> {
    let head = scan.text.get(..cluster.start).unwrap_or_default();
    let opening = head.bytes().rev().take(2).take_while(|b| matches!(b, b'(' | b'+')).count();
    let mut from = cluster.start - opening;
    let mut parts = Vec::new();
    for date in DATE.find_iter(scan.part(cluster)) {
        parts.push(from..cluster.start + date.start());
        from = cluster.start + date.end();
    }
    // a closing parenthesis belongs to the group before it
    parts.push(from..cluster.end);
    parts.retain(|p| digits(scan.part(p)) >= 7);
    parts
}

fn candidates(scan: &Scan<'_>, part: &Range<usize>) -> Vec<Range<usize>> {
    let text = scan.part(part);
    let all = |p: &Regex| p.find_iter(text).map(|m| part.start + m.start()..part.start + m.end()).collect::<Vec<_>>();
    let count = |r: &Range<usize>| digits(scan.part(r));
    let grouped = |r: &Range<usize>| scan.part(r).contains(|c: char| separates(c));
    let mut out: Vec<_> = all(&INTERNATIONAL).into_iter().map(|r| shortened(scan, r, 15)).collect();
    out.retain(|r| {
        let dialled = || grouped(r) && begins_a_number(scan, part, r);
        count(r) >= 8 && (scan.part(r).starts_with('+') || dialled())
    });
    out.extend(all(&NORTH_AMERICAN));
    let mut national: Vec<_> = all(&NATIONAL).into_iter().map(|r| shortened(scan, r, 12)).collect();
    national.retain(|r| count(r) >= 9 && begins_a_number(scan, part, r) && !decimal(scan.part(r)));
    out.extend(national);
    let first = GROUPS.find(text).map(|m| part.start + m.start()..part.start + m.end());
    out.extend(first.map(|r| shortened(scan, r, 13)).filter(|r| count(r) >= 7 && said_to_be(scan, r, grouped(r))));
    out.retain(|r| stands_alone(scan, r, count(r)));
    out
}

/// Cut at the end of a group, so that no number that stands behind it is taken for a part; `+1` has eleven digits.
fn shortened(scan: &Scan<'_>, range: Range<usize>, most: usize) -> Range<usize> {
    let text = scan.part(&range);
    let (most, exact) = if text.starts_with("+1") { (11, true) } else { (most, false) };
    let (mut seen, mut end, mut last_full) = (0, 0, 0);
    for (i, c) in text.char_indices() {
        if c.is_ascii_digit() {
            seen += 1;
            if seen > most {
                let cut = if end > 0 { end } else { last_full };
                return range.start..range.start + cut.max(1);
            }
            last_full = i + 1;
        } else if separates(c) {
            end = if c == ')' && i == last_full { i + 1 } else { last_full };
            if exact && seen == most {
                break;
            }
        }
    }
    let whole = if exact && seen == most { last_full } else { text.len() };
    range.start..range.start + whole
}

/// Not in the middle of a row of groups: `5500 0012 0345 6789` holds no telephone number.
fn begins_a_number(scan: &Scan<'_>, part: &Range<usize>, r: &Range<usize>) -> bool {
    let before = scan.text.get(part.start..r.start).unwrap_or_default();
    before.is_empty() || before.chars().rev().take(2).all(separates)
}

/// One full stop and no other separator.
fn decimal(text: &str) -> bool {
    text.matches('.').count() == 1 && text.matches(|c: char| separates(c)).count() == 1
}

/// Whether a word says that it is a telephone number; a weaker word needs a number in groups.
fn said_to_be(scan: &Scan<'_>, r: &Range<usize>, grouped: bool) -> bool {
    let text = scan.part(r);
    let behind = scan.text.get(r.end..).unwrap_or_default();
    if ADDRESS_OF_HOST.is_match(text) || AMOUNT_BEHIND.is_match(behind) || decimal(text) {
        return false;
    }
    let label = LABEL_BEHIND.captures(behind);
    label.is_some_and(|c| grouped || c.get(1).is_some())
        || scan.announced(r.start, says_phone)
        || grouped && scan.announced(r.start, may_say_phone)
}

fn says_phone(word: &str) -> bool {
    const WORDS: &[&str] =
        &["tel", "cell", "cellphone", "mob", "call", "dial", "sms", "whatsapp", "hotline", "landline", "msisdn"];
    WORDS.contains(&word)
        || ["phone", "telephone", "telefon", "téléphone", "mobile", "fax"].iter().any(|w| word.starts_with(w))
}

fn may_say_phone(word: &str) -> bool {
    matches!(word, "answering" | "message" | "messages" | "text" | "reach" | "contact" | "desk" | "office" | "ring")
}

/// Not a part of a longer number, word or price.
fn stands_alone(scan: &Scan<'_>, r: &Range<usize>, count: usize) -> bool {
    let (before, after) = scan.around(r);
    let is_digit = |c: char| c.is_ascii_digit();
    let head = scan.text.get(..r.start).unwrap_or_default();
    let goes_before = count < 10 && head.strip_suffix(['.', '-', '/', ',']).is_some_and(|h| h.ends_with(is_digit));
    let joins_before = before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '$' | '€' | '£' | '#'));
    let next = scan.text.get(r.end..).unwrap_or_default();
    let goes_on = count < 10 && next.strip_prefix(['.', '-', '/', ',']).is_some_and(|n| n.starts_with(is_digit));
    let extended = EXTENSION.is_match(next);
    !joins_before && !goes_before && !goes_on && (extended || !after.is_some_and(char::is_alphanumeric))
}

fn with_extension(scan: &Scan<'_>, r: Range<usize>) -> Range<usize> {
    let extension = scan.text.get(r.end..).and_then(|n| EXTENSION.find(n)).map_or(0, |m| m.end());
    r.start..r.end + extension
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, found_in};
    use forge_core::redact::EntityKind::Phone;

    #[test]
    fn numbers() {
        for yes in [
            "+1 212 555 0142",
            "+1 (212) 555-0142",
            "+442079460958",
            "+49 30 901820",
            "+46 (0)8 928 571 38",
            "001-518-640-0854",
            "(212) 555-0142",
            "(212)555-0142",
            "212-555-0142",
            "212.555.0142",
            "1-212-555-0142",
            "212-555-0142 ext 77",
            "345-899-3560x4587",
            "030 9018 2000",
            "020 7946 0958",
            "01.84.17.61.18",
            "0341/8387176",
            "212\u{2011}555\u{2011}0142",
        ] {
            assert_eq!(found(Phone, &format!("we are at {yes}, any time")), [yes]);
            assert_eq!(found(Phone, &format!("on 2026-11-25 {yes}")), [yes], "a date before it");
        }
        assert_eq!(found(Phone, &"212-555-0142-".repeat(100)).len(), 100);
        assert_eq!(found(Phone, "tel. 555-0142"), ["555-0142"]);
        assert_eq!(found(Phone, "Mobile: 723 813 266"), ["723 813 266"]);
        assert_eq!(found(Phone, "781 1704 office, 3660170548-Fax"), ["781 1704", "3660170548"]);
        assert_eq!(found(Phone, "+1 212 555 0142 4 people"), ["+1 212 555 0142"]);
        assert_eq!(found_in(Some("workPhone"), Phone, "2125550142"), ["2125550142"]);
    }

    #[test]
    fn what_is_no_number() {
        for no in [
            "2024-11-25 10:30",
            "01.02.2024",
            "01.02.2024 10:30",
            "05/11/2024 14.00",
            "section 12.3.4.5678",
            "USD 1,250,000.00",
            "a capital call of 25 000 000 EUR",
            "$212-555-0142",
            "invoice 2125550142",
            "555-0142",
            "1767225600000",
            "10.0.0.127:6379",
            "call 192.168.100.200",
            "sections 201 202 203",
            "5500 0012 0345 6789",
            "000-95-5613",
            "2026-11-25T10:30:00.123456789Z",
            "550e8400-e29b-41d4-a716-446655440000",
            "0.50000000 of 51.507351",
        ] {
            assert!(found(Phone, no).is_empty(), "{no}: {:?}", found(Phone, no));
        }
    }
}
