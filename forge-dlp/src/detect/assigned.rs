//! Values that stand behind the name of a secret: `name = value`, `name: value`, `"name": "value"`, `--name value`,
//! `<name>value</name>`, and the same inside JSON that is itself a string.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

use super::names::{is_secret_name, words};
use super::{pattern, scan::Scan};

/// The longest name on either side of a hint, in bytes.
const NAME: usize = 64;

/// The end of the quoted name, then a sign of assignment; a type may stand between (`password: &str = "…"`).
static ASSIGNMENT: LazyLock<Regex> = LazyLock::new(|| {
    pattern(
        r#"\A\\{0,7}["'`]?\]?[ \t\u{a0}]{0,8}(?::[ \t]{0,4}[A-Za-z&<>\[\]']{1,32}[ \t]{0,4}=|(?P<sign>=>|:=|==?|:))[ \t\u{a0}]{0,8}"#,
    )
});
static IS: LazyLock<Regex> = LazyLock::new(|| pattern(r"(?i)\A[ \t]{1,4}(?:is|was)[ \t]{1,4}"));
/// Words that say how the rest of the value is to be read.
static SCHEME: LazyLock<Regex> =
    LazyLock::new(|| pattern(r"(?i)\A(?:bearer|basic|token|digest|negotiate|apikey)[ \t]{1,4}"));
