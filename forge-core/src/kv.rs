//! The smallest adapter: bytes under a key, of one tenant, for a while.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

pub use crate::single_flight::SingleFlight;
use crate::{Adapter, ExecutionContext, Namespace, Result};

/// A stored value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The bytes.
    pub value: Bytes,
    /// Changes with every write and is not used again, not after a delete either; for [`PutMode::Match`].
    pub version: u64,
}

/// When a write happens.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum PutMode {
    /// Always.
    #[default]
    Overwrite,
    /// Only where there is nothing; else `Conflict`.
    Create,
    /// Only over this version; else `Conflict`.
    Match(u64),
}

/// How to write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PutOptions {
    /// When.
    pub mode: PutMode,
    /// How long it stays; `None`: until it is deleted. Of no time, it is gone at once.
    pub ttl: Option<Duration>,
}

impl PutOptions {
    /// Sets when.
    #[must_use]
    pub fn with_mode(mut self, mode: PutMode) -> Self {
        self.mode = mode;
        self
    }

    /// Sets how long.
    #[must_use]
    pub fn with_ttl(mut self, ttl: Duration) -> Self {
        self.ttl = Some(ttl);
        self
    }
}

/// What a store can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct KeyValueCapability {
    /// Values survive a restart.
    pub durable: bool,
    /// Largest value in bytes.
    pub value_max_size: usize,
}

impl KeyValueCapability {
    /// The abilities, named.
    pub const fn new(durable: bool, value_max_size: usize) -> Self {
        Self { durable, value_max_size }
    }
}

/// Bytes under a key.
///
/// # Contract
/// A namespace of another tenant than the context's is `TenantMismatch`. A value past its time is not there. Keys are 1 to
/// 512 bytes of any text; they cannot leave their namespace.
#[async_trait]
pub trait KeyValue: Adapter {
    /// Reads.
    ///
    /// # Errors
    /// `TenantMismatch`, `InvalidInput`, `Unavailable`.
    async fn get(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<Option<Entry>>;

    /// Writes; returns the new version.
    ///
    /// # Errors
    /// `Conflict` as the mode says; `TenantMismatch`, `InvalidInput`, `Unavailable`.
    async fn put(
        &self,
        ctx: &ExecutionContext,
        namespace: &Namespace,
        key: &str,
        value: Bytes,
        options: PutOptions,
    ) -> Result<u64>;

    /// Deletes; returns whether it was there.
    ///
    /// # Errors
    /// `TenantMismatch`, `InvalidInput`, `Unavailable`.
    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<bool>;

    /// What it can do.
    fn capability(&self) -> KeyValueCapability;
}

/// Checks what every backend of a namespaced adapter must: the namespace's tenant is the context's.
///
/// # Errors
/// `TenantMismatch`.
pub fn same_tenant(operation: &'static str, ctx: &ExecutionContext, namespace: &Namespace) -> Result<()> {
    if namespace.tenant() == ctx.tenant() {
        return Ok(());
    }
    Err(crate::Error::new(crate::ErrorKind::TenantMismatch, operation, "the namespace belongs to another tenant"))
}
