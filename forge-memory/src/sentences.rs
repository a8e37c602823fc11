//! Sentences of legal text, as byte ranges.

use std::ops::Range;

/// Words before a full stop that do not end a sentence.
const ABBREVIATIONS: &[&str] = &[
    "inc", "corp", "ltd", "co", "llc", "no", "nos", "mr", "mrs", "ms", "dr", "st", "art", "sec", "e.g", "i.e", "etc",
    "vs", "v", "p", "pp", "u.s", "approx", "dept", "fig", "jr", "sr", "para",
];

/// The sentences of a text, in order, without the white space around them. A blank line ends one, a line end alone does not.
pub(crate) fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut begin = 0;
    let mut chars = text.char_indices().peekable();
    while let Some((at, c)) = chars.next() {
        let next = chars.peek().map(|(_, n)| *n);
        let end = at + c.len_utf8();
        let ends = match c {
            '.' => next.is_none_or(char::is_whitespace) && !abbreviates(text.get(begin..at).unwrap_or_default()),
            '!' | '?' => next.is_none_or(char::is_whitespace),
            '\n' => text.get(end..).is_some_and(|rest| rest.trim_start_matches([' ', '\t', '\r']).starts_with('\n')),
            _ => false,
        };
        if ends {
            push(&mut out, text, begin..end);
            begin = end;
        }
    }
    push(&mut out, text, begin..text.len());
    out
}

fn abbreviates(before: &str) -> bool {
    let word = before.rsplit(|c: char| c.is_whitespace() || c == '(').next().unwrap_or_default();
    // `1.`, `2.3.` and `A.` number what follows
    let numbers = !word.is_empty() && word.chars().all(|c| c.is_ascii_digit() || c == '.');
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    numbers || initial || ABBREVIATIONS.contains(&word.to_lowercase().as_str())
}

fn push(out: &mut Vec<Range<usize>>, text: &str, range: Range<usize>) {
    let part = text.get(range.clone()).unwrap_or_default();
    let begin = range.start + part.len() - part.trim_start().len();
    let end = range.start + part.trim_end().len();
    if begin < end {
        out.push(begin..end);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_abbreviations_do_not_end_a_sentence() {
        let text = "1. Acme Inc. and Globex agree.\nThe term is 3.5 years. See Sec. 4!\n\nHeading\n\nJ. Doe signs";
        let found: Vec<_> = sentences(text).into_iter().map(|r| &text[r]).collect();
        assert_eq!(
            found,
            ["1. Acme Inc. and Globex agree.", "The term is 3.5 years.", "See Sec. 4!", "Heading", "J. Doe signs"]
        );
    }
}
