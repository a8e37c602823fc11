//! Finding personal data and secrets in text, and replacing them.
//!
//! Redaction is CPU work, so the trait is sync; keys were loaded before (see [`Keyring`](crate::keyring::Keyring)).

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

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

/// Finds and replaces. Sync, no IO; an error means that the text may not cross its boundary, and holds nothing of it.
///
/// # Contract
/// - Any text may come, also one made to do harm: nothing panics.
/// - `inspect` returns findings in order, without overlap, none empty, inside the text and on character boundaries. The value of a
///   field that is named as a secret, such as `password`, is one as a whole.
/// - `redact` replaces the wanted kinds and leaves every other byte as it was; it borrows where there is nothing to replace.
///   Redacting again changes nothing, and in masked text nothing is found.
/// - A mask is the same for every value and tenant, and needs no key.
/// - Equal values of one tenant have equal tokens, of two tenants never. `reveal` puts back, byte by byte, what this tenant's tokens stand
///   for. Another tenant's token, or a forged one, stays as it is; where nothing is put back, the text is borrowed.
/// - A token to make or to undo for a tenant whose keys are not loaded is a `Redaction` error, never IO.
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

/// Redaction of JSON: every string, every number, and the names of fields, which are hints too. Blanket: every [`Redactor`] has it.
///
/// Structure and order stay. A number in which nothing is found stays a number. One that is replaced becomes a string: a mask, or behind the
/// letter `n` a token, by which [`reveal_json`](RedactorExt::reveal_json) knows that it was a number. Of two names that become one,
/// the second gets a number behind it. After an error a part may be replaced.
pub trait RedactorExt: Redactor {
    /// The kinds found in any string or number of a JSON value, sorted.
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

