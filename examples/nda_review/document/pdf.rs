//! PDF: the text-showing operators of each page's content streams, with where each string stands (ISO 32000-1, 9.4).
//!
//! `lopdf` parses objects and decodes fonts; this file follows the text matrices, [`layout`] makes lines and paragraphs of
//! what it finds. `lopdf::Document::extract_text` is not used: it has no positions and so no paragraphs.

use std::collections::BTreeMap;

use lopdf::content::Content;
use lopdf::{Dictionary, Document, LoadOptions, Object, ObjectId};

use super::font::{Fonts, clean, load, number};
use super::layout::{self, Fragment};
use super::{Budget, ParseError, Parsed};

/// No honest page or font needs more unpacked bytes.
pub(super) const MAX_STREAM_BYTES: usize = 32 * 1024 * 1024;
const MAX_OPERATIONS: usize = 2_000_000;
const MAX_FORM_DEPTH: usize = 4;
/// Fewer visible glyphs than this and a page has no text worth the name.
const MIN_GLYPHS: usize = 20;

pub(super) fn read(bytes: &[u8], budget: &Budget<'_>) -> Result<Parsed, ParseError> {
    let options = LoadOptions::with_max_decompressed_size(MAX_STREAM_BYTES * 2);
    let document = Document::load_mem_with_options(bytes, options).map_err(|error| refused(&error, budget))?;
    if document.is_encrypted() && document.encryption_state.is_none() {
        return Err(ParseError::Encrypted { name: budget.name.into() });
    }
    let ids = document.get_pages();
    let count = budget.check_pages(ids.len())?;
    if count == 0 {
        return Err(budget.malformed("it has no pages"));
    }
    let mut pages = Vec::new();
    let (mut poor, mut hidden, mut white, mut glyphs, mut undecoded) =
        (0_u32, Vec::new(), Vec::new(), 0_usize, 0_usize);
    for (number, &id) in &ids {
        budget.check_time(format_args!("page {number} of {count}"))?;
        let mut page = Page::new(&document, budget);
        page.run(id)?;
        let visible: usize = page.fragments.iter().filter(|f| !f.hidden).map(Fragment::glyphs).sum();
        let unseen: usize = page.fragments.iter().filter(|f| f.hidden).map(Fragment::glyphs).sum();
        // text in mode 3 alone on its page is the text layer of a scan: that is read
        if visible >= MIN_GLYPHS && unseen > 0 {
            hidden.push(number.to_string());
            page.fragments.retain(|fragment| !fragment.hidden);
        }
        if page.white > 0 {
            white.push(number.to_string());
        }
        poor += u32::from(visible + unseen < MIN_GLYPHS);
        undecoded += page.undecoded;
        glyphs = glyphs.saturating_add(visible + unseen);
        budget.check_characters(glyphs)?;
        pages.push(layout::lines(page.fragments));
    }
    if poor == count {
        return Err(ParseError::NeedsOcr { name: budget.name.into(), pages: poor });
    }
    let (text, furniture) = layout::text(pages);
    let mut warnings = Vec::new();
    let mut warn = |is: bool, what: String| {
        if is {
            warnings.push(what);
        }
    };
    warn(!hidden.is_empty(), format!("invisible text was left out on page {}", hidden.join(", ")));
    warn(
        !white.is_empty(),
        format!("white text was read on page {}: look whether a reader can see it", white.join(", ")),
    );
    warn(poor > 0, format!("{poor} of {count} pages have hardly any text and may be pictures"));
    warn(undecoded > 0, format!("{undecoded} strings in unknown fonts were left out"));
    warn(furniture > 0, format!("{furniture} running headers and footers were left out"));
    Ok(Parsed { text, pages: count, warnings })
}

fn refused(error: &lopdf::Error, budget: &Budget<'_>) -> ParseError {
    match error {
        lopdf::Error::InvalidPassword | lopdf::Error::Decryption(_) | lopdf::Error::UnsupportedSecurityHandler(_) => {
            ParseError::Encrypted { name: budget.name.into() }
        }
        // the library's own words may quote the file
        _ => budget.malformed("its objects cannot be parsed"),
    }
}

