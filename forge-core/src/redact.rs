//! Finding personal data and secrets in text, and replacing them.
//!
//! Redaction is CPU work, so the trait is sync; keys were loaded before (see [`Keyring`](crate::keyring::Keyring)).

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{Error, Result, TenantId};

/// A kind of sensitive text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
#[non_exhaustive]
pub enum EntityKind {
    /// A payment card number that passes the Luhn check.
    CreditCard,
    /// An e-mail address.
    Email,
    /// An international bank account number with valid check digits.
    Iban,
    /// A telephone number.
    Phone,
    /// A credential, known by its form or by the name of its field.
    Secret,
    /// A United States social security number.
    UsSsn,
}

impl EntityKind {
    /// Every kind.
    pub const ALL: [Self; 6] = [Self::CreditCard, Self::Email, Self::Iban, Self::Phone, Self::Secret, Self::UsSsn];

    /// The word in flags, placeholders, metrics and audit rows.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::CreditCard => "CREDIT_CARD",
            Self::Email => "EMAIL",
            Self::Iban => "IBAN",
            Self::Phone => "PHONE",
            Self::Secret => "SECRET",
            Self::UsSsn => "US_SSN",
        }
    }

    /// The kind of this word.
    ///
    /// # Errors
    /// `InvalidInput` for a word that no kind has.
    pub fn parse(word: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|k| k.as_str() == word)
            .ok_or_else(|| Error::invalid("entity_kind.parse", "unknown kind of entity").with("kind", word.to_owned()))
    }
}

impl fmt::Display for EntityKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A detected span of sensitive text. It holds positions, never the text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Finding {
    /// First byte.
    pub start: usize,
    /// One past the last byte.
    pub end: usize,
    /// What it is.
    pub kind: EntityKind,
}

/// What takes the place of a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// `[EMAIL]`: cannot be undone.
    #[default]
    Mask,
    /// A reversible token under the tenant's key; [`Redactor::reveal`] gives the value back.
    Token,
}

/// Which kinds to replace, and by what.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct RedactOptions {
    /// What takes their place.
    pub style: Style,
    /// The kinds to replace.
    pub kinds: BTreeSet<EntityKind>,
}

impl RedactOptions {
    /// Every kind, masked: for logs, traces, audit and usage.
    pub fn mask_all() -> Self {
        Self { style: Style::Mask, kinds: EntityKind::ALL.into() }
    }

    /// Every kind as reversible tokens: for queues and memory.
    pub fn tokenize_all() -> Self {
        Self { style: Style::Token, kinds: EntityKind::ALL.into() }
    }

    /// These kinds, masked.
    pub fn mask(kinds: impl IntoIterator<Item = EntityKind>) -> Self {
        Self { style: Style::Mask, kinds: kinds.into_iter().collect() }
    }
}

/// Text to look at, with the name of the field that it stands in, where it has one: a value called `password` is a secret
/// whatever it looks like.
#[derive(Debug, Clone, Copy)]
pub struct Text<'a> {
    /// The field's name.
    pub field: Option<&'a str>,
    /// The text.
    pub text: &'a str,
}

impl<'a> From<&'a str> for Text<'a> {
    fn from(text: &'a str) -> Self {
        Self { field: None, text }
    }
}

/// Finds and replaces. Sync, no IO; an error means that the text may not cross its boundary.
///
/// # Contract
/// `inspect` returns findings in order, without overlap, on character boundaries. `redact` borrows when nothing is found.
/// `reveal` undoes `Style::Token` for the same tenant and leaves another tenant's tokens as they are.
pub trait Redactor: fmt::Debug + Send + Sync + 'static {
    /// Looks, without change.
    ///
    /// # Errors
    /// `Redaction` if the text cannot be scanned.
    fn inspect(&self, text: Text<'_>) -> Result<Vec<Finding>>;

    /// Replaces.
    ///
    /// # Errors
    /// `Redaction` if the text cannot be scanned or a tenant's key is not loaded.
    fn redact<'a>(&self, tenant: &TenantId, text: Text<'a>, options: &RedactOptions) -> Result<Cow<'a, str>>;

    /// Puts the values of this tenant's tokens back.
    ///
    /// # Errors
    /// `Redaction` if the tenant's key is not loaded.
    fn reveal<'a>(&self, tenant: &TenantId, text: &'a str) -> Result<Cow<'a, str>>;
}

