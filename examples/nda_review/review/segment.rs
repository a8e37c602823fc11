//! Sentences and list items, with the lead-in that a list item continues.
//!
//! A unit is what a lawyer would point at: a sentence, or one item of a list. Lines broken in mid-sentence are joined first.
//! An item such as "(b) is independently developed" says nothing alone, so it knows the unit that opened its list.

use std::ops::Range;

use super::text::{Offsets, Span, plain};

/// One sentence or list item.
pub(super) struct Unit {
    /// Where it stands, in bytes.
    pub(super) bytes: Range<usize>,
    /// Where it stands, in code points.
    pub(super) span: Span,
    /// Its words in the form that rules are written for.
    pub(super) text: String,
    /// The unit that opened the list, for an item.
    pub(super) lead: Option<usize>,
}

/// How far up the chain of lead-ins a rule sees.
const MAX_LEADS: usize = 3;
/// The longest unit, in bytes: a text without full stops is cut at spaces.
const MAX_UNIT_BYTES: usize = 6_000;
/// How much of one lead-in a rule sees, in bytes.
const MAX_LEAD_BYTES: usize = 1_500;

/// The lead-ins of a unit from the outermost in, and then its own words.
pub(super) fn with_leads(units: &[Unit], index: usize) -> String {
    let mut chain = Vec::new();
    let mut next = Some(index);
    while let Some(unit) = next.and_then(|at| units.get(at)) {
        let from = if chain.is_empty() { 0 } else { unit.text.len().saturating_sub(MAX_LEAD_BYTES) };
        chain.push(unit.text.get(unit.text.ceil_char_boundary(from)..).unwrap_or_default());
        next = if chain.len() > MAX_LEADS { None } else { unit.lead };
    }
    chain.reverse();
    chain.join(" ")
}

/// Whether a unit of some length has none of the words that English cannot do without.
pub(super) fn is_foreign(words: &str) -> bool {
    const COMMON: [&str; 18] = [
        "the", "of", "and", "to", "or", "any", "by", "shall", "is", "for", "be", "this", "with", "that", "not", "will",
        "on", "you",
    ];
    let prose: Vec<&str> =
        words.split(' ').filter(|word| word.len() > 1 && word.chars().all(char::is_alphabetic)).collect();
    prose.len() >= 10 && !prose.iter().any(|word| COMMON.contains(word))
}

/// Splits a document.
pub(super) fn units(text: &str) -> Vec<Unit> {
    let offsets = Offsets::new(text);
    let mut units: Vec<Unit> = Vec::new();
    let mut open: Vec<(Marker, usize, Option<usize>)> = Vec::new();
    for paragraph in paragraphs(text) {
        for (nth, bytes) in sentences(text, &paragraph).into_iter().enumerate() {
            let words = plain(text.get(bytes.clone()).unwrap_or_default());
            if words.is_empty() {
                continue;
            }
            let previous = open.last().map(|(marker, ..)| *marker);
            let lead = match marker(&words, previous) {
                Some(marker) => lead_of(marker, &mut open, &units),
                None => {
                    // a fresh paragraph that starts like a sentence closes the lists before it
                    let fresh = text.get(bytes.clone()).is_some_and(|t| t.trim_start().starts_with(char::is_uppercase));
                    let opens = units.last().is_some_and(|last| opens_list(&last.text));
                    if nth == 0 && fresh && !opens {
                        open.clear();
                    }
                    None
                }
            };
            let index = units.len();
            if let Some(last) = open.last_mut().filter(|_| marker(&words, previous).is_some()) {
                last.1 = index;
            }
            units.push(Unit { span: offsets.span(&bytes), bytes, text: words, lead });
        }
    }
    units
}

/// What stands before a list item.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Marker {
    Number,
    /// "4.1.2", with the number that its siblings share.
    Decimal(u32),
    Letter,
    Roman,
    Digit,
    Bullet,
}

