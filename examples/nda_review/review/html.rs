//! The review as one self-contained page: `review.html`, the document beside its findings.
//!
//! No script and nothing from elsewhere: the page's own policy forbids both, so that a document cannot do what an escape forgot.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::model::{FieldDetails, PlaybookQuote, Review, Severity};
use super::render::{answer, verdict, word};
use super::rules::Label;
use super::text::{Slicer, Span, shorten};
use crate::document::Document;

const STYLE: &str = include_str!("review.css");
const MAX_QUOTE: usize = 300;

/// Writes `review` as a page, with the whole text of `document` and each quotation marked in it.
#[must_use]
pub fn html(review: &Review, document: &Document) -> String {
    let mut out = String::with_capacity(document.text.len() * 2);
    // writing to a String cannot fail
    let _ = page(&mut out, review, document);
    out
}

fn page(out: &mut String, review: &Review, document: &Document) -> std::fmt::Result {
    let cut = Slicer::new(&document.text);
    let name = escape(&review.document.name);
    write!(
        out,
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>Review of {name}</title>\n\
         <style>\n{STYLE}</style>\n</head>\n<body>\n<header>\n<h1>Review of {name}</h1>\n<p class=\"verdict\">{}</p>\n",
        escape(&verdict(review))
    )?;
    let by = &review.model;
    let who = if by.is_language_model { "Answered by the language model" } else { "No language model was used:" };
    writeln!(out, "<p>{who} {}. {}</p>", escape(&by.name), escape(&review.disclaimer))?;
    let info = &review.document;
    writeln!(
        out,
        "<p>{} pages, {} characters, SHA-256 <code>{}</code></p>",
        info.pages,
        info.characters,
        escape(&info.sha256)
    )?;
    for warning in &review.warnings {
        writeln!(out, "<p class=\"warning\">{}</p>", escape(warning))?;
    }
    out.push_str("</header>\n<main>\n<section class=\"document\" aria-label=\"document\">\n<pre>");
    text(out, review, document)?;
    out.push_str("</pre>\n</section>\n<section class=\"findings\" aria-label=\"findings\">\n");
    fields(out, review, &cut)?;
    findings(out, review)?;
    questions(out, review, &cut)?;
    out.push_str("</section>\n</main>\n</body>\n</html>\n");
    Ok(())
}

/// The document, what is quoted marked; where quotations lap over each other the stretches between their ends are marked one by one.
fn text(out: &mut String, review: &Review, document: &Document) -> std::fmt::Result {
    let spans: BTreeSet<Span> = review.quotes.iter().map(|q| Span { start: q.start, end: q.end }).collect();
    let cut = Slicer::new(&document.text);
    let mut bounds: BTreeSet<usize> = spans.iter().flat_map(|s| [s.start, s.end]).collect();
    bounds.insert(document.characters());
    let (mut at, mut open, mut ends) = (0, 0_usize, Vec::new());
    for bound in bounds {
        let stretch = escape(cut.get(Span { start: at, end: bound }));
        if !stretch.is_empty() {
            if open > 0 { write!(out, "<mark>{stretch}</mark>")? } else { out.push_str(&stretch) }
        }
        open -= ends.iter().filter(|end| **end == bound).count();
        ends.retain(|end| *end != bound);
        for span in
            spans.range(Span { start: bound, end: 0 }..Span { start: bound + 1, end: 0 }).filter(|s| s.end > s.start)
        {
            write!(out, "<a id=\"{}\"></a>", anchor(*span))?;
            open += 1;
            ends.push(span.end);
        }
        at = bound;
    }
    Ok(())
}

fn anchor(span: Span) -> String {
    format!("q{}-{}", span.start, span.end)
}

/// Words of the document, as a link to where they stand.
fn quoted(span: Span, words: &str) -> String {
    format!("<a class=\"quote\" href=\"#{}\">{}</a>", anchor(span), escape(&shorten(words, MAX_QUOTE)))
}

fn fields(out: &mut String, review: &Review, cut: &Slicer<'_>) -> std::fmt::Result {
    out.push_str(
        "<h2>Fields</h2>\n<table>\n<tr><th>field</th><th>value</th><th>sure</th><th>where it says so</th></tr>\n",
    );
    let FieldDetails { party, effective_date, term, governing_law } = &review.field_details;
    let mut row = |name: &str, value: &str, sure: f32, span: Span| {
        let shown = quoted(span, cut.get(span));
        writeln!(
            out,
            "<tr><td>{name}</td><td>{}</td><td>{:.0} %</td><td>{shown}</td></tr>",
            escape(value),
            sure * 100.0
        )
    };
    for p in party {
        let called = p.role.as_ref().or(p.aliases.first()).map_or(String::new(), |role| format!(" ({role})"));
        row("party", &format!("{}{called}", p.value), p.confidence, Span { start: p.start, end: p.end })?;
    }
    let fields = &review.fields;
    for (name, value, all) in [
        ("effective date", &fields.effective_date, effective_date),
        ("term", &fields.term, term),
        ("governing law", &fields.governing_law, governing_law),
    ] {
        if let (Some(value), Some(best)) = (value, all.first()) {
            row(name, value, best.confidence, Span { start: best.start, end: best.end })?;
        }
    }
    let found = [
        ("party", !party.is_empty()),
        ("effective date", fields.effective_date.is_some()),
        ("term", fields.term.is_some()),
        ("governing law", fields.governing_law.is_some()),
    ];
    let missing: Vec<&str> = found.iter().filter(|(_, there)| !there).map(|(name, _)| *name).collect();
    out.push_str("</table>\n");
    if !missing.is_empty() {
        writeln!(out, "<p>Not found: {}.</p>", missing.join(", "))?;
    }
    Ok(())
}

