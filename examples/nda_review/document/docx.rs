//! DOCX: `word/document.xml` and the footnotes, streamed, with a cap on what the ZIP may unpack to.
//!
//! Insertions of tracked changes are read as accepted and deletions as gone; hidden text (`w:vanish`) is left out; both are
//! said in the warnings. Table cells are parted by tabs. Numbers that Word makes up (`w:numPr`) are not in the file and so not
//! in the text. Headers, footers and comments are not read. The elements are those of ISO/IEC 29500-1, 17.

use std::io::{Cursor, Read};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};
use zip::ZipArchive;
use zip::result::ZipError;

use super::{Budget, ParseError, Parsed};

/// XML spends this many bytes a character of text at the very most before we call it a bomb.
const XML_BYTES_PER_CHARACTER: usize = 40;
const MAX_DEPTH: usize = 256;

pub(super) fn read(bytes: &[u8], budget: &Budget<'_>) -> Result<Parsed, ParseError> {
    let mut archive =
        ZipArchive::new(Cursor::new(bytes)).map_err(|_| budget.malformed("its ZIP directory is broken"))?;
    let Some(main) = part(&mut archive, "word/document.xml", budget)? else {
        return Err(ParseError::Unsupported {
            name: budget.name.into(),
            what: "a ZIP archive without word/document.xml".into(),
        });
    };
    let mut body = Body::default();
    body.read(&main, budget)?;
    if let Some(notes) = part(&mut archive, "word/footnotes.xml", budget)? {
        body.end_paragraph();
        body.read(&notes, budget)?;
    }
    body.end_paragraph();
    let pages = budget.check_pages(body.page_breaks + 1)?;
    let mut warnings = Vec::new();
    let mut warn = |count: usize, what: &str| {
        if count > 0 {
            warnings.push(format!("{count} {what}"));
        }
    };
    warn(body.insertions, "tracked insertions were read as accepted");
    warn(body.deletions, "tracked deletions were left out");
    warn(body.hidden, "runs of hidden text were left out");
    Ok(Parsed { text: body.text, pages, warnings })
}

/// One file of the archive, `None` when it is not there.
fn part(
    archive: &mut ZipArchive<Cursor<&[u8]>>,
    path: &str,
    budget: &Budget<'_>,
) -> Result<Option<Vec<u8>>, ParseError> {
    budget.check_time(path)?;
    let max = budget.limits.max_characters.saturating_mul(XML_BYTES_PER_CHARACTER);
    let file = match archive.by_name(path) {
        Ok(file) => file,
        Err(ZipError::FileNotFound) => return Ok(None),
        Err(ZipError::UnsupportedArchive(why)) if why == ZipError::PASSWORD_REQUIRED => {
            return Err(ParseError::Encrypted { name: budget.name.into() });
        }
        Err(_) => return Err(budget.malformed(format!("{path} cannot be unpacked"))),
    };
    let mut xml = Vec::new();
    let cap = u64::try_from(max).unwrap_or(u64::MAX);
    // the header's size is a claim of the sender: only what really comes out counts
    file.take(cap.saturating_add(1))
        .read_to_end(&mut xml)
        .map_err(|_| budget.malformed(format!("{path} cannot be unpacked")))?;
    if xml.len() > max {
        return Err(ParseError::TooManyCharacters {
            name: budget.name.into(),
            max_characters: budget.limits.max_characters,
        });
    }
    Ok(Some(xml))
}

#[derive(Default)]
struct Body {
    text: String,
    /// Open elements that hide what is in them.
    skipping: usize,
    in_text: bool,
    run_hidden: bool,
    in_run_properties: bool,
    /// Open table cells: a paragraph's end inside one is a space.
    cells: usize,
    page_breaks: usize,
    insertions: usize,
    deletions: usize,
    hidden: usize,
}

