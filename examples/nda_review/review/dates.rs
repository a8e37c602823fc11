//! Calendar dates and lengths of time as contracts write them.

use std::ops::Range;
use std::sync::LazyLock;

use regex::{Captures, Regex};

const MONTHS: &str = "january|february|march|april|may|june|july|august|september|october|november|december|\
    jan|feb|mar|apr|jun|jul|aug|sept|sep|oct|nov|dec";

/// All dates of a text with where they stand, in bytes, as ISO 8601.
pub(super) fn dates(text: &str) -> Vec<(Range<usize>, String)> {
    static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| {
        let month = format!("(?P<month_{{}}>{MONTHS})\\.?");
        let month = |tag: &str| month.replace("{}", tag);
        let day = |tag: &str| format!("(?P<day_{tag}>[0-3]?\\d)(?:\\s?(?:st|nd|rd|th))?");
        let pattern = [
            format!(r"\b{}\s+{}\s*,?\s+(?P<year_a>(?:19|20)\d\d)\b", month("a"), day("a")),
            format!(r"\b{}\s+(?:day\s+of\s+)?{}\s*,?\s+(?P<year_b>(?:19|20)\d\d)\b", day("b"), month("b")),
            r"\b(?P<year_c>(?:19|20)\d\d)-(?P<month_c>[01]\d)-(?P<day_c>[0-3]\d)\b".to_owned(),
            r"\b(?P<month_d>[01]?\d)[/.](?P<day_d>[0-3]?\d)[/.](?P<year_d>(?:19|20)?\d\d)\b".to_owned(),
        ];
        Regex::new(&format!("(?i){}", pattern.join("|"))).ok()
    });
    let Some(pattern) = PATTERN.as_ref() else { return Vec::new() };
    pattern.captures_iter(text).filter_map(|found| Some((found.get(0)?.range(), iso(&found)?))).collect()
}

fn iso(found: &Captures<'_>) -> Option<String> {
    let part = |name: &str| ["a", "b", "c", "d"].iter().find_map(|tag| found.name(&format!("{name}_{tag}")));
    let month = part("month")?.as_str().to_lowercase();
    let month = month.parse().ok().or_else(|| month_number(&month))?;
    let day: u32 = part("day")?.as_str().parse().ok()?;
    let year: u32 = part("year")?.as_str().parse().ok()?;
    let year = match year {
        0..=49 => year + 2000,
        50..=99 => year + 1900,
        _ => year,
    };
    // 13/02/2020 can only be a day first
    let (month, day) = if month > 12 && day <= 12 { (day, month) } else { (month, day) };
    ((1..=12).contains(&month) && (1..=31).contains(&day)).then(|| format!("{year:04}-{month:02}-{day:02}"))
}

fn month_number(name: &str) -> Option<u32> {
    const SHORT: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    let index = SHORT.iter().position(|short| name.starts_with(short))?;
    u32::try_from(index + 1).ok()
}

/// All lengths of time, such as "three (3) years" or "third anniversary", in the form "3 years".
pub(super) fn durations(text: &str) -> Vec<(Range<usize>, String)> {
    static PATTERN: LazyLock<Option<Regex>> = LazyLock::new(|| {
        Regex::new(
            r"(?i)\b(?P<word>[a-z]+(?:-[a-z]+)?|\d{1,3})\s*(?:\(\s*(?P<number>\d{1,3})\s*\)\s*)?[\s-](?:calendar\s+)?(?P<unit>years?|months?|days?|weeks?)\b(?:'|’)?|\b(?P<ordinal>first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|\d{1,2}(?:st|nd|rd|th))(?:\s*\(\s*\d{1,2}(?:st|nd|rd|th)?\s*\))?\s+(?:year\s+)?anniversary",
        )
        .ok()
    });
    let Some(pattern) = PATTERN.as_ref() else { return Vec::new() };
    let read = |found: Captures<'_>| {
        let range = found.get(0)?.range();
        let (count, unit) = match found.name("ordinal") {
            Some(ordinal) => (number_word(ordinal.as_str())?, "year".to_owned()),
            None => {
                let digits = found.name("number").and_then(|digits| digits.as_str().parse().ok());
                let count = digits.or_else(|| number_word(found.name("word")?.as_str()))?;
                (count, found.name("unit")?.as_str().to_lowercase().trim_end_matches('s').to_owned())
            }
        };
        Some((range, format!("{count} {unit}{}", if count == 1 { "" } else { "s" })))
    };
    pattern.captures_iter(text).filter_map(read).filter(|(_, value)| !value.starts_with("0 ")).collect()
}

fn number_word(word: &str) -> Option<u32> {
    const ONES: [&str; 20] = [
        "one",
        "two",
        "three",
        "four",
        "five",
        "six",
        "seven",
        "eight",
        "nine",
        "ten",
        "eleven",
        "twelve",
        "thirteen",
        "fourteen",
        "fifteen",
        "sixteen",
        "seventeen",
        "eighteen",
        "nineteen",
        "twenty",
    ];
    const ORDINALS: [&str; 10] =
        ["first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"];
    const TENS: [(&str, u32); 5] = [("twenty", 20), ("thirty", 30), ("sixty", 60), ("ninety", 90), ("forty", 40)];
    let word = word.to_lowercase();
    if word.starts_with(|c: char| c.is_ascii_digit()) {
        return word.trim_end_matches(|c: char| c.is_ascii_alphabetic()).parse().ok();
    }
    let index = ONES.iter().position(|one| *one == word).or_else(|| ORDINALS.iter().position(|one| *one == word));
    if let Some(index) = index {
        return u32::try_from(index + 1).ok();
    }
    let (tens, ones) = word.split_once('-').unwrap_or((&word, ""));
    let (_, value) = TENS.iter().find(|(name, _)| *name == tens)?;
    let ones = ONES.iter().position(|one| *one == ones).and_then(|index| u32::try_from(index + 1).ok());
    Some(value + ones.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Vec<String> {
        dates(text).into_iter().map(|(_, date)| date).collect()
    }

    #[test]
    fn dates_in_the_forms_that_contracts_use() {
        let text = "August 3, 2009; the 1st day of January, 2018; 2 September, 2004; 2024-05-06; 04/18/01; 9/3/2004; Sept. 9, 2010";
        let expected =
            ["2009-08-03", "2018-01-01", "2004-09-02", "2024-05-06", "2001-04-18", "2004-09-03", "2010-09-09"];
        assert_eq!(read(text), expected);
        assert!(read("October     , 2007 and 45/45/2000 and Section 1.2.3").is_empty());
    }

    #[test]
    fn durations_in_words_and_digits() {
        let read = |text: &str| durations(text).into_iter().map(|(_, value)| value).collect::<Vec<_>>();
        let text =
            "three (3) years, one year, eighteen months, the third anniversary, twenty-four months, 2-year, 90 days";
        let expected = ["3 years", "1 year", "18 months", "3 years", "24 months", "2 years", "90 days"];
        assert_eq!(read(text), expected);
        assert!(read("the next years and many months").is_empty());
    }
}
