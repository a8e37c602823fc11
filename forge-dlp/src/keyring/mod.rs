//! The embedded keyring: a master key and, wrapped by it, random keys for each tenant in a file of its own.
//!
//! `<dir>/master.key` holds 32 bytes in base64, mode 0600. `<dir>/<tenant>.keys` holds the tenant's data keys, sealed by
//! XChaCha20-Poly1305 under the master key with the tenant's name as associated data. Deleting a tenant's file erases, for good,
//! everything that was encrypted or tokenised for it.

mod cipher;
mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use forge_core::keyring::{Keyring, Seal};
use forge_core::secret::Secret;
use forge_core::{Digest, Error, ErrorKind, Result, TenantId};

use cipher::{Key, TenantKeys, open, seal_bytes};

/// Keys in files, for one host. Cheap to share behind an `Arc`.
pub struct FileKeyring {
    dir: PathBuf,
    master: Arc<Key>,
    seal_key: Key,
    seal_id: String,
    tenants: RwLock<BTreeMap<TenantId, Arc<TenantKeys>>>,
}

impl FileKeyring {
    /// Opens a directory of keys. The master key is `master` (base64 of 32 bytes), or the directory's own, made at the first
    /// start.
    ///
    /// # Errors
    /// `Config` if the given key is not 32 bytes of base64, or its file may be read by others; `Unavailable`.
    pub async fn open(dir: impl AsRef<Path>, master: Option<Secret>) -> Result<Self> {
        let dir = dir.as_ref().to_owned();
        blocking(move || {
            std::fs::create_dir_all(&dir)
                .map_err(|e| file::failed("the directory of keys cannot be made; check owner and mode", e))?;
            let master = match master {
                Some(secret) => Key::from_base64(secret.expose())?,
                None => file::master(&dir)?,
            };
            let seal_key = master.derived(b"forge context seal v1");
            let seal_id = seal_key.id();
            Ok(Self { dir, master: Arc::new(master), seal_key, seal_id, tenants: RwLock::default() })
        })
        .await
    }

    fn keys(&self, tenant: &TenantId) -> Result<Arc<TenantKeys>> {
        let tenants = self.tenants.read().unwrap_or_else(PoisonError::into_inner);
        tenants.get(tenant).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::Redaction,
                "keyring.keys",
                "the keys of the tenant are not loaded; call Keyring::load first",
            )
            .with("tenant", tenant.to_string())
        })
    }
}

#[async_trait]
impl Keyring for FileKeyring {
    async fn load(&self, tenant: &TenantId) -> Result<()> {
        if self.keys(tenant).is_ok() {
            return Ok(());
        }
        let (dir, master, name) = (self.dir.clone(), self.master.clone(), tenant.clone());
        let keys = blocking(move || file::tenant(&dir, &master, &name)).await?;
        let mut tenants = self.tenants.write().unwrap_or_else(PoisonError::into_inner);
        tenants.entry(tenant.clone()).or_insert_with(|| Arc::new(keys));
        Ok(())
    }

    async fn destroy(&self, tenant: &TenantId) -> Result<()> {
        let path = file::tenant_path(&self.dir, tenant);
        blocking(move || file::erase(&path)).await?;
        self.tenants.write().unwrap_or_else(PoisonError::into_inner).remove(tenant);
        Ok(())
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
        Ok(Seal { key_id: self.seal_id.clone(), mac: self.seal_key.mac(bytes) })
    }

    fn verify(&self, bytes: &[u8], seal: &Seal) -> Result<()> {
        if seal.key_id == self.seal_id && self.seal_key.mac_is(bytes, &seal.mac) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Unauthenticated, "keyring.verify", "the seal is not this host's"))
    }
}

/// The tenant is part of what a blob is bound to, so that a key that was copied by mistake still opens nothing of another.
fn bound(tenant: &TenantId, aad: &[u8]) -> Vec<u8> {
    [tenant.as_str().as_bytes(), b"\0", aad].concat()
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(e) => Err(Error::unexpected("keyring.load", "the reader stopped").with_source(e)),
    }
}

impl fmt::Debug for FileKeyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileKeyring").field("seal_key", &self.seal_id).finish_non_exhaustive()
    }
}
