//! The review as data: what `review.json` holds.

use serde::{Deserialize, Serialize};

use super::rules::Label;
use super::text::Span;

/// Version of the review's JSON.
pub const SCHEMA_VERSION: u32 = 1;

/// What the playbook is asked about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// Stable name of the topic.
    pub id: String,
    /// The topic for people.
    pub title: String,
    /// Words to search for.
    pub query: String,
}

/// A passage that the search in the tenant's playbook returned.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Passage {
    /// The passage's id in the knowledge base.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its words.
    pub text: String,
    /// The search's score; the higher the nearer.
    pub score: f32,
}

/// A reviewed document: everything that was found, with where it stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Review {
    /// [`SCHEMA_VERSION`] when it was written.
    pub schema_version: u32,
    /// What was reviewed.
    pub document: DocumentInfo,
    /// The fields as plain strings.
    pub fields: Fields,
    /// The fields with where they stand and how sure the rules are.
    pub field_details: FieldDetails,
    /// The answers to the 17 questions.
    pub clauses: Vec<Clause>,
    /// What a lawyer should look at, the worst first.
    pub risks: Vec<Risk>,
    /// What the playbook wants and the document lacks.
    pub missing: Vec<Missing>,
    /// Every verbatim quotation used above.
    pub quotes: Vec<Quote>,
    /// What the reader of the file should know.
    pub warnings: Vec<String>,
    /// Who answered.
    pub model: ModelInfo,
    /// What this review is not.
    pub disclaimer: String,
}

/// Which document was reviewed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentInfo {
    /// File name.
    pub name: String,
    /// SHA-256 of the bytes, in hex.
    pub sha256: String,
    /// Pages.
    pub pages: u32,
    /// Length in Unicode code points.
    pub characters: usize,
}

/// The fields as plain strings; `None` is "not found".
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fields {
    /// Names of the parties.
    pub parties: Vec<String>,
    /// ISO 8601 date.
    pub effective_date: Option<String>,
    /// For example "3 years".
    pub term: Option<String>,
    /// Bare state or country.
    pub governing_law: Option<String>,
}

/// The fields with where they stand, candidates included, the likeliest first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct FieldDetails {
    /// Parties.
    pub party: Vec<Party>,
    /// Candidates for the effective date.
    pub effective_date: Vec<Finding>,
    /// Candidates for the term.
    pub term: Vec<Finding>,
    /// Candidates for the governing law.
    pub governing_law: Vec<Finding>,
}

/// One party.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Party {
    /// The name in one spelling ("Inc." for "Incorporated", no comma before it).
    pub value: String,
    /// The role that an alias gives, such as "Company" or "Recipient".
    pub role: Option<String>,
    /// What the document calls it.
    pub aliases: Vec<String>,
    /// First code point of the name as it is written.
    pub start: usize,
    /// One past the last.
    pub end: usize,
    /// From 0 to 1: how often such findings are right on the development set.
    pub confidence: f32,
}

/// One candidate for a field.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// The value in the field's form.
    pub value: String,
    /// First code point of where it stands.
    pub start: usize,
    /// One past the last.
    pub end: usize,
    /// From 0 to 1: how often such findings are right on the development set.
    pub confidence: f32,
}

/// The answer to one of the 17 questions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Clause {
    /// The question's id in ContractNLI, such as "nda-1".
    pub hypothesis: String,
    /// ContractNLI's short description.
    pub title: String,
    /// The question in plain words.
    pub question: String,
    /// The answer.
    pub label: Label,
    /// The sentences that show it; empty for `NotMentioned`.
    pub evidence: Vec<Span>,
    /// What the label means here.
    pub reason: String,
}

/// How much a risk matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Do not sign before this is solved.
    High,
    /// Ask for a change.
    Medium,
    /// Know of it.
    Low,
}

/// A passage of the playbook, quoted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlaybookQuote {
    /// The passage's id.
    pub id: String,
    /// Its title.
    pub title: String,
    /// Its preferred position.
    pub quote: String,
}

/// Something in the document that a lawyer should look at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Risk {
    /// The topic's id.
    pub id: String,
    /// How much it matters.
    pub severity: Severity,
    /// The topic.
    pub title: String,
    /// What is wrong.
    pub detail: String,
    /// Where it stands; `None` when the trouble is that nothing does.
    pub evidence: Option<Span>,
    /// The words there.
    pub quote: Option<String>,
    /// What the tenant's playbook says.
    pub playbook: Option<PlaybookQuote>,
    /// The playbook's fall-back wording: a proposal, not text of the document.
    pub proposed_wording: Option<String>,
}

/// Something that the playbook wants and the document lacks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// The topic's id.
    pub id: String,
    /// How much it matters.
    pub severity: Severity,
    /// The topic.
    pub title: String,
    /// Why it matters.
    pub detail: String,
    /// What the tenant's playbook says.
    pub playbook: Option<PlaybookQuote>,
    /// The playbook's fall-back wording: a proposal.
    pub proposed_wording: Option<String>,
}

/// Words of the document and where they stand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quote {
    /// First code point.
    pub start: usize,
    /// One past the last.
    pub end: usize,
    /// The words.
    pub text: String,
}

/// Who answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelInfo {
    /// Name of the answerer.
    pub name: String,
    /// Whether a language model had a part in it.
    pub is_language_model: bool,
}
