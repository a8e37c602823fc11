//! The four fields: parties, effective date, term, governing law.
//!
//! Each field is a list of candidates with a score from where they stand; the best one above a threshold is the answer. The
//! confidences are bands measured on the Kleister development set (`docs/nda.md`), not feelings.

use std::sync::LazyLock;

use regex::Regex;

use super::dates;
use super::model::{FieldDetails, Fields, Finding, Party};
use super::names;
use super::parties;
use super::segment::Unit;
use super::text::{Offsets, plain};

/// The most candidates listed for one field.
const MAX_CANDIDATES: usize = 4;
/// Candidates below this are listed and not taken.
const TAKEN: f32 = 0.5;

/// Reads the fields of `text`, which `units` are of.
pub(super) fn read(text: &str, units: &[Unit]) -> (Fields, FieldDetails) {
    let offsets = Offsets::new(text);
    let party: Vec<Party> = parties::parties(text)
        .into_iter()
        .map(|found| {
            let span = offsets.span(&found.bytes);
            let role = names::role(&found.aliases);
            let value = names::canonical(&found.name);
            Party {
                value,
                role,
                aliases: found.aliases,
                start: span.start,
                end: span.end,
                confidence: found.confidence,
            }
        })
        .collect();
    let effective_date = ranked(effective_dates(text, &offsets));
    let term = ranked(terms(text, units, &offsets));
    let governing_law = ranked(laws(text, units, &offsets));
    let best = |all: &[Finding]| all.first().filter(|finding| finding.confidence >= TAKEN).map(|f| f.value.clone());
    let fields = Fields {
        parties: party.iter().map(|party| party.value.clone()).collect(),
        effective_date: best(&effective_date),
        term: best(&term),
        governing_law: best(&governing_law),
    };
    (fields, FieldDetails { party, effective_date, term, governing_law })
}

/// The likeliest first, one of each value.
fn ranked(mut all: Vec<Finding>) -> Vec<Finding> {
    all.sort_by(|a, b| b.confidence.total_cmp(&a.confidence).then(a.start.cmp(&b.start)));
    let mut seen: Vec<String> = Vec::new();
    all.retain(|finding| {
        let new = !seen.contains(&finding.value);
        if new {
            seen.push(finding.value.clone());
        }
        new
    });
    all.truncate(MAX_CANDIDATES);
    all
}

fn regex(slot: &'static LazyLock<Option<Regex>>, text: &str) -> bool {
    slot.as_ref().is_some_and(|regex| regex.is_match(text))
}

/// The words around a place: `before` bytes before it on the same paragraph, and some after.
fn around(text: &str, at: &std::ops::Range<usize>, before: usize, after: usize) -> (String, String) {
    let from = text.ceil_char_boundary(at.start.saturating_sub(before));
    let to = text.floor_char_boundary((at.end + after).min(text.len()));
    (plain(text.get(from..at.start).unwrap_or_default()), plain(text.get(at.end..to).unwrap_or_default()))
}

/// Whether what is at `at` stands on a line of its own, `spare` other bytes allowed.
fn line_around(text: &str, at: &std::ops::Range<usize>, spare: usize) -> bool {
    let from = text.ceil_char_boundary(at.start.saturating_sub(spare));
    let to = text.floor_char_boundary((at.end + spare).min(text.len()));
    let (before, after) = (text.get(from..at.start).unwrap_or_default(), text.get(at.end..to).unwrap_or_default());
    let left = before.rfind('\n').map(|at| before.len() - at - 1).or((from == 0).then_some(before.len()));
    let right = after.find('\n').or((to == text.len()).then_some(after.len()));
    left.zip(right).is_some_and(|(left, right)| left + right < spare)
}

