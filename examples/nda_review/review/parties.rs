//! Who the parties are: names of the preamble, of the letter's head and of the signature blocks.
//!
//! Four places name a party, from the surest down: "between A and B", a name that is given an alias ("Acme, Inc. (the
//! “Company”)"), the lines above and under a letter, and the line over "By:". A name found twice is one party.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::names::{SUFFIX, WORD, is_party_alias, not_a_name, same};

/// A party as found, before its place is turned into code points.
pub(super) struct Found {
    pub(super) name: String,
    pub(super) bytes: Range<usize>,
    pub(super) aliases: Vec<String>,
    pub(super) confidence: f32,
}

/// How much of the document's head holds the parties, in bytes.
const HEAD: usize = 5_000;
const MAX_PARTIES: usize = 6;

struct Patterns {
    company: Regex,
    person: Regex,
    between: Regex,
    alias: Regex,
    letter: Regex,
    over_signature: Regex,
}

fn patterns() -> Option<&'static Patterns> {
    static PATTERNS: LazyLock<Option<Patterns>> = LazyLock::new(|| {
        let company = format!(
            r"\b{WORD}(?:[ \t]*,?[ \t]+(?:{WORD}|of|and|the|de|for|&|\([A-Z]\w+\)))*?,?[ \t]+{SUFFIX}(?:,?[ \t]+{SUFFIX})*"
        );
        let person = r"\p{Lu}[\p{L}'’-]+(?:[ \t]+(?:\p{Lu}\.?|\p{Lu}[\p{L}'’-]+|de|van|von)){1,3}";
        let compile = |pattern: &str| Regex::new(pattern).ok();
        Some(Patterns {
            company: compile(&company)?,
            person: compile(&format!("^{person}"))?,
            between: compile(
                r"(?i)\b(?:by\s+and\s+(?:between|among)|between\s+and\s+among|between|among|entered\s+into\s+by|parties\s*:)",
            )?,
            alias: compile(
                r#"\(\s*(?:each\s+)?(?:hereinafter|herein|hereafter)?,?\s*(?:collectively\s*,?\s*)?(?:referred\s+to\s+(?:herein\s+)?as|called|individually|and|together)?\s*,?\s*(?:the|a)?\s*["“‘'](?P<alias>[^"”’]{2,40})["”’]"#,
            )?,
            letter: compile(r"(?m)^(?:Dear\s|Ladies\s+and\s+Gentlemen|Gentlemen|To\s+Whom|Re\s*:|RE\s*:)")?,
            over_signature: compile(
                r"(?m)^(?P<line>[^\n]{3,90})\n+(?:(?:By|BY|Per|Signed|Signature)\s*[:;]|(?:By\s+)?/s/|_{5,})",
            )?,
        })
    });
    PATTERNS.as_ref()
}

/// Finds the parties of `text`.
pub(super) fn parties(text: &str) -> Vec<Found> {
    let Some(patterns) = patterns() else { return Vec::new() };
    let head = text.get(..text.floor_char_boundary(HEAD)).unwrap_or(text);
    let mut found = Vec::new();
    let signatures = signatures(patterns, text);
    preamble(patterns, head, &mut found);
    if found.len() < 2 {
        letter(patterns, head, &mut found);
        let addressed = !found.is_empty() && signatures.len() < 3;
        for signature in signatures.iter().filter(|_| addressed) {
            push(&mut found, signature.name.clone(), signature.bytes.clone(), None, 0.5);
        }
    }
    if found.len() < 2 {
        aliased(patterns, head, &mut found);
    }
    if found.len() < 2 {
        for signature in &signatures {
            push(&mut found, signature.name.clone(), signature.bytes.clone(), None, 0.5);
        }
    }
    for party in &mut found {
        if signatures.iter().any(|signature| same(&signature.name, &party.name)) {
            party.confidence = (party.confidence + 0.1).min(0.95);
        }
    }
    found.truncate(MAX_PARTIES);
    found
}

/// "between A, a Delaware corporation (“X”), and B (“Y”)".
fn preamble(patterns: &Patterns, head: &str, found: &mut Vec<Found>) {
    for start in patterns.between.find_iter(head) {
        let rest = head.get(start.end()..).unwrap_or_default();
        let stop = rest.floor_char_boundary(900);
        let clause = rest.get(..sentence_end(rest.get(..stop).unwrap_or_default())).unwrap_or_default();
        let mut names = Vec::new();
        for piece in pieces(clause) {
            let Some(words) = clause.get(piece.clone()) else { continue };
            let lead = words.len()
                - words.trim_start_matches(|c: char| c.is_whitespace() || ",:;()0123456789".contains(c)).len();
            let words = words.get(lead..).unwrap_or_default();
            let Some(length) = name_at(patterns, words) else { continue };
            let from = start.end() + piece.start + lead;
            let alias =
                patterns.alias.captures(words).and_then(|c| c.name("alias")).map(|alias| alias.as_str().to_owned());
            names.push((words.get(..length).unwrap_or_default().to_owned(), from..from + length, alias));
        }
        let strong = names.len() >= 2 || names.iter().any(|(.., alias)| alias.is_some());
        if strong {
            for (name, bytes, alias) in names {
                let confidence = if alias.is_some() { 0.85 } else { 0.7 };
                push(found, name, bytes, alias, confidence);
            }
            return;
        }
    }
}