    /// Replaces in a JSON value, in place; returns how many strings, numbers and names changed.
    ///
    /// # Errors
    /// Those of [`Redactor::redact`].
    fn redact_json(&self, tenant: &TenantId, value: &mut Value, options: &RedactOptions) -> Result<usize> {
        let mark = if options.style == Style::Token { NUMBER } else { "" };
        rewrite(value, None, mark, &mut |text| Ok(changed(self.redact(tenant, text, options)?)))
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

    /// Puts the values of tokens back in a JSON value, in place: numbers as numbers.
    ///
    /// # Errors
    /// Those of [`Redactor::reveal`].
    fn reveal_json(&self, tenant: &TenantId, value: &mut Value) -> Result<usize> {
        rewrite(value, None, NUMBER, &mut |text| Ok(changed(self.reveal(tenant, text.text)?)))
    }
}

impl<R: Redactor + ?Sized> RedactorExt for R {}

/// Stands before the tokens of what was a number. A letter: before a bare number it would make it a part of a word, so that no text
/// of a tenant's turns into this by being tokenised.
const NUMBER: &str = "n";

/// What stands behind the mark of a number: at least one placeholder, and beside it only what numbers are written with.
fn marked(text: &str) -> Option<&str> {
    let number = text.strip_prefix(NUMBER)?;
    let (head, mut rest) = number.split_once('[')?;
    let digits = |t: &str| t.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e'));
    let mut plain = head;
    loop {
        let (_, behind) = rest.split_once(']')?;
        if !digits(plain) {
            return None;
        }
        match behind.split_once('[') {
            Some(next) => (plain, rest) = next,
            None => return digits(behind).then_some(number),
        }
    }
}

fn changed(text: Cow<'_, str>) -> Option<String> {
    match text {
        Cow::Borrowed(_) => None,
        Cow::Owned(new) => Some(new),
    }
}

fn visit(value: &Value, field: Option<&str>, look: &mut dyn FnMut(Text<'_>) -> Result<()>) -> Result<()> {
    match value {
        Value::String(text) => look(Text { field, text: marked(text).unwrap_or(text) }),
        // a bare number may be a card or an account: it is looked at as text
        Value::Number(n) => look(Text { field, text: &n.to_string() }),
        Value::Array(items) => items.iter().try_for_each(|v| visit(v, field, look)),
        Value::Object(map) => map.iter().try_for_each(|(k, v)| {
            look(k.as_str().into())?;
            visit(v, Some(k), look)
        }),
        Value::Null | Value::Bool(_) => Ok(()),
    }
}

type Edit<'e> = &'e mut dyn FnMut(Text<'_>) -> Result<Option<String>>;

fn rewrite(value: &mut Value, field: Option<&str>, mark: &str, edit: Edit<'_>) -> Result<usize> {
    let new = match value {
        Value::String(text) => match marked(text) {
            Some(number) => edit(Text { field, text: number })?.map(restored),
            None => edit(Text { field, text })?.map(Value::String),
        },
        Value::Number(n) => {
            edit(Text { field, text: &n.to_string() })?.map(|new| Value::String(format!("{mark}{new}")))
        }
        Value::Array(items) => {
            return items.iter_mut().try_fold(0, |n, item| Ok(n + rewrite(item, field, mark, edit)?));
        }
        Value::Object(map) => {
            let mut changed = values(map, mark, edit)?;
            let renamed = rename(map, edit)?;
            if renamed > 0 {
                // a new name may say of its value what the old one did not; what was replaced for both is put back in two steps
                changed += values(map, mark, edit)?;
            }
            return Ok(changed + renamed);
        }
        Value::Null | Value::Bool(_) => None,
    };
    Ok(new.map_or(0, |new| {
        *value = new;
        1
    }))
}

fn values(map: &mut Map<String, Value>, mark: &str, edit: Edit<'_>) -> Result<usize> {
    map.iter_mut().try_fold(0, |n, (name, item)| Ok(n + rewrite(item, Some(name), mark, edit)?))
}

/// The number that a marked text stands for, or the text where not all of it was put back.
fn restored(text: String) -> Value {
    // by the standard library, since serde_json's own reading of a float may be the neighbour of the one that was written
    let float = || text.parse().ok().and_then(Number::from_f64);
    let number = text.parse::<u64>().map(Number::from).or_else(|_| text.parse::<i64>().map(Number::from)).ok();
    match number.or_else(float) {
        Some(n) if n.to_string() == text => Value::Number(n),
        _ => Value::String(format!("{NUMBER}{text}")),
    }
}

/// The names of an object's fields, each in its place.
fn rename(map: &mut Map<String, Value>, edit: Edit<'_>) -> Result<usize> {
    let mut new = BTreeMap::new();
    for (place, name) in map.keys().enumerate() {
        if let Some(name) = edit(name.as_str().into())? {
            new.insert(place, name);
        }
    }
    if new.is_empty() {
        return Ok(0);
    }
    let count = new.len();
    let kept = map.keys().enumerate().filter(|(place, _)| !new.contains_key(place));
    let kept: BTreeSet<String> = kept.map(|(_, name)| name.clone()).collect();
    let mut renamed = Map::new();
    for (place, (old, item)) in std::mem::take(map).into_iter().enumerate() {
        let name = match new.remove(&place) {
            None => old,
            Some(new) => {
                let free = |n: &String| !kept.contains(n) && !renamed.contains_key(n);
                std::iter::once(new.clone()).chain((2_u64..).map(|i| format!("{new} {i}"))).find(free).unwrap_or(new)
            }
        };
        renamed.insert(name, item);
    }
    *map = renamed;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_tokens_among_digits_are_marked_as_numbers() {
        for yes in ["n[EMAIL:tok_Ab-_]", "n-[PHONE:tok_x].5", "n[A][B]", "n1[tok:x]e+3"] {
            assert_eq!(marked(yes), Some(&yes[1..]), "{yes}");
        }
        for no in ["", "n", "n12", "[EMAIL]", "number [EMAIL]", "n[EMAIL", "n[EMAIL] or", "n[A]b[C]", "n]["] {
            assert_eq!(marked(no), None, "{no}");
        }
    }
}
