//! Plain text: UTF-8 as it is, UTF-16 by its byte order mark, anything else as Windows-1252.

use super::{Budget, ParseError, Parsed};

/// Windows-1252 from 0x80 to 0x9f; the rest of it is Latin-1. Unassigned bytes stay control characters, as WHATWG has it.
const CP1252: [char; 32] = [
    '€', '\u{81}', '‚', 'ƒ', '„', '…', '†', '‡', 'ˆ', '‰', 'Š', '‹', 'Œ', '\u{8d}', 'Ž', '\u{8f}', '\u{90}', '‘', '’',
    '“', '”', '•', '–', '—', '˜', '™', 'š', '›', 'œ', '\u{9d}', 'ž', 'Ÿ',
];

pub(super) fn read(bytes: &[u8], budget: &Budget<'_>) -> Result<Parsed, ParseError> {
    let mut warnings = Vec::new();
    let text = match (bytes, std::str::from_utf8(bytes)) {
        (_, Ok(text)) => text.to_owned(),
        ([0xff, 0xfe, rest @ ..], _) => utf16(rest, u16::from_le_bytes, &mut warnings),
        ([0xfe, 0xff, rest @ ..], _) => utf16(rest, u16::from_be_bytes, &mut warnings),
        _ => {
            warnings.push("not UTF-8: read as Windows-1252, some characters may be wrong".to_owned());
            bytes.iter().map(|&byte| cp1252(byte)).collect()
        }
    };
    let pages = budget.check_pages(text.matches('\u{c}').count() + 1)?;
    Ok(Parsed { text, pages, warnings })
}

fn utf16(bytes: &[u8], unit: fn([u8; 2]) -> u16, warnings: &mut Vec<String>) -> String {
    warnings.push("UTF-16: converted to UTF-8, offsets count the converted text".to_owned());
    let (pairs, _) = bytes.as_chunks::<2>();
    char::decode_utf16(pairs.iter().map(|&pair| unit(pair)))
        .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

fn cp1252(byte: u8) -> char {
    let high = byte.checked_sub(0x80).and_then(|at| CP1252.get(usize::from(at)));
    high.copied().unwrap_or(char::from(byte))
}

#[cfg(test)]
mod tests {
    use crate::document::{Limits, parse};

    fn text(bytes: &[u8]) -> String {
        parse("a.txt", bytes, &Limits::default()).unwrap().text
    }

    #[test]
    fn utf8_keeps_every_byte() {
        let bytes = "\u{feff}Müller\r\n\tand \u{2019}s\n\n".as_bytes();
        assert_eq!(text(bytes).as_bytes(), bytes);
    }

    #[test]
    fn other_encodings_are_converted_and_said() {
        assert_eq!(text(b"\x93M\xfcller\x94 \x80"), "“Müller” €");
        assert_eq!(text(b"\xff\xfeA\0B\0"), "AB");
        assert_eq!(text(b"\xfe\xff\0A\0B"), "AB");
        assert_eq!(parse("a.txt", b"\xfc", &Limits::default()).unwrap().warnings.len(), 1);
    }
}
