//! Lines and paragraphs out of positioned strings.
//!
//! Strings are taken in the order of the file, which is reading order for the producers we have seen, and joined to lines by
//! their baseline; a gap wider than a thin space is a space, a very wide one a tab. Lines become paragraphs by distance, by
//! how far they reach to the right, and by numbering. Nothing is sorted: two columns stay two columns.

use std::collections::HashMap;

/// One shown string and where it stands, in points from the lower left.
pub(super) struct Fragment {
    pub(super) x: f32,
    pub(super) end: f32,
    pub(super) y: f32,
    pub(super) size: f32,
    pub(super) hidden: bool,
    /// Whether `end` comes from the file's own widths or is a guess.
    pub(super) exact: bool,
    pub(super) text: String,
}

impl Fragment {
    pub(super) fn glyphs(&self) -> usize {
        self.text.chars().filter(|character| !character.is_whitespace()).count()
    }
}

/// One line of text on a page.
pub(super) struct Line {
    x: f32,
    end: f32,
    y: f32,
    size: f32,
    text: String,
}

/// Joins the strings of one page to lines.
pub(super) fn lines(fragments: Vec<Fragment>) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::new();
    for fragment in fragments {
        if fragment.text.is_empty() {
            continue;
        }
        let size = fragment.size.max(1.0);
        let joins = |line: &Line| {
            (line.y - fragment.y).abs() < 0.45 * size.max(line.size)
                && fragment.x > line.end - 2.0 * size.max(line.size)
        };
        match lines.last_mut() {
            Some(line) if joins(line) => {
                let gap = fragment.x - line.end;
                let space = if fragment.exact { 0.13 } else { 0.3 } * size;
                let apart = line.text.ends_with(char::is_whitespace) || fragment.text.starts_with(char::is_whitespace);
                if gap > 3.0 * size {
                    line.text.truncate(line.text.trim_end().len());
                    line.text.push('\t');
                    line.text.push_str(fragment.text.trim_start());
                } else {
                    if gap > space && !apart {
                        line.text.push(' ');
                    }
                    line.text.push_str(&fragment.text);
                }
                line.end = line.end.max(fragment.end);
                line.size = line.size.max(size);
            }
            _ => lines.push(Line { x: fragment.x, end: fragment.end, y: fragment.y, size, text: fragment.text }),
        }
    }
    for line in &mut lines {
        line.text = line.text.trim().to_owned();
    }
    lines.retain(|line| !line.text.is_empty());
    lines
}

/// The text of all pages, one paragraph a line, and how many running headers and footers were left out.
pub(super) fn text(mut pages: Vec<Vec<Line>>) -> (String, usize) {
    let furniture = drop_furniture(&mut pages);
    let mut out = String::new();
    let measure = Measure::of(&pages);
    for page in &pages {
        let mut previous: Option<&Line> = None;
        for line in page {
            let joined = match previous {
                Some(previous) => measure.continues(previous, line),
                // a paragraph may run over the page's end
                None => runs_on(&out) && line.text.starts_with(char::is_lowercase),
            };
            if joined {
                // a line that ends in a hyphen is a compound word far more often than a broken one
                let hyphen = out.ends_with('-') && line.text.starts_with(char::is_alphabetic);
                out.push_str(if hyphen { "" } else { " " });
            } else if !out.is_empty() {
                out.push('\n');
            }
            out.push_str(&line.text);
            previous = Some(line);
        }
    }
    out.push('\n');
    (out, furniture)
}

/// What is usual in the document.
struct Measure {
    leading: f32,
    right: f32,
}

impl Measure {
    /// Measured over all pages: a page of single lines alone would take their distance for that of lines in a paragraph.
    fn of(pages: &[Vec<Line>]) -> Self {
        let pairs = pages.iter().flat_map(|page| page.iter().zip(page.iter().skip(1)));
        let mut gaps: Vec<f32> = pairs.map(|(a, b)| a.y - b.y).filter(|gap| (2.0..60.0).contains(gap)).collect();
        gaps.sort_by(f32::total_cmp);
        // the lower quartile: paragraphs of one line must not pass for line distance
        let leading = gaps.get(gaps.len() / 4).copied().unwrap_or(14.0);
        let mut ends: Vec<f32> = pages.iter().flatten().map(|line| line.end).collect();
        ends.sort_by(f32::total_cmp);
        // one wide table must not make every line a short one
        let right = ends.get(ends.len() * 19 / 20).or(ends.last()).copied().unwrap_or_default();
        Self { leading, right }
    }

    fn continues(&self, previous: &Line, line: &Line) -> bool {
        let gap = previous.y - line.y;
        // double spacing is the widest that one paragraph has
        let leading = self.leading.clamp(previous.size * 1.02, previous.size * 2.5);
        let close = gap > 0.0 && gap < 1.35 * leading;
        if !close || previous.text.contains('\t') || line.text.contains('\t') || starts_item(&line.text) {
            return false;
        }
        let reach = previous.end > self.right - 0.22 * (self.right - previous.x).max(1.0);
        let same_size = (previous.size - line.size).abs() < 0.2 * line.size;
        same_size && (reach || line.text.starts_with(char::is_lowercase))
    }
}

fn runs_on(text: &str) -> bool {
    !text.is_empty() && !text.ends_with(['.', ':', ';', '!', '?', '”', '"'])
}

