//! International bank account numbers (ISO 13616): the country's length and the check digits (ISO 7064, mod 97-10).

use std::ops::Range;

use forge_core::redact::EntityKind;

use super::{
    Candidates,
    scan::{Scan, joins_groups},
};

pub(super) fn find(scan: &Scan<'_>, out: &mut Candidates) {
    let mut free = 0;
    for start in starts(scan.text) {
        if start >= free
            && let Some(range) = iban(scan.text, start)
            && scan.stands_alone(&range)
        {
            free = range.end;
            out.push((EntityKind::Iban, range));
        }
    }
}

/// Where two letters and two digits begin a word.
fn starts(text: &str) -> impl Iterator<Item = usize> {
    let windows = text.as_bytes().windows(4).enumerate();
    windows.filter_map(move |(i, w)| {
        let form = matches!(w, [a, b, c, d] if c.is_ascii_digit() && d.is_ascii_digit() && a.is_ascii_alphabetic() && b.is_ascii_alphabetic());
        let inside = || text.get(..i).is_none_or(|t| t.ends_with(char::is_alphanumeric));
        (form && !inside()).then_some(i)
    })
}

/// The account number that begins here: single spaces or hyphens may stand anywhere in it.
fn iban(text: &str, start: usize) -> Option<Range<usize>> {
    let country = text.get(start..start + 2)?.to_ascii_uppercase();
    let (length, _) = LENGTHS.iter().find(|(_, countries)| countries.contains(&country.as_str()))?;
    let mut letters = Vec::with_capacity(*length);
    let mut gap = false;
    for (i, c) in text.get(start..)?.char_indices() {
        if c.is_ascii_alphanumeric() {
            letters.push(u8::try_from(c).ok()?.to_ascii_uppercase());
            gap = false;
        } else if gap || !joins_groups(c) {
            return None;
        } else {
            gap = true;
        }
        if letters.len() == *length {
            return mod97(&letters).then_some(start..start + i + 1);
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

/// Lengths and countries of the SWIFT registry.
const LENGTHS: &[(usize, &[&str])] = &[
    (15, &["NO"]),
    (16, &["BE"]),
    (18, &["DK", "FI", "FK", "FO", "GL", "NL", "SD"]),
    (19, &["MK", "SI"]),
    (20, &["AT", "BA", "EE", "KZ", "LT", "LU", "MN", "XK"]),
    (21, &["CH", "HR", "LI", "LV"]),
    (22, &["BG", "BH", "CR", "DE", "GB", "GE", "IE", "ME", "RS", "VA"]),
    (23, &["AE", "GI", "IL", "IQ", "OM", "SO", "TL"]),
    (24, &["AD", "CZ", "ES", "MD", "PK", "RO", "SA", "SE", "SK", "TN", "VG"]),
    (25, &["LY", "PT", "ST"]),
    (26, &["IS", "TR"]),
    (27, &["BI", "DJ", "FR", "GR", "IT", "MC", "MR", "SM"]),
    (28, &["AL", "AZ", "BY", "CY", "DO", "GT", "HN", "HU", "LB", "NI", "PL", "SV"]),
    (29, &["BR", "EG", "PS", "QA", "UA"]),
    (30, &["JO", "KW", "MU", "YE"]),
    (31, &["MT", "SC"]),
    (32, &["LC"]),
    (33, &["RU"]),
];

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use forge_core::redact::EntityKind::Iban;

    #[test]
    fn accounts() {
        for yes in [
            "DE89370400440532013000",
            "DE89 3704 0044 0532 0130 00",
            "DE89-3704-0044-0532-0130-00",
            "GB29 NWBK 6016 1331 9268 19",
            "NL91ABNA0417164300",
            "de89370400440532013000",
            "FR14 2004 1010 0505 0001 3M02 606",
            "NO93 8601 1117 947",
            "MT84MALT011000012345MTLCAST001S",
            "BE68\u{a0}5390\u{a0}0754\u{a0}7034",
        ] {
            assert_eq!(found(Iban, &format!("pay to {yes} today")), [yes]);
            assert_eq!(found(Iban, &format!("ref AB12 34 {yes}, thanks")), [yes], "a false start before it");
        }
        assert_eq!(found(Iban, "iban_NL91ABNA0417164300.pdf"), ["NL91ABNA0417164300"]);
    }

    #[test]
    fn what_is_no_account() {
        for no in [
            "DE89370400440532013001",
            "XX89370400440532013000",
            "DE8937040044053201300",
            "DE893704004405320130000",
            "xDE89370400440532013000",
            "order AB12 3456 7890 1234 5678",
            "DE89  3704  0044  0532  0130  00",
            "DE89.3704.0044.0532.0130.00",
            "NO93 8601 1117",
        ] {
            assert!(found(Iban, no).is_empty(), "{no}");
        }
    }
}
