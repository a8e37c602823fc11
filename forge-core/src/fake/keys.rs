//! Keys that protect nothing and a redactor that knows two words.

use std::borrow::Cow;

use async_trait::async_trait;

use crate::keyring::{Keyring, Seal};
use crate::redact::{EntityKind, Finding, RedactOptions, Redactor, Style, Text};
use crate::{Digest, Error, ErrorKind, Result, TenantId};

/// Hashes and masks with the tenant's name for a key: separates tenants as the contract says, hides nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeKeyring;

fn mask(tenant: &TenantId, bytes: &[u8]) -> Vec<u8> {
    let key = Digest::of(tenant.as_str().as_bytes());
    bytes.iter().zip(key.as_bytes().iter().cycle()).map(|(b, k)| b ^ k).collect()
}

#[async_trait]
impl Keyring for FakeKeyring {
    async fn load(&self, _: &TenantId) -> Result<()> {
        Ok(())
    }

    async fn destroy(&self, _: &TenantId) -> Result<()> {
        Ok(())
    }

    fn encrypt(&self, tenant: &TenantId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        let mut blob = Digest::of_parts(&[tenant.as_str().as_bytes(), aad, plain]).as_bytes().to_vec();
        blob.extend(mask(tenant, plain));
        Ok(blob)
    }

    fn decrypt(&self, tenant: &TenantId, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>> {
        let corrupt = || Error::new(ErrorKind::Corrupt, "keyring.decrypt", "not a blob of this tenant and place");
        let (digest, masked) = blob.split_at_checked(32).ok_or_else(corrupt)?;
        let plain = mask(tenant, masked);
        if digest != Digest::of_parts(&[tenant.as_str().as_bytes(), aad, &plain]).as_bytes() {
            return Err(corrupt());
        }
        Ok(plain)
    }

    fn tokenize(&self, tenant: &TenantId, plain: &str) -> Result<String> {
        let mut blob = Digest::of_parts(&[tenant.as_str().as_bytes(), plain.as_bytes()]).as_bytes().to_vec();
        blob.truncate(8);
        blob.extend(mask(tenant, plain.as_bytes()));
        Ok(data_encoding::BASE64URL_NOPAD.encode(&blob))
    }

    fn detokenize(&self, tenant: &TenantId, token: &str) -> Result<Option<String>> {
        let plain = data_encoding::BASE64URL_NOPAD
            .decode(token.as_bytes())
            .ok()
            .and_then(|blob| blob.get(8..).map(|m| mask(tenant, m)))
            .and_then(|p| String::from_utf8(p).ok());
        match plain {
            Some(p) if self.tokenize(tenant, &p)? == token => Ok(Some(p)),
            _ => Ok(None),
        }
    }

    fn digest(&self, tenant: &TenantId, bytes: &[u8]) -> Result<Digest> {
        Ok(Digest::of_parts(&[b"fake", tenant.as_str().as_bytes(), bytes]))
    }

    fn seal(&self, bytes: &[u8]) -> Result<Seal> {
        Ok(Seal { key_id: "fake".into(), mac: Digest::of_parts(&[b"seal", bytes]) })
    }

    fn verify(&self, bytes: &[u8], seal: &Seal) -> Result<()> {
        if *seal == self.seal(bytes)? {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unauthenticated, "keyring.verify", "the seal is not ours"))
    }
}

/// Finds words that contain `@` (`EMAIL`) and the word `hunter2` (`SECRET`); nothing else.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeRedactor;

impl Redactor for FakeRedactor {
    fn inspect(&self, text: Text<'_>) -> Result<Vec<Finding>> {
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
        Ok(findings)
    }

    fn redact<'a>(&self, tenant: &TenantId, text: Text<'a>, options: &RedactOptions) -> Result<Cow<'a, str>> {
        let mut out = String::new();
        let mut from = 0;
        for f in self.inspect(text)?.into_iter().filter(|f| options.kinds.contains(&f.kind)) {
            out.push_str(text.text.get(from..f.start).unwrap_or_default());
            match options.style {
                Style::Mask => out.push_str(&format!("[{}]", f.kind)),
                Style::Token => {
                    let value = text.text.get(f.start..f.end).unwrap_or_default();
                    out.push_str(&format!("[tok:{}]", FakeKeyring.tokenize(tenant, value)?));
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

    fn reveal<'a>(&self, tenant: &TenantId, text: &'a str) -> Result<Cow<'a, str>> {
        let mut out = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("[tok:") {
            let Some((token, tail)) = after.split_once(']') else { break };
            out.push_str(before);
            match FakeKeyring.detokenize(tenant, token)? {
                Some(value) => out.push_str(&value),
                None => out.push_str(&format!("[tok:{token}]")),
            }
            rest = tail;
        }
        if rest.len() == text.len() {
            return Ok(Cow::Borrowed(text));
        }
        out.push_str(rest);
        Ok(Cow::Owned(out))
    }
}
