//! Keys that protect nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use data_encoding::BASE64URL_NOPAD;

use crate::keyring::{Keyring, Seal};
use crate::{Digest, Error, ErrorKind, Result, TenantId};

/// Separates tenants as the contract says, and hides nothing. Every tenant's keys are there without loading, cannot be destroyed and
/// are the same in every instance: for tests about something else. [`StrictKeyring`] keeps the whole contract.
#[derive(Debug, Clone, Copy, Default)]
pub struct FakeKeyring;

/// A fake that keeps the whole contract: a tenant that was not loaded is a miss, a destroyed one is gone, the key of seals rotates. Hides
/// nothing. Clones share everything.
#[derive(Clone, Default)]
pub struct StrictKeyring {
    stored: Arc<Mutex<Stored>>,
    loaded: Arc<Mutex<BTreeMap<TenantId, FakeKey>>>,
}

/// What a real keyring has on disk.
#[derive(Default)]
struct Stored {
    tenants: BTreeMap<TenantId, FakeKey>,
    /// How many tenants' keys were made: none is made twice.
    made: u64,
    /// How many keys of seals came after the first, and how many of the oldest are retired.
    rotated: u64,
    retired: u64,
}

impl StrictKeyring {
    /// The same keys, opened again: nothing is loaded yet.
    #[must_use]
    pub fn reopened(&self) -> Self {
        Self { stored: self.stored.clone(), loaded: Arc::default() }
    }

    fn key(&self, tenant: &TenantId) -> Result<FakeKey> {
        let key = lock(&self.loaded).get(tenant).copied();
        key.ok_or_else(|| Error::new(ErrorKind::Redaction, "keyring.keys", "the keys of the tenant are not loaded"))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn seal_id(n: u64) -> String {
    format!("fake-{n}")
}

fn seal_with(n: u64, bytes: &[u8]) -> Seal {
    Seal { key_id: seal_id(n), mac: Digest::of_parts(&[b"seal", &n.to_be_bytes(), bytes]) }
}

fn forged(why: &'static str) -> Error {
    Error::new(ErrorKind::Unauthenticated, "keyring.verify", why)
}

#[async_trait]
impl Keyring for StrictKeyring {
    async fn load(&self, tenant: &TenantId) -> Result<()> {
        let mut stored = lock(&self.stored);
        let next = FakeKey(Digest::of_parts(&[b"strict", tenant.as_str().as_bytes(), &stored.made.to_be_bytes()]));
        let key = *stored.tenants.entry(tenant.clone()).or_insert(next);
        stored.made += 1;
        lock(&self.loaded).insert(tenant.clone(), key);
        Ok(())
    }

    async fn destroy(&self, tenant: &TenantId) -> Result<()> {
        let mut stored = lock(&self.stored);
        stored.tenants.remove(tenant);
        lock(&self.loaded).remove(tenant);
        Ok(())
    }

    fn encrypt(&self, tenant: &TenantId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        Ok(self.key(tenant)?.encrypt(aad, plain))
    }

    fn decrypt(&self, tenant: &TenantId, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>> {
        self.key(tenant)?.decrypt(aad, blob)
    }

    fn tokenize(&self, tenant: &TenantId, plain: &str) -> Result<String> {
        Ok(self.key(tenant)?.tokenize(plain))
    }

    fn detokenize(&self, tenant: &TenantId, token: &str) -> Result<Option<String>> {
        Ok(self.key(tenant)?.detokenize(token))
    }

    fn digest(&self, tenant: &TenantId, bytes: &[u8]) -> Result<Digest> {
        Ok(self.key(tenant)?.digest(bytes))
    }

    fn seal(&self, bytes: &[u8]) -> Result<Seal> {
        Ok(seal_with(lock(&self.stored).rotated, bytes))
    }

    fn verify(&self, bytes: &[u8], seal: &Seal) -> Result<()> {
        let stored = lock(&self.stored);
        match (0..=stored.rotated).find(|n| seal.key_id == seal_id(*n)) {
            None => Err(forged("the seal's key is not ours")),
            Some(n) if n < stored.retired => Err(forged("the seal's key is retired")),
            Some(n) if *seal != seal_with(n, bytes) => Err(forged("the seal does not fit what it is on")),
            Some(_) => Ok(()),
        }
    }

    fn seal_keys(&self) -> Vec<String> {
        let stored = lock(&self.stored);
        (stored.retired..=stored.rotated).rev().map(seal_id).collect()
    }

    async fn rotate_seal_key(&self) -> Result<String> {
        let mut stored = lock(&self.stored);
        stored.rotated += 1;
        Ok(seal_id(stored.rotated))
    }

    async fn retire_seal_key(&self, key_id: &str) -> Result<()> {
        const OPERATION: &str = "keyring.retire_seal_key";
        let mut stored = lock(&self.stored);
        let n = (0..=stored.rotated).find(|n| key_id == seal_id(*n));
        let n = n.ok_or_else(|| Error::not_found(OPERATION, "there is no such key"))?;
        if n == stored.rotated {
            return Err(Error::new(ErrorKind::Conflict, OPERATION, "this key seals; rotate first"));
        }
        stored.retired = stored.retired.max(n + 1);
        Ok(())
    }
}

impl fmt::Debug for StrictKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StrictKeyring")
    }
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
        Ok(FakeKey::of(tenant).encrypt(aad, plain))
    }

