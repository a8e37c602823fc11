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

/// The code points of `span` as text, `None` when it reaches past the end.
pub(super) fn quote(text: &str, span: Span) -> Option<&str> {
    let mut starts = text.char_indices().map(|(byte, _)| byte).chain([text.len()]);
    let from = starts.nth(span.start)?;
    let to = match span.end.checked_sub(span.start)? {
        0 => from,
        length => starts.nth(length - 1)?,
    };
    text.get(from..to)
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
        assert_eq!(quote("aé“x”b", Span { start: 1, end: 4 }), Some("é“x"));
        assert_eq!(quote("ab", Span { start: 0, end: 2 }), Some("ab"));
        assert_eq!(quote("ab", Span { start: 1, end: 3 }), None);
        assert_eq!(quote("ab", Span { start: 2, end: 1 }), None);
    }

    #[test]
    fn plain_text_is_what_rules_expect() {
        assert_eq!(plain("The  “Receiving\nParty’s” — X"), "the \"receiving party's\" - x");
        assert_eq!(shorten("one two three", 9), "one two…");
    }
}
