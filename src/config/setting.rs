//! How a value is written: one reader and one printer a type.

use std::path::PathBuf;
use std::time::Duration;

use forge_core::secret::SecretRef;
use forge_core::{Currency, Money};
use forge_memory::openai::LimitField;
use forge_metering::Window;
use jiff::SignedDuration;
use rust_decimal::Decimal;

/// What was written.
#[derive(Debug, Clone)]
pub(super) enum Value {
    /// Text in quotes.
    Text(String),
    /// A whole number, as digits.
    Number(String),
    /// `true` or `false`.
    Flag(bool),
    /// What stands in a variable, which has no types.
    Variable(String),
    /// Something that no key takes, by its name.
    Other(&'static str),
}

/// A field that can be set by name.
pub(super) trait Setting {
    /// Its type, for a reader.
    fn kind(&self) -> &'static str;
    /// Takes a value, or says what would fit.
    fn set(&mut self, value: &Value) -> Result<(), String>;
    /// The value as TOML; none if it is not set.
    fn show(&self) -> Option<String>;
    /// Its size, where it has bounds: a number, or milliseconds.
    fn size(&self) -> Option<u128> {
        None
    }
    /// A size as a reader would write it.
    fn show_size(&self, size: u128) -> String {
        size.to_string()
    }
}

fn expected(kind: &str, value: &Value) -> String {
    match value {
        Value::Other(what) => format!("expected {kind}, found {what}"),
        Value::Number(_) => format!("expected {kind}, found a number"),
        Value::Flag(flag) => format!("expected {kind}, found {flag}"),
        Value::Text(_) | Value::Variable(_) => format!("expected {kind}"),
    }
}

fn text<'a>(kind: &str, value: &'a Value) -> Result<&'a str, String> {
    match value {
        Value::Text(t) | Value::Variable(t) if t.trim().is_empty() => Err(format!("is empty; expected {kind}")),
        Value::Text(t) | Value::Variable(t) => Ok(t),
        Value::Number(_) | Value::Flag(_) | Value::Other(_) => Err(expected(kind, value)),
    }
}

fn quoted(text: &str) -> String {
    format!("{text:?}")
}

macro_rules! whole_number {
    ($($t:ty),*) => {$(
        impl Setting for $t {
            fn kind(&self) -> &'static str {
                "a whole number"
            }
            fn set(&mut self, value: &Value) -> Result<(), String> {
                let (Value::Number(digits) | Value::Variable(digits)) = value else {
                    return Err(expected(self.kind(), value));
                };
                *self = digits.trim().parse().map_err(|_| format!("expected {} of at most {}", self.kind(), <$t>::MAX))?;
                Ok(())
            }
            fn show(&self) -> Option<String> {
                Some(self.to_string())
            }
            fn size(&self) -> Option<u128> {
                u128::try_from(*self).ok()
            }
        }
    )*};
}

whole_number!(u32, u64, usize);

impl Setting for PathBuf {
    fn kind(&self) -> &'static str {
        "a path"
    }
    fn set(&mut self, value: &Value) -> Result<(), String> {
        let path = text(self.kind(), value)?;
        if path.contains('\0') {
            return Err("a path has no NUL".to_owned());
        }
        *self = path.into();
        Ok(())
    }
    fn show(&self) -> Option<String> {
        Some(quoted(&self.to_string_lossy()))
    }
}

impl Setting for String {
    fn kind(&self) -> &'static str {
        "text"
    }
    fn set(&mut self, value: &Value) -> Result<(), String> {
        text(self.kind(), value)?.trim().clone_into(self);
        Ok(())
    }
    fn show(&self) -> Option<String> {
        (!self.is_empty()).then(|| quoted(self))
    }
}

impl Setting for bool {
    fn kind(&self) -> &'static str {
        "true or false"
    }
    fn set(&mut self, value: &Value) -> Result<(), String> {
        *self = match value {
            Value::Flag(flag) => *flag,
            Value::Variable(text) => text.trim().parse().map_err(|_| expected(self.kind(), value))?,
            Value::Text(_) | Value::Number(_) | Value::Other(_) => return Err(expected(self.kind(), value)),
        };
        Ok(())
    }
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

macro_rules! may_be_unset {
    ($($t:ty),*) => {$(
        impl Setting for Option<$t> {
            fn kind(&self) -> &'static str {
                <$t>::default().kind()
            }
            fn set(&mut self, value: &Value) -> Result<(), String> {
                self.insert(<$t>::default()).set(value)
            }
            fn show(&self) -> Option<String> {
                self.as_ref().and_then(Setting::show)
            }
            fn size(&self) -> Option<u128> {
                self.as_ref().and_then(Setting::size)
            }
        }
    )*};
}

