//! Scores the detectors on labelled text and holds the floor under the scores.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a test that reports")]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use forge_core::fake::FakeKeyring;
use forge_core::redact::{EntityKind, Redactor};
use forge_dlp::StandardRedactor;
use serde_json::Value;

/// Label of the data, our kind, and the least precision and recall (a match is an overlap of at least half).
const FLOORS: &[(&str, EntityKind, f64, f64)] = &[
    ("CREDIT_CARD", EntityKind::CreditCard, 0.99, 0.99),
    ("EMAIL_ADDRESS", EntityKind::Email, 0.99, 0.99),
    ("IBAN_CODE", EntityKind::Iban, 0.99, 0.99),
    ("PHONE_NUMBER", EntityKind::Phone, 0.95, 0.95),
    ("US_SSN", EntityKind::UsSsn, 0.99, 0.99),
];

#[derive(Default)]
struct Score {
    labelled: u32,
    found: u32,
    exact: u32,
    matched: u32,
}

#[test]
fn precision_and_recall_hold_their_floor() {
    let Some(lines) = data() else { return };
    let redactor = StandardRedactor::new(Arc::new(FakeKeyring));
    let mut scores: BTreeMap<&str, Score> = BTreeMap::new();
    for line in lines.lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        score(&redactor, &record, &mut scores);
    }
    let mut below = Vec::new();
    for (label, _, least_precision, least_recall) in FLOORS {
        let s = &scores[label];
        let (precision, recall) = (share(s.matched, s.found), share(s.matched, s.labelled));
        println!(
            "{label:14} labelled {:4} found {:4} exact {:4} precision {precision:.3} recall {recall:.3}",
            s.labelled, s.found, s.exact
        );
        if precision < *least_precision || recall < *least_recall {
            below.push(*label);
        }
    }
    assert!(below.is_empty(), "below the floor: {below:?}");
}

fn score(redactor: &StandardRedactor, record: &Value, scores: &mut BTreeMap<&'static str, Score>) {
    let text = record["text"].as_str().unwrap();
    // labels count characters
    let byte = |at: &Value| {
        let at = usize::try_from(at.as_u64().unwrap()).unwrap();
        text.char_indices().nth(at).map_or(text.len(), |(i, _)| i)
    };
    let labels = record["spans"].as_array().unwrap().iter();
    let labels: Vec<_> = labels.map(|s| (byte(&s["start"]), byte(&s["end"]), s["type"].as_str().unwrap())).collect();
    let found = redactor.inspect(text.into()).unwrap();
    for (label, kind, ..) in FLOORS {
        let s = scores.entry(label).or_default();
        let wanted: Vec<_> = labels.iter().filter(|l| l.2 == *label).collect();
        let ours: Vec<_> = found.iter().filter(|f| f.kind == *kind).collect();
        s.labelled += u32::try_from(wanted.len()).unwrap();
        s.found += u32::try_from(ours.len()).unwrap();
        for f in ours {
            let half = |l: &&&(usize, usize, &str)| {
                let common = f.end.min(l.1).saturating_sub(f.start.max(l.0));
                2 * common >= f.end.max(l.1) - f.start.min(l.0)
            };
            if let Some(l) = wanted.iter().find(half) {
                s.matched += 1;
                s.exact += u32::from((l.0, l.1) == (f.start, f.end));
            }
        }
    }
}

fn share(part: u32, whole: u32) -> f64 {
    if whole == 0 { 0.0 } else { f64::from(part) / f64::from(whole) }
}

#[expect(clippy::disallowed_methods, reason = "where the data is, only the environment of a test run knows")]
fn data() -> Option<String> {
    let (folder, required) = (std::env::var("FORGE_TEST_DATA"), std::env::var("FORGE_REQUIRE_TEST_DATA"));
    let path = folder.map(|f| PathBuf::from(f).join("dlp/synth2.jsonl")).ok().filter(|p| p.is_file());
    if path.is_none() {
        assert_ne!(
            required.as_deref(),
            Ok("1"),
            "FORGE_REQUIRE_TEST_DATA=1 but FORGE_TEST_DATA has no dlp/synth2.jsonl"
        );
        println!("left out: precision and recall of the detectors (set FORGE_TEST_DATA)");
    }
    path.map(|p| std::fs::read_to_string(p).unwrap())
}
