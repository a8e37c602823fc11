//! Documents and other large values, by reference.

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{Adapter, Digest, ExecutionContext, Result};

/// Where a blob is, inside its tenant. The digest is keyed by the tenant's key: it says nothing about the contents to others.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BlobRef {
    /// Keyed digest of the contents.
    pub digest: Digest,
    /// Bytes of the contents.
    pub size: u64,
}

/// What a store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct BlobCapability {
    /// Blobs survive a crash.
    pub durable: bool,
    /// Blobs rest encrypted.
    pub encrypted: bool,
    /// Largest blob in bytes.
    pub max_size: u64,
}

impl BlobCapability {
    /// The abilities, named.
    pub const fn new(durable: bool, encrypted: bool, max_size: u64) -> Self {
        Self { durable, encrypted, max_size }
    }
}

/// Keeps large values.
///
/// # Contract
/// The same contents give the same reference and rest once. A reference of another tenant is `NotFound`. What rests is
/// encrypted; a damaged blob is `Corrupt`, never wrong bytes.
#[async_trait]
pub trait BlobStore: Adapter {
    /// Keeps; durable when it returns.
    ///
    /// # Errors
    /// `InvalidInput` if too large; `Unavailable`.
    async fn put(&self, ctx: &ExecutionContext, contents: Bytes) -> Result<BlobRef>;

    /// Reads.
    ///
    /// # Errors
    /// `NotFound`, `Corrupt`, `Unavailable`.
    async fn get(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<Bytes>;

    /// Deletes; returns whether it was there.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn delete(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<bool>;

    /// What it can do.
    fn capability(&self) -> BlobCapability;
}