/// Where the sentence of the parties ends: at a full stop after a word that is no abbreviation, or at a new paragraph's start.
fn sentence_end(text: &str) -> usize {
    let stops = [
        "RECITALS",
        "WHEREAS",
        "Recitals",
        "Background",
        "WITNESSETH",
        "for the purpose of",
        "relating to",
        "with respect to",
        "AGREEMENT",
        "to allow",
    ];
    let hard = stops.iter().filter_map(|stop| text.find(stop)).min().unwrap_or(text.len());
    let soft = text.match_indices(['.', ';']).find(|(at, mark)| {
        let before = text.get(..*at).unwrap_or_default();
        let word = before.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
        let after = text.get(at + 1..).unwrap_or_default();
        let next = after.trim_start();
        let abbreviation =
            ["Inc", "INC", "Corp", "CORP", "Ltd", "LTD", "Co", "CO", "No", "Mr", "Ms", "Mrs", "Dr", "St", "Jr", "Sr"]
                .contains(&word);
        *mark == ";"
            || (after.starts_with(char::is_whitespace)
                && next.starts_with(char::is_uppercase)
                && !abbreviation
                && word.len() > 2)
    });
    hard.min(soft.map_or(text.len(), |(at, _)| at))
}

/// Splits at "and" and line ends outside brackets.
fn pieces(clause: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let (mut depth, mut from) = (0_usize, 0);
    for (at, character) in clause.char_indices() {
        match character {
            '(' | '[' => depth += 1,
            ')' | ']' => depth = depth.saturating_sub(1),
            ' ' | '\n' | '\t' | ',' | ';' if depth == 0 => {
                let rest = clause.get(at..).unwrap_or_default();
                let trimmed = rest.trim_start_matches([' ', '\t', ',', ';', '\n']);
                let joins = ["and ", "and\n", "AND ", "– and –", "- and -", "&\n"]
                    .iter()
                    .find(|word| trimmed.starts_with(**word));
                let line = character == '\n';
                if let Some(word) = joins.filter(|_| boundary(clause.get(from..at).unwrap_or_default(), trimmed)) {
                    out.push(from..at);
                    from = at + (rest.len() - trimmed.len()) + word.len();
                } else if line && at > from {
                    out.push(from..at);
                    from = at + 1;
                }
            }
            _ => {}
        }
    }
    if from < clause.len() {
        out.push(from..clause.len());
    }
    out
}

/// Whether an "and" parts two parties and not the words of one name ("Procter and Gamble Company").
fn boundary(before: &str, after: &str) -> bool {
    static SUFFIXED: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(&format!("{SUFFIX}\\s*$")).ok());
    let ends = before.trim_end();
    let suffixed = SUFFIXED.as_ref().is_some_and(|suffix| suffix.is_match(ends));
    let person = ends.split_whitespace().count() >= 2
        && !after.get(4..).unwrap_or_default().trim_start().starts_with(char::is_lowercase);
    suffixed || before.contains(',') || before.contains('(') || ends.ends_with(')') || person
}

/// The length of the name that `words` start with.
fn name_at(patterns: &Patterns, words: &str) -> Option<usize> {
    let line = words.split('\n').next().unwrap_or_default();
    if let Some(company) = patterns.company.find(line).filter(|company| company.start() == 0) {
        return Some(company.end());
    }
    let cut = line.find([',', '(', '"', '“', '\t']).unwrap_or(line.len());
    let name = line.get(..cut)?.trim_end();
    let is_person = patterns.person.find(name).is_some_and(|person| person.end() == name.len());
    let capital = name.split_whitespace().all(|word| {
        let mut letters = word.chars().take(2);
        letters.any(|c| c.is_uppercase() || c.is_ascii_digit() || c == '&')
            || ["of", "and", "the", "de", "d/b/a"].contains(&word)
    });
    // one word and a comma is a town as often as a name
    let cut_by_alias =
        line.get(cut..).is_some_and(|rest| rest.starts_with('(') || (rest.starts_with(',') && name.contains(' ')));
    (!not_a_name(name) && (is_person || (capital && cut_by_alias)) && name.len() >= 3 && name.len() <= 80)
        .then_some(name.len())
}

