//! What the tests of the store share.
#![allow(dead_code, clippy::unwrap_used, reason = "helpers of tests, not all of them used by each")]

use std::borrow::Cow;
use std::path::Path;

use forge_core::redact::{EntityKind, Finding, RedactOptions, Redactor, Text};
use forge_core::vector::Record;
use forge_core::{ExecutionContext, Namespace, Result, Slug, TenantId};

pub(crate) fn playbook(ctx: &ExecutionContext) -> Namespace {
    Namespace::shared(ctx, Slug::parse("firm").unwrap(), Slug::parse("playbook").unwrap())
}

pub(crate) fn record(id: &str, text: &str, vector: Vec<f32>) -> Record {
    Record { id: id.into(), title: String::new(), text: text.into(), vector, tags: Default::default() }
}

/// A unit vector in the plane, its nearness to `[1, 0]`.
pub(crate) fn near(x: f32) -> Vec<f32> {
    vec![x, (1.0 - x * x).sqrt()]
}

pub(crate) fn raw_bytes(dir: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
        // a log goes with its last user, so a file may be gone by now
        all.extend(if entry.is_dir() { raw_bytes(&entry) } else { std::fs::read(entry).unwrap_or_default() });
    }
    all
}

/// Whatever the case: an index folds it.
pub(crate) fn holds(bytes: &[u8], needle: &str) -> bool {
    bytes.windows(needle.len()).any(|w| w.eq_ignore_ascii_case(needle.as_bytes()))
}

/// An e-mail address, an account and a card.
pub(crate) const PLANTED: [&str; 3] = ["carla.canary@example.com", "DE89370400440532013000", "4111111111111111"];

/// Knows the planted values and nothing else.
#[derive(Debug)]
pub(crate) struct PlantedRedactor;

fn token(tenant: &TenantId, n: usize) -> String {
    format!("[tok_{tenant}_{n}]")
}

impl Redactor for PlantedRedactor {
    fn inspect(&self, text: Text<'_>) -> Result<Vec<Finding>> {
        let mut found: Vec<Finding> = PLANTED
            .iter()
            .flat_map(|value| text.text.match_indices(value))
            .map(|(start, value)| Finding { start, end: start + value.len(), kind: EntityKind::Email })
            .collect();
        found.sort_by_key(|f| f.start);
        Ok(found)
    }

    fn redact<'a>(&self, tenant: &TenantId, text: Text<'a>, _: &RedactOptions) -> Result<Cow<'a, str>> {
        if self.inspect(text)?.is_empty() {
            return Ok(Cow::Borrowed(text.text));
        }
        let tokens = PLANTED.iter().enumerate().fold(text.text.to_owned(), |t, (n, v)| t.replace(v, &token(tenant, n)));
        Ok(Cow::Owned(tokens))
    }

    fn reveal<'a>(&self, tenant: &TenantId, text: &'a str) -> Result<Cow<'a, str>> {
        Ok(Cow::Owned(PLANTED.iter().enumerate().fold(text.to_owned(), |t, (n, v)| t.replace(&token(tenant, n), v))))
    }
}