fn findings(out: &mut String, review: &Review) -> std::fmt::Result {
    out.push_str("<h2>Risks</h2>\n");
    if review.risks.is_empty() {
        out.push_str("<p>None found.</p>\n");
    }
    for risk in &review.risks {
        finding(out, risk.severity, &risk.title, &risk.detail)?;
        if let (Some(span), Some(quote)) = (risk.evidence, &risk.quote) {
            writeln!(out, "<p>{}</p>", quoted(span, quote))?;
        }
        position(out, risk.playbook.as_ref(), risk.proposed_wording.as_deref())?;
    }
    out.push_str("<h2>Missing</h2>\n");
    if review.missing.is_empty() {
        out.push_str("<p>Nothing that the rules look for.</p>\n");
    }
    for missing in &review.missing {
        finding(out, missing.severity, &missing.title, &missing.detail)?;
        position(out, missing.playbook.as_ref(), missing.proposed_wording.as_deref())?;
    }
    Ok(())
}

fn finding(out: &mut String, severity: Severity, title: &str, detail: &str) -> std::fmt::Result {
    let word = word(severity);
    let class = word.to_lowercase();
    writeln!(out, "<h3 class=\"{class}\"><span>{word}</span> {}</h3>\n<p>{}.</p>", escape(title), escape(detail))
}

fn position(out: &mut String, playbook: Option<&PlaybookQuote>, wording: Option<&str>) -> std::fmt::Result {
    if let Some(PlaybookQuote { id, title, quote }) = playbook {
        writeln!(
            out,
            "<p class=\"playbook\">Playbook, {} ({}): {}</p>",
            escape(title),
            escape(id),
            escape(&shorten(quote, 420))
        )?;
    }
    if let Some(wording) = wording {
        let wording = escape(&shorten(wording, 900));
        writeln!(
            out,
            "<p class=\"proposal\"><b>Proposed wording, from the playbook and not in the document:</b> {wording}</p>"
        )?;
    }
    Ok(())
}

fn questions(out: &mut String, review: &Review, cut: &Slicer<'_>) -> std::fmt::Result {
    out.push_str("<h2>The 17 questions</h2>\n<table>\n<tr><th>id</th><th>question</th><th>answer</th><th>why</th><th>evidence</th></tr>\n");
    for clause in &review.clauses {
        let class = match clause.label {
            Label::Entailment => "yes",
            Label::Contradiction => "no",
            Label::NotMentioned => "unsaid",
        };
        let evidence: Vec<String> = clause.evidence.iter().map(|span| quoted(*span, cut.get(*span))).collect();
        writeln!(
            out,
            "<tr><td>{}</td><td>{}</td><td class=\"{class}\">{}</td><td>{}</td><td>{}</td></tr>",
            escape(&clause.hypothesis),
            escape(&clause.question),
            answer(clause.label),
            escape(&clause.reason),
            evidence.join("<br>")
        )?;
    }
    out.push_str("</table>\n");
    Ok(())
}

/// Text of others inside HTML: nothing of it markup, and nothing that turns the direction of what follows.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\n' | '\t' => out.push(character),
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => out.push('\u{fffd}'),
            control if control.is_control() => {}
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::review;
    use super::*;
    use crate::document::{Limits, parse};

    #[test]
    fn the_document_is_whole_beside_its_findings_and_nothing_of_it_is_markup() {
        let text = "Recipient shall not hire any employee <script>alert(1)</script> of Discloser \u{202e}now\".\n\
            Recipient shall not hire any employee of Discloser for two years. <a id=\"q0-1\">x</a>\n";
        let document = parse("a\"><b>.txt", text.as_bytes(), &Limits::default()).unwrap();
        let review = review(&document, &[]);
        let page = html(&review, &document);
        assert!(!page.contains("<script") && page.contains("&lt;script&gt;") && !page.contains('\u{202e}'));
        assert!(page.contains("<title>Review of a&quot;&gt;&lt;b&gt;.txt</title>"));
        assert!(
            page.contains("default-src 'none'")
                && page.contains("prefers-color-scheme: dark")
                && page.contains("@media print")
        );
        for quote in &review.quotes {
            let anchor = anchor(Span { start: quote.start, end: quote.end });
            assert_eq!(page.matches(&format!("id=\"{anchor}\"")).count(), 1, "{anchor} is in the document once");
        }
        for link in page.split("href=\"#").skip(1) {
            let to = link.split('"').next().unwrap();
            assert!(page.contains(&format!("id=\"{to}\"")), "a link to nowhere: {to}");
        }
        // without its marks the document is what it was
        let shown = page.split("<pre>").nth(1).unwrap().split("</pre>").next().unwrap();
        let mut bare = shown.replace("<mark>", "").replace("</mark>", "");
        while let Some(at) = bare.find("<a id=") {
            let end = at + bare[at..].find("</a>").unwrap() + 4;
            bare.replace_range(at..end, "");
        }
        assert_eq!(bare, escape(&document.text));
        assert_eq!(page.matches("<tr><td>nda-").count(), 17);
    }
}
