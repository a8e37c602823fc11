//! One cheap look over a text, which tells every detector where it has anything to do.
//!
//! Clean text has few digits in a row, no `@` and no word that announces a secret; for it, this look is all that it costs.

use std::ops::Range;

use super::names::words;

/// A text with what the detectors share: where numbers are, and where placeholders stand already.
pub(super) struct Scan<'a> {
    pub(super) text: &'a str,
    pub(super) field: Option<&'a str>,
    /// Masks and tokens, in order.
    pub(super) reserved: Vec<Range<usize>>,
    /// Stretches of digits and the separators of numbers with at least seven digits, in order; see [`clusters`].
    pub(super) clusters: Vec<Range<usize>>,
}

/// How far back a word may stand that says what a number is, in bytes.
const REACH: usize = 40;

impl<'a> Scan<'a> {
    pub(super) fn new(text: &'a str, field: Option<&'a str>) -> Self {
        Self { text, field, reserved: super::placeholders(text), clusters: clusters(text) }
    }

    pub(super) fn part(&self, range: &Range<usize>) -> &'a str {
        self.text.get(range.clone()).unwrap_or_default()
    }

    /// The character before and the one after a range.
    pub(super) fn around(&self, range: &Range<usize>) -> (Option<char>, Option<char>) {
        let before = self.text.get(..range.start).and_then(|t| t.chars().next_back());
        let after = self.text.get(range.end..).and_then(|t| t.chars().next());
        (before, after)
    }

    /// Not a part of a longer number or word, nor the decimals of a number.
    pub(super) fn stands_alone(&self, range: &Range<usize>) -> bool {
        let (before, after) = self.around(range);
        let joins = |c: Option<char>| c.is_some_and(char::is_alphanumeric);
        let head = self.text.get(..range.start).unwrap_or_default();
        let decimals = head.strip_suffix('.').is_some_and(|h| h.ends_with(|c: char| c.is_ascii_digit()));
        !joins(before) && !joins(after) && !decimals
    }

    /// Whether the name of the field, or a word shortly before a place with no other number between, is one of these.
    pub(super) fn announced(&self, at: usize, is_one: impl Fn(&str) -> bool) -> bool {
        let before = self.before(at);
        let between = |word_end: usize| before.get(word_end..).map_or(0, digits) < 7;
        self.field.is_some_and(|f| words(f).iter().any(|w| is_one(w)))
            || word_ranges(before)
                .any(|w| between(w.end) && before.get(w).is_some_and(|w| words(w).iter().any(|w| is_one(w))))
    }

    /// At most [`REACH`] bytes before a place: whole words, nothing of a placeholder.
    pub(super) fn before(&self, at: usize) -> &'a str {
        let behind = self.reserved.partition_point(|r| r.end <= at);
        let placeholder = behind.checked_sub(1).and_then(|i| self.reserved.get(i)).map_or(0, |r| r.end);
        let mut from = at.saturating_sub(REACH).max(placeholder);
        while !self.text.is_char_boundary(from) {
            from += 1;
        }
        let cut = from > placeholder && self.text.get(..from).is_some_and(|t| t.ends_with(char::is_alphanumeric));
        let window = self.text.get(from..at).unwrap_or_default();
        if cut { window.trim_start_matches(char::is_alphanumeric) } else { window }
    }
}

fn word_ranges(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut at = 0;
    text.split(|c: char| !c.is_alphanumeric()).filter_map(move |w| {
        let from = at;
        at += w.len() + text.get(from + w.len()..).and_then(|t| t.chars().next()).map_or(0, char::len_utf8);
        (!w.is_empty()).then_some(from..from + w.len())
    })
}

pub(super) fn digits(text: &str) -> usize {
    text.bytes().filter(u8::is_ascii_digit).count()
}

/// The digits themselves.
pub(super) fn values(text: &str) -> Vec<u8> {
    text.bytes().filter(u8::is_ascii_digit).map(|b| b - b'0').collect()
}

/// What people and programs put between groups of digits; documents use the spaces and hyphens that do not break.
pub(super) fn separates(c: char) -> bool {
    matches!(c, ' ' | '-' | '.' | '/' | '(' | ')') || joins_groups(c)
}

/// A space or a hyphen of any width.
pub(super) fn joins_groups(c: char) -> bool {
    matches!(c, ' ' | '-' | '\u{a0}' | '\u{2007}' | '\u{2009}' | '\u{202f}' | '\u{2010}'..='\u{2013}')
}

/// Stretches of digits with at most three separators in a row, from seven digits on. Each begins and ends with a digit.
fn clusters(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(start) = bytes.get(at..).and_then(|b| b.iter().position(u8::is_ascii_digit)).map(|i| at + i) {
        let (mut end, mut count) = (start, 0);
        loop {
            let run = bytes.get(end..).map_or(0, |b| b.iter().take_while(|b| b.is_ascii_digit()).count());
            (end, count) = (end + run, count + run);
            let next = text.get(end..).unwrap_or_default();
            let gap: usize = next.chars().take(3).take_while(|c| separates(*c)).map(char::len_utf8).sum();
            let goes_on = gap > 0 && bytes.get(end + gap).is_some_and(u8::is_ascii_digit);
            if !goes_on {
                break;
            }
            end += gap;
        }
        if count >= 7 {
            out.push(start..end);
        }
        at = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_the_stretches_that_may_be_numbers() {
        let found = |t: &str| clusters(t).into_iter().map(|r| t[r].to_owned()).collect::<Vec<_>>();
        assert_eq!(found("a 123-45 6 7, 12 b (212) 555\u{a0}0142."), ["123-45 6 7", "212) 555\u{a0}0142"]);
        assert!(found("3 years from 2026, §§ 12.3, 12 or 123456").is_empty());
        assert_eq!(found("ä1234567ö"), ["1234567"]);
    }

    #[test]
    fn a_word_announces_only_the_next_number_and_a_placeholder_announces_none() {
        let said = |t: &str, at: &str| Scan::new(t, None).announced(t.find(at).unwrap(), |w| w == "phone");
        assert!(said("Phone:\n5550142", "555"));
        assert!(said("workPhone=5550142", "555"));
        assert!(!said("phone 2125550142, order 99887766", "998"));
        assert!(!said("[PHONE], order 99887766", "998"));
        assert!(!said("saxophone 5550142", "555"));
    }
}