/// A 2 × 3 matrix `[a b c d e f]` as in ISO 32000-1, 8.3.3.
#[derive(Clone, Copy)]
struct Matrix([f32; 6]);

impl Matrix {
    const IDENTITY: Self = Self([1.0, 0.0, 0.0, 1.0, 0.0, 0.0]);

    fn translation(x: f32, y: f32) -> Self {
        Self([1.0, 0.0, 0.0, 1.0, x, y])
    }

    /// This first, then `next`.
    fn then(self, next: Self) -> Self {
        let ([a, b, c, d, e, f], [m, n, o, p, q, r]) = (self.0, next.0);
        Self([a * m + b * o, a * n + b * p, c * m + d * o, c * n + d * p, e * m + f * o + q, e * n + f * p + r])
    }

    fn scale(self) -> f32 {
        let [a, b, ..] = self.0;
        a.hypot(b)
    }

    fn height(self) -> f32 {
        let [_, _, c, d, ..] = self.0;
        c.hypot(d)
    }

    fn origin(self) -> (f32, f32) {
        let [.., e, f] = self.0;
        (e, f)
    }
}

/// The text state of ISO 32000-1, 9.3, with the matrices.
#[derive(Clone)]
struct State {
    ctm: Matrix,
    font: Vec<u8>,
    size: f32,
    character_spacing: f32,
    word_spacing: f32,
    horizontal: f32,
    leading: f32,
    rise: f32,
    mode: i64,
    white: bool,
}

struct Page<'a> {
    document: &'a Document,
    budget: &'a Budget<'a>,
    fragments: Vec<Fragment>,
    operations: usize,
    undecoded: usize,
    white: usize,
}

impl<'a> Page<'a> {
    fn new(document: &'a Document, budget: &'a Budget<'a>) -> Self {
        Self { document, budget, fragments: Vec::new(), operations: 0, undecoded: 0, white: 0 }
    }

    fn run(&mut self, id: ObjectId) -> Result<(), ParseError> {
        let document = self.document;
        let fonts = document.get_page_fonts(id).unwrap_or_default();
        let content = document
            .get_page_content_with_limit(id, MAX_STREAM_BYTES)
            .map_err(|_| self.budget.malformed("a page unpacks to more than 32 MB"))?;
        let mut forms = BTreeMap::new();
        if let Ok((inline, references)) = document.get_page_resources(id) {
            let resources =
                inline.into_iter().chain(references.iter().filter_map(|&id| document.get_dictionary(id).ok()));
            for dict in resources {
                collect_forms(document, dict, &mut forms);
            }
        }
        self.content(&content, &load(document, fonts), &forms, Matrix::IDENTITY, 0)
    }