fn effective_dates(text: &str, offsets: &Offsets<'_>) -> Vec<Finding> {
    static EFFECTIVE: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r#"effective(?: date)?(?: is| as)?(?: of| on| from)?[^.;]{0,30}$|effective date"?\)?:?[^.;]{0,25}$"#)
            .ok()
    });
    static MADE: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"(?:entered(?: into)?|made|executed|dated|agreement is|effect|commenc\w+)(?: and (?:entered(?: into)?|effective))?[^.;]{0,40}(?:as of|on|this|of|date|the)?[^.;]{0,12}$|(?:as of|dated?)(?: the| this)?:?$").ok()
    });
    static OTHER: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"that certain|prior agreement|previous|superse|pursuant to|terminat\w* (?:on|automatic)|expir|until|through|no later than|amended|born|filed|by letter|executed [^.]{0,20} dated").ok()
    });
    static ENDED: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"^,? ?(?:\([^)]*\),? )?(?:which |that )?(?:terminated|expired|as amended|is terminated)").ok()
    });
    let dates = dates::dates(text);
    let length = text.len().max(1);
    let mut out = Vec::new();
    for (bytes, value) in dates {
        let (before, after) = around(text, &bytes, 90, 60);
        let alone = line_around(text, &bytes, 28);
        let early = bytes.start < 3_000;
        let late = bytes.start * 10 > length * 8;
        let mut confidence: f32 = if regex(&EFFECTIVE, &before) || after.starts_with("(the \"effective date") {
            0.85
        } else if regex(&MADE, &before) && early {
            0.8
        } else if alone && early {
            0.7
        } else if regex(&MADE, &before) && late {
            0.6
        } else if alone && late {
            0.55
        } else if early {
            0.4
        } else {
            0.15
        };
        if regex(&OTHER, &before) || regex(&ENDED, &after) {
            confidence -= 0.45;
        }
        if !early && !late {
            confidence -= 0.3;
        }
        let span = offsets.span(&bytes);
        if confidence > 0.1 {
            out.push(Finding { value, start: span.start, end: span.end, confidence });
        }
    }
    out
}

fn terms(text: &str, units: &[Unit], offsets: &Offsets<'_>) -> Vec<Finding> {
    static SUBJECT: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"\b(?:this (?:\w+ )?agreement|this nda|agreement|obligations?|confidentiality|the term|terms and obligations|provisions|undertakings|covenants|restrictions)\b").ok()
    });
    static LASTS: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"expir\w*|terminat\w*|continu\w*|remain\w*|in (?:full )?(?:force|effect)|term of|period of|surviv\w*|lapse|cease|binding|end on|effective (?:for|until)|anniversary").ok()
    });
    static OTHER: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"solicit|hire|compet\w+|standstill|employ\w+|acquire|securities|notice|invest\w+|vesting|salary|severance|beneficial|cure|arbitrat|within|prior to|written request|retention|warrant").ok()
    });
    static OWN: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"this (?:\w+ ){0,2}agreement (?:and [^.]{0,60})?(?:shall|will|is|commences|expires|terminates|continues|remains|has)|obligations? (?:\w+ ){0,6}(?:expire|terminate|shall|will|continue)|terms? of this (?:\w+ )?agreement|(?:agreement|obligations)[^.]{0,90}(?:expire|terminate|continue|remain)").ok()
    });
    let mut out = Vec::new();
    for unit in units {
        let Some(words) = text.get(unit.bytes.clone()) else { continue };
        for (bytes, value) in dates::durations(words) {
            if value.ends_with("day") || value.ends_with("days") || value.contains("week") {
                continue;
            }
            let bytes = unit.bytes.start + bytes.start..unit.bytes.start + bytes.end;
            let (before, after) =
                around(text, &bytes, 160.min(bytes.start - unit.bytes.start), 80.min(unit.bytes.end - bytes.end));
            let near = format!("{before} {after}");
            let mut confidence: f32 = 0.1;
            if regex(&SUBJECT, &unit.text) && regex(&LASTS, &unit.text) {
                confidence += 0.35;
            }
            if regex(&OWN, &unit.text) && regex(&LASTS, &near) {
                confidence += 0.3;
            }
            if unit.text.split(' ').take(4).any(|word| word.starts_with("term") && word.len() < 13) {
                confidence += 0.15;
            }
            if regex(&OTHER, &near) {
                confidence -= 0.4;
            }
            let span = offsets.span(&bytes);
            if confidence > 0.1 {
                out.push(Finding { value, start: span.start, end: span.end, confidence: confidence.min(0.8) });
            }
        }
    }
    out
}

