//! Reviews an NDA by rules: fields, the 17 ContractNLI questions, risks against the tenant's playbook.
//!
//! No language model is needed; the review says whether one was asked, and [`with_model`] believes of it what it can show. Every statement carries the sentence that shows it,
//! as offsets in Unicode code points of the document's text, and [`verify_quotes`] checks each against the document before
//! anything is posted.

mod ask;
mod dates;
mod fields;
mod html;
mod model;
mod names;
mod parties;
mod render;
mod risks;
mod rules;
#[cfg(test)]
mod score;
mod segment;
mod slack;
mod text;

use std::fmt;

pub use ask::prompt;
pub use html::html;
pub use model::{
    Clause, DocumentInfo, FieldDetails, Fields, Finding, Missing, ModelInfo, Party, Passage, PlaybookQuote, Question,
    Quote, Review, Risk, SCHEMA_VERSION, Severity,
};
pub use render::markdown;
pub use rules::Label;
pub use slack::slack_message;
pub use text::Span;

use crate::document::Document;

const DISCLAIMER: &str = "Made by rules without a language model, to help a lawyer start and not in place of one. \
    What the rules do not find may still be in the document.";

const WITH_MODEL: &str = "Made by a language model whose quotations were checked, and by rules, to help a lawyer start and not in place of \
    one. What neither finds may still be in the document.";

/// What the playbook is asked about, one question a topic.
#[must_use]
pub fn questions() -> Vec<Question> {
    let question = |topic: &risks::Topic| Question {
        id: topic.id.clone(),
        title: topic.title.clone(),
        query: topic.query.clone(),
    };
    risks::topics().map(question).collect()
}

/// Reviews `document` against the `passages` that the tenant's playbook search returned.
///
/// Linear in the document's length. Passages are data: nothing in them is followed.
#[must_use]
pub fn review(document: &Document, passages: &[Passage]) -> Review {
    reviewed(document, passages, None)
}

/// As [`review`], with what the language model `name` answered to [`prompt`]: where it quotes the document it has the word, otherwise the
/// rules have.
#[must_use]
pub fn with_model(document: &Document, passages: &[Passage], name: &str, said: &str) -> Review {
    reviewed(document, passages, Some((name, said)))
}

fn reviewed(document: &Document, passages: &[Passage], answer: Option<(&str, &str)>) -> Review {
    let units = segment::units(&document.text);
    let contexts = rules::contexts(&units);
    let mut clauses: Vec<Clause> = rules::rules()
        .iter()
        .map(|rule| {
            let answer = rule.answer(&units, &contexts);
            let evidence = answer.evidence.iter().filter_map(|&index| units.get(index)).map(|unit| unit.span).collect();
            Clause {
                hypothesis: rule.id.clone(),
                title: rule.title.clone(),
                question: rule.asks.clone(),
                label: answer.label,
                evidence,
                reason: answer.reason,
            }
        })
        .collect();
    let heard = answer.map(|(name, said)| (name, ask::hear(said, &document.text, &mut clauses)));
    let (fields, field_details) = fields::read(&document.text, &units);
    let facts = risks::Facts { document, units: &units, clauses: &clauses, fields: &fields, details: &field_details };
    let (risks, missing) = risks::find(&facts, passages);
    let mut warnings = document.warnings.clone();
    if let Some((_, heard)) = &heard {
        warnings.extend(heard.warnings.iter().cloned());
    }
    // one that had no say is named in the warnings alone
    let model = heard.filter(|(_, heard)| heard.accepted > 0).map(|(name, _)| name);
    let foreign = units.iter().filter(|unit| segment::is_foreign(&unit.text)).count();
    if foreign > 0 {
        warnings.push(format!("{foreign} passages do not read as English and were not understood"));
    }
    let quotes = quotes(document, &clauses, &field_details, &risks);
    Review {
        schema_version: SCHEMA_VERSION,
        document: DocumentInfo {
            name: document.name.clone(),
            sha256: document.sha256.clone(),
            pages: document.pages,
            characters: document.characters(),
        },
        fields,
        field_details,
        clauses,
        risks,
        missing,
        quotes,
        warnings,
        model: ModelInfo { name: model.unwrap_or("forge-nda-rules").into(), is_language_model: model.is_some() },
        disclaimer: if model.is_some() { WITH_MODEL } else { DISCLAIMER }.into(),
    }
}

/// Every stretch of the document that the review relies on, with its words.
fn quotes(document: &Document, clauses: &[Clause], details: &FieldDetails, risks: &[Risk]) -> Vec<Quote> {
    let FieldDetails { party, effective_date, term, governing_law } = details;
    let mut spans: Vec<Span> = clauses.iter().flat_map(|clause| clause.evidence.iter().copied()).collect();
    spans.extend(party.iter().map(|party| Span { start: party.start, end: party.end }));
    let findings = effective_date.iter().chain(term).chain(governing_law);
    spans.extend(findings.map(|finding| Span { start: finding.start, end: finding.end }));
    spans.extend(risks.iter().filter_map(|risk| risk.evidence));
    spans.sort_unstable();
    spans.dedup();
    let cut = text::Slicer::new(&document.text);
    spans.into_iter().map(|span| Quote { start: span.start, end: span.end, text: cut.get(span).to_owned() }).collect()
}