fn marker(words: &str, previous: Option<Marker>) -> Option<Marker> {
    let word = words.split(' ').next()?;
    if matches!(word, "•" | "▪" | "●" | "·" | "-" | "*" | "\u{f0b7}" | "o") {
        return Some(Marker::Bullet);
    }
    let closed = word.ends_with([')', '.']);
    let parenthesis = word.starts_with('(') || word.ends_with(')');
    let core = word.trim_start_matches(['(', '"']).trim_end_matches([')', '.', ',']);
    if core.is_empty() || core.len() > 7 {
        return None;
    }
    if core.chars().all(|c| c.is_ascii_digit() || c == '.') && core.starts_with(|c: char| c.is_ascii_digit()) {
        return match (core.contains('.'), parenthesis) {
            (true, _) => Some(Marker::Decimal(siblings(core))),
            (false, true) => Some(Marker::Digit),
            (false, false) => (closed && core.len() <= 2).then_some(Marker::Number),
        };
    }
    if !closed || (!parenthesis && core.len() > 3) {
        return None;
    }
    let roman = core.chars().all(|c| "ivx".contains(c));
    let single = core.len() == 1 && core.chars().all(|c| c.is_ascii_lowercase());
    match (roman, single) {
        (true, false) => Some(Marker::Roman),
        // "(i)" after "(h)" is a letter, and "(v)" after "(u)"; everything else is a numeral
        (true, true) if core != "i" && previous == Some(Marker::Letter) => Some(Marker::Letter),
        (true, true) => Some(Marker::Roman),
        (false, true) => Some(Marker::Letter),
        (false, false) => {
            let doubled = core.len() == 2 && core.chars().all(|c| c.is_ascii_lowercase() && core.starts_with(c));
            doubled.then_some(Marker::Letter)
        }
    }
}

/// One number for "4.1" of "4.1.2".
fn siblings(core: &str) -> u32 {
    let (parent, _) = core.trim_end_matches('.').rsplit_once('.').unwrap_or_default();
    parent.split('.').fold(0, |sum, part| sum * 100 + part.parse::<u32>().unwrap_or_default().min(98) + 1)
}

/// The unit that opened the list of a new item; keeps the stack of open lists.
fn lead_of(marker: Marker, open: &mut Vec<(Marker, usize, Option<usize>)>, units: &[Unit]) -> Option<usize> {
    if let Some(at) = open.iter().position(|(kind, ..)| *kind == marker) {
        let restarts = units.last().is_some_and(|last| last.lead.is_none() && last.text.ends_with([':', '-']));
        open.truncate(if restarts { at } else { at + 1 });
        if !restarts {
            return open.last().and_then(|(_, _, lead)| *lead);
        }
    }
    let before = units.len().checked_sub(1);
    let lead = before.filter(|&index| {
        let text = units.get(index).map_or("", |unit| unit.text.as_str());
        match marker {
            // sections are not items of the sentence before them unless that sentence says so
            Marker::Number | Marker::Decimal(_) => text.ends_with([':', '-', ',']),
            _ => opens_list(text) && text.len() > 5,
        }
    });
    if matches!(marker, Marker::Number) {
        open.clear();
    }
    open.push((marker, units.len(), lead));
    lead
}

fn opens_list(text: &str) -> bool {
    !text.ends_with(['.', ';', '!', '?', '"'])
}

/// Paragraphs as byte ranges: lines, with lines broken in mid-sentence joined.
fn paragraphs(text: &str) -> Vec<Range<usize>> {
    let mut out: Vec<Range<usize>> = Vec::new();
    let mut start = 0;
    let mut blank = true;
    for line in text.split_inclusive(['\n', '\r', '\u{c}']) {
        let range = start..start + line.trim_end().len();
        start += line.len();
        if range.is_empty() {
            blank = true;
            continue;
        }
        let joins = out.last().is_some_and(|last| {
            continues(text.get(last.clone()).unwrap_or_default(), text.get(range.clone()).unwrap_or_default(), blank)
        });
        match out.last_mut() {
            Some(last) if joins => last.end = range.end,
            _ => out.push(range),
        }
        blank = false;
    }
    out
}

