//! Sentences of legal text, as byte ranges.
//!
//! In doubt two sentences stay one: an answer that is cut in the middle misleads, one that is too long does not.

use std::ops::Range;

/// Words before a full stop that do not end a sentence.
const ABBREVIATIONS: &[&str] = &[
    "inc", "corp", "ltd", "co", "llc", "mr", "mrs", "ms", "dr", "st", "e.g", "i.e", "etc", "vs", "v", "cf", "u.s",
    "u.k", "approx", "dept", "jr", "sr", "prof", "hon", "esq",
];

/// Words that do not end a sentence where a number follows: `Sec. 4`, but not `The answer is no.`
const NUMBERED: &[&str] =
    &["no", "nos", "art", "arts", "sec", "secs", "cl", "p", "pp", "fig", "para", "paras", "ch", "app", "vol"];

/// What may stand between the end of a sentence and the space after it.
const CLOSERS: [char; 8] = ['"', '\'', ')', ']', '}', '”', '’', '»'];

/// The sentences of a text, in order, without the white space around them. A blank line ends one, and so does a line end
/// before a mark of a list; another line end does not.
pub(crate) fn sentences(text: &str) -> Vec<Range<usize>> {
    let mut out = Vec::new();
    let mut begin = 0;
    for (at, c) in text.char_indices() {
        let rest = text.get(at + c.len_utf8()..).unwrap_or_default();
        let closed = || rest.trim_start_matches(CLOSERS);
        let apart = || closed().is_empty() || closed().starts_with(char::is_whitespace);
        let left = match c {
            '.' if apart() && !abbreviates(text.get(begin..at).unwrap_or_default(), closed()) => closed(),
            '!' | '?' if apart() => closed(),
            '。' | '！' | '？' => closed(),
            '\n' if breaks(rest) => rest,
            _ => continue,
        };
        let end = text.len() - left.len();
        push(&mut out, text, begin..end);
        begin = end;
    }
    push(&mut out, text, begin..text.len());
    out
}

fn abbreviates(before: &str, after: &str) -> bool {
    let word = before.rsplit(|c: char| c.is_whitespace() || "([{\"“'‘«".contains(c)).next().unwrap_or_default();
    let initial = word.chars().count() == 1 && word.chars().all(char::is_uppercase);
    // `J. Doe` anywhere; `1.` and `2.3.` number what follows only where they open it
    if initial || (numbers(word) && opens_line(before, word)) {
        return true;
    }
    let word = word.to_lowercase();
    let number_follows = || after.trim_start().starts_with(|c: char| c.is_ascii_digit());
    ABBREVIATIONS.contains(&word.as_str()) || (NUMBERED.contains(&word.as_str()) && number_follows())
}

fn opens_line(before: &str, word: &str) -> bool {
    let ahead = before.get(..before.len() - word.len()).unwrap_or_default();
    ahead.rsplit('\n').next().unwrap_or_default().trim().is_empty()
}

/// Whether a line end before this text is more than a wrapped line.
fn breaks(rest: &str) -> bool {
    let line = rest.trim_start_matches([' ', '\t', '\r']);
    line.starts_with('\n') || marks(line.split([' ', '\t', '\r', '\n']).next().unwrap_or_default())
}

/// `-`, `•`, `(a)`, `(iv)`, `b)`, `1.`, `2.3.` or `12)`.
fn marks(word: &str) -> bool {
    if ["-", "*", "•", "–", "—"].contains(&word) {
        return true;
    }
    let short = |inner: &str| (1..=4).contains(&inner.len()) && inner.chars().all(|c| c.is_ascii_alphanumeric());
    match (word.strip_prefix('('), word.strip_suffix(')'), word.strip_suffix('.')) {
        (Some(open), Some(_), _) => open.strip_suffix(')').is_some_and(short),
        (None, Some(inner), _) => numbers(inner) || (inner.len() == 1 && short(inner)),
        (None, None, Some(inner)) => numbers(inner),
        _ => false,
    }
}

/// `1` or `2.3`; a year has four digits and numbers nothing.
fn numbers(word: &str) -> bool {
    word.split('.').all(|n| (1..=3).contains(&n.len()) && n.chars().all(|c| c.is_ascii_digit()))
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
    use proptest::prelude::*;

    fn split(text: &str) -> Vec<&str> {
        sentences(text).into_iter().map(|r| &text[r]).collect()
    }

    #[test]
    fn numbers_and_abbreviations_do_not_end_a_sentence() {
        let text = "1. Acme Inc. and Globex agree.\nThe term is 3.5 years. See Sec. 4!\n\nHeading\n\nJ. Doe signs";
        assert_eq!(
            split(text),
            ["1. Acme Inc. and Globex agree.", "The term is 3.5 years.", "See Sec. 4!", "Heading", "J. Doe signs"]
        );
        assert_eq!(
            split("It ends in 2024. Then no. Nothing (e.g. a fee) is due."),
            ["It ends in 2024.", "Then no.", "Nothing (e.g. a fee) is due."]
        );
    }

    #[test]
    fn quotes_and_brackets_close_with_their_sentence() {
        assert_eq!(
            split("“Affiliate” means “a parent.” It is (so we say.) Done"),
            ["“Affiliate” means “a parent.”", "It is (so we say.)", "Done"]
        );
    }

    #[test]
    fn each_item_of_a_list_is_one_and_a_wrapped_line_is_none() {
        let text =
            "The receiver shall\nkeep it secret for:\r\n(a) three years;\n(iv) ten years\n2.1. or\n- ever\nand a day";
        assert_eq!(
            split(text),
            [
                "The receiver shall\nkeep it secret for:",
                "(a) three years;",
                "(iv) ten years",
                "2.1. or",
                "- ever\nand a day"
            ]
        );
        assert_eq!(split("as of\n2024. Then\n3.5 years"), ["as of\n2024.", "Then\n3.5 years"]);
    }

    proptest! {
        #[test]
        fn nothing_but_white_space_is_left_out(text in "[a-c1A(). \n\r\"“ä。!-]{0,80}") {
            let mut at = 0;
            for r in sentences(&text) {
                prop_assert!(text[at..r.start].trim().is_empty() && r.start < r.end);
                at = r.end;
            }
            prop_assert!(text[at..].trim().is_empty());
        }
    }
}
