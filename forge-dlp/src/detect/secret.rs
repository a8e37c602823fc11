//! Credentials inside text: by a form that only credentials have, or by the name that stands before them.
//!
//! One automaton finds the places where either may begin; only there anything else looks.

use std::ops::Range;
use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, MatchKind};
use forge_core::redact::EntityKind;
use regex::Regex;

use super::{Candidates, assigned, pattern, scan::Scan};

/// Beginnings of forms by which services mark their credentials (sources: the issuers' documentation), with the form. The group
/// is the secret; without a group the whole is.
const FORMS: &[(&str, &str)] = &[
    (
        "-----BEGIN ",
        r"(?s)\A-----BEGIN [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----.*?(?:-----END [A-Z0-9 ]{0,32}PRIVATE KEY(?: BLOCK)?-----|\z)",
    ),
    ("sk-", r"\Ask-[A-Za-z0-9_-]{16,}"),
    ("sk_", r"\Ask_(?:live|test)_[A-Za-z0-9]{16,}"),
    ("rk_", r"\Ark_(?:live|test)_[A-Za-z0-9]{16,}"),
    ("ghp_", r"\Aghp_[A-Za-z0-9]{20,}"),
    ("gho_", r"\Agho_[A-Za-z0-9]{20,}"),
    ("ghu_", r"\Aghu_[A-Za-z0-9]{20,}"),
    ("ghs_", r"\Aghs_[A-Za-z0-9]{20,}"),
    ("ghr_", r"\Aghr_[A-Za-z0-9]{20,}"),
    ("github_pat_", r"\Agithub_pat_[A-Za-z0-9_]{22,}"),
    ("glpat-", r"\Aglpat-[A-Za-z0-9_-]{20,}"),
    ("AKIA", r"\AAKIA[0-9A-Z]{16}\b"),
    ("ASIA", r"\AASIA[0-9A-Z]{16}\b"),
    ("AIza", r"\AAIza[A-Za-z0-9_-]{35}"),
    ("xox", r"\Axox[abeprs]-[A-Za-z0-9-]{10,}"),
    ("hvs.", r"\Ahvs\.[A-Za-z0-9_-]{20,}"),
    ("npm_", r"\Anpm_[A-Za-z0-9]{30,}"),
    ("pypi-", r"\Apypi-[A-Za-z0-9_-]{16,}"),
    ("SG.", r"\ASG\.[A-Za-z0-9_-]{16,}\.[A-Za-z0-9_-]{16,}"),
    ("AccountKey=", r"(?i)\AAccountKey=([A-Za-z0-9+/=]{40,})"),
    ("eyJ", r"\AeyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*"),
    (
        "bearer",
        r"(?i)\Abearer[ \t]+([A-Za-z._~+/=-]{0,64}[0-9][A-Za-z0-9._~+/=-]{5,}|[A-Za-z._~+/=-]{4,64}[0-9][A-Za-z0-9._~+/=-]*|[A-Za-z0-9._~+/=-]{24,})",
    ),
    ("://", r#"\A://[^\s/:@"'<>]{0,256}:([^\s/@"'<>]{1,256})@"#),
];

/// Parts of the names that [`super::names`] knows, in any case.
const NAMES: &[&str] = &[
    "passw",
    "passp",
    "passc",
    "_pass",
    "-pass",
    ".pass",
    "smtppass",
    "dbpass",
    "userpass",
    "pwd",
    "secret",
    "token",
    "key",
    "credential",
    "authorization",
];

static HINTS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    let hints = FORMS.iter().map(|(hint, _)| *hint).chain(NAMES.iter().copied());
    #[expect(clippy::expect_used, reason = "a constant of this file, built by every test")]
    AhoCorasick::builder()
        .ascii_case_insensitive(true)
        .match_kind(MatchKind::LeftmostFirst)
        .build(hints)
        .expect("the hints build an automaton")
});
static COMPILED: LazyLock<Vec<Regex>> = LazyLock::new(|| FORMS.iter().map(|(_, form)| pattern(form)).collect());

