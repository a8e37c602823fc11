//! What a log line must not hold is not in the file's bytes, whoever wrote the line.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::borrow::Cow;
use std::sync::Arc;

use forge_core::redact::{EntityKind, Finding, RedactOptions, Redactor, Text};
use forge_core::{Error, ErrorKind, Result, TenantId};
use forge_telemetry::RedactingWriter;
use tracing_subscriber::prelude::*;

/// Masks a fixed mail address, a fixed card and what follows `password=`; refuses a text with the word `unreadable`.
#[derive(Debug)]
struct Canaries;

const MAIL: &str = "ana@example.com";
const CARD: &str = "4111 1111 1111 1111";
const PASSWORD: &str = "correct-horse";

impl Redactor for Canaries {
    fn inspect(&self, _: Text<'_>) -> Result<Vec<Finding>> {
        Ok(Vec::new())
    }

    fn redact<'a>(&self, _: &TenantId, text: Text<'a>, options: &RedactOptions) -> Result<Cow<'a, str>> {
        assert!(EntityKind::ALL.iter().all(|k| options.kinds.contains(k)));
        if text.text.contains("unreadable") {
            return Err(Error::new(ErrorKind::Redaction, "canaries.redact", "refused"));
        }
        let mut out = text.text.replace(MAIL, "[EMAIL]").replace(CARD, "[CREDIT_CARD]");
        if let Some((before, after)) = out.split_once("password=") {
            let rest = after.trim_start_matches('"').trim_start_matches(|c: char| !c.is_whitespace() && c != '"');
            out = format!("{before}password=[SECRET]{rest}");
        }
        Ok(out.into())
    }

    fn reveal<'a>(&self, _: &TenantId, text: &'a str) -> Result<Cow<'a, str>> {
        Ok(text.into())
    }
}

fn logged(write: impl FnOnce()) -> String {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("host.log");
    let log = RedactingWriter::to_file(&path, Arc::new(Canaries)).unwrap();
    let subscriber =
        tracing_subscriber::registry().with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(log));
    tracing::subscriber::with_default(subscriber, write);
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn no_canary_is_in_the_bytes_of_the_file() {
    let raw = logged(|| {
        let span = tracing::info_span!("request", to = MAIL);
        span.in_scope(|| tracing::info!(card = CARD, password = PASSWORD, "mail to {MAIL}\nand once more to {MAIL}"));
    });
    for canary in [MAIL, CARD, PASSWORD] {
        assert!(!raw.contains(canary), "{raw}");
    }
    let masks = ["[EMAIL]", "[CREDIT_CARD]", "[SECRET]"].map(|m| raw.matches(m).count());
    assert_eq!(masks, [3, 1, 1], "{raw}");
}

#[test]
fn a_line_that_cannot_be_scanned_is_withheld_and_the_next_is_not() {
    let raw = logged(|| {
        tracing::info!("unreadable, with {MAIL} in it");
        tracing::info!("after");
    });
    let lines: Vec<_> = raw.lines().collect();
    assert!(matches!(lines[..], [first, last] if first.contains("withheld") && last.ends_with("after")), "{raw}");
    assert!(!raw.contains(MAIL), "{raw}");
}

/// Each event is one write: threads do not cut into each other's lines.
#[test]
fn lines_of_many_threads_stay_whole() {
    let raw = logged(|| {
        let dispatch = tracing::dispatcher::get_default(Clone::clone);
        std::thread::scope(|s| {
            for t in 0..4 {
                let dispatch = dispatch.clone();
                s.spawn(move || {
                    tracing::dispatcher::with_default(&dispatch, || {
                        (0..100).for_each(|n| tracing::info!("thread {t} line {n} to {MAIL} end"));
                    });
                });
            }
        });
    });
    assert_eq!(raw.lines().filter(|l| l.contains(" to [EMAIL] end") && l.matches("thread").count() == 1).count(), 400);
}