    fn decrypt(&self, tenant: &TenantId, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>> {
        FakeKey::of(tenant).decrypt(aad, blob)
    }

    fn tokenize(&self, tenant: &TenantId, plain: &str) -> Result<String> {
        Ok(FakeKey::of(tenant).tokenize(plain))
    }

    fn detokenize(&self, tenant: &TenantId, token: &str) -> Result<Option<String>> {
        Ok(FakeKey::of(tenant).detokenize(token))
    }

    fn digest(&self, tenant: &TenantId, bytes: &[u8]) -> Result<Digest> {
        Ok(FakeKey::of(tenant).digest(bytes))
    }

    fn seal(&self, bytes: &[u8]) -> Result<Seal> {
        Ok(seal_with(0, bytes))
    }

    fn verify(&self, bytes: &[u8], seal: &Seal) -> Result<()> {
        if *seal == seal_with(0, bytes) { Ok(()) } else { Err(forged("the seal is not ours")) }
    }

    fn seal_keys(&self) -> Vec<String> {
        vec![seal_id(0)]
    }

    async fn rotate_seal_key(&self) -> Result<String> {
        Err(Error::new(ErrorKind::Unsupported, "keyring.rotate_seal_key", "take StrictKeyring"))
    }

    async fn retire_seal_key(&self, _: &str) -> Result<()> {
        Err(Error::new(ErrorKind::Unsupported, "keyring.retire_seal_key", "take StrictKeyring"))
    }
}

/// What stands for all keys of a tenant.
#[derive(Clone, Copy)]
struct FakeKey(Digest);

impl FakeKey {
    fn of(tenant: &TenantId) -> Self {
        Self(Digest::of(tenant.as_str().as_bytes()))
    }

    fn parts(&self, parts: &[&[u8]]) -> Digest {
        Digest::of_parts(&[&[self.0.as_bytes().as_slice()], parts].concat())
    }

    fn mask(&self, nonce: &[u8], bytes: &[u8]) -> Vec<u8> {
        let key = self.parts(&[b"mask", nonce]);
        bytes.iter().zip(key.as_bytes().iter().cycle()).map(|(b, k)| b ^ k).collect()
    }

    /// Nonce, check, masked bytes.
    fn encrypt(&self, aad: &[u8], plain: &[u8]) -> Vec<u8> {
        static NONCE: AtomicU64 = AtomicU64::new(0);
        let nonce = NONCE.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        let check = self.parts(&[b"body", &nonce, aad, plain]);
        [&nonce, check.as_bytes().as_slice(), &self.mask(&nonce, plain)].concat()
    }

    fn decrypt(&self, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>> {
        let opened = || {
            let (nonce, rest) = blob.split_first_chunk::<8>()?;
            let (check, masked) = rest.split_first_chunk::<32>()?;
            let plain = self.mask(nonce, masked);
            (self.parts(&[b"body", nonce, aad, &plain]).as_bytes() == check).then_some(plain)
        };
        opened().ok_or_else(|| Error::new(ErrorKind::Corrupt, "keyring.decrypt", "not a blob of this tenant and place"))
    }

    /// Check, masked text.
    fn tokenize(&self, plain: &str) -> String {
        let check = self.parts(&[b"token", plain.as_bytes()]);
        let (check, _) = check.as_bytes().split_at(16);
        BASE64URL_NOPAD.encode(&[check, &self.mask(b"token", plain.as_bytes())].concat())
    }

    fn detokenize(&self, token: &str) -> Option<String> {
        let blob = BASE64URL_NOPAD.decode(token.as_bytes()).ok()?;
        let plain = String::from_utf8(self.mask(b"token", blob.get(16..)?)).ok()?;
        (self.tokenize(&plain) == token).then_some(plain)
    }

    fn digest(&self, bytes: &[u8]) -> Digest {
        self.parts(&[b"digest", bytes])
    }
}