/// Redaction of JSON: every string, and the names of fields as hints. Blanket: every [`Redactor`] has it.
pub trait RedactorExt: Redactor {
    /// The kinds found in any string of a JSON value, sorted.
    ///
    /// # Errors
    /// Those of [`Redactor::inspect`].
    fn inspect_json(&self, value: &Value) -> Result<BTreeSet<EntityKind>> {
        let mut kinds = BTreeSet::new();
        visit(value, None, &mut |text| {
            kinds.extend(self.inspect(text)?.into_iter().map(|f| f.kind));
            Ok(())
        })?;
        Ok(kinds)
    }

    /// Replaces in every string of a JSON value, in place; returns how many strings changed.
    ///
    /// # Errors
    /// Those of [`Redactor::redact`].
    fn redact_json(&self, tenant: &TenantId, value: &mut Value, options: &RedactOptions) -> Result<usize> {
        rewrite(value, None, &mut |field, text| match self.redact(tenant, Text { field, text }, options)? {
            Cow::Borrowed(_) => Ok(None),
            Cow::Owned(new) => Ok(Some(new)),
        })
    }

    /// Replaces in each of some texts, in place.
    ///
    /// # Errors
    /// Those of [`Redactor::redact`].
    fn redact_texts<'t>(
        &self,
        tenant: &TenantId,
        texts: impl IntoIterator<Item = &'t mut String>,
        options: &RedactOptions,
    ) -> Result<()> {
        for text in texts {
            if let Cow::Owned(new) = self.redact(tenant, text.as_str().into(), options)? {
                *text = new;
            }
        }
        Ok(())
    }

    /// Puts the values of tokens back in every string of a JSON value, in place.
    ///
    /// # Errors
    /// Those of [`Redactor::reveal`].
    fn reveal_json(&self, tenant: &TenantId, value: &mut Value) -> Result<usize> {
        rewrite(value, None, &mut |_, text| match self.reveal(tenant, text)? {
            Cow::Borrowed(_) => Ok(None),
            Cow::Owned(new) => Ok(Some(new)),
        })
    }
}

impl<R: Redactor + ?Sized> RedactorExt for R {}

fn visit(value: &Value, field: Option<&str>, look: &mut dyn FnMut(Text<'_>) -> Result<()>) -> Result<()> {
    match value {
        Value::String(text) => look(Text { field, text }),
        // a bare number may be a card or an account: it is looked at as text
        Value::Number(n) => look(Text { field, text: &n.to_string() }),
        Value::Array(items) => items.iter().try_for_each(|v| visit(v, field, look)),
        Value::Object(map) => map.iter().try_for_each(|(k, v)| {
            look(Text { field: None, text: k })?;
            visit(v, Some(k), look)
        }),
        Value::Null | Value::Bool(_) => Ok(()),
    }
}

type Rewrite<'a> = &'a mut dyn FnMut(Option<&str>, &str) -> Result<Option<String>>;

fn rewrite(value: &mut Value, field: Option<&str>, edit: Rewrite<'_>) -> Result<usize> {
    let replaced = match value {
        Value::String(text) => edit(field, text)?,
        Value::Number(n) => edit(field, &n.to_string())?,
        Value::Array(items) => {
            let mut n = 0;
            for item in items {
                n += rewrite(item, field, edit)?;
            }
            return Ok(n);
        }
        Value::Object(map) => {
            let mut n = 0;
            let mut renamed = Vec::new();
            for (key, item) in map.iter_mut() {
                n += rewrite(item, Some(key), edit)?;
                if let Some(new) = edit(None, key)? {
                    renamed.push((key.clone(), new));
                }
            }
            for (old, new) in renamed {
                if let Some(item) = map.remove(&old) {
                    map.insert(new, item);
                    n += 1;
                }
            }
            return Ok(n);
        }
        Value::Null | Value::Bool(_) => None,
    };
    Ok(replaced.map_or(0, |new| {
        *value = Value::String(new);
        1
    }))
}