fn continues(before: &str, line: &str, blank: bool) -> bool {
    let last = before.rsplit(['\n', '\r']).next().unwrap_or(before).trim();
    let line = line.trim_start();
    if last.ends_with(['.', ';', ':', '!', '?']) || marker(&plain(line), None).is_some() {
        return false;
    }
    if line.starts_with(char::is_lowercase) {
        return true;
    }
    // a full line of prose that was only wrapped; headings are short or all capitals
    let prose = last.chars().filter(|c| c.is_lowercase()).count() * 2 > last.chars().count();
    let length = last.chars().count();
    !blank && prose && (55..=100).contains(&length) && !last.contains('\t')
}

/// Words that end in a full stop without ending a sentence.
const ABBREVIATIONS: [&str; 36] = [
    "inc", "corp", "ltd", "co", "no", "nos", "mr", "mrs", "ms", "dr", "jr", "sr", "st", "vs", "v", "sec", "art",
    "para", "cl", "e.g", "i.e", "etc", "u.s", "u.k", "l.p", "l.l.c", "n.a", "p.o", "approx", "dept", "attn", "ave",
    "ste", "p.m", "a.m", "seq",
];

/// Sentences of a paragraph as byte ranges, list items in mid-sentence apart.
fn sentences(text: &str, paragraph: &Range<usize>) -> Vec<Range<usize>> {
    let Some(body) = text.get(paragraph.clone()) else { return Vec::new() };
    let mut cuts = Vec::new();
    for (at, character) in body.char_indices() {
        let rest = body.get(at + character.len_utf8()..).unwrap_or_default();
        if matches!(character, '.' | '?' | '!') && ends_sentence(body.get(..at).unwrap_or_default(), rest) {
            let tail = rest.len() - rest.trim_start_matches(['"', '”', '’', ')', '\'']).len();
            cuts.push(at + character.len_utf8() + tail);
        } else if character.is_whitespace() && starts_inline_item(body.get(..at).unwrap_or_default(), rest) {
            cuts.push(at);
        }
    }
    let cuts = bounded(body, cuts);
    let mut out = Vec::new();
    let mut from = 0;
    for cut in cuts.into_iter().chain([body.len()]) {
        let piece = body.get(from..cut).unwrap_or_default();
        let start = from + (piece.len() - piece.trim_start().len());
        let end = from + piece.trim_end().len();
        if start < end {
            out.push(paragraph.start + start..paragraph.start + end);
        }
        from = cut;
    }
    out
}

/// Adds cuts at spaces so that no unit is longer than [`MAX_UNIT_BYTES`].
fn bounded(body: &str, cuts: Vec<usize>) -> Vec<usize> {
    let mut out = Vec::with_capacity(cuts.len());
    let mut from = 0;
    for cut in cuts.into_iter().chain([body.len()]) {
        while cut.saturating_sub(from) > MAX_UNIT_BYTES {
            let limit = body.floor_char_boundary(from + MAX_UNIT_BYTES);
            let space = body.get(from..limit).and_then(|piece| piece.rfind(' ')).filter(|at| *at > 0);
            from = space.map_or(limit, |at| from + at);
            out.push(from);
        }
        from = cut;
        out.push(cut);
    }
    out.pop();
    out
}

