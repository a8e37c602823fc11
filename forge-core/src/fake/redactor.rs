//! A redactor that knows two words and one name of a field.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use super::FakeKeyring;
use crate::keyring::Keyring;
use crate::redact::{EntityKind, Finding, RedactOptions, Redactor, Style, Text};
use crate::{Result, TenantId};

/// Finds words that contain `@` (`EMAIL`), the word `hunter2` and the value of a field `password` (`SECRET`); nothing else. Its tokens are
/// those of [`FakeKeyring`].
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeRedactor;

/// Finds what [`FakeRedactor`] finds; its tokens are under the keys of a keyring, which must be loaded.
#[derive(Clone)]
pub struct StrictRedactor(Arc<dyn Keyring>);

impl StrictRedactor {
    /// With these keys.
    pub fn new(keys: Arc<dyn Keyring>) -> Self {
        Self(keys)
    }
}

impl Redactor for FakeRedactor {
    fn inspect(&self, text: Text<'_>) -> Result<Vec<Finding>> {
        Ok(find(text))
    }

    fn redact<'a>(&self, tenant: &TenantId, text: Text<'a>, options: &RedactOptions) -> Result<Cow<'a, str>> {
        replace(&FakeKeyring, tenant, text, options)
    }

    fn reveal<'a>(&self, tenant: &TenantId, text: &'a str) -> Result<Cow<'a, str>> {
        put_back(&FakeKeyring, tenant, text)
    }
}

impl Redactor for StrictRedactor {
    fn inspect(&self, text: Text<'_>) -> Result<Vec<Finding>> {
        Ok(find(text))
    }

    fn redact<'a>(&self, tenant: &TenantId, text: Text<'a>, options: &RedactOptions) -> Result<Cow<'a, str>> {
        replace(self.0.as_ref(), tenant, text, options)
    }

    fn reveal<'a>(&self, tenant: &TenantId, text: &'a str) -> Result<Cow<'a, str>> {
        put_back(self.0.as_ref(), tenant, text)
    }
}

impl fmt::Debug for StrictRedactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StrictRedactor")
    }
}

const TOKEN: &str = "[tok:";

fn find(text: Text<'_>) -> Vec<Finding> {
    if text.field == Some("password") && !text.text.trim().is_empty() && !is_placeholder(text.text) {
        return vec![Finding { start: 0, end: text.text.len(), kind: EntityKind::Secret }];
    }
    let mut findings = Vec::new();
    let mut from = 0;
    for word in text.text.split(char::is_whitespace) {
        let kind = match word {
            "hunter2" => Some(EntityKind::Secret),
            w if w.len() > 2 && w.contains('@') => Some(EntityKind::Email),
            _ => None,
        };
        let end = from + word.len();
        findings.extend(kind.map(|kind| Finding { start: from, end, kind }));
        from = end + text.text.get(end..).and_then(|t| t.chars().next()).map_or(0, char::len_utf8);
    }
    findings
}

fn is_placeholder(text: &str) -> bool {
    let inside = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    inside.is_some_and(|t| EntityKind::parse(t).is_ok() || t.strip_prefix("tok:").is_some_and(is_token))
}

fn is_token(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

fn replace<'a>(keys: &dyn Keyring, tenant: &TenantId, text: Text<'a>, options: &RedactOptions) -> Result<Cow<'a, str>> {
    let mut out = String::new();
    let mut from = 0;
    for f in find(text).into_iter().filter(|f| options.kinds.contains(&f.kind)) {
        out.push_str(text.text.get(from..f.start).unwrap_or_default());
        match options.style {
            Style::Mask => out.push_str(&format!("[{}]", f.kind)),
            Style::Token => {
                let value = text.text.get(f.start..f.end).unwrap_or_default();
                out.push_str(&format!("{TOKEN}{}]", keys.tokenize(tenant, value)?));
            }
        }
        from = f.end;
    }
    if from == 0 {
        return Ok(Cow::Borrowed(text.text));
    }
    out.push_str(text.text.get(from..).unwrap_or_default());
    Ok(Cow::Owned(out))
}

fn put_back<'a>(keys: &dyn Keyring, tenant: &TenantId, text: &'a str) -> Result<Cow<'a, str>> {
    let (mut out, mut kept) = (String::new(), 0);
    for (at, _) in text.match_indices(TOKEN) {
        let behind = text.get(at + TOKEN.len()..).unwrap_or_default();
        let Some((token, _)) = behind.split_once(']').filter(|(t, _)| is_token(t)) else { continue };
        let Some(value) = keys.detokenize(tenant, token)? else { continue };
        out.push_str(text.get(kept..at).unwrap_or_default());
        out.push_str(&value);
        kept = at + TOKEN.len() + token.len() + 1;
    }
    if kept == 0 {
        return Ok(Cow::Borrowed(text));
    }
    out.push_str(text.get(kept..).unwrap_or_default());
    Ok(Cow::Owned(out))
}
