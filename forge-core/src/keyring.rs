//! Keys that never leave: the operations that need one, done where it is.
//!
//! Data keys are random per tenant, wrapped by the host's master key: destroying one erases what it covered.

use std::fmt;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Digest, Result, TenantId};

/// A MAC under the host's key, with the id of the key, so that keys can rotate.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    /// Which key.
    pub key_id: String,
    /// HMAC-SHA-256.
    pub mac: Digest,
}

/// The host's keys. Sync methods read a snapshot that [`load`](Keyring::load) filled; a miss is an error, never IO.
///
/// # Contract
/// - No two tenants share a key. A blob of one tenant does not open for another, nor with other `aad`, nor damaged or cut off: `Corrupt`.
///   Equal bodies give different blobs. `Debug` shows no key and no tenant.
/// - `tokenize` gives the same token for the same value and tenant, and another for another tenant. Another tenant's token, a forged one
///   and any other text is `None`. `digest` is the same for the same bytes and tenant, another for another, and never the plain hash.
/// - Before `load` and after `destroy`, the operations of the tenant are `Redaction` errors. Loading again, also from many places at
///   once, gives the same keys, and so does opening the keyring again.
/// - After `destroy` nothing of the tenant opens any more, for good: loading it makes new keys. It reaches no other tenant, and may be
///   called for one that was never there. A `load` or `destroy` that is dropped has happened or has not.
/// - `seal` uses the newest key; `verify` knows every key that is not retired. A seal of a retired key, one of a key that is not ours and
///   one that does not fit its bytes are `Unauthenticated`, each with a message of its own. Rotation outlives the process.
#[async_trait]
pub trait Keyring: fmt::Debug + Send + Sync + 'static {
    /// Loads a tenant's keys into the snapshot; makes them first, if there are none.
    ///
    /// # Errors
    /// `Unavailable` or `Corrupt`.
    async fn load(&self, tenant: &TenantId) -> Result<()>;

    /// Destroys a tenant's keys for good: crypto-erasure.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn destroy(&self, tenant: &TenantId) -> Result<()>;

    /// Encrypts a body (XChaCha20-Poly1305); `aad` binds it to its place.
    ///
    /// # Errors
    /// `Redaction` if the tenant's keys are not loaded.
    fn encrypt(&self, tenant: &TenantId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>>;

    /// Decrypts a body.
    ///
    /// # Errors
    /// `Corrupt` for another tenant's, another place's or a damaged blob; `Redaction` if the keys are not loaded.
    fn decrypt(&self, tenant: &TenantId, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>>;

    /// Encrypts a short value so that equal values give equal tokens (AES-256-SIV). The token is `[A-Za-z0-9_-]`.
    ///
    /// # Errors
    /// `Redaction` if the tenant's keys are not loaded.
    fn tokenize(&self, tenant: &TenantId, plain: &str) -> Result<String>;

    /// The value of a token, or `None` if it is not one of this tenant's.
    ///
    /// # Errors
    /// `Redaction` if the tenant's keys are not loaded.
    fn detokenize(&self, tenant: &TenantId, token: &str) -> Result<Option<String>>;

    /// A keyed digest of what may be personal data (a plain hash of a short number can be reversed by trying all).
    ///
    /// # Errors
    /// `Redaction` if the tenant's keys are not loaded.
    fn digest(&self, tenant: &TenantId, bytes: &[u8]) -> Result<Digest>;

    /// A MAC under the host's own key.
    ///
    /// # Errors
    /// `Unavailable` if the host has no key.
    fn seal(&self, bytes: &[u8]) -> Result<Seal>;

    /// Checks a MAC in constant time.
    ///
    /// # Errors
    /// `Unauthenticated` if it is not ours, or its key is retired.
    fn verify(&self, bytes: &[u8], seal: &Seal) -> Result<()>;

    /// The ids of the keys whose seals are accepted, the one that seals first. A seal names its key in [`Seal::key_id`].
    fn seal_keys(&self) -> Vec<String>;

    /// Seals under a new key from now on; returns its id. Seals of the older keys are still accepted.
    ///
    /// # Errors
    /// `Unavailable` if that cannot be written down.
    async fn rotate_seal_key(&self) -> Result<String>;

    /// Refuses the seals of this key and of those older than it, for good. Wait until what they sealed has expired: a queued task by its own
    /// time, a run after 366 days.
    ///
    /// # Errors
    /// `NotFound` if there is no such key; `Conflict` for the one that seals: rotate first; `Unavailable`.
    async fn retire_seal_key(&self, key_id: &str) -> Result<()>;
}
