//! Secrets: a value that does not print, a reference that may, and the two providers that configuration needs on day one.

use std::collections::HashMap;
use std::env::VarError;
use std::fmt;
use std::io::{ErrorKind as Io, Read};
use std::str::FromStr;

use async_trait::async_trait;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use crate::{Error, ErrorKind, Result, Retryability};

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
/// - The current value: what was changed is fetched as changed.
/// - `NotFound` where there is nothing, `Config` where what is there cannot be a secret: empty, not UTF-8, too large. A reference of another
///   scheme is `InvalidInput`. Whatever the path says, nothing panics and nothing waits for ever.
/// - An error names the reference, never a value; no `Debug` holds a secret.
#[async_trait]
pub trait SecretProvider: fmt::Debug + Send + Sync + 'static {
    /// The scheme that it answers for.
    fn scheme(&self) -> &str;

    /// Fetches the current value.
    ///
    /// # Errors
    /// `NotFound`, `Config`, `InvalidInput`, `Unavailable`, `Unauthenticated`.
    async fn fetch(&self, reference: &SecretRef) -> Result<Secret>;
}

const OPERATION: &str = "secret.fetch";

/// What is wrong with a reference that a provider was given, or with what it found there.
fn refused(kind: ErrorKind, reference: &SecretRef, why: &'static str) -> Error {
    Error::new(kind, OPERATION, why).with("ref", reference.to_string())
}

/// A provider is asked for its own scheme only.
fn own(provider: &dyn SecretProvider, reference: &SecretRef) -> Result<()> {
    if reference.scheme() == provider.scheme() {
        return Ok(());
    }
    Err(refused(ErrorKind::InvalidInput, reference, "the reference is for another provider"))
}

/// An empty secret is a variable that was never filled in, and would be sent as if it were one.
fn not_empty(reference: &SecretRef, secret: Secret) -> Result<Secret> {
    if secret.expose().is_empty() {
        return Err(refused(ErrorKind::Config, reference, "the secret is empty; put a value there"));
    }
    Ok(secret)
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
        own(self, reference)?;
        #[expect(clippy::disallowed_methods, reason = "reading the environment is this provider's work")]
        let value = std::env::var(reference.path());
        // the error itself holds what is not UTF-8, so it is no source
        let value = value.map_err(|e| match e {
            VarError::NotPresent => refused(ErrorKind::NotFound, reference, "the environment variable is not set"),
            VarError::NotUnicode(_) => refused(ErrorKind::Config, reference, "the environment variable is not UTF-8"),
        })?;
        not_empty(reference, Secret::new(value))
    }
}

/// `file:PATH`, of a regular file; one trailing line end is dropped. At most 64 KiB. Warns where others may read or write the file, and
/// reads it all the same: mounted secrets often have such a mode.
#[derive(Debug, Clone, Copy, Default)]
pub struct FileSecrets;

const LARGEST: u64 = 64 * 1024;

#[async_trait]
impl SecretProvider for FileSecrets {
    fn scheme(&self) -> &str {
        "file"
    }

    async fn fetch(&self, reference: &SecretRef) -> Result<Secret> {
        own(self, reference)?;
        let of = reference.clone();
        let read = tokio::task::spawn_blocking(move || read(&of)).await;
        let (text, mode) = read.map_err(|e| {
            Error::unexpected(OPERATION, "the reader stopped").with("ref", reference.to_string()).with_source(e)
        })??;
        if mode & 0o027 != 0 {
            tracing::warn!(%reference, mode = format!("{mode:04o}"), "others may read or write a secret; set its mode to 0600");
        }
        not_empty(reference, Secret::new(text))
    }
}

/// What is in the file, and the file's mode.
fn read(reference: &SecretRef) -> Result<(String, u32)> {
    let unread = |e: std::io::Error| {
        let (kind, why) = match e.kind() {
            Io::NotFound | Io::NotADirectory | Io::InvalidInput => (ErrorKind::NotFound, "there is no such file"),
            _ => (ErrorKind::Unavailable, "the file cannot be read; check owner and mode"),
        };
        refused(kind, reference, why).with_retry(Retryability::Never).with_source(e)
    };
    let path = std::path::Path::new(reference.path());
    // looked at before it is opened: to open a pipe is to wait for its writer
    if !std::fs::metadata(path).map_err(unread)?.is_file() {
        return Err(refused(ErrorKind::Config, reference, "this is not a regular file"));
    }
    let file = std::fs::File::open(path).map_err(unread)?;
    let mode = file.metadata().map(|m| mode(&m)).map_err(unread)?;
    let mut text = String::new();
    match file.take(LARGEST + 1).read_to_string(&mut text) {
        Err(e) if e.kind() == Io::InvalidData => return Err(refused(ErrorKind::Config, reference, "it is not UTF-8")),
        read => read.map_err(unread)?,
    };
    if u64::try_from(text.len()).is_ok_and(|n| n > LARGEST) {
        return Err(refused(ErrorKind::Config, reference, "the file is larger than 64 KiB"));
    }
    let end = text.strip_suffix('\n').map_or(text.as_str(), |t| t.strip_suffix('\r').unwrap_or(t)).len();
    text.truncate(end);
    Ok((text, mode))
}

#[cfg(unix)]
fn mode(meta: &std::fs::Metadata) -> u32 {
    std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o7777
}

#[cfg(not(unix))]
fn mode(_: &std::fs::Metadata) -> u32 {
    0
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
        own(self, reference)?;
        let found = self.0.get(reference.path()).cloned();
        not_empty(reference, found.ok_or_else(|| refused(ErrorKind::NotFound, reference, "no such secret"))?)
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
            refused(ErrorKind::Config, reference, "no provider for this kind of reference").with("known", known)
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