pub(super) fn find(scan: &Scan<'_>, out: &mut Candidates) {
    // what was looked at is not looked at again, so that the time stays linear
    let (mut form_free, mut name_free) = (0, 0);
    for hint in HINTS.find_iter(scan.text) {
        let at = hint.start();
        if let Some(form) = COMPILED.get(hint.pattern().as_usize()) {
            if at >= form_free
                && let Some(range) = matching(scan, form, at)
            {
                form_free = range.end;
                out.push((EntityKind::Secret, range));
            }
        } else if at >= name_free {
            let (name_end, value) = assigned::value_of(scan, hint.range());
            name_free = value.as_ref().map_or(name_end, |v| v.end).max(name_free);
            out.extend(value.map(|v| (EntityKind::Secret, v)));
        }
    }
}

/// A form that begins here, not inside a word.
fn matching(scan: &Scan<'_>, form: &Regex, at: usize) -> Option<Range<usize>> {
    let rest = scan.text.get(at..)?;
    let inside = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-');
    let marks = rest.starts_with("://") || rest.starts_with("-----");
    if !marks && scan.text.get(..at)?.ends_with(inside) {
        return None;
    }
    let found = form.captures(rest)?;
    let secret = found.get(1).or_else(|| found.get(0))?;
    Some(at + secret.start()..at + secret.end())
}

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use forge_core::redact::EntityKind::Secret;

    #[test]
    fn forms() {
        for yes in [
            "sk-proj-abcdefghijklmnop1234",
            "ghp_abcdefghijklmnopqrstuvwxyz0123456789",
            "github_pat_11ABCDEFG0abcdefghijklmnop",
            "AKIAIOSFODNN7EXAMPLE",
            "xoxb-123456789012-abcdefghij",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
            "eyJhbGciOiJub25lIn0.eyJzdWIiOiIxIn0.",
            "npm_abcdefghijklmnopqrstuvwxyz0123456789",
            "pypi-AgEIcHlwaS5vcmcabcdefghijklmnop",
            "SG.abcdefghijklmnopqrstuv.abcdefghijklmnopqrstuv",
            "hvs.CAESIJabcdefghijklmnopqrst",
            "AIzaSyA1234567890abcdefghijklmnopqrstuv",
            "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBg\n-----END PRIVATE KEY-----",
            "-----BEGIN RSA PRIVATE KEY-----\nDEK-Info: AES-128-CBC,00\n\nMIIE\n-----END RSA PRIVATE KEY-----",
        ] {
            assert_eq!(found(Secret, &format!("see ({yes}) here")), [yes]);
        }
        assert_eq!(found(Secret, "curl -H 'Bearer abc.def-123'"), ["abc.def-123"]);
        assert_eq!(found(Secret, "postgres://forge:s3cr3t!@db.example.com/x"), ["s3cr3t!"]);
        let cut = "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ";
        assert_eq!(found(Secret, &format!("log: {cut}")), [cut], "a key that is cut off is still a key");
    }

    #[test]
    fn what_only_looks_like_a_form() {
        for no in [
            "task-abcdefghijklmnopqrstuvwxyz",
            "sk-short",
            "ask-me-anything-at-any-time-please",
            "the bearer certificates of the company",
            "AKIA is a prefix",
            "https://example.com:8080/path@x",
            "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
            "eyJust.a.name",
            "xoxo-love-and-kisses",
        ] {
            assert!(found(Secret, no).is_empty(), "{no}: {:?}", found(Secret, no));
        }
    }

    #[test]
    fn hostile_text_is_scanned_in_linear_time() {
        // the work is counted by size: a quadratic scan of this would take minutes
        for unit in [
            "password=",
            "eyJaaaaaaaa-",
            "sk-",
            "token ",
            "-----BEGIN ",
            "://a:",
            "a@",
            "+1 2",
            "key\\\"",
            "212-555-0142-",
        ] {
            let text = unit.repeat(400_000 / unit.len());
            let _ = found(Secret, &text);
        }
    }
}
