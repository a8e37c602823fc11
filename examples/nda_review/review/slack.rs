//! The review as one Slack message in Block Kit, within what Slack takes.
//!
//! Slack refuses a section over 3,000 characters, more than 50 blocks and, undocumented, about 10,000 characters of blocks in
//! all (slackapi/bolt-js#2867); a text over 4,000 may be split in two messages. We stay well under each.

use serde_json::{Value, json};

use super::model::{Review, Severity};
use super::render::{answer, verdict, word};
use super::text::shorten;

const MAX_SECTION: usize = 2_900;
const MAX_BLOCKS: usize = 45;
const MAX_CHARACTERS: usize = 8_500;
const MAX_TEXT: usize = 3_400;
const MAX_HEADER: usize = 140;
/// The most risks and missing clauses shown; the report has the rest.
const MAX_SHOWN: usize = 8;

/// Builds `{"text", "blocks"}` for `chat.postMessage`; `&`, `<` and `>` of the document are escaped, so no mention, link or
/// channel-wide call can come out of it.
#[must_use]
pub fn slack_message(review: &Review) -> Value {
    let name = shorten(&review.document.name, 100);
    let summary = format!("NDA review of {}: {}", escape(&name), verdict(review));
    let mut message = Message::default();
    message.add(json!({ "type": "header", "text": { "type": "plain_text", "text": shorten(&format!("NDA review: {name}"), MAX_HEADER) } }), MAX_HEADER);
    message.section(&format!("*{}*", verdict(review)));
    message.section(&fields(review));
    for warning in review.warnings.iter().take(3) {
        message.section(&format!(":warning: {}", escape(&shorten(warning, 200))));
    }
    let high = |severity: Severity| if severity == Severity::High { ":red_circle:" } else { ":large_orange_circle:" };
    for risk in review.risks.iter().take(MAX_SHOWN) {
        let quote = risk.quote.as_deref().map_or(String::new(), |quote| format!("\n>{}", escape(&shorten(quote, 260))));
        let playbook = risk
            .playbook
            .as_ref()
            .map_or(String::new(), |playbook| format!("\n_Playbook:_ {}", escape(&shorten(&playbook.quote, 200))));
        let mark = if risk.severity == Severity::Low { ":white_circle:" } else { high(risk.severity) };
        let (title, detail) = (escape(&risk.title), escape(&risk.detail));
        message.section(&format!("{mark} *{}: {title}*: {detail}{quote}{playbook}", word(risk.severity)));
    }
    if !review.missing.is_empty() {
        let lines: Vec<String> = review
            .missing
            .iter()
            .take(MAX_SHOWN)
            .map(|missing| {
                format!("• {}: *{}*: {}", word(missing.severity), escape(&missing.title), escape(&missing.detail))
            })
            .collect();
        message.section(&format!("*Missing*\n{}", lines.join("\n")));
    }
    let answers: Vec<String> =
        review.clauses.iter().map(|clause| format!("{}: {}", escape(&clause.title), answer(clause.label))).collect();
    message.section(&format!("*The 17 questions*\n{}", answers.join(" · ")));
    let hidden = review.risks.len().saturating_sub(MAX_SHOWN)
        + review.missing.len().saturating_sub(MAX_SHOWN)
        + message.left_out;
    let more = if hidden > 0 { format!(" {hidden} more findings are in the report.") } else { String::new() };
    let note = format!("{}{more}", escape(&review.disclaimer));
    message.blocks.push(json!({ "type": "context", "elements": [{ "type": "mrkdwn", "text": shorten(&note, 400) }] }));
    json!({ "text": clip(&summary, MAX_TEXT), "blocks": message.blocks })
}

#[derive(Default)]
struct Message {
    blocks: Vec<Value>,
    characters: usize,
    left_out: usize,
}

impl Message {
    fn section(&mut self, text: &str) {
        let text = clip(text, MAX_SECTION);
        let length = text.chars().count();
        self.add(json!({ "type": "section", "text": { "type": "mrkdwn", "text": text } }), length);
    }