    fn content(
        &mut self,
        bytes: &[u8],
        fonts: &Fonts<'a>,
        forms: &BTreeMap<Vec<u8>, ObjectId>,
        ctm: Matrix,
        depth: usize,
    ) -> Result<(), ParseError> {
        let Ok(content) = Content::decode(bytes) else { return Ok(()) };
        self.operations += content.operations.len();
        if self.operations > MAX_OPERATIONS {
            return Err(self.budget.malformed("a page has more than 2,000,000 drawing operations"));
        }
        let mut state = State {
            ctm,
            font: Vec::new(),
            size: 0.0,
            character_spacing: 0.0,
            word_spacing: 0.0,
            horizontal: 1.0,
            leading: 0.0,
            rise: 0.0,
            mode: 0,
            white: false,
        };
        let mut saved: Vec<State> = Vec::new();
        let (mut text, mut line) = (Matrix::IDENTITY, Matrix::IDENTITY);
        for (index, operation) in content.operations.iter().enumerate() {
            if index.is_multiple_of(10_000) {
                self.budget.check_time("a page's content")?;
            }
            let operands = &operation.operands;
            let at = |index: usize| operands.get(index).and_then(|o| o.as_float().ok()).unwrap_or_default();
            match operation.operator.as_str() {
                "q" if saved.len() < 1024 => saved.push(state.clone()),
                "Q" => state = saved.pop().unwrap_or(state),
                "cm" => state.ctm = Matrix([at(0), at(1), at(2), at(3), at(4), at(5)]).then(state.ctm),
                "BT" => (text, line) = (Matrix::IDENTITY, Matrix::IDENTITY),
                "Tf" => {
                    state.font = operands.first().and_then(|o| o.as_name().ok()).unwrap_or_default().to_vec();
                    state.size = at(1);
                }
                "Tc" => state.character_spacing = at(0),
                "Tw" => state.word_spacing = at(0),
                "Tz" => state.horizontal = at(0) / 100.0,
                "TL" => state.leading = at(0),
                "Ts" => state.rise = at(0),
                "Tr" => state.mode = operands.first().and_then(|o| o.as_i64().ok()).unwrap_or_default(),
                "g" | "rg" => state.white = operands.iter().all(|o| o.as_float().is_ok_and(|v| v > 0.97)),
                "k" => state.white = operands.iter().all(|o| o.as_float().is_ok_and(|v| v < 0.03)),
                "cs" | "sc" | "scn" => state.white = false,
                "Tm" => {
                    line = Matrix([at(0), at(1), at(2), at(3), at(4), at(5)]);
                    text = line;
                }
                "Td" | "TD" => {
                    if operation.operator == "TD" {
                        state.leading = -at(1);
                    }
                    line = Matrix::translation(at(0), at(1)).then(line);
                    text = line;
                }
                "T*" | "'" | "\"" => {
                    line = Matrix::translation(0.0, -state.leading).then(line);
                    text = line;
                    if operation.operator == "\"" {
                        (state.word_spacing, state.character_spacing) = (at(0), at(1));
                    }
                    if let Some(Object::String(bytes, _)) = operands.last() {
                        text = self.show(bytes, fonts, &state, text);
                    }
                }
                "Tj" => {
                    if let Some(Object::String(bytes, _)) = operands.first() {
                        text = self.show(bytes, fonts, &state, text);
                    }
                }
                "TJ" => {
                    for item in operands.first().and_then(|o| o.as_array().ok()).into_iter().flatten() {
                        if let Object::String(bytes, _) = item {
                            text = self.show(bytes, fonts, &state, text);
                        } else {
                            let shift = -item.as_float().unwrap_or_default() / 1000.0 * state.size * state.horizontal;
                            text = Matrix::translation(shift, 0.0).then(text);
                        }
                    }
                }
                "Do" if depth < MAX_FORM_DEPTH => {
                    let form = operands.first().and_then(|o| o.as_name().ok()).and_then(|name| forms.get(name));
                    if let Some(&form) = form {
                        self.form(form, &state, depth)?;
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn form(&mut self, id: ObjectId, state: &State, depth: usize) -> Result<(), ParseError> {
        let document = self.document;
        let Ok(stream) = document.get_object(id).and_then(Object::as_stream) else { return Ok(()) };
        let Ok(bytes) = stream.decompressed_content_with_limit(MAX_STREAM_BYTES) else { return Ok(()) };
        let matrix = stream.dict.get_deref(b"Matrix", document).and_then(Object::as_array).ok();
        let matrix = matrix.and_then(|m| {
            let values: Vec<f32> = m.iter().map(|value| number(document, value)).collect();
            <[f32; 6]>::try_from(values).ok()
        });
        let ctm = matrix.map_or(Matrix::IDENTITY, Matrix).then(state.ctm);
        let (mut fonts, mut forms) = (BTreeMap::new(), BTreeMap::new());
        if let Ok(resources) = stream.dict.get_deref(b"Resources", document).and_then(Object::as_dict) {
            collect_forms(document, resources, &mut forms);
            if let Ok(dict) = resources.get_deref(b"Font", document).and_then(Object::as_dict) {
                for (name, object) in dict {
                    if let Ok(font) = document.dereference(object).and_then(|(_, object)| object.as_dict()) {
                        fonts.insert(name.clone(), font);
                    }
                }
            }
        }
        self.content(&bytes, &load(document, fonts), &forms, ctm, depth + 1)
    }

    /// Notes one string and returns the text matrix after it.
    fn show(&mut self, bytes: &[u8], fonts: &Fonts<'a>, state: &State, text: Matrix) -> Matrix {
        let Some(font) = fonts.get(&state.font) else {
            self.undecoded += 1;
            return text;
        };
        let mut advance = 0.0;
        for code in font.codes(bytes) {
            let space = if code == 32 && !font.two_bytes { state.word_spacing } else { 0.0 };
            advance += (font.width(code) / 1000.0 * state.size + state.character_spacing + space) * state.horizontal;
        }
        let start = Matrix::translation(0.0, state.rise).then(text).then(state.ctm);
        let after = Matrix::translation(advance, 0.0).then(text);
        let decoded = font.encoding.as_ref().and_then(|encoding| Document::decode_text(encoding, bytes).ok());
        let Some(decoded) = decoded else {
            self.undecoded += 1;
            return after;
        };
        let ((x, y), (end, _)) = (start.origin(), after.then(state.ctm).origin());
        let size = (state.size * start.height()).abs();
        let fragment = Fragment {
            x,
            end,
            y,
            size,
            hidden: state.mode == 3 || state.mode == 7 || size < 1.5 || start.scale() == 0.0,
            exact: !font.widths.is_empty(),
            text: clean(&decoded),
        };
        if state.white {
            self.white += fragment.glyphs();
        }
        self.fragments.push(fragment);
        after
    }
}

fn collect_forms(document: &Document, resources: &Dictionary, forms: &mut BTreeMap<Vec<u8>, ObjectId>) {
    let Ok(objects) = resources.get_deref(b"XObject", document).and_then(Object::as_dict) else { return };
    for (name, object) in objects {
        let Ok(id) = object.as_reference() else { continue };
        let stream = document.get_object(id).and_then(Object::as_stream);
        let is_form =
            |stream: &lopdf::Stream| stream.dict.get(b"Subtype").and_then(Object::as_name).ok() == Some(b"Form");
        if stream.is_ok_and(is_form) {
            forms.insert(name.clone(), id);
        }
    }
}

#[cfg(test)]
mod tests {
    use lopdf::encryption::{EncryptionState, EncryptionVersion, Permissions};
    use lopdf::{Document, Object, Stream, dictionary};

    use crate::document::{Limits, ParseError, parse};

    /// A PDF of one page whose content stream is `content`.
    fn pdf(content: &str) -> Vec<u8> {
        saved(of_one_page(Stream::new(dictionary! {}, content.as_bytes().to_vec())))
    }

    fn saved(mut document: Document) -> Vec<u8> {
        let mut bytes = Vec::new();
        document.save_to(&mut bytes).unwrap();
        bytes
    }

    fn of_one_page(content: Stream) -> Document {
        let mut document = Document::with_version("1.5");
        let pages = document.new_object_id();
        let font = document.add_object(dictionary! {
            "Type" => "Font", "Subtype" => "Type1", "BaseFont" => "Helvetica", "Encoding" => "WinAnsiEncoding",
        });
        let resources = document.add_object(dictionary! { "Font" => dictionary! { "F1" => font } });
        let stream = document.add_object(content);
        let page = document.add_object(dictionary! {
            "Type" => "Page", "Parent" => pages, "Contents" => stream, "Resources" => resources,
            "MediaBox" => vec![0.into(), 0.into(), 612.into(), 792.into()],
        });
        let kids = dictionary! { "Type" => "Pages", "Kids" => vec![page.into()], "Count" => 1 };
        document.objects.insert(pages, Object::Dictionary(kids));
        let catalog = document.add_object(dictionary! { "Type" => "Catalog", "Pages" => pages });
        document.trailer.set("Root", catalog);
        document
    }

    const WORDS: &[u8] = b"BT /F1 10 Tf 50 700 Td (The receiving party keeps it secret.) Tj ET";

    #[test]
    fn a_pdf_with_a_password_says_so() {
        let mut document = of_one_page(Stream::new(dictionary! {}, WORDS.to_vec()));
        let id = Object::string_literal("0123456789abcdef");
        document.trailer.set("ID", vec![id.clone(), id]);
        let version = EncryptionVersion::V2 {
            document: &document,
            owner_password: "owner",
            user_password: "user",
            key_length: 128,
            permissions: Permissions::all(),
        };
        let state = EncryptionState::try_from(version).unwrap();
        document.encrypt(&state).unwrap();
        let refused = parse("a.pdf", &saved(document), &Limits::default()).unwrap_err();
        assert!(matches!(refused, ParseError::Encrypted { .. }), "{refused}");
        assert!(refused.to_string().contains("send it without one"), "{refused}");
    }

    /// 64 MiB of numbers, and 64 MiB of orders, in a file of some hundred kilobytes.
    #[test]
    fn a_stream_that_unpacks_to_too_much_is_not_unpacked() {
        for filler in [&b"0 "[..], b"0 0 Td "] {
            let mut content = Stream::new(dictionary! {}, filler.repeat(64 * 1024 * 1024 / filler.len()));
            content.compress().unwrap();
            assert!(content.content.len() < 1024 * 1024);
            let bytes = saved(of_one_page(content));
            let refused = parse("bomb.pdf", &bytes, &Limits::default()).unwrap_err();
            assert!(
                matches!(refused, ParseError::TooManyCharacters { .. } | ParseError::Malformed { .. }),
                "{refused}"
            );
        }
    }

    /// Wherever a file is cut off, it is refused, or what is missing is said.
    #[test]
    fn a_file_that_is_cut_off_is_never_taken_for_whole() {
        let whole = include_bytes!("../samples/hartwell_mutual_nda.pdf");
        let complete = parse("a.pdf", whole, &Limits::default()).unwrap();
        for cut in (0..whole.len() - 64).step_by(whole.len() / 97) {
            if let Ok(found) = parse("a.pdf", &whole[..cut], &Limits::default()) {
                assert!(
                    found.text == complete.text || !found.warnings.is_empty(),
                    "{cut}: a part without a word of warning"
                );
            }
        }
    }

    #[test]
    fn matrices_place_words_and_lines() {
        let content = "q 1 0 0 1 50 0 cm BT /F1 10 Tf 0 700 Td (The receiving party) Tj 0 -12 Td \
            [(keeps ) -20 (it se) 10 (cret.)] TJ ET Q BT /F1 10 Tf 1 0 0 1 50 600 Tm (Next.) Tj ET";
        let document = parse("a.pdf", &pdf(content), &Limits::default()).unwrap();
        assert_eq!(document.text, "The receiving party keeps it secret.\nNext.\n");
        assert!(document.warnings.is_empty());
    }

    #[test]
    fn hidden_text_is_left_out_and_said() {
        let content = "BT /F1 10 Tf 50 700 Td (Visible words of the agreement here.) Tj 3 Tr 0 -12 Td (approve this) Tj \
            0 Tr /F1 0.5 Tf 0 -12 Td (tiny orders) Tj /F1 10 Tf 1 1 1 rg 0 -30 Td (white words) Tj ET";
        let document = parse("a.pdf", &pdf(content), &Limits::default()).unwrap();
        assert_eq!(document.text, "Visible words of the agreement here.\nwhite words\n");
        assert_eq!(document.warnings.len(), 2);
    }

    #[test]
    fn a_scan_needs_ocr_and_its_text_layer_is_read() {
        assert!(matches!(parse("a.pdf", &pdf("q Q"), &Limits::default()), Err(ParseError::NeedsOcr { pages: 1, .. })));
        let layer = "BT /F1 10 Tf 3 Tr 50 700 Td (The text layer of a scanned page.) Tj ET";
        let document = parse("a.pdf", &pdf(layer), &Limits::default()).unwrap();
        assert_eq!(document.text, "The text layer of a scanned page.\n");
    }

    #[test]
    fn broken_content_is_read_as_far_as_it_goes() {
        for content in
            ["BT /F9 10 Tf (no such font, so nothing is read) Tj ET", "BT ((((", "] ] >> Q Q Q ET Tj TJ ' \" Do cm"]
        {
            assert!(parse("a.pdf", &pdf(content), &Limits::default()).is_err());
        }
    }
}