fn ends_sentence(before: &str, after: &str) -> bool {
    let after = after.trim_start_matches(['"', '”', '’', ')', '\'']);
    if !after.starts_with(char::is_whitespace) {
        return false;
    }
    let next = after.trim_start();
    let fresh = next.starts_with(|c: char| c.is_uppercase() || c.is_ascii_digit() || "“\"([•‘".contains(c));
    let word = before.rsplit(|c: char| c.is_whitespace() || "(“\"".contains(c)).next().unwrap_or_default();
    // numbers of sections and initials of names
    let short = word.chars().count() <= 1 || (word.len() <= 5 && word.chars().all(|c| c.is_ascii_digit() || c == '.'));
    fresh && !short && !ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

/// Whether `(a)`, `(iv)` or `(2)` comes next as an item and not as part of a reference.
fn starts_inline_item(before: &str, rest: &str) -> bool {
    let Some(inner) = rest.strip_prefix('(') else { return false };
    // no further: a text full of "(" must not be read to its end at each of them
    let close = inner.bytes().take(6).position(|byte| byte == b')');
    let Some((core, after)) = close.and_then(|at| Some((inner.get(..at)?, inner.get(at + 1..)?))) else { return false };
    let after = after.get(..after.floor_char_boundary(24)).unwrap_or_default();
    let shaped = !core.is_empty()
        && core.len() <= 4
        && (core.chars().all(|c| "ivx".contains(c))
            || core.chars().all(|c| c.is_ascii_digit()) && core.len() <= 2
            || core.len() == 1 && core.chars().all(|c| c.is_ascii_alphabetic()));
    let mut back = before.split_whitespace().rev();
    let mut last = back.next().unwrap_or_default().to_lowercase();
    // "Section 3 (b)"
    if last.starts_with(|c: char| c.is_ascii_digit()) {
        last = back.next().unwrap_or_default().to_lowercase();
    }
    let reference = ["section", "sections", "clause", "clauses", "paragraph", "paragraphs", "subsection", "article"];
    // "sixty (60) days" and "one (1) copy" are numbers
    let number = core.chars().all(|c| c.is_ascii_digit())
        && ["day", "year", "month", "business", "cop", "hour", "week", "percent"]
            .iter()
            .any(|unit| after.trim_start().to_lowercase().starts_with(unit));
    let spelled = core.chars().all(|c| c.is_ascii_digit())
        && last.ends_with(|c: char| c.is_alphabetic())
        && last != "and"
        && last != "or";
    shaped && after.starts_with(char::is_whitespace) && !reference.contains(&last.as_str()) && !number && !spelled
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str) -> Vec<String> {
        units(text).into_iter().map(|unit| unit.text).collect()
    }

    #[test]
    fn sentences_survive_abbreviations_numbers_and_broken_lines() {
        let text = "1. Acme Inc. and J. Smith agree as follows. The term is two\nyears (2.5 at most).\nTERM\nNext one.";
        let expected = [
            "1. acme inc. and j. smith agree as follows.",
            "the term is two years (2.5 at most).",
            "term",
            "next one.",
        ];
        assert_eq!(split(text), expected);
    }

    #[test]
    fn items_know_their_lead_in() {
        let text = "Confidential Information does not include information that:\n(a) is public;\n(b) was (i) known or (ii) developed; or\n(c) is received.\n2. Term. It lasts.";
        let units = units(text);
        let leads: Vec<_> = units.iter().map(|unit| (unit.text.as_str(), unit.lead)).collect();
        assert_eq!(leads.first().map(|pair| pair.1), Some(None));
        let item = |name: &str| units.iter().position(|unit| unit.text.starts_with(name)).unwrap();
        assert_eq!(units[item("(a)")].lead, Some(0));
        assert_eq!(units[item("(c)")].lead, Some(0));
        assert_eq!(units[item("(ii)")].lead, Some(item("(b)")));
        assert_eq!(units[item("2. term")].lead, None);
        assert!(with_leads(&units, item("(ii)")).starts_with("confidential information does not include"));
    }

    #[test]
    fn other_languages_are_noticed() {
        let german = "die empfangende partei hat alle vertraulichen informationen geheim zu halten und darf sie nicht weitergeben";
        assert!(is_foreign(german));
        assert!(!is_foreign(
            "the receiving party keeps all confidential information secret and does not pass it along"
        ));
        assert!(!is_foreign("calder instruments inc. albany new york"));
    }

    #[test]
    fn a_text_without_full_stops_is_cut() {
        let text = "word ".repeat(5_000);
        let units = units(&text);
        assert!(units.len() > 4 && units.iter().all(|unit| unit.bytes.len() <= MAX_UNIT_BYTES));
        assert_eq!(units.iter().map(|unit| unit.text.split(' ').count()).sum::<usize>(), 5_000);
    }

    #[test]
    fn numbers_in_words_are_not_items() {
        assert_eq!(split("Within thirty (30) days and under Section 3 (b) of it.").len(), 1);
    }

    #[test]
    fn spans_are_code_points() {
        let text = "“É” is one. Two é.";
        let units = units(text);
        assert_eq!(units[1].span, Span { start: 12, end: 18 });
        assert_eq!(text.chars().skip(12).take(6).collect::<String>(), "Two é.");
    }
}