/// `1.`, `2.3`, `(a)`, `(iv)`, `b)`, `•`, `Section 4`, `ARTICLE II`.
fn starts_item(text: &str) -> bool {
    let word = text.split_whitespace().next().unwrap_or_default();
    if matches!(word, "•" | "▪" | "●" | "–" | "·") || matches!(word, "ARTICLE" | "Article" | "SECTION") {
        return true;
    }
    let core = word.trim_start_matches('(').trim_end_matches([')', '.']);
    let marked = word.len() > core.len() && word.ends_with([')', '.']);
    let number = core.starts_with(|c: char| c.is_ascii_digit()) && core.chars().all(|c| c.is_ascii_digit() || c == '.');
    let decimal = number && core.contains('.') && core.len() < 8;
    let letter = core.len() <= 4 && !core.is_empty() && core.chars().all(|c| "ivxabcdefghIVXABCDEFGH".contains(c));
    // "2010." and "5." at a line's start may end a sentence: only short numbers count
    decimal || (marked && ((number && core.len() <= 2) || (letter && (word.starts_with('(') || core.len() == 1))))
}

/// Takes out the first and last two lines of pages when they say the same on most pages, page numbers aside.
fn drop_furniture(pages: &mut [Vec<Line>]) -> usize {
    let key = |line: &Line| line.text.chars().filter(|c| !c.is_ascii_digit() && !c.is_whitespace()).collect::<String>();
    let mut seen: HashMap<String, usize> = HashMap::new();
    for page in pages.iter() {
        let mut keys: Vec<String> = edges(page).map(|index| page.get(index).map(key).unwrap_or_default()).collect();
        keys.sort();
        keys.dedup();
        for key in keys {
            *seen.entry(key).or_default() += 1;
        }
    }
    let count = pages.len();
    let mut dropped = 0;
    for page in pages.iter_mut() {
        let mut doomed: Vec<usize> = edges(page)
            .filter(|&index| {
                let key = page.get(index).map(key).unwrap_or_default();
                let times = seen.get(&key).copied().unwrap_or_default();
                // bare page numbers have an empty key
                (count > 1 && times * 5 >= count * 3 && times > 1) || (key.is_empty() && count > 1)
            })
            .collect();
        if doomed.len() == page.len() {
            // a page of nothing else says just that
            doomed.retain(|&index| page.get(index).map(key).unwrap_or_default().is_empty());
        }
        dropped += doomed.len();
        let mut index = 0;
        page.retain(|_| {
            index += 1;
            !doomed.contains(&(index - 1))
        });
    }
    dropped
}

/// The indices of a page's two highest and two lowest lines.
fn edges(page: &[Line]) -> impl Iterator<Item = usize> + use<> {
    let mut order: Vec<usize> = (0..page.len()).collect();
    let y = |index: &usize| page.get(*index).map_or(0.0, |line| line.y);
    order.sort_by(|a, b| y(b).total_cmp(&y(a)));
    let tail = order.len().saturating_sub(2).max(2);
    order.into_iter().enumerate().filter(move |(rank, _)| *rank < 2 || *rank >= tail).map(|(_, index)| index)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(x: f32, y: f32, text: &str) -> Fragment {
        let width = text.chars().map(|_| 5.0).sum::<f32>();
        Fragment { x, end: x + width, y, size: 10.0, hidden: false, exact: true, text: text.into() }
    }

    fn page(fragments: Vec<Fragment>) -> String {
        text(vec![lines(fragments)]).0
    }

    #[test]
    fn gaps_become_spaces_and_kerning_does_not() {
        assert_eq!(
            page(vec![at(0.0, 50.0, "tran"), at(20.5, 50.0, "saction"), at(58.0, 50.0, "ends")]),
            "transaction ends\n"
        );
        assert_eq!(page(vec![at(0.0, 50.0, "By"), at(200.0, 50.0, "By")]), "By\tBy\n");
    }

    #[test]
    fn lines_make_paragraphs_and_items_start_new_ones() {
        let lines = vec![
            at(0.0, 100.0, "The receiving party shall keep all of the"),
            at(0.0, 88.0, "information secret."),
            at(0.0, 76.0, "(a) first item that reaches the right margin"),
            at(0.0, 64.0, "of the page"),
            at(0.0, 30.0, "Next paragraph."),
        ];
        let expected = "The receiving party shall keep all of the information secret.\n\
            (a) first item that reaches the right margin of the page\nNext paragraph.\n";
        assert_eq!(page(lines), expected);
    }

    #[test]
    fn running_headers_go_and_sentences_cross_pages() {
        let one = |number: &str, body: &str| {
            lines(vec![
                at(0.0, 780.0, "ACME NDA draft"),
                at(0.0, 400.0, body),
                at(0.0, 20.0, &format!("Page {number} of 3")),
            ])
        };
        let pages = vec![one("1", "The parties agree that the"), one("2", "information is secret."), one("3", "End")];
        let (text, dropped) = text(pages);
        assert_eq!((text.as_str(), dropped), ("The parties agree that the information is secret.\nEnd\n", 6));
    }

    #[test]
    fn numbering_is_told_from_ends_of_sentences() {
        assert!(["1. Term", "(iv) x", "2.3 Scope", "a) b", "• x", "ARTICLE II"].iter().all(|text| starts_item(text)));
        assert!(["2010. The", "and so", "I agree", "did not"].iter().all(|text| !starts_item(text)));
    }
}