may_be_unset!(PathBuf, u32);

impl Setting for Duration {
    fn kind(&self) -> &'static str {
        "a duration"
    }
    fn set(&mut self, value: &Value) -> Result<(), String> {
        let wrong = || "expected a duration with its unit, such as \"30s\", \"5m\" or \"1h 30m\"".to_owned();
        let (Value::Text(t) | Value::Variable(t)) = value else { return Err(wrong()) };
        let d: SignedDuration = t.trim().parse().map_err(|_| wrong())?;
        *self = Duration::try_from(d).map_err(|_| "a duration is not negative".to_owned())?;
        Ok(())
    }
    fn show(&self) -> Option<String> {
        // code may set more than the printer knows
        Some(SignedDuration::try_from(*self).map_or_else(|_| format!("{self:?}"), |d| quoted(&format!("{d:#}"))))
    }
    fn size(&self) -> Option<u128> {
        Some(self.as_millis())
    }
    fn show_size(&self, size: u128) -> String {
        format!("{:#}", SignedDuration::from_millis(i64::try_from(size).unwrap_or(i64::MAX)))
    }
}

/// What stands for "no limit".
const UNLIMITED: &str = "unlimited";

impl Setting for Option<u64> {
    fn kind(&self) -> &'static str {
        "a whole number or \"unlimited\""
    }
    fn set(&mut self, value: &Value) -> Result<(), String> {
        match value {
            Value::Text(t) | Value::Variable(t) if t == UNLIMITED => *self = None,
            Value::Number(_) | Value::Variable(_) => {
                let mut number = 0_u64;
                number.set(value).map_err(|_| expected(self.kind(), &Value::Text(String::new())))?;
                *self = Some(number);
            }
            Value::Text(_) | Value::Flag(_) | Value::Other(_) => return Err(expected(self.kind(), value)),
        }
        Ok(())
    }
    fn show(&self) -> Option<String> {
        Some(self.map_or_else(|| quoted(UNLIMITED), |n| n.to_string()))
    }
}

impl Setting for Option<Money> {
    fn kind(&self) -> &'static str {
        "an amount and its currency or \"unlimited\""
    }
    fn set(&mut self, value: &Value) -> Result<(), String> {
        let wrong = || "expected an amount and its currency, such as \"250.00 USD\", or \"unlimited\"".to_owned();
        let text = text(self.kind(), value).map_err(|_| wrong())?.trim();
        if text == UNLIMITED {
            *self = None;
            return Ok(());
        }
        let (amount, currency) = text.split_once(' ').ok_or_else(wrong)?;
        let amount = Decimal::from_str_exact(amount).map_err(|_| wrong())?;
        let currency = Currency::parse(currency.trim()).map_err(|_| wrong())?;
        *self = Some(Money::new(amount, currency));
        Ok(())
    }
    fn show(&self) -> Option<String> {
        Some(self.map_or_else(|| quoted(UNLIMITED), |m| quoted(&format!("{} {}", m.amount, m.currency.as_str()))))
    }
}

macro_rules! one_of {
    ($($t:ty, $kind:literal;)*) => {$(
        impl Setting for $t {
            fn kind(&self) -> &'static str {
                $kind
            }
            fn set(&mut self, value: &Value) -> Result<(), String> {
                let given = text(self.kind(), value)?.trim();
                let known = <$t>::ALL.into_iter().find(|one| one.as_str() == given);
                *self = known.ok_or_else(|| expected(self.kind(), value))?;
                Ok(())
            }
            fn show(&self) -> Option<String> {
                Some(quoted(self.as_str()))
            }
        }
    )*};
}

one_of! {
    Window, "\"day\" or \"month\"";
    LimitField, "\"max_tokens\" or \"max_completion_tokens\"";
}

/// What is said of a secret that stands where its reference should; the secret is not repeated.
pub(super) const LITERAL: &str = "is a literal; give a reference: env:NAME, file:PATH or vault:PATH";

/// The kind of every key that holds a secret.
pub(super) const REFERENCE: &str = "a reference to a secret";

impl Setting for Option<SecretRef> {
    fn kind(&self) -> &'static str {
        REFERENCE
    }
    fn set(&mut self, value: &Value) -> Result<(), String> {
        *self = Some(text(REFERENCE, value)?.parse().map_err(|_| LITERAL.to_owned())?);
        Ok(())
    }
    fn show(&self) -> Option<String> {
        self.as_ref().map(|r| quoted(&r.to_string()))
    }
}