static NEXT_NAME: LazyLock<Regex> = LazyLock::new(|| {
    pattern(r#"\A[,;&][ \t]{0,4}(?:\\{0,7}["'`]?[A-Za-z_][A-Za-z0-9_.-]{0,63}\\{0,7}["'`]?[ \t]?[=:]|[\s"'`\\]|\z)"#)
});

/// How the value was announced.
#[derive(Clone, Copy, PartialEq)]
enum Sign {
    Assigned,
    Colon,
    Flag,
    Element,
    Is,
}

/// The end of the name around a hint, and the value behind it, if the name is a secret's.
pub(super) fn value_of(scan: &Scan<'_>, hint: Range<usize>) -> (usize, Option<Range<usize>>) {
    let name = name_around(scan.text, hint);
    let end = name.end;
    let value = || {
        if !may_be_announced(scan.text, &name) {
            return None;
        }
        // a sentence may end behind a name
        let word = scan.part(&name).trim_end_matches(['.', '-']);
        let by_itself = is_secret_name(word);
        if !by_itself && !is_secret_name(&spoken(scan.text, &name)) {
            return None;
        }
        let (from, sign) = announced(scan.text, &name)?;
        let value = match quote(scan.text.get(from..)?) {
            Some((opening, escapes, mark)) => quoted(scan.text, from + opening, escapes, mark),
            None => bare(scan, from, sign, word)?,
        };
        clear_of_placeholders(scan, value)
    };
    (end, value())
}

fn name_around(text: &str, hint: Range<usize>) -> Range<usize> {
    let part = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let before = text.as_bytes().get(..hint.start).unwrap_or_default().iter().rev().take(NAME).take_while(|b| part(b));
    let after = text.as_bytes().get(hint.end..).unwrap_or_default().iter().take(NAME).take_while(|b| part(b));
    hint.start - before.count()..hint.end + after.count()
}

/// A name of three words as people write it: "API key", "secret access key".
fn spoken(text: &str, name: &Range<usize>) -> String {
    let before = text.as_bytes().get(..name.start).unwrap_or_default().iter().rev().take(32);
    let length = before.take_while(|b| b.is_ascii_alphabetic() || **b == b' ').count();
    let words = text.get(name.start - length..name.start).unwrap_or_default();
    let mut spoken: Vec<&str> = words.split_whitespace().rev().take(2).collect();
    spoken.reverse();
    spoken.push(text.get(name.clone()).unwrap_or_default());
    spoken.join(" ")
}

/// A cheap look at what follows a name, since most names in running text announce nothing: whether [`announced`] is worth asking.
fn may_be_announced(text: &str, name: &Range<usize>) -> bool {
    let rest = text.as_bytes().get(name.end..).unwrap_or_default();
    // the second and the third are the bytes of a space that does not break
    let skipped = |b: &&u8| matches!(b, b' ' | b'\t' | 0xC2 | 0xA0 | b'\\' | b'"' | b'\'' | b'`' | b']');
    let first = rest.iter().find(|b| !skipped(b));
    matches!(first, Some(b':' | b'=' | b'>' | b'i' | b'I' | b'w' | b'W'))
        || text.get(name.clone()).is_some_and(|n| n.starts_with("--"))
}

/// Where the value begins.
fn announced(text: &str, name: &Range<usize>) -> Option<(usize, Sign)> {
    let rest = text.get(name.end..)?;
    if let Some(c) = ASSIGNMENT.captures(rest) {
        let sign = if c.name("sign").is_some_and(|s| s.as_str() == ":") { Sign::Colon } else { Sign::Assigned };
        return Some((name.end + c.get(0)?.end(), sign));
    }
    let before = text.get(..name.start)?;
    if before.ends_with('<') && rest.starts_with('>') {
        return Some((name.end + 1, Sign::Element));
    }
    if text.get(name.clone())?.starts_with("--") && rest.starts_with([' ', '\t']) {
        return Some((name.end + 1, Sign::Flag));
    }
    IS.find(rest).map(|m| (name.end + m.end(), Sign::Is))
}

/// The length of an opening quotation mark with the backslashes before it, their number, and the mark.
fn quote(rest: &str) -> Option<(usize, usize, u8)> {
    let escapes = rest.bytes().take_while(|b| *b == b'\\').count();
    let mark = rest.as_bytes().get(escapes).copied().filter(|b| matches!(b, b'"' | b'\'' | b'`'))?;
    Some((escapes + 1, escapes, mark))
}

/// Up to the mark that closes at the same depth of escapes; a value without an end takes the rest of its line.
fn quoted(text: &str, from: usize, escapes: usize, mark: u8) -> Range<usize> {
    let mut run = 0;
    for (i, b) in text.bytes().enumerate().skip(from) {
        // inside, a backslash of the value is written as `escapes + 1` of them, twice
        let closes = b == mark && (run == escapes || run > escapes && run % (2 * (escapes + 1)) == escapes);
        if closes || b == mark && run < escapes {
            return from..i - run.min(escapes);
        }
        if b == b'\n' {
            return from..i;
        }
        run = if b == b'\\' { run + 1 } else { 0 };
    }
    from..text.len()
}

/// Up to a blank or what cannot belong to it, without the punctuation of the sentence. A nested structure or a reference
/// (`${NAME}`) is none.
fn bare(scan: &Scan<'_>, from: usize, sign: Sign, name: &str) -> Option<Range<usize>> {
    let rest = scan.text.get(from..)?;
    if rest.starts_with(['{', '[', '(', '|']) || rest.starts_with("${") {
        return None;
    }
    let scheme = SCHEME.find(rest).map_or(0, |m| m.end());
    let mut end = scheme;
    for (i, c) in rest.char_indices().skip_while(|(i, _)| *i < scheme) {
        let stops = if sign == Sign::Element { matches!(c, '<' | '\n') } else { c.is_whitespace() }
            || matches!(c, '"' | '\'' | '`' | '<') && sign != Sign::Element
            || matches!(c, ',' | ';' | '&') && rest.get(i..).is_some_and(|r| NEXT_NAME.is_match(r));
        if stops {
            break;
        }
        end = i + c.len_utf8();
    }
    if sign == Sign::Element && !rest.get(end..)?.starts_with("</") {
        return None;
    }
    let value = trimmed(rest.get(..end)?);
    // "Authorization: Bearer <token>" tells how, not what
    let credential = value.get(scheme..).filter(|c| !c.trim().is_empty())?;
    if ["bearer", "basic", "digest"].iter().any(|s| credential.eq_ignore_ascii_case(s)) {
        return None;
    }
    let behind = rest.get(value.len()..).unwrap_or_default();
    is_value(value, behind, sign, name).then_some(from..from + value.len())
}

/// Without the marks that end a sentence or close a parenthesis that was open before.
fn trimmed(mut value: &str) -> &str {
    while let Some(last) = value.chars().next_back() {
        let opening = match last {
            '.' | ',' | ';' | ':' | '?' | '\\' => None,
            ')' => Some('('),
            ']' => Some('['),
            '}' => Some('{'),
            '>' => Some('<'),
            _ => break,
        };
        if opening.is_some_and(|o| value.contains(o)) {
            break;
        }
        value = value.get(..value.len() - last.len_utf8()).unwrap_or_default();
    }
    value
}

/// Whether it can be a value, and not the next word of a sentence, or one that is hidden already.
fn is_value(value: &str, behind: &str, sign: Sign, name: &str) -> bool {
    let none = ["null", "none", "nil", "true", "false", "undefined"].iter().any(|n| value.eq_ignore_ascii_case(n));
    if value.is_empty() || none || value.bytes().all(|b| b == b'*') {
        return false;
    }
    let word = value.chars().all(char::is_alphabetic);
    let sentence =
        behind.trim_start_matches([' ', '\t']).starts_with(char::is_alphabetic) && behind.starts_with([' ', '\t']);
    match sign {
        Sign::Assigned | Sign::Flag | Sign::Element => true,
        Sign::Is => {
            value.chars().count() >= 4 && value.chars().any(|c| !c.is_alphabetic() && !matches!(c, '-' | '\'' | '’'))
        }
        // "Authorization: the Recipient may"; but whoever writes "password: hunter" means one
        Sign::Colon => value.chars().count() >= 3 && !(word && sentence && !says_password(name)),
    }
}

fn says_password(name: &str) -> bool {
    words(name).iter().any(|w| w.starts_with("pass") || w == "pwd" || w.ends_with("password"))
}

/// The part before the first placeholder.
fn clear_of_placeholders(scan: &Scan<'_>, value: Range<usize>) -> Option<Range<usize>> {
    let next = scan.reserved.partition_point(|r| r.end <= value.start);
    let end = scan.reserved.get(next).map_or(value.end, |r| r.start.min(value.end));
    (value.start < end).then_some(value.start..end)
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use forge_core::redact::EntityKind::Secret;

    #[test]
    fn values() {
        for (text, value) in [
            ("portal_password: Blue-Heron-42", "Blue-Heron-42"),
            ("password=hunter2.", "hunter2"),
            ("(password = hunter2)", "hunter2"),
            ("password: hunter2!", "hunter2!"),
            ("password: hunter and more", "hunter"),
            (r#"{"apiKey": "a b c"}"#, "a b c"),
            (r#"{"password": "a\"b", "x": 1}"#, r#"a\"b"#),
            (r#"{"password": "a\\", "x": "y"}"#, r"a\\"),
            (r#"{"body": "{\"password\": \"hunter 2\", \"x\": 1}"}"#, "hunter 2"),
            (r#"{\"password\": \"a\\\"b\", \"x\": 1}"#, r#"a\\\"b"#),
            ("{'client_secret': 'x y'}", "x y"),
            ("export API_KEY='x-y-z'", "x-y-z"),
            ("config[\"password\"] = 'x y z'", "x y z"),
            ("let password: &str = \"open sesame\";", "open sesame"),
            ("Authorization: Bearer abc.def-ghi", "Bearer abc.def-ghi"),
            ("Authorization: Basic dXNlcjpwYXNz", "Basic dXNlcjpwYXNz"),
            ("https://x.example/?access_token=abc123&page=2", "abc123"),
            ("Server=db;Password=ab;cd;Timeout=5", "ab;cd"),
            ("tool --api-key abc123 --verbose", "abc123"),
            ("<password>open sesame</password>", "open sesame"),
            ("my password is hunter2, thanks", "hunter2"),
            ("PASSWORD=\"no end", "no end"),
            ("DB_PASS=x", "x"),
            ("our API key: abc-123", "abc-123"),
            ("the aws secret access key is tfnH0mUsG/orc", "tfnH0mUsG/orc"),
        ] {
            assert_eq!(found(Secret, text), [value], "{text}");
        }
        assert_eq!(found(Secret, "user=a,password=b,token=c"), ["b", "c"]);
    }

    #[test]
    fn what_is_no_value() {
        for no in [
            "Trade Secrets: information that is not public",
            "Authorization: the Recipient may disclose",
            "the token of our esteem",
            "tokens_in: 850",
            "max_tokens=4096",
            "public_key = abcdef",
            "idempotency_key: 7f3a",
            "a secret handshake",
            "key: value pairs",
            "\"token_type\": \"Bearer\"",
            "{\"password\": null, \"secret\": {\"a\": 1}}",
            "password: [SECRET], token=[SECRET:tok_AbCdEfGhIjKlMnOpQrStUv]",
            "password: ********",
            "the password is wrong",
            "the secret is well-kept",
            "api_key = ${API_KEY}",
            "Authorization: Bearer <token>",
            "value=<YOUR_API_KEY> retries=0",
            "session tokens: 12000 of the API",
            "Authorization: Bearer, then the token",
        ] {
            assert!(found(Secret, no).is_empty(), "{no}: {:?}", found(Secret, no));
        }
    }
}