impl Body {
    fn read(&mut self, xml: &[u8], budget: &Budget<'_>) -> Result<(), ParseError> {
        let broken = || budget.malformed("its XML is broken");
        let mut reader = Reader::from_reader(xml);
        let mut buffer = Vec::new();
        let (mut depth, mut events) = (0_usize, 0_usize);
        loop {
            events += 1;
            if events.is_multiple_of(4096) {
                budget.check_time("word/document.xml")?;
            }
            match reader.read_event_into(&mut buffer).map_err(|_| broken())? {
                Event::Start(element) => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return Err(broken());
                    }
                    self.open(&element);
                }
                Event::Empty(element) => {
                    self.open(&element);
                    self.close(element.local_name().as_ref());
                }
                Event::End(element) => {
                    depth = depth.saturating_sub(1);
                    self.close(element.local_name().as_ref());
                }
                Event::Text(text) if self.takes_text() => {
                    self.text.push_str(&text.xml10_content());
                }
                Event::CData(text) if self.takes_text() => {
                    self.text.push_str(&text.xml10_content());
                }
                Event::GeneralRef(name) if self.takes_text() => {
                    // the five of XML and character references; a document type's own are not resolved (XXE)
                    let resolved = name.resolve_char_ref().ok().flatten();
                    match (resolved, name.xml10_content().as_ref()) {
                        (Some(character), _) => self.text.push(character),
                        (None, entity) => {
                            self.text
                                .push_str(quick_xml::escape::resolve_predefined_entity(entity).unwrap_or_default());
                        }
                    }
                }
                Event::Eof => return Ok(()),
                _ => {}
            }
            buffer.clear();
        }
    }

    fn takes_text(&self) -> bool {
        self.in_text && self.skipping == 0 && !self.run_hidden
    }

    fn open(&mut self, element: &BytesStart<'_>) {
        match element.local_name().as_ref() {
            "del" | "moveFrom" if !self.in_run_properties => {
                self.deletions += 1;
                self.skipping += 1;
            }
            "Fallback" | "instrText" | "pPrChange" | "rPrChange" | "sectPrChange" => self.skipping += 1,
            "ins" if !self.in_run_properties => self.insertions += 1,
            "rPr" => self.in_run_properties = true,
            "vanish" if self.in_run_properties && self.skipping == 0 && is_on(element) => {
                self.run_hidden = true;
                self.hidden += 1;
            }
            "r" => self.run_hidden = false,
            "t" => self.in_text = true,
            "tc" => self.cells += 1,
            "tab" if !self.hides() => self.text.push('\t'),
            "noBreakHyphen" if !self.hides() => self.text.push('-'),
            "br" | "cr" if !self.hides() => {
                self.text.push('\n');
                self.page_breaks += usize::from(attribute(element, "type").as_deref() == Some("page"));
            }
            "lastRenderedPageBreak" => self.page_breaks += 1,
            _ => {}
        }
    }

    fn hides(&self) -> bool {
        self.skipping > 0 || self.run_hidden || self.in_run_properties
    }

    fn close(&mut self, name: &str) {
        match name {
            "del" | "moveFrom" if !self.in_run_properties => self.skipping = self.skipping.saturating_sub(1),
            "Fallback" | "instrText" | "pPrChange" | "rPrChange" | "sectPrChange" => {
                self.skipping = self.skipping.saturating_sub(1);
            }
            "rPr" => self.in_run_properties = false,
            "r" => self.run_hidden = false,
            "t" => self.in_text = false,
            "p" if self.cells > 0 => self.text.push(' '),
            "p" | "tr" => self.end_paragraph(),
            "tc" => {
                self.cells = self.cells.saturating_sub(1);
                self.text.truncate(self.text.trim_end_matches(' ').len());
                self.text.push('\t');
            }
            _ => {}
        }
    }

    fn end_paragraph(&mut self) {
        self.text.truncate(self.text.trim_end_matches([' ', '\t']).len());
        if !self.text.is_empty() && !self.text.ends_with('\n') {
            self.text.push('\n');
        }
    }
}

fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let found = element.attributes().flatten().find(|attribute| attribute.key.local_name().as_ref() == name)?;
    Some(found.value.into_owned())
}

fn is_on(element: &BytesStart<'_>) -> bool {
    !matches!(attribute(element, "val").as_deref(), Some("false" | "0" | "off"))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use zip::write::SimpleFileOptions;

    use crate::document::{Document, Limits, ParseError, parse};

    fn docx(body: &str) -> Vec<u8> {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        zip.start_file("word/document.xml", SimpleFileOptions::default()).unwrap();
        write!(zip, "<w:document xmlns:w='x'><w:body>{body}</w:body></w:document>").unwrap();
        zip.finish().unwrap().into_inner()
    }

    fn read(body: &str) -> Document {
        parse("a.docx", &docx(body), &Limits::default()).unwrap()
    }

    #[test]
    fn paragraphs_tables_and_entities() {
        let document = read(
            "<w:p><w:r><w:t>A &amp; B</w:t><w:tab/><w:t xml:space='preserve'> &#8220;c&#8221;</w:t></w:r></w:p>\
             <w:tbl><w:tr><w:tc><w:p><w:r><w:t>left</w:t></w:r></w:p></w:tc><w:tc><w:p><w:r><w:t>right</w:t></w:r></w:p></w:tc></w:tr></w:tbl>",
        );
        assert_eq!(document.text, "A & B\t “c”\nleft\tright\n");
        assert!(document.warnings.is_empty());
    }

    #[test]
    fn tracked_changes_and_hidden_text_are_said() {
        let document = read(
            "<w:p><w:del><w:r><w:delText>gone</w:delText><w:t>gone</w:t></w:r></w:del><w:ins><w:r><w:t>new</w:t></w:r></w:ins>\
             <w:r><w:rPr><w:vanish/></w:rPr><w:t>ghost</w:t></w:r><w:r><w:t> end</w:t></w:r></w:p>",
        );
        assert_eq!(document.text, "new end\n");
        assert_eq!(document.warnings.len(), 3);
    }

    #[test]
    fn a_zip_bomb_is_stopped() {
        let bytes = docx(&format!("<w:p><w:r><w:t>{}</w:t></w:r></w:p>", "a".repeat(3_000_000)));
        assert!(bytes.len() < 100_000);
        let limits = Limits { max_characters: 10_000, ..Limits::default() };
        assert!(matches!(parse("a.docx", &bytes, &limits), Err(ParseError::TooManyCharacters { .. })));
    }

    #[test]
    fn another_zip_is_not_a_document() {
        let mut zip = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        zip.start_file("x", SimpleFileOptions::default()).unwrap();
        let bytes = zip.finish().unwrap().into_inner();
        assert!(matches!(parse("a.docx", &bytes, &Limits::default()), Err(ParseError::Unsupported { .. })));
        assert!(matches!(parse("a.docx", b"PK\x03\x04oops", &Limits::default()), Err(ParseError::Malformed { .. })));
    }
}
