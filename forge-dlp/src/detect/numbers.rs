//! Numbers that carry their own proof: IBANs (ISO 13616), payment cards (ISO/IEC 7812), social security numbers.

use std::ops::Range;

use regex::Regex;

use super::{Candidates, around, pattern, words_before};

pub(super) struct Numbers {
    iban: Option<Regex>,
    card: Option<Regex>,
    ssn: Option<Regex>,
    bare_nine: Option<Regex>,
}

impl Numbers {
    pub(super) fn new() -> Self {
        Self {
            iban: pattern(r"[A-Za-z]{2}[0-9]{2}(?:[ -]?[A-Za-z0-9]){11,30}"),
            card: pattern(r"[0-9](?:[ -]?[0-9]){12,18}"),
            ssn: pattern(r"[0-9]{3}([- ])[0-9]{2}([- ])[0-9]{4}"),
            bare_nine: pattern(r"[0-9]{9}"),
        }
    }

    pub(super) fn ibans(&self, text: &str) -> Candidates {
        let found = self.iban.iter().flat_map(|p| p.find_iter(text));
        found.filter_map(|m| iban(text, m.range())).filter(|r| stands_alone(text, r)).collect()
    }

    pub(super) fn cards(&self, text: &str) -> Candidates {
        let found = self.card.iter().flat_map(|p| p.find_iter(text));
        found.filter_map(|m| card(text, m.range())).filter(|r| stands_alone(text, r)).collect()
    }

    pub(super) fn ssns(&self, text: &str) -> Candidates {
        let mut out: Candidates = self
            .ssn
            .iter()
            .flat_map(|p| p.captures_iter(text))
            .filter(|c| c.get(1).map(|m| m.as_str()) == c.get(2).map(|m| m.as_str()))
            .filter_map(|c| c.get(0))
            .map(|m| m.range())
            .filter(|r| stands_alone(text, r) && valid_ssn(&digits(text, r)))
            .collect();
        let named = |r: &Range<usize>| words_before(text, r.start, &["ssn", "social security"]);
        let bare = self.bare_nine.iter().flat_map(|p| p.find_iter(text)).map(|m| m.range());
        out.extend(bare.filter(|r| stands_alone(text, r) && named(r) && valid_ssn(&digits(text, r))));
        out
    }
}

/// Not a part of a longer number or word.
fn stands_alone(text: &str, range: &Range<usize>) -> bool {
    let (before, after) = around(text, range);
    let joins = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
    // `.5` goes on with the number, the full stop of a sentence does not
    let fraction =
        after == Some('.') && text.get(range.end + 1..).is_some_and(|t| t.starts_with(|c: char| c.is_ascii_digit()));
    let head = text.get(..range.start).unwrap_or_default();
    let decimals = head.strip_suffix('.').is_some_and(|h| h.ends_with(|c: char| c.is_ascii_digit()));
    !joins(before) && !joins(after) && !fraction && !decimals
}

fn digits(text: &str, range: &Range<usize>) -> Vec<u8> {
    let part = text.get(range.clone()).unwrap_or_default();
    part.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect()
}

/// The SSA never gave out areas 000, 666 and 9xx, group 00 and serial 0000.
fn valid_ssn(d: &[u8]) -> bool {
    match d {
        [a, b, c, group @ .., e, f, g, h] if group.len() == 2 => {
            let area = (*a, *b, *c);
            area != (0, 0, 0) && area != (6, 6, 6) && *a != 9 && group != [0, 0] && (*e, *f, *g, *h) != (0, 0, 0, 0)
        }
        _ => false,
    }
}

/// The longest head of the match that is a card number of a known scheme.
fn card(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let part = text.get(range.clone())?;
    let ends: Vec<usize> =
        part.bytes().enumerate().filter(|(_, b)| b.is_ascii_digit()).map(|(i, _)| range.start + i + 1).collect();
    let all = digits(text, &range);
    (13..=all.len()).rev().find_map(|n| {
        let head = all.get(..n)?;
        (known_scheme(head) && luhn(head)).then_some(range.start..*ends.get(n - 1)?)
    })
}

/// Prefixes and lengths of the schemes in wide use.
fn known_scheme(d: &[u8]) -> bool {
    let head = |n: usize| d.iter().take(n).fold(0_u32, |v, x| v * 10 + u32::from(*x));
    let n = d.len();
    match head(1) {
        4 => matches!(n, 13 | 16 | 19),
        5 => {
            n == 16 && (51..=55).contains(&head(2))
                || matches!(n, 13 | 15 | 16 | 19) && matches!(head(4), 5018 | 5020 | 5038)
        }
        2 => n == 16 && (2221..=2720).contains(&head(4)),
        3 => {
            n == 15 && matches!(head(2), 34 | 37)
                || n == 14 && matches!(head(2), 30 | 36 | 38)
                || n == 16 && (3528..=3589).contains(&head(4))
        }
        6 => {
            (16..=19).contains(&n)
                && (head(2) == 65 || head(4) == 6011 || head(2) == 62 || (644..=649).contains(&head(3)))
        }
        _ => false,
    }
}

/// ISO/IEC 7812-1, annex B.
fn luhn(d: &[u8]) -> bool {
    let sum: u32 = d
        .iter()
        .rev()
        .enumerate()
        .map(|(i, x)| match (i % 2, u32::from(*x)) {
            (0, x) => x,
            (_, x) if x < 5 => 2 * x,
            (_, x) => 2 * x - 9,
        })
        .sum();
    sum.is_multiple_of(10) && d.iter().any(|x| *x != 0)
}

