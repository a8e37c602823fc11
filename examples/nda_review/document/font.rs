//! Fonts of a PDF page: bytes to text, and how wide they run (ISO 32000-1, 9.6 to 9.10).

use std::collections::{BTreeMap, HashMap};

use lopdf::{Dictionary, Document, Encoding, Object};

use super::pdf::MAX_STREAM_BYTES;

/// The fonts of a page by their resource name.
pub(super) type Fonts<'a> = HashMap<Vec<u8>, Font<'a>>;

/// Makes the fonts of a resource dictionary ready.
pub(super) fn load<'a>(document: &'a Document, fonts: BTreeMap<Vec<u8>, &'a Dictionary>) -> Fonts<'a> {
    fonts.into_iter().map(|(name, dict)| (name, Font::new(document, dict))).collect()
}

/// One font of a page: how its bytes become text and how wide they are.
pub(super) struct Font<'a> {
    pub(super) encoding: Option<Encoding<'a>>,
    /// Widths by character code in thousandths of the size; empty when the file leaves them to the reader.
    pub(super) widths: HashMap<u32, f32>,
    default_width: f32,
    pub(super) two_bytes: bool,
}

impl<'a> Font<'a> {
    pub(super) fn new(document: &'a Document, dict: &'a Dictionary) -> Self {
        let two_bytes = dict.get(b"Subtype").and_then(Object::as_name).is_ok_and(|name| name == b"Type0");
        let encoding = dict.get_font_encoding_with_limit(document, MAX_STREAM_BYTES).ok();
        let mut font = Self { encoding, widths: HashMap::new(), default_width: 500.0, two_bytes };
        let array = |dict: &'a Dictionary, key: &[u8]| dict.get_deref(key, document).and_then(Object::as_array).ok();
        if two_bytes {
            font.default_width = 1000.0;
            let descendant = array(dict, b"DescendantFonts").and_then(|fonts| fonts.first());
            let descendant = descendant.and_then(|object| document.dereference(object).ok()?.1.as_dict().ok());
            if let Some(descendant) = descendant {
                if let Ok(width) = descendant.get_deref(b"DW", document).and_then(Object::as_float) {
                    font.default_width = width;
                }
                font.read_cid_widths(document, array(descendant, b"W").map_or(&[], Vec::as_slice));
            }
        } else if let Some(widths) = array(dict, b"Widths") {
            let first = dict.get_deref(b"FirstChar", document).ok().and_then(code).unwrap_or_default();
            for (code, width) in (first..).zip(widths) {
                font.widths.insert(code, number(document, width));
            }
        }
        font
    }

    /// `c [w1 w2 ..]` or `first last w` (ISO 32000-1, 9.7.4.3).
    fn read_cid_widths(&mut self, document: &Document, mut rest: &[Object]) {
        loop {
            let deref = |object| document.dereference(object).map_or(&Object::Null, |(_, object)| object);
            rest = match rest {
                [first, second, tail @ ..] => match (code(deref(first)), deref(second), tail) {
                    (Some(start), Object::Array(widths), _) => {
                        for (code, width) in (start..).zip(widths) {
                            self.widths.insert(code, number(document, width));
                        }
                        tail
                    }
                    (Some(start), last, [width, tail @ ..]) => {
                        let last = code(last).unwrap_or(start).min(start.saturating_add(0xffff));
                        let width = number(document, width);
                        self.widths.extend((start..=last).map(|code| (code, width)));
                        tail
                    }
                    _ => return,
                },
                _ => return,
            };
        }
    }

    pub(super) fn codes(&self, bytes: &[u8]) -> Vec<u32> {
        if self.two_bytes {
            let (pairs, _) = bytes.as_chunks::<2>();
            pairs.iter().map(|&pair| u32::from(u16::from_be_bytes(pair))).collect()
        } else {
            bytes.iter().map(|&byte| u32::from(byte)).collect()
        }
    }

    pub(super) fn width(&self, code: u32) -> f32 {
        match self.widths.get(&code) {
            Some(width) => *width,
            None if self.widths.is_empty() && !self.two_bytes => typical_width(code),
            None => self.default_width,
        }
    }
}

/// Helvetica and Times by kind of letter, for the standard fonts whose widths a file may leave out.
fn typical_width(code: u32) -> f32 {
    match char::from_u32(code).unwrap_or(' ') {
        'i' | 'l' | 'j' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | ' ' | 'I' | 't' | 'f' => 278.0,
        'r' | '(' | ')' | '-' | '/' | '[' | ']' => 333.0,
        'm' | 'w' | 'M' | 'W' => 830.0,
        'A'..='Z' => 680.0,
        _ => 540.0,
    }
}

fn code(object: &Object) -> Option<u32> {
    object.as_i64().ok().and_then(|value| u32::try_from(value).ok())
}

pub(super) fn number(document: &Document, object: &Object) -> f32 {
    document.dereference(object).and_then(|(_, object)| object.as_float()).unwrap_or_default()
}

/// Ligatures, odd spaces and control characters as one would type them.
pub(super) fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\u{fb00}' => out.push_str("ff"),
            '\u{fb01}' => out.push_str("fi"),
            '\u{fb02}' => out.push_str("fl"),
            '\u{fb03}' => out.push_str("ffi"),
            '\u{fb04}' => out.push_str("ffl"),
            '\u{ad}' | '\u{200b}' | '\u{feff}' => {}
            '\u{a0}' | '\u{2002}'..='\u{200a}' | '\t' => out.push(' '),
            control if control.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cleaned_as_one_would_type_it() {
        assert_eq!(clean("\u{fb01}nal o\u{fb03}ce\u{a0}x\u{ad}y\u{7}"), "final office xy");
    }

    #[test]
    fn widths_come_from_both_forms_of_the_cid_array() {
        let document = Document::new();
        let mut font = Font { encoding: None, widths: HashMap::new(), default_width: 1000.0, two_bytes: true };
        let list = Object::Array(vec![250.into(), 300.into()]);
        font.read_cid_widths(&document, &[5.into(), list, 10.into(), 12.into(), 640.into(), 99.into()]);
        let widths: Vec<f32> = [5, 6, 10, 12, 13].map(|code| font.width(code)).to_vec();
        assert_eq!(widths, [250.0, 300.0, 640.0, 640.0, 1000.0]);
        assert_eq!(font.codes(&[0, 5, 1, 0, 9]), [5, 256]);
    }
}
