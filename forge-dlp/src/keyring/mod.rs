//! The embedded keyring: a master key and, wrapped by it, random keys for each tenant in a file of its own.
//!
//! `<dir>/master.key` holds 32 bytes in base64, mode 0600. `<dir>/<tenant>.keys` holds the tenant's data keys, sealed by
//! XChaCha20-Poly1305 under the master key with the tenant's name as associated data. Deleting a tenant's file erases, for good,
//! everything that was encrypted or tokenised for it. `<dir>/seal.state` is there once the key of seals was rotated.

mod cipher;
mod file;
mod seals;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use forge_core::keyring::{Keyring, Seal};
use forge_core::secret::Secret;
use forge_core::{Digest, Error, ErrorKind, Result, TenantId};

use cipher::{Key, TenantKeys, open, seal_bytes};
use seals::{Rotation, SealKeys};

/// Keys in files, for one host. Cheap to clone: clones share one snapshot.
///
/// Processes may share a directory: of two that make a tenant's keys at once, both use the same. `destroy` and `retire_seal_key` reach the
/// snapshot of their own process; another forgets when it ends, so erasure stops or restarts the others.
///
/// The key of seals follows from the master key and a number. Hosts with one master key accept each other's seals while they are
/// rotated one by one, up to eight rotations apart; each keeps its own number, and retires for itself.
#[derive(Clone)]
pub struct FileKeyring(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    master: Key,
    seals: RwLock<Arc<SealKeys>>,
    /// Held while files are read, made or deleted. It is fair: what began earlier is done earlier, also when its future was dropped,
    /// so that no load undoes a destruction and no forgotten destruction comes after a load.
    files: Arc<tokio::sync::Mutex<()>>,
    tenants: RwLock<BTreeMap<TenantId, Arc<TenantKeys>>>,
}

impl FileKeyring {
    /// Opens a directory of keys, which is made if it is not there (mode 0700). The master key is `master` (base64 of 32
    /// bytes), or the directory's own, made at the first start.
    ///
    /// # Errors
    /// `Config` if the given key is not 32 bytes of base64 or not the one that the keys here are wrapped by, or if others may read the
    /// directory's own; `Corrupt` if that one is damaged, or gone while tenants' keys are there; `Unavailable` if the directory
    /// cannot be read or written.
    pub async fn open(dir: impl AsRef<Path>, master: Option<Secret>) -> Result<Self> {
        let dir = dir.as_ref().to_owned();
        blocking("keyring.open", move || {
            file::make_dir(&dir)?;
            let master = match master {
                Some(secret) => Key::from_base64(secret.expose()).ok_or_else(|| {
                    Error::new(ErrorKind::Config, "keyring.open", "the master key must be 32 bytes in base64")
                })?,
                None => file::master(&dir)?,
            };
            file::fits(&dir, &master)?;
            let seals = RwLock::new(Arc::new(SealKeys::new(&master, file::rotation(&dir, &master)?)));
            let (files, tenants) = (Arc::default(), RwLock::default());
            Ok(Self(Arc::new(Inner { dir, master, seals, files, tenants })))
        })
        .await
    }

    /// The key that seals, in base64, and its id, for a program in another language that makes seals itself (`clients/python/forge_seal.py`).
    ///
    /// **Whoever holds it can act as anybody**: it seals any tenant, employee and role, for any queue of this host and of those with the same
    /// master key. It opens nothing that is encrypted, and nothing else follows from it. Hand it on as you would the master key, through
    /// a secret store, to programs of the host's operator and to no tenant. It works until it is [retired](Keyring::retire_seal_key); after a
    /// [rotation](Keyring::rotate_seal_key) export it again. Nothing logs that it was taken: say so where your operators will look.
    ///
    /// # Errors
    /// `Unavailable` if the host has no key for seals.
    pub fn export_seal_key(&self) -> Result<(String, Secret)> {
        let seals = self.0.seals();
        Ok((seals.id().to_owned(), Secret::new(seals.key()?.to_base64().as_str())))
    }

    async fn in_turn<T: Send + 'static>(
        &self,
        operation: &'static str,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let files = self.0.files.clone().lock_owned().await;
        let held = move || {
            let _files = files;
            work()
        };
        blocking(operation, held).await
    }

    fn keys(&self, tenant: &TenantId) -> Result<Arc<TenantKeys>> {
        self.0.loaded(tenant).ok_or_else(|| {
            Error::new(
                ErrorKind::Redaction,
                "keyring.keys",
                "the keys of the tenant are not loaded; call Keyring::load first",
            )
            .with("tenant", tenant.to_string())
        })
    }
}

impl Inner {
    fn loaded(&self, tenant: &TenantId) -> Option<Arc<TenantKeys>> {
        self.tenants.read().unwrap_or_else(PoisonError::into_inner).get(tenant).cloned()
    }

    fn load(&self, tenant: TenantId) -> Result<()> {
        if self.loaded(&tenant).is_none() {
            let keys = Arc::new(file::tenant(&self.dir, &self.master, &tenant)?);
            self.tenants.write().unwrap_or_else(PoisonError::into_inner).insert(tenant, keys);
        }
        Ok(())
    }

