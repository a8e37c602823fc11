//! Where things stand in the text: byte offsets to code points, and text as the rules see it.

use std::ops::Range;

use serde::{Deserialize, Serialize};

/// A stretch of the document in Unicode code points, the end not included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Span {
    /// The first code point.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

const STEP: usize = 512;

/// Turns byte offsets into code points without counting from the start each time.
pub(super) struct Offsets<'a> {
    text: &'a str,
    /// Code points before byte `index * STEP`, moved to the next character's start.
    marks: Vec<(usize, usize)>,
}

impl<'a> Offsets<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let mut marks = Vec::with_capacity(text.len() / STEP + 1);
        for (count, (byte, _)) in text.char_indices().enumerate() {
            if byte >= marks.len() * STEP {
                marks.push((byte, count));
            }
        }
        Self { text, marks }
    }

    pub(super) fn code_point(&self, byte: usize) -> usize {
        // a mark may stand a few bytes after its multiple of STEP
        let at = (byte / STEP).min(self.marks.len().saturating_sub(1));
        let candidates = [at, at.saturating_sub(1)];
        let mark = candidates.into_iter().filter_map(|index| self.marks.get(index)).find(|(start, _)| *start <= byte);
        let (start, count) = mark.copied().unwrap_or_default();
        count + self.text.get(start..byte).map_or(0, |between| between.chars().count())
    }

    pub(super) fn span(&self, bytes: &Range<usize>) -> Span {
        Span { start: self.code_point(bytes.start), end: self.code_point(bytes.end) }
    }
}

/// Cuts stretches out of a text by code point without counting from the start each time.
pub(super) struct Slicer<'a> {
    text: &'a str,
    /// The byte at which code point `index * STEP` starts.
    marks: Vec<usize>,
    characters: usize,
}

impl<'a> Slicer<'a> {
    pub(super) fn new(text: &'a str) -> Self {
        let marks = text.char_indices().step_by(STEP).map(|(byte, _)| byte).collect();
        Self { text, marks, characters: text.chars().count() }
    }

    /// The words at `span`, `None` when it reaches past the end or is turned around.
    pub(super) fn checked(&self, span: Span) -> Option<&'a str> {
        let Span { start, end } = span;
        (start <= end && end <= self.characters).then(|| self.text.get(self.byte(start)..self.byte(end))).flatten()
    }

    /// The words at `span`, empty when there is no such place.
    pub(super) fn get(&self, span: Span) -> &'a str {
        self.checked(span).unwrap_or_default()
    }

    fn byte(&self, code_point: usize) -> usize {
        let from = self.marks.get(code_point / STEP).copied().unwrap_or(self.text.len());
        let rest = self.text.get(from..).unwrap_or_default();
        from + rest.char_indices().nth(code_point % STEP).map_or(rest.len(), |(byte, _)| byte)
    }
}

/// Lower case, typewriter quotes and dashes, single spaces: what the rules are written for.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        let character = match character {
            '“' | '”' | '„' | '«' | '»' => '"',
            '‘' | '’' | '`' => '\'',
            '–' | '—' | '‑' | '‐' => '-',
            other if other.is_whitespace() || other == '\u{feff}' => ' ',
            other => other,
        };
        if character == ' ' && (out.is_empty() || out.ends_with(' ')) {
            continue;
        }
        out.extend(character.to_lowercase());
    }
    out.truncate(out.trim_end().len());
    out
}

/// At most `max` characters, cut at a word, with an ellipsis where something is missing.
pub(super) fn shorten(text: &str, max: usize) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    if words.chars().count() <= max {
        return words;
    }
    let cut: String = words.chars().take(max.saturating_sub(1)).collect();
    let kept = cut.rsplit_once(' ').map_or(cut.as_str(), |(kept, _)| kept);
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_count_code_points() {
        let text = "aé“x”\n".repeat(400);
        let offsets = Offsets::new(&text);
        for (count, (byte, _)) in text.char_indices().enumerate() {
            assert_eq!(offsets.code_point(byte), count);
        }
        assert_eq!(offsets.code_point(text.len()), text.chars().count());
    }

    #[test]
    fn quotes_are_cut_by_code_point() {
        let text = "aé“x”b".repeat(300);
        let cut = Slicer::new(&text);
        let characters: Vec<char> = text.chars().collect();
        for (start, end) in [(0, 3), (1, 4), (511, 514), (1024, 1030), (1797, 1800), (1800, 1800)] {
            let expected: String = characters[start..end].iter().collect();
            assert_eq!(cut.checked(Span { start, end }), Some(expected.as_str()));
        }
        assert_eq!(cut.checked(Span { start: 1, end: 1801 }), None);
        assert_eq!(cut.checked(Span { start: 2, end: 1 }), None);
    }

    #[test]
    fn plain_text_is_what_rules_expect() {
        assert_eq!(plain("The  “Receiving\nParty’s” — X"), "the \"receiving party's\" - x");
        assert_eq!(shorten("one two three", 9), "one two…");
    }
}
