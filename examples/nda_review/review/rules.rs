//! The engine that answers the questions of `rules.toml`.
//!
//! One cue is a handful of regular expressions that must, or must not, be in one sentence or list item. A document's answer to
//! a question is the label whose cues weigh most. The engine knows nothing of NDAs: all of that is in the data. The `regex`
//! crate matches in linear time, so the whole is linear in the document's length.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::segment::{Unit, with_leads};

/// The answer to a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Label {
    /// The document says so.
    Entailment,
    /// The document says the opposite.
    Contradiction,
    /// The document does not say.
    NotMentioned,
}

/// The most units shown as evidence for one answer.
const MAX_EVIDENCE: usize = 10;

#[derive(Deserialize)]
struct RawRules {
    words: BTreeMap<String, String>,
    question: Vec<RawQuestion>,
}

#[derive(Deserialize)]
struct RawQuestion {
    id: String,
    title: String,
    asks: String,
    entailment: String,
    contradiction: String,
    cues: Vec<RawCue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawCue {
    says: Label,
    #[serde(default = "one")]
    weight: f32,
    #[serde(default)]
    all: Vec<String>,
    #[serde(default)]
    lead: Vec<String>,
    #[serde(default)]
    none: Vec<String>,
}

fn one() -> f32 {
    1.0
}

/// One question with its cues, ready to be asked.
pub(super) struct Rule {
    pub(super) id: String,
    pub(super) title: String,
    pub(super) asks: String,
    entailment: String,
    contradiction: String,
    cues: Vec<Cue>,
}

struct Cue {
    says: Label,
    weight: f32,
    all: Vec<Regex>,
    lead: Vec<Regex>,
    none: Vec<Regex>,
}

/// An answer with the indices of the units that show it.
pub(super) struct Answer {
    pub(super) label: Label,
    pub(super) evidence: Vec<usize>,
    pub(super) reason: String,
}

/// The questions of `rules.toml`, in its order; a file that cannot be read leaves no question, which a test rules out.
pub(super) fn rules() -> &'static [Rule] {
    static RULES: LazyLock<Vec<Rule>> = LazyLock::new(|| load(include_str!("rules.toml")).unwrap_or_default());
    &RULES
}

fn load(source: &str) -> Result<Vec<Rule>, String> {
    let raw: RawRules = toml::from_str(source).map_err(|error| error.to_string())?;
    let words = expand_words(&raw.words);
    raw.question.into_iter().map(|question| compile(question, &words)).collect()
}

/// Words may use words; three rounds are plenty.
fn expand_words(raw: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut words = raw.clone();
    for _ in 0..3 {
        let last = words.clone();
        for pattern in words.values_mut() {
            *pattern = expand(pattern, &last);
        }
    }
    words
}

fn expand(pattern: &str, words: &BTreeMap<String, String>) -> String {
    words.iter().fold(pattern.to_owned(), |out, (name, word)| out.replace(&format!("{{{name}}}"), word))
}

fn compile(raw: RawQuestion, words: &BTreeMap<String, String>) -> Result<Rule, String> {
    let RawQuestion { id, title, asks, entailment, contradiction, cues } = raw;
    let regexes = |patterns: &[String]| -> Result<Vec<Regex>, String> {
        patterns
            .iter()
            .map(|pattern| Regex::new(&expand(pattern, words)).map_err(|error| format!("{id}: {error}")))
            .collect()
    };
    let cues: Result<Vec<Cue>, String> = cues
        .iter()
        .map(|cue| {
            let RawCue { says, weight, all, lead, none } = cue;
            Ok(Cue { says: *says, weight: *weight, all: regexes(all)?, lead: regexes(lead)?, none: regexes(none)? })
        })
        .collect();
    let cues = cues?;
    Ok(Rule { id, title, asks, entailment, contradiction, cues })
}