/// Lengths of the SWIFT registry.
const LENGTHS: &[(&str, usize)] = &[
    ("AD", 24),
    ("AE", 23),
    ("AL", 28),
    ("AT", 20),
    ("AZ", 28),
    ("BA", 20),
    ("BE", 16),
    ("BG", 22),
    ("BH", 22),
    ("BR", 29),
    ("BY", 28),
    ("CH", 21),
    ("CR", 22),
    ("CY", 28),
    ("CZ", 24),
    ("DE", 22),
    ("DK", 18),
    ("DO", 28),
    ("EE", 20),
    ("EG", 29),
    ("ES", 24),
    ("FI", 18),
    ("FO", 18),
    ("FR", 27),
    ("GB", 22),
    ("GE", 22),
    ("GI", 23),
    ("GL", 18),
    ("GR", 27),
    ("GT", 28),
    ("HR", 21),
    ("HU", 28),
    ("IE", 22),
    ("IL", 23),
    ("IQ", 23),
    ("IS", 26),
    ("IT", 27),
    ("JO", 30),
    ("KW", 30),
    ("KZ", 20),
    ("LB", 28),
    ("LC", 32),
    ("LI", 21),
    ("LT", 20),
    ("LU", 20),
    ("LV", 21),
    ("LY", 25),
    ("MC", 27),
    ("MD", 24),
    ("ME", 22),
    ("MK", 19),
    ("MR", 27),
    ("MT", 31),
    ("MU", 30),
    ("NL", 18),
    ("NO", 15),
    ("PK", 24),
    ("PL", 28),
    ("PS", 29),
    ("PT", 25),
    ("QA", 29),
    ("RO", 24),
    ("RS", 22),
    ("SA", 24),
    ("SC", 31),
    ("SE", 24),
    ("SI", 19),
    ("SK", 24),
    ("SM", 27),
    ("ST", 25),
    ("SV", 28),
    ("TL", 23),
    ("TN", 24),
    ("TR", 26),
    ("UA", 29),
    ("VA", 22),
    ("VG", 24),
    ("XK", 20),
];

/// The head of the match that is as long as its country says and has the right check digits (ISO 7064, mod 97-10).
fn iban(text: &str, range: Range<usize>) -> Option<Range<usize>> {
    let part = text.get(range.clone())?;
    let country = part.get(..2)?.to_ascii_uppercase();
    let (_, length) = LENGTHS.iter().find(|(c, _)| *c == country)?;
    let mut letters = Vec::with_capacity(*length);
    for (i, b) in part.bytes().enumerate().filter(|(_, b)| b.is_ascii_alphanumeric()) {
        letters.push(b.to_ascii_uppercase());
        if letters.len() == *length {
            return mod97(&letters).then_some(range.start..range.start + i + 1);
        }
    }
    None
}

fn mod97(letters: &[u8]) -> bool {
    let (head, tail) = letters.split_at(4.min(letters.len()));
    let rest = tail.iter().chain(head).fold(0_u32, |r, b| match b {
        b'0'..=b'9' => (r * 10 + u32::from(b - b'0')) % 97,
        _ => (r * 100 + u32::from(b - b'A') + 10) % 97,
    });
    rest == 1
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use forge_core::redact::EntityKind::{CreditCard, Iban, UsSsn};

    #[test]
    fn ibans() {
        for yes in [
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "GB29 NWBK 6016 1331 9268 19",
            "NL91ABNA0417164300",
            "de89370400440532013000",
        ] {
            assert_eq!(found(Iban, &format!("pay to {yes} today")), [yes]);
        }
        for no in [
            "DE89370400440532013001",
            "XX89370400440532013000",
            "DE8937040044053201300",
            "SN89370400440532013000x",
            "order AB12 3456 7890 1234 5678",
        ] {
            assert!(found(Iban, no).is_empty(), "{no}");
        }
    }

    #[test]
    fn cards() {
        for yes in [
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "5555555555554444",
            "378282246310005",
            "6011111111111117",
            "2223003122003222",
        ] {
            assert_eq!(found(CreditCard, &format!("card {yes}, thanks.")), [yes]);
        }
        assert_eq!(found(CreditCard, "4111 1111 1111 1111 123"), ["4111 1111 1111 1111"], "a security code behind it");
        for no in [
            "4111 1111 1111 1112",
            "1234567890123456",
            "0000000000000000",
            "1767225600000000000",
            "3.4111111111111111",
            "x4111111111111111",
        ] {
            assert!(found(CreditCard, no).is_empty(), "{no}");
        }
    }

    #[test]
    fn social_security_numbers() {
        for yes in ["536-22-8726", "536 22 8726"] {
            assert_eq!(found(UsSsn, &format!("SSN {yes}.")), [yes]);
        }
        assert_eq!(found(UsSsn, "social security no. 536228726"), ["536228726"]);
        for no in [
            "000-22-8726",
            "666-22-8726",
            "936-22-8726",
            "536-00-8726",
            "536-22-0000",
            "536-22 8726",
            "part 536228726",
            "1536-22-8726",
        ] {
            assert!(found(UsSsn, no).is_empty(), "{no}");
        }
    }
}