    /// Adds a block if there is room, else counts it.
    fn add(&mut self, block: Value, length: usize) {
        if self.characters + length > MAX_CHARACTERS - 500 || self.blocks.len() >= MAX_BLOCKS {
            self.left_out += 1;
            return;
        }
        self.characters += length;
        self.blocks.push(block);
    }
}

fn fields(review: &Review) -> String {
    let fields = &review.fields;
    let or = |value: &Option<String>| value.as_deref().map_or("not found".to_owned(), escape);
    let parties = if fields.parties.is_empty() {
        "not found".to_owned()
    } else {
        fields.parties.iter().map(|party| escape(&shorten(party, 120))).collect::<Vec<_>>().join("; ")
    };
    format!(
        "*Parties:* {parties}\n*Effective date:* {}\n*Term:* {}\n*Governing law:* {}",
        or(&fields.effective_date),
        or(&fields.term),
        or(&fields.governing_law)
    )
}

/// Slack's three escapes, and no line breaks that would end a quotation.
fn escape(text: &str) -> String {
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    words.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// At most `max` characters without cutting an escape in two; line breaks stay.
fn clip(text: &str, max: usize) -> String {
    if text.chars().count() <= max {
        return text.to_owned();
    }
    let cut: String = text.chars().take(max - 1).collect();
    let kept = match cut.rfind('&') {
        Some(at) if !cut.get(at..).unwrap_or_default().contains(';') => cut.get(..at).unwrap_or_default(),
        _ => &cut,
    };
    format!("{kept}…")
}

#[cfg(test)]
mod tests {
    use super::super::model::{Missing, Risk};
    use super::super::{Span, review};
    use super::*;
    use crate::document::{Limits, parse};

    fn sample() -> Review {
        let text = "Recipient shall not hire any employee of Discloser, <!channel> & <https://evil.example|click>.";
        let document = parse("<!here>.txt", text.as_bytes(), &Limits::default()).unwrap();
        review(&document, &[])
    }

    fn sections(message: &Value) -> Vec<&str> {
        message["blocks"].as_array().unwrap().iter().filter_map(|block| block["text"]["text"].as_str()).collect()
    }

    #[test]
    fn nothing_of_the_document_is_markup() {
        let message = slack_message(&sample());
        let raw = message.to_string();
        assert!(raw.contains("&lt;!channel&gt; &amp; &lt;https://evil.example|click&gt;"));
        // the header is plain text, where nothing is markup
        assert!(sections(&message).iter().skip(1).all(|text| !text.contains('<')));
        assert!(!message["text"].as_str().unwrap().contains('<'));
    }

    #[test]
    fn the_worst_review_stays_within_slacks_limits() {
        let mut review = sample();
        let long = "&<> ".repeat(4_000);
        let risk = Risk {
            id: "x".into(),
            severity: Severity::High,
            title: long.clone(),
            detail: long.clone(),
            evidence: Some(Span { start: 0, end: 1 }),
            quote: Some(long.clone()),
            playbook: None,
            proposed_wording: None,
        };
        review.risks = vec![risk; 90];
        let missing = Missing {
            id: "y".into(),
            severity: Severity::Low,
            title: long.clone(),
            detail: long.clone(),
            playbook: None,
            proposed_wording: None,
        };
        review.missing = vec![missing; 90];
        review.document.name = long.clone();
        review.fields.parties = vec![long; 90];
        let message = slack_message(&review);
        let blocks = message["blocks"].as_array().unwrap();
        assert!(blocks.len() <= 50 && blocks.len() > 3);
        assert!(sections(&message).iter().all(|text| text.chars().count() <= 3_000));
        let all: usize = message["blocks"].to_string().chars().count();
        assert!(all < 9_600, "{all}");
        assert!(message["text"].as_str().unwrap().chars().count() <= 3_500);
    }
}