/// "Acme Widgets, Inc., a Delaware corporation (the “Company”)" anywhere in the head.
fn aliased(patterns: &Patterns, head: &str, found: &mut Vec<Found>) {
    for alias in patterns.alias.captures_iter(head) {
        let (Some(whole), Some(alias)) = (alias.get(0), alias.name("alias")) else { continue };
        if !is_party_alias(alias.as_str()) {
            continue;
        }
        let from = head.ceil_char_boundary(whole.start().saturating_sub(160));
        let window = head.get(from..whole.start()).unwrap_or_default();
        let line = window.rfind('\n').map_or(0, |at| at + 1);
        let before = window.get(line..).unwrap_or_default();
        let company = patterns
            .company
            .find_iter(before)
            .filter(|company| close_by(before.get(company.end()..).unwrap_or_default()))
            .last();
        if let Some(company) = company {
            let start = from + line + company.start();
            push(
                found,
                company.as_str().to_owned(),
                start..start + company.len(),
                Some(alias.as_str().to_owned()),
                0.75,
            );
        } else if let Some(length) = name_at(patterns, head.get(from + line..).unwrap_or_default())
            .filter(|length| line > 0 && close_by(before.get(*length..).unwrap_or_default()))
        {
            let start = from + line;
            push(
                found,
                head.get(start..start + length).unwrap_or_default().to_owned(),
                start..start + length,
                Some(alias.as_str().to_owned()),
                0.7,
            );
        }
    }
}

/// Between a name and its alias stands at most what kind of company it is and where it lives.
fn close_by(between: &str) -> bool {
    let words = between.trim_start_matches([',', ' ', '.']);
    words.is_empty()
        || (between.starts_with([',', ' '])
            && words.len() < 110
            && !words.contains(". ")
            && !words.contains(" to ")
            && !words.contains("with "))
}

/// The addressee above "Ladies and Gentlemen".
fn letter(patterns: &Patterns, head: &str, found: &mut Vec<Found>) {
    let Some(salutation) = patterns.letter.find(head) else { return };
    let above = head.get(..salutation.start()).unwrap_or_default();
    let mut at = 0;
    for line in above.split_inclusive('\n') {
        let start = at;
        at += line.len();
        let trimmed = line.trim();
        if let Some(company) =
            patterns.company.find(trimmed).filter(|company| company.start() == 0 && trimmed.len() - company.end() < 3)
        {
            push(found, company.as_str().to_owned(), start..start + company.len(), None, 0.55);
        }
    }
}

/// The lines over "By:" that look like names.
fn signatures(patterns: &Patterns, text: &str) -> Vec<Found> {
    let tail_start = text.ceil_char_boundary(text.len().saturating_sub(4_000));
    let tail = text.get(tail_start..).unwrap_or_default();
    let mut out = Vec::new();
    for block in patterns.over_signature.captures_iter(tail) {
        let Some(line) = block.name("line") else { continue };
        let mut from = line.start();
        for cell in line.as_str().split('\t') {
            let trimmed = cell.trim();
            let company = patterns.company.find(trimmed).filter(|company| company.start() == 0);
            if let Some(company) = company {
                let start = tail_start + from + (cell.len() - cell.trim_start().len());
                push(&mut out, company.as_str().to_owned(), start..start + company.len(), None, 0.5);
            }
            from += cell.len() + 1;
        }
    }
    out
}

fn push(found: &mut Vec<Found>, name: String, bytes: Range<usize>, alias: Option<String>, confidence: f32) {
    let name = name.trim().to_owned();
    if not_a_name(&name) || name.len() < 3 {
        return;
    }
    let alias = alias.filter(|alias| is_party_alias(alias));
    match found.iter_mut().find(|party| same(&party.name, &name)) {
        Some(party) => party.aliases.extend(alias.filter(|alias| !party.aliases.contains(alias))),
        None => found.push(Found { name, bytes, aliases: alias.into_iter().collect(), confidence }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::names::{canonical, role};
    use super::*;

    fn names(text: &str) -> Vec<String> {
        parties(text).into_iter().map(|party| canonical(&party.name)).collect()
    }

    #[test]
    fn the_preamble_names_both_sides() {
        let text = "This Agreement is made by and between Alder & Sons, Incorporated, a Delaware corporation (“Alder”), and Mary Q. Moss (the “Recipient”). It is.";
        assert_eq!(names(text), ["Alder and Sons Inc.", "Mary Q. Moss"]);
        let found = parties(text);
        assert_eq!(&text[found[1].bytes.clone()], "Mary Q. Moss");
        assert_eq!(role(&found[1].aliases).as_deref(), Some("Recipient"));
    }

    #[test]
    fn a_letter_names_its_addressee_and_sender() {
        let text = "June 1, 2020\nBirch Capital LLC\n1 Main Street\nLadies and Gentlemen:\nYou asked us for papers.\nVery truly yours,\nCEDAR GROUP, INC.\nBy: /s/ A. B.\n";
        assert_eq!(names(text), ["Birch Capital LLC", "Cedar Group Inc."]);
    }

    #[test]
    fn defined_terms_are_not_parties() {
        assert!(names("The confidential papers of the Group (the “Confidential Information”) and more.").is_empty());
    }
}