impl Rule {
    /// Answers this question for a document of `units`; `contexts` are the units with their lead-ins.
    pub(super) fn answer(&self, units: &[Unit], contexts: &[String]) -> Answer {
        let mut sums: BTreeMap<Label, f32> = BTreeMap::new();
        let mut found: Vec<(Label, usize, f32)> = Vec::new();
        for cue in &self.cues {
            let hits = cue.hits(units, contexts);
            if !hits.is_empty() {
                *sums.entry(cue.says).or_default() += cue.weight;
                found.extend(hits.into_iter().map(|index| (cue.says, index, cue.weight)));
            }
        }
        let best = sums.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).filter(|(_, sum)| *sum >= 0.99);
        let Some((label, _)) = best else {
            return Answer {
                label: Label::NotMentioned,
                evidence: Vec::new(),
                reason: "no sentence speaks to it".into(),
            };
        };
        let mut weights: BTreeMap<usize, f32> = BTreeMap::new();
        for (_, index, weight) in found.into_iter().filter(|(says, ..)| *says == label) {
            *weights.entry(index).or_default() += weight;
        }
        let mut ranked: Vec<(usize, f32)> = weights.into_iter().collect();
        ranked.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        ranked.truncate(MAX_EVIDENCE);
        let mut evidence: Vec<usize> = ranked.iter().map(|(index, _)| *index).collect();
        // an item is only understood with the sentence that opens its list
        evidence.extend(ranked.iter().filter_map(|(index, _)| units.get(*index)?.lead));
        evidence.sort_unstable();
        evidence.dedup();
        let reason = match label {
            Label::Entailment => self.entailment.clone(),
            _ => self.contradiction.clone(),
        };
        Answer { label, evidence, reason }
    }
}

impl Cue {
    fn hits(&self, units: &[Unit], contexts: &[String]) -> Vec<usize> {
        let every = |regexes: &[Regex], text: &str| regexes.iter().all(|regex| regex.is_match(text));
        let any = |regexes: &[Regex], text: &str| regexes.iter().any(|regex| regex.is_match(text));
        let matching = units.iter().zip(contexts).enumerate().filter(|(_, (unit, context))| {
            every(&self.all, &unit.text) && every(&self.lead, context) && !any(&self.none, &unit.text)
        });
        matching.map(|(index, _)| index).collect()
    }
}

/// The units with their lead-ins, as the rules want them.
pub(super) fn contexts(units: &[Unit]) -> Vec<String> {
    (0..units.len()).map(|index| with_leads(units, index)).collect()
}

#[cfg(test)]
mod tests {
    use super::super::segment::units;
    use super::*;

    fn ask(id: &str, text: &str) -> Answer {
        let units = units(text);
        rules().iter().find(|rule| rule.id == id).unwrap().answer(&units, &contexts(&units))
    }

    #[test]
    fn the_data_is_readable_and_whole() {
        let rules = load(include_str!("rules.toml")).unwrap();
        let ids: Vec<&str> = rules.iter().map(|rule| rule.id.as_str()).collect();
        let expected = [1, 2, 3, 4, 5, 7, 8, 10, 11, 12, 13, 15, 16, 17, 18, 19, 20].map(|n| format!("nda-{n}"));
        assert_eq!(ids, expected);
        assert!(rules.iter().all(|rule| rule.cues.iter().all(|cue| !cue.all.is_empty())));
    }

    #[test]
    fn an_exception_turns_the_answer() {
        assert_eq!(ask("nda-11", "Recipient shall not reverse engineer samples.").label, Label::Entailment);
        assert_eq!(ask("nda-11", "Recipient shall label samples.").label, Label::NotMentioned);
        assert_eq!(ask("nda-17", "Recipient shall not copy the information.").label, Label::Contradiction);
        assert_eq!(
            ask("nda-17", "Recipient shall not copy the information except as necessary.").label,
            Label::Entailment
        );
    }

    #[test]
    fn an_item_is_read_with_its_lead_in() {
        let text =
            "The obligations do not apply to information that:\n(a) is received from a third party; or\n(b) is public.";
        let answer = ask("nda-13", text);
        assert_eq!((answer.label, answer.evidence), (Label::Entailment, vec![0, 1]));
        assert_eq!(ask("nda-13", "(a) is received from a third party").label, Label::NotMentioned);
    }
}