    fn destroy(&self, tenant: &TenantId) -> Result<()> {
        file::erase(&self.dir, tenant)?;
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        Ok(())
    }

    fn seals(&self) -> Arc<SealKeys> {
        self.seals.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Writes a rotation down, then goes by it; returns the id of the key that seals.
    fn turn(&self, next: impl FnOnce(&SealKeys, Rotation) -> Result<Rotation>) -> Result<String> {
        // another process of this directory may have come further
        let known = file::rotation(&self.dir, &self.master)?;
        let rotation = next(&SealKeys::new(&self.master, known), known)?;
        file::keep_rotation(&self.dir, &self.master, rotation)?;
        let seals = Arc::new(SealKeys::new(&self.master, rotation));
        let id = seals.id().to_owned();
        *self.seals.write().unwrap_or_else(PoisonError::into_inner) = seals;
        Ok(id)
    }
}

/// What is async works on a blocking thread to its end, also when its future is dropped after it began.
#[async_trait]
impl Keyring for FileKeyring {
    async fn load(&self, tenant: &TenantId) -> Result<()> {
        if self.0.loaded(tenant).is_some() {
            return Ok(());
        }
        let (inner, tenant) = (self.0.clone(), tenant.clone());
        self.in_turn("keyring.load", move || inner.load(tenant)).await
    }

    async fn destroy(&self, tenant: &TenantId) -> Result<()> {
        let (inner, tenant) = (self.0.clone(), tenant.clone());
        self.in_turn("keyring.destroy", move || inner.destroy(&tenant)).await
    }

    fn encrypt(&self, tenant: &TenantId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        seal_bytes(&self.keys(tenant)?.body, &bound(tenant, aad), plain)
    }

    fn decrypt(&self, tenant: &TenantId, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>> {
        open(&self.keys(tenant)?.body, &bound(tenant, aad), blob)
    }

    fn tokenize(&self, tenant: &TenantId, plain: &str) -> Result<String> {
        self.keys(tenant)?.token.deterministic(plain.as_bytes()).map(|c| data_encoding::BASE64URL_NOPAD.encode(&c))
    }

    fn detokenize(&self, tenant: &TenantId, token: &str) -> Result<Option<String>> {
        let keys = self.keys(tenant)?;
        let plain = data_encoding::BASE64URL_NOPAD.decode(token.as_bytes()).ok().and_then(|c| keys.token.undo(&c));
        Ok(plain.and_then(|p| String::from_utf8(p).ok()))
    }

    fn digest(&self, tenant: &TenantId, bytes: &[u8]) -> Result<Digest> {
        Ok(self.keys(tenant)?.digest.mac(bytes))
    }

    fn seal(&self, bytes: &[u8]) -> Result<Seal> {
        self.0.seals().seal(bytes)
    }

    fn verify(&self, bytes: &[u8], seal: &Seal) -> Result<()> {
        self.0.seals().verify(bytes, seal)
    }

    fn seal_keys(&self) -> Vec<String> {
        self.0.seals().ids()
    }

    async fn rotate_seal_key(&self) -> Result<String> {
        let inner = self.0.clone();
        let next = |_: &SealKeys, r: Rotation| Ok(Rotation { current: r.current.saturating_add(1), ..r });
        self.in_turn("keyring.rotate_seal_key", move || inner.turn(next)).await
    }

    async fn retire_seal_key(&self, key_id: &str) -> Result<()> {
        let (inner, key_id) = (self.0.clone(), key_id.to_owned());
        let retired = move || inner.turn(|seals, _| seals.retiring(&key_id));
        self.in_turn("keyring.retire_seal_key", retired).await.map(|_| ())
    }
}

/// The tenant is part of what a blob is bound to, so that a key that was copied by mistake still opens nothing of another. A
/// tenant's name has no zero byte, so the two parts cannot run into each other.
fn bound(tenant: &TenantId, aad: &[u8]) -> Vec<u8> {
    [tenant.as_str().as_bytes(), b"\0", aad].concat()
}

async fn blocking<T: Send + 'static>(
    operation: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Error::unexpected(operation, "the worker thread stopped").with_source(e)),
    }
}

impl fmt::Debug for FileKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKeyring").field("seal_key", &self.0.seals().id()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_key_that_was_copied_by_mistake_opens_nothing_of_another_tenant() {
        let dir = tempfile::tempdir().unwrap();
        let keys = FileKeyring::open(dir.path(), None).await.unwrap();
        let (acme, globex) = (TenantId::parse("acme").unwrap(), TenantId::parse("globex").unwrap());
        keys.load(&acme).await.unwrap();
        let copied = keys.0.loaded(&acme).unwrap();
        keys.0.tenants.write().unwrap().insert(globex.clone(), copied);
        let blob = keys.encrypt(&acme, b"place", b"x").unwrap();
        assert_eq!(keys.decrypt(&globex, b"place", &blob).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
