//! United States social security numbers: three, two and four digits, in the ranges that the SSA gives out.

use std::ops::Range;
use std::sync::LazyLock;

use forge_core::redact::EntityKind;
use regex::Regex;

use super::{
    Candidates, pattern,
    scan::{Scan, joins_groups, values},
};

static GROUPED: LazyLock<Regex> = LazyLock::new(|| pattern(r"[0-9]{3}([^0-9])[0-9]{2}([^0-9])[0-9]{4}"));

pub(super) fn find(scan: &Scan<'_>, out: &mut Candidates) {
    for cluster in &scan.clusters {
        let part = scan.part(cluster);
        let grouped = GROUPED.captures_iter(part).filter_map(|c| {
            let separators = (c.get(1)?.as_str(), c.get(2)?.as_str());
            let known = separators.0 == separators.1 && separators.0.chars().all(joins_groups);
            known.then(|| c.get(0).map(|m| m.range())).flatten()
        });
        let bare = digit_runs(part).filter(|r| r.len() == 9);
        let bare = bare.map(|r| shift(r, cluster.start)).filter(|r| says_ssn(scan, r.start));
        let all = grouped.map(|r| shift(r, cluster.start)).chain(bare);
        out.extend(
            all.filter(|r| scan.stands_alone(r) && valid(&values(scan.part(r)))).map(|r| (EntityKind::UsSsn, r)),
        );
    }
}

fn shift(r: Range<usize>, by: usize) -> Range<usize> {
    r.start + by..r.end + by
}

fn digit_runs(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    text.split(|c: char| !c.is_ascii_digit()).map(move |run| {
        let from = at;
        at += run.len() + text.get(from + run.len()..).and_then(|t| t.chars().next()).map_or(0, char::len_utf8);
        from..from + run.len()
    })
}

fn says_ssn(scan: &Scan<'_>, at: usize) -> bool {
    let social = |text: &str| {
        let words = super::names::words(text);
        words.windows(2).any(|w| matches!(w, [a, b] if a == "social" && b == "security"))
    };
    scan.announced(at, |w| matches!(w, "ssn" | "ssns")) || social(scan.before(at)) || scan.field.is_some_and(social)
}

/// The SSA never gave out areas 000, 666 and 9xx, group 00 and serial 0000.
fn valid(d: &[u8]) -> bool {
    match d {
        [a, b, c, group @ .., e, f, g, h] if group.len() == 2 => {
            let area = (*a, *b, *c);
            area != (0, 0, 0) && area != (6, 6, 6) && *a != 9 && group != [0, 0] && (*e, *f, *g, *h) != (0, 0, 0, 0)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{found, found_in};
    use forge_core::redact::EntityKind::UsSsn;

    #[test]
    fn numbers() {
        for yes in [
            "536-22-8726",
            "536 22 8726",
            "001-01-0001",
            "899-99-9999",
            "772-45-6789",
            "536\u{2011}22\u{2011}8726",
            "665-01-1234",
            "667-01-1234",
        ] {
            assert_eq!(found(UsSsn, &format!("it is {yes}.")), [yes]);
        }
        assert_eq!(found(UsSsn, "social security no. 536228726"), ["536228726"]);
        assert_eq!(found(UsSsn, "SSN=536228726"), ["536228726"]);
        assert_eq!(found_in(Some("employee_ssn"), UsSsn, "536228726"), ["536228726"]);
    }

    #[test]
    fn what_is_no_number() {
        for no in [
            "000-22-8726",
            "666-22-8726",
            "936-22-8726",
            "536-00-8726",
            "536-22-0000",
            "536-22 8726",
            "part 536228726",
            "1536-22-8726",
            "536-22-87261",
            "536.22.8726",
            "2026-11-2500",
        ] {
            assert!(found(UsSsn, no).is_empty(), "{no}");
        }
    }
}
