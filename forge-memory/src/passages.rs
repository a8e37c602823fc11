//! A document as passages: whole sentences, as many as fit.

use std::ops::Range;

use crate::sentences::sentences;

/// The passages of a text in order, none of more than `most` bytes (at least 16): whole sentences together; a sentence that is longer alone is
/// cut between words, and a word that is longer between characters. White space around passages is left out, and nothing else.
pub fn passages(text: &str, most: usize) -> Vec<&str> {
    let most = most.max(16);
    let mut out: Vec<Range<usize>> = Vec::new();
    for sentence in sentences(text) {
        match out.last_mut() {
            Some(last) if sentence.end - last.start <= most => last.end = sentence.end,
            _ => cut(text, sentence, most, &mut out),
        }
    }
    out.into_iter().filter_map(|r| text.get(r)).collect()
}

fn cut(text: &str, mut rest: Range<usize>, most: usize, out: &mut Vec<Range<usize>>) {
    while rest.len() > most {
        let mut end = rest.start + most;
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        let part = text.get(rest.start..end).unwrap_or_default();
        // a word that ends here is whole
        let whole = text.get(end..).is_some_and(|t| t.starts_with(char::is_whitespace));
        let word = if whole { None } else { part.rfind(char::is_whitespace) };
        let end = word.map_or(end, |at| rest.start + at);
        let kept = text.get(rest.start..end).unwrap_or_default().trim_end().len();
        out.push(rest.start..rest.start + kept);
        let left = text.get(end..rest.end).unwrap_or_default();
        rest.start = end + (left.len() - left.trim_start().len());
    }
    if !rest.is_empty() {
        out.push(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn sentences_stay_whole_and_together() {
        let text = "One two three. Four five six.\n\nSeven eight nine ten. Eleven";
        assert_eq!(passages(text, 30), ["One two three. Four five six.", "Seven eight nine ten. Eleven"]);
        assert_eq!(passages(text, 1000), [text]);
        assert_eq!(passages("aaaa bbbb cccc dddd eeee", 16), ["aaaa bbbb cccc", "dddd eeee"]);
        assert_eq!(passages(&"ä".repeat(12), 16), ["ä".repeat(8), "ä".repeat(4)]);
        assert!(passages(" \n ", 16).is_empty());
    }

    proptest! {
        #[test]
        fn nothing_but_white_space_is_left_out(text in "[a-c(). \n“ä]{0,120}", most in 16_usize..40) {
            let whole: String = text.split_whitespace().collect();
            let found = passages(&text, most);
            let joined: String = found.iter().flat_map(|p| p.split_whitespace()).collect();
            prop_assert_eq!(joined, whole);
            for p in found {
                prop_assert!(!p.trim().is_empty() && p.trim() == p && p.len() <= most);
            }
        }
    }
}
