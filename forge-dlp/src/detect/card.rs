//! Payment card numbers (ISO/IEC 7812): check digit, and the prefix and length of a scheme, or a word that says "card".

use std::ops::Range;

use forge_core::redact::EntityKind;

use super::{
    Candidates,
    scan::{Scan, joins_groups},
};

pub(super) fn find(scan: &Scan<'_>, out: &mut Candidates) {
    for cluster in &scan.clusters {
        let digits = Digits::of(scan.part(cluster));
        let mut from = 0;
        while from < digits.value.len() {
            let card = if digits.begins_group(from) { longest(scan, cluster.start, &digits, from) } else { None };
            if let Some((range, count)) = card {
                out.push((EntityKind::CreditCard, range));
                from += count;
            } else {
                from += 1;
            }
        }
    }
}

/// The digits of a cluster, with the place of each and how it hangs together with the one before.
struct Digits {
    value: Vec<u8>,
    at: Vec<usize>,
    gap: Vec<Gap>,
}

#[derive(Clone, Copy, PartialEq)]
enum Gap {
    None,
    Small,
    Wide,
}

impl Digits {
    fn of(text: &str) -> Self {
        let mut digits = Self { value: Vec::new(), at: Vec::new(), gap: Vec::new() };
        let mut gap = Gap::Wide;
        for (i, c) in text.char_indices() {
            if let Some(d) = c.to_digit(10).and_then(|d| u8::try_from(d).ok()) {
                digits.value.push(d);
                digits.at.push(i);
                digits.gap.push(gap);
                gap = Gap::None;
            } else if gap == Gap::None && joins_groups(c) {
                gap = Gap::Small;
            } else {
                gap = Gap::Wide;
            }
        }
        digits
    }

    /// Whether no group is shorter than any issuer prints; lists of years, ages and sections have such.
    fn in_long_groups(&self, from: usize, count: usize) -> bool {
        let begins: Vec<usize> =
            (from..=from + count).filter(|i| *i == from || *i == from + count || self.begins_group(*i)).collect();
        // what is left over for the last group may be one digit
        begins.windows(2).rev().skip(1).all(|w| matches!(w, [a, b] if b - a >= 3))
    }

    fn begins_group(&self, i: usize) -> bool {
        self.gap.get(i).is_none_or(|g| *g != Gap::None)
    }
}

/// The longest card number that begins here and ends where a group of digits ends.
fn longest(scan: &Scan<'_>, offset: usize, digits: &Digits, from: usize) -> Option<(Range<usize>, usize)> {
    let joined = digits.gap.get(from + 1..)?.iter().take(18).take_while(|g| **g != Gap::Wide).count() + 1;
    (12..=joined).rev().find_map(|n| {
        let number = digits.value.get(from..from + n)?;
        if !digits.begins_group(from + n) || !luhn(number) || !digits.in_long_groups(from, n) {
            return None;
        }
        let range = offset + digits.at.get(from)?..offset + digits.at.get(from + n - 1)? + 1;
        let is_card = known_scheme(number) || scan.announced(range.start, says_card);
        (is_card && scan.stands_alone(&range)).then_some((range, n))
    })
}

fn says_card(word: &str) -> bool {
    matches!(
        word,
        "card" | "cards" | "cc" | "credit" | "debit" | "visa" | "mastercard" | "amex" | "maestro" | "discover" | "jcb"
    )
}

/// Prefixes and lengths of the schemes in wide use; those that share theirs with other numbers need the word.
fn known_scheme(d: &[u8]) -> bool {
    let head = |n: usize| d.iter().take(n).fold(0_u32, |v, x| v * 10 + u32::from(*x));
    let n = d.len();
    match head(1) {
        1 => n == 15 && head(4) == 1800,
        2 => n == 16 && (2221..=2720).contains(&head(4)) || n == 15 && head(4) == 2131,
        3 => {
            n == 15 && matches!(head(2), 34 | 37)
                || (14..=19).contains(&n) && matches!(head(2), 36 | 38 | 39)
                || n == 14 && (300..=305).contains(&head(3))
                || (16..=19).contains(&n) && head(2) == 35
        }
        4 => matches!(n, 13 | 16 | 19),
        5 => n == 16 && (51..=55).contains(&head(2)) || n >= 13 && matches!(head(4), 5018 | 5020 | 5038 | 5893),
        6 => {
            n >= 16 && (matches!(head(2), 62 | 65) || head(4) == 6011 || (644..=649).contains(&head(3)))
                || n >= 13 && matches!(head(4), 6304 | 6759 | 6761 | 6762 | 6763)
        }
        _ => false,
    }
}

/// ISO/IEC 7812-1, annex B.
fn luhn(d: &[u8]) -> bool {
    let doubled = |x: u32| if x < 5 { 2 * x } else { 2 * x - 9 };
    let sum: u32 =
        d.iter().rev().enumerate().map(|(i, x)| if i % 2 == 0 { u32::from(*x) } else { doubled(u32::from(*x)) }).sum();
    sum.is_multiple_of(10) && d.iter().any(|x| *x != 0)
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use forge_core::redact::EntityKind::CreditCard;

    #[test]
    fn cards() {
        for yes in [
            "4111 1111 1111 1111",
            "4111-1111-1111-1111",
            "4111\u{a0}1111\u{a0}1111\u{a0}1111",
            "5555555555554444",
            "378282246310005",
            "3782 822463 10005",
            "6011111111111117",
            "2223003122003222",
            "30569309025904",
            "4222 2222 2222 2",
            "3530111333300000",
        ] {
            assert_eq!(found(CreditCard, &format!("pay by {yes}, thanks.")), [yes]);
            assert_eq!(found(CreditCard, &format!("order 12 {yes}-")), [yes], "another number before it");
        }
        assert_eq!(found(CreditCard, "4111 1111 1111 1111 123"), ["4111 1111 1111 1111"], "a security code behind it");
        assert_eq!(found(CreditCard, "maestro card 503867297114 expires"), ["503867297114"]);
        assert_eq!(found(CreditCard, "pan_4111111111111111.pdf"), ["4111111111111111"]);
        let two = "4111 1111 1111 1111 5555 5555 5555 4444";
        assert_eq!(found(CreditCard, two), [&two[..19], &two[20..]]);
    }

    #[test]
    fn what_is_no_card() {
        for no in [
            "4111 1111 1111 1112",
            "1234567890123456",
            "0000000000000000",
            "1767225600000000000",
            "3.4111111111111111",
            "x4111111111111111",
            "41111111111111111111",
            "order 503867297114",
            "10-16 20-27 30-39 40-48 50-59 60-68 71",
            "4111\n1111\n1111\n1111",
            "2026-01-01 12:30:45",
        ] {
            assert!(found(CreditCard, no).is_empty(), "{no}: {:?}", found(CreditCard, no));
        }
    }
}