fn laws(text: &str, units: &[Unit], offsets: &Offsets<'_>) -> Vec<Finding> {
    static GOVERNED: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r"govern\w*|constru\w+|interpret\w*|enforc\w+|applicable law|choice of law|subject to|accord\w+|validity",
        )
        .ok()
    });
    static PLACE: LazyLock<Option<Regex>> =
        LazyLock::new(|| Regex::new(&format!(r"(?i)\b(?:{})\b", places().join("|").replace(' ', r"\s+"))).ok());
    static NOT: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(r"organi[sz]ed|incorporated|existing under|corporation|duly|registered|company \(").ok()
    });
    let mut out = Vec::new();
    let Some(place) = PLACE.as_ref() else { return out };
    for unit in units.iter().filter(|unit| unit.text.contains("law") && regex(&GOVERNED, &unit.text)) {
        let Some(words) = text.get(unit.bytes.clone()) else { continue };
        for found in place.find_iter(words) {
            let bytes = unit.bytes.start + found.start()..unit.bytes.start + found.end();
            let (before, after) = around(text, &bytes, 70, 30);
            let laws = before.contains("law") && !before.contains("without");
            let adjective = after.starts_with("law") || after.starts_with("internal law");
            let governs =
                unit.text.contains("govern") || unit.text.contains("constru") || unit.text.contains("applicable law");
            let mut confidence: f32 = 0.2;
            if laws || adjective {
                confidence += 0.4;
            }
            if governs {
                confidence += 0.3;
            }
            if regex(&NOT, &before) || before.contains("court") || before.contains("other than") {
                confidence -= 0.4;
            }
            let span = offsets.span(&bytes);
            let value = canonical_place(found.as_str());
            if confidence > 0.1 {
                out.push(Finding { value, start: span.start, end: span.end, confidence: confidence.min(0.95) });
            }
        }
    }
    out
}

/// States and countries as governing laws name them, one a line, the longer before what they contain.
fn places() -> Vec<&'static str> {
    let mut places: Vec<&str> = include_str!("places.txt").lines().filter(|line| !line.is_empty()).collect();
    places.sort_by_key(|place| std::cmp::Reverse(place.len()));
    places
}

fn canonical_place(found: &str) -> String {
    let words = found.split_whitespace().collect::<Vec<_>>().join(" ");
    let known = places().into_iter().find(|place| place.eq_ignore_ascii_case(&words));
    known.map_or(words, str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::super::segment::units;
    use super::*;

    fn fields(text: &str) -> Fields {
        read(text, &units(text)).0
    }

    #[test]
    fn the_law_that_governs_is_not_the_law_of_incorporation() {
        let text = "Alder is a corporation organized under the laws of Delaware.\nThis Agreement shall be governed by the laws of the State of New\nYork, without regard to conflicts.";
        assert_eq!(fields(text).governing_law.as_deref(), Some("New York"));
        assert_eq!(fields("It shall be governed by Kansas law.").governing_law.as_deref(), Some("Kansas"));
    }

    #[test]
    fn the_term_is_not_the_non_solicitation_period() {
        let text = "For a period of one year you will not solicit employees.\nThis Agreement shall terminate two (2) years from the date hereof.";
        assert_eq!(fields(text).term.as_deref(), Some("2 years"));
        assert_eq!(fields("You will not solicit employees for one year.").term, None);
    }

    #[test]
    fn the_effective_date_is_not_an_earlier_agreements_date() {
        let text =
            "This Agreement is effective as of May 4, 2021. That certain letter agreement dated May 1, 2019 ended.";
        assert_eq!(fields(text).effective_date.as_deref(), Some("2021-05-04"));
    }
}