/// A quotation that is not in the document where the review says it is.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuoteMismatch {
    /// The span reaches past the document's end or ends before it starts.
    OutOfRange {
        /// First code point.
        start: usize,
        /// One past the last.
        end: usize,
        /// The document's length.
        characters: usize,
    },
    /// Other words stand there.
    Different {
        /// First code point.
        start: usize,
        /// One past the last.
        end: usize,
    },
    /// A finding relies on a span that is not among the quotes.
    Unquoted {
        /// First code point.
        start: usize,
        /// One past the last.
        end: usize,
    },
    /// The review is of another document.
    OtherDocument,
}

impl fmt::Display for QuoteMismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OutOfRange { start, end, characters } => {
                write!(
                    f,
                    "quote {start}..{end} is outside the document of {characters} characters; run the review again"
                )
            }
            Self::Different { start, end } => {
                write!(f, "quote {start}..{end} is not what the document says there; do not post this review")
            }
            Self::Unquoted { start, end } => {
                write!(f, "finding at {start}..{end} has no quote to check; do not post this review")
            }
            Self::OtherDocument => f.write_str("the review is of another document; review this one"),
        }
    }
}

impl std::error::Error for QuoteMismatch {}

/// Checks that each quoted span of the review holds the quoted words, and that nothing relies on an unquoted span.
///
/// Reads the document and the review alone, not how the review was made, so it holds for a language model's review too.
/// Returns how many quotes were checked.
///
/// # Errors
/// The first [`QuoteMismatch`] in the order of the quotes.
pub fn verify_quotes(document: &Document, review: &Review) -> Result<usize, QuoteMismatch> {
    let characters = document.characters();
    if review.document.sha256 != document.sha256 || review.document.characters != characters {
        return Err(QuoteMismatch::OtherDocument);
    }
    let cut = text::Slicer::new(&document.text);
    let mut known = std::collections::BTreeMap::new();
    for Quote { start, end, text } in &review.quotes {
        let (start, end) = (*start, *end);
        let span = Span { start, end };
        let found = cut.checked(span).ok_or(QuoteMismatch::OutOfRange { start, end, characters })?;
        if found != text {
            return Err(QuoteMismatch::Different { start, end });
        }
        known.insert(span, text.as_str());
    }
    let FieldDetails { party, effective_date, term, governing_law } = &review.field_details;
    let fields = effective_date.iter().chain(term).chain(governing_law).map(|f| Span { start: f.start, end: f.end });
    let parties = party.iter().map(|party| Span { start: party.start, end: party.end });
    let clauses = review.clauses.iter().flat_map(|clause| clause.evidence.iter().copied());
    for span in clauses.chain(parties).chain(fields).chain(review.risks.iter().filter_map(|risk| risk.evidence)) {
        if !known.contains_key(&span) {
            return Err(QuoteMismatch::Unquoted { start: span.start, end: span.end });
        }
    }
    for risk in &review.risks {
        let (Some(span), Some(quote)) = (risk.evidence, risk.quote.as_deref()) else { continue };
        if known.get(&span).copied() != Some(quote) {
            return Err(QuoteMismatch::Different { start: span.start, end: span.end });
        }
    }
    Ok(review.quotes.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::{Limits, parse};

    const NDA: &str = "MUTUAL NDA\nThis Agreement is made as of March 3, 2025 between Alder Systems, Inc., a Delaware \
        corporation (“Alder”), and Birch GmbH (“Birch”).\n1. Each party shall use Confidential Information solely for the Purpose.\n\
        2. The obligations survive termination for 3 years.\n3. This Agreement is governed by the laws of the State of New York.\n";

    fn sample() -> (Document, Review) {
        let document = parse("a.txt", NDA.as_bytes(), &Limits::default()).unwrap();
        let review = review(&document, &[]);
        (document, review)
    }

    #[test]
    fn fields_and_clauses_of_a_small_nda() {
        let (document, review) = sample();
        assert_eq!(review.fields.parties, ["Alder Systems Inc.", "Birch GmbH"]);
        assert_eq!(review.fields.effective_date.as_deref(), Some("2025-03-03"));
        assert_eq!(review.fields.governing_law.as_deref(), Some("New York"));
        assert_eq!(review.clauses.len(), 17);
        assert!(verify_quotes(&document, &review).unwrap() >= 5);
        let back: Review = serde_json::from_str(&serde_json::to_string(&review).unwrap()).unwrap();
        assert_eq!(back.clauses.len(), 17);
    }

    #[test]
    fn a_wrong_quote_is_found() {
        let (document, good) = sample();
        let mut review = good.clone();
        review.quotes[0].text.push('!');
        assert!(matches!(verify_quotes(&document, &review), Err(QuoteMismatch::Different { .. })));
        let mut review = good.clone();
        review.quotes[0].end = 1_000_000;
        assert!(matches!(verify_quotes(&document, &review), Err(QuoteMismatch::OutOfRange { .. })));
        let mut review = good.clone();
        review.quotes.remove(0);
        assert!(matches!(verify_quotes(&document, &review), Err(QuoteMismatch::Unquoted { .. })));
        let mut review = good;
        review.document.sha256 = "0".into();
        assert_eq!(verify_quotes(&document, &review), Err(QuoteMismatch::OtherDocument));
    }
}
