//! The standard redactor: the detectors, the placeholders and the tokens.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use forge_core::keyring::Keyring;
use forge_core::redact::{EntityKind, Finding, RedactOptions, Redactor, Style, Text};
use forge_core::{Error, ErrorKind, Result, TenantId};

use crate::detect::{self, TOKEN, mask};

/// Finds e-mail addresses, phone numbers, payment cards, IBANs, US social security numbers and secrets, by rules.
///
/// A mask reads `[EMAIL]`, a token `[EMAIL:tok_…]`. Neither is found again, so redacting twice is redacting once. Takes time
/// linear in the text; text without long numbers, `@` and words such as "key" costs one look and no allocation.
pub struct StandardRedactor {
    keyring: Option<Arc<dyn Keyring>>,
}

impl StandardRedactor {
    /// With the keys that make tokens reversible; masks need none.
    pub fn new(keyring: Arc<dyn Keyring>) -> Self {
        Self { keyring: Some(keyring) }
    }

    /// Without keys: it masks, for logs and spans; to make a token or to reveal one is an error.
    pub fn masking() -> Self {
        Self { keyring: None }
    }

    fn keys(&self) -> Result<&dyn Keyring> {
        let none = || {
            Error::new(
                ErrorKind::Redaction,
                "redactor.keys",
                "this redactor masks only; make it with a keyring for tokens",
            )
        };
        self.keyring.as_deref().ok_or_else(none)
    }
}

impl Redactor for StandardRedactor {
    fn inspect(&self, text: Text<'_>) -> Result<Vec<Finding>> {
        Ok(detect::find(text, &EntityKind::ALL.into()))
    }

    fn redact<'a>(&self, tenant: &TenantId, text: Text<'a>, options: &RedactOptions) -> Result<Cow<'a, str>> {
        let found = detect::find(text, &options.kinds);
        if found.is_empty() {
            return Ok(Cow::Borrowed(text.text));
        }
        let mut out = String::with_capacity(text.text.len());
        let mut from = 0;
        for f in found {
            out.push_str(text.text.get(from..f.start).unwrap_or_default());
            match options.style {
                Style::Mask => out.extend(mask(f.kind)),
                Style::Token => {
                    let value = text.text.get(f.start..f.end).unwrap_or_default();
                    out.extend(["[", f.kind.as_str(), TOKEN, &self.keys()?.tokenize(tenant, value)?, "]"]);
                }
            }
            from = f.end;
        }
        out.push_str(text.text.get(from..).unwrap_or_default());
        Ok(Cow::Owned(out))
    }

    fn reveal<'a>(&self, tenant: &TenantId, text: &'a str) -> Result<Cow<'a, str>> {
        if !text.contains(TOKEN) {
            return Ok(Cow::Borrowed(text));
        }
        let mut out = String::new();
        let mut kept = 0;
        for place in detect::placeholders(text) {
            let Some((_, token)) = text.get(place.start + 1..place.end - 1).and_then(|t| t.split_once(TOKEN)) else {
                continue;
            };
            // another tenant's token, or none at all, stays as it is
            let Some(value) = self.keys()?.detokenize(tenant, token)? else { continue };
            out.push_str(text.get(kept..place.start).unwrap_or_default());
            out.push_str(&value);
            kept = place.end;
        }
        if kept == 0 {
            return Ok(Cow::Borrowed(text));
        }
        out.push_str(text.get(kept..).unwrap_or_default());
        Ok(Cow::Owned(out))
    }
}

impl fmt::Debug for StandardRedactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StandardRedactor")
    }
}
