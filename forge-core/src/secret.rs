//! Secrets: a value that does not print, a reference that may, and the two providers that configuration needs on day one.

use std::collections::HashMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result};

/// A secret value: wiped on drop, no `Serialize`, `Debug` prints `***`.
#[derive(Clone)]
pub struct Secret(SecretString);

impl Secret {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(SecretString::from(value.into()))
    }

    /// The value, for the one line that sends it.
    pub fn expose(&self) -> &str {
        self.0.expose_secret()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Where a secret is: `env:NAME`, `file:PATH`, or `SCHEME:PATH` of a provider that the host adds. Safe to print.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SecretRef {
    scheme: String,
    path: String,
}

impl SecretRef {
    /// The provider's name.
    pub fn scheme(&self) -> &str {
        &self.scheme
    }

    /// What the provider looks up.
    pub fn path(&self) -> &str {
        &self.path
    }
}

impl FromStr for SecretRef {
    type Err = Error;

    fn from_str(s: &str) -> Result<Self> {
        // the text may be a literal secret by mistake, so it is not repeated in the error
        let wrong =
            || Error::new(ErrorKind::Config, "secret_ref.parse", "give a reference: env:NAME, file:PATH or vault:PATH");
        let (scheme, path) = s.split_once(':').ok_or_else(wrong)?;
        let known = !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_lowercase() || b == b'-');
        if !known || path.is_empty() {
            return Err(wrong());
        }
        Ok(Self { scheme: scheme.into(), path: path.into() })
    }
}

impl fmt::Display for SecretRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.scheme, self.path)
    }
}

impl TryFrom<String> for SecretRef {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        s.parse()
    }
}

impl From<SecretRef> for String {
    fn from(r: SecretRef) -> String {
        r.to_string()
    }
}

/// Turns references into values.
///
/// # Contract
/// The value of an unknown reference is `NotFound`; neither the error nor `Debug` of the provider holds a secret.
#[async_trait]
pub trait SecretProvider: fmt::Debug + Send + Sync + 'static {
    /// The scheme that it answers for.
    fn scheme(&self) -> &str;

    /// Fetches the current value.
    ///
    /// # Errors
    /// `NotFound`, `Unavailable`, `Unauthenticated`.
    async fn fetch(&self, reference: &SecretRef) -> Result<Secret>;
}

/// `env:NAME`.
#[derive(Debug, Clone, Copy, Default)]
pub struct EnvSecrets;

#[async_trait]
impl SecretProvider for EnvSecrets {
    fn scheme(&self) -> &str {
        "env"
    }

    async fn fetch(&self, reference: &SecretRef) -> Result<Secret> {
        #[expect(clippy::disallowed_methods, reason = "reading the environment is this provider's work")]
        std::env::var(reference.path()).map(Secret::new).map_err(|_| {
            Error::not_found("secret.fetch", "the environment variable is not set, or not UTF-8")
                .with("ref", reference.to_string())
        })
    }
}

/// `file:PATH`; one trailing line end is dropped. At most 64 KiB.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSecrets;

#[async_trait]
impl SecretProvider for FileSecrets {
    fn scheme(&self) -> &str {
        "file"
    }

    async fn fetch(&self, reference: &SecretRef) -> Result<Secret> {
        let path = PathBuf::from(reference.path());
        let named = |e: Error| e.with("ref", reference.to_string());
        let read = tokio::task::spawn_blocking(move || {
            let size = std::fs::metadata(&path)?.len();
            if size > 64 * 1024 {
                return Err(std::io::Error::other("larger than 64 KiB"));
            }
            std::fs::read_to_string(&path)
        });
        match read.await {
            Ok(Ok(mut text)) => {
                let end = text.trim_end_matches(['\n', '\r']).len();
                text.truncate(end);
                Ok(Secret::new(text))
            }
            Ok(Err(e)) => Err(named(Error::not_found("secret.fetch", "the file cannot be read").with_source(e))),
            Err(e) => Err(named(Error::unexpected("secret.fetch", "the reader stopped").with_source(e))),
        }
    }
}

/// Secrets that the host already holds, by name: `mem:NAME`.
#[derive(Debug, Clone, Default)]
pub struct StaticSecrets(HashMap<String, Secret>);

impl StaticSecrets {
    /// Adds one.
    #[must_use]
    pub fn with(mut self, name: impl Into<String>, value: Secret) -> Self {
        self.0.insert(name.into(), value);
        self
    }
}

#[async_trait]
impl SecretProvider for StaticSecrets {
    fn scheme(&self) -> &str {
        "mem"
    }

    async fn fetch(&self, reference: &SecretRef) -> Result<Secret> {
        self.0
            .get(reference.path())
            .cloned()
            .ok_or_else(|| Error::not_found("secret.fetch", "no such secret").with("ref", reference.to_string()))
    }
}

/// The providers of a host, asked by scheme.
#[derive(Debug, Clone, Default)]
pub struct Secrets(Vec<std::sync::Arc<dyn SecretProvider>>);

impl Secrets {
    /// `env:` and `file:`.
    pub fn standard() -> Self {
        Self(vec![std::sync::Arc::new(EnvSecrets), std::sync::Arc::new(FileSecrets)])
    }

    /// Adds a provider; it is asked before the older ones of the same scheme.
    #[must_use]
    pub fn with(mut self, provider: impl SecretProvider) -> Self {
        self.0.insert(0, std::sync::Arc::new(provider));
        self
    }

    /// Fetches a value from the provider of its scheme.
    ///
    /// # Errors
    /// `Config` if no provider has the scheme; those of [`SecretProvider::fetch`].
    pub async fn fetch(&self, reference: &SecretRef) -> Result<Secret> {
        let provider = self.0.iter().find(|p| p.scheme() == reference.scheme()).ok_or_else(|| {
            let known = self.0.iter().map(|p| p.scheme()).collect::<Vec<_>>().join(", ");
            Error::new(ErrorKind::Config, "secret.fetch", "no provider for this kind of reference")
                .with("ref", reference.to_string())
                .with("known", known)
        })?;
        provider.fetch(reference).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_does_not_print_and_a_literal_is_not_a_reference() {
        assert_eq!(format!("{:?}", Secret::new("hunter2")), "***");
        let e = "sk-live-hunter2".parse::<SecretRef>().unwrap_err();
        assert!(!format!("{e:?}").contains("hunter2"));
    }

    #[tokio::test]
    async fn an_unknown_scheme_names_the_known_ones() {
        let e = Secrets::standard().fetch(&"vault:x".parse().unwrap()).await.unwrap_err();
        assert!(e.to_string().contains("env, file"), "{e}");
    }
}
