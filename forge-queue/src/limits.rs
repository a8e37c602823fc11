//! How much of a queue a tenant gets, and what the operator may do about it.

use std::fmt;

use async_trait::async_trait;
use forge_core::queue::QueueDepth;
use forge_core::{Error, Result, TenantId};

/// What bounds a tenant. By default nothing but its turn.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct QueueLimits {
    /// Turns in proportion to this where others wait too; 1 by default, 0.01 to 100.
    pub weight: f64,
    /// Tasks with workers at a time.
    pub running: Option<u32>,
    /// Tasks given to workers a second, on average.
    pub rate: Option<f64>,
    /// Tasks that may be given at once after a pause; one second's worth by default.
    pub burst: Option<u32>,
    /// Tasks that are open; one more is `QuotaExceeded`.
    pub length: Option<u32>,
}

impl Default for QueueLimits {
    fn default() -> Self {
        Self { weight: 1.0, running: None, rate: None, burst: None, length: None }
    }
}

impl QueueLimits {
    /// Sets the weight.
    #[must_use]
    pub fn with_weight(mut self, weight: f64) -> Self {
        self.weight = weight;
        self
    }

    /// Sets how many run at a time.
    #[must_use]
    pub fn with_running(mut self, running: u32) -> Self {
        self.running = Some(running);
        self
    }

    /// Sets how many are given to workers a second.
    #[must_use]
    pub fn with_rate(mut self, rate: f64) -> Self {
        self.rate = Some(rate);
        self
    }

    /// Sets how many may be given at once.
    #[must_use]
    pub fn with_burst(mut self, burst: u32) -> Self {
        self.burst = Some(burst);
        self
    }

    /// Sets how many may be open.
    #[must_use]
    pub fn with_length(mut self, length: u32) -> Self {
        self.length = Some(length);
        self
    }

    /// What keeps them from being used.
    ///
    /// # Errors
    /// `InvalidInput`.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: &'static str| Err(Error::invalid("queue.limits", what));
        if !(0.01..=100.0).contains(&self.weight) {
            return wrong("a weight is 0.01 to 100");
        }
        if self.rate.is_some_and(|r| !(r.is_finite() && (0.001..=1e6).contains(&r))) {
            return wrong("a rate is 0.001 to 1000000 a second");
        }
        if self.running == Some(0) || self.burst == Some(0) || self.length == Some(0) {
            return wrong("a limit of 0 would stop the tenant for good; pause it instead");
        }
        Ok(())
    }
}

/// One tenant in a queue.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct TenantQueue {
    /// Whose.
    pub tenant: TenantId,
    /// How much of it.
    pub depth: QueueDepth,
    /// Whether it is paused.
    pub paused: bool,
    /// What bounds it.
    pub limits: QueueLimits,
}

#[cfg(any(feature = "redis", feature = "sqlite"))]
impl TenantQueue {
    pub(crate) fn new(tenant: TenantId, depth: QueueDepth, paused: bool, limits: QueueLimits) -> Self {
        Self { tenant, depth, paused, limits }
    }
}

/// The operator's side of a queue: across tenants, so not for requests of theirs. Limits are kept in the queue and hold for every worker.
#[async_trait]
pub trait QueueControl: fmt::Debug + Send + Sync + 'static {
    /// Every tenant that has or had tasks, in order.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn tenants(&self) -> Result<Vec<TenantQueue>>;

    /// Bounds a tenant from now on.
    ///
    /// # Errors
    /// `InvalidInput`; `Unavailable`.
    async fn set_limits(&self, tenant: &TenantId, limits: QueueLimits) -> Result<()>;

    /// Gives nothing more of the tenant to workers until [`resume`](Self::resume). What runs goes on, what comes is queued.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn pause(&self, tenant: &TenantId) -> Result<()>;

    /// Gives the tenant its turns again.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn resume(&self, tenant: &TenantId) -> Result<()>;

    /// Takes away what the tenant has waiting, for good, and returns how many tasks that were. What runs goes on.
    ///
    /// # Errors
    /// `Unavailable`; what was cancelled before stays so.
    async fn drop_waiting(&self, tenant: &TenantId) -> Result<u64>;
}
