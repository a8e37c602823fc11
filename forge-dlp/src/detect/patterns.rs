//! What is known by its form: e-mail addresses (the practical part of RFC 5321) and telephone numbers (E.164 and national forms).

use std::ops::Range;

use regex::Regex;

use super::{Candidates, around, pattern, words_before};

pub(super) struct Patterns {
    email: Option<Regex>,
    international: Option<Regex>,
    north_american: Option<Regex>,
    national: Option<Regex>,
    local: Option<Regex>,
}

/// Words before a number that make a short one a telephone number.
const PHONE_WORDS: &[&str] = &["phone", "tel", "mobile", "cell", "fax", "call", "dial"];

impl Patterns {
    pub(super) fn new() -> Self {
        Self {
            email: pattern(
                r"[\p{L}\p{N}._%+'-]*[\p{L}\p{N}_%+-]@[\p{L}\p{N}](?:[\p{L}\p{N}.-]*[\p{L}\p{N}])?\.\p{L}{2,24}",
            ),
            international: pattern(r"\+[0-9]{1,3}(?:[ ./-]{0,2}\(?[0-9]{1,5}\)?){2,6}"),
            north_american: pattern(
                r"(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[ .-])[2-9][0-9]{2}[ .-][0-9]{4}(?:,? ?(?:x|ext\.?) ?[0-9]{1,5})?",
            ),
            national: pattern(r"\(?0[0-9]{1,5}\)?(?:[ ./-][0-9]{2,8}){1,4}"),
            local: pattern(r"[2-9][0-9]{2}[ .-][0-9]{4}|[0-9]{7,11}"),
        }
    }

    pub(super) fn emails(&self, text: &str) -> Candidates {
        self.email
            .iter()
            .flat_map(|p| p.find_iter(text))
            .map(|m| m.range())
            .filter(|r| !text.get(r.clone()).is_some_and(|t| t.contains("..")))
            .collect()
    }

    pub(super) fn phones(&self, text: &str) -> Candidates {
        let all = |p: &Option<Regex>| {
            p.iter()
                .flat_map(|p| p.find_iter(text))
                .map(|m| m.range())
                .filter(|r| stands_alone(text, r))
                .collect::<Vec<_>>()
        };
        let count = |r: &Range<usize>| text.get(r.clone()).map_or(0, |t| t.bytes().filter(u8::is_ascii_digit).count());
        let named = |r: &Range<usize>| words_before(text, r.start, PHONE_WORDS);
        let mut out = all(&self.international);
        out.retain(|r| (8..=15).contains(&count(r)));
        out.extend(all(&self.north_american));
        // a date has eight digits; a national number with its trunk 0 has nine to twelve
        out.extend(all(&self.national).into_iter().filter(|r| (9..=12).contains(&count(r))));
        out.extend(all(&self.local).into_iter().filter(named));
        out
    }
}

/// Not a part of a longer number, word, price or section number.
fn stands_alone(text: &str, range: &Range<usize>) -> bool {
    let (before, after) = around(text, range);
    let joins_before =
        before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | '€' | '£' | '.' | '-' | '/' | '#'));
    let next = text.get(range.end..).unwrap_or_default();
    let goes_on =
        next.len() > 1 && next.starts_with(['.', '-', '/']) && next.chars().nth(1).is_some_and(|c| c.is_ascii_digit());
    !joins_before && !goes_on && !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use forge_core::redact::EntityKind::{Email, Phone};

    #[test]
    fn emails() {
        for yes in
            ["ana@example.com", "a.b-c+d@sub.example.co.uk", "o'neil@example.org", "jörg@exämple.de", "x_1@1and1.com"]
        {
            assert_eq!(found(Email, &format!("<{yes}>, or call")), [yes]);
        }
        assert_eq!(found(Email, "mail ana@example.com."), ["ana@example.com"], "the full stop is the sentence's");
        for no in ["@handle", "a@b", "user@localhost", "a @ b.com", "price@", "a@b..com", "me@1.2"] {
            assert!(found(Email, no).is_empty(), "{no}");
        }
    }

    #[test]
    fn phones() {
        for yes in [
            "+1 212 555 0142",
            "+1 (212) 555-0142",
            "+442079460958",
            "+49 30 901820",
            "(212) 555-0142",
            "212-555-0142",
            "212.555.0142",
            "1-212-555-0142",
            "212-555-0142 ext 77",
            "030 9018 2000",
            "020 7946 0958",
        ] {
            assert_eq!(found(Phone, &format!("reach me at {yes}, any time")), [yes]);
        }
        assert_eq!(found(Phone, "tel. 555-0142"), ["555-0142"]);
        for no in [
            "2024-11-25 10:30",
            "01.02.2024",
            "section 12.3.4.5678",
            "USD 1,250,000.00",
            "$212-555-0142",
            "invoice 2125550142",
            "555-0142",
            "1767225600000",
            "10.0.0.127:6379",
            "sections 201 202 203",
        ] {
            assert!(found(Phone, no).is_empty(), "{no}: {:?}", found(Phone, no));
        }
    }
}
