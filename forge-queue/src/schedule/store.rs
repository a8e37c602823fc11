//! Where schedules lie: what the machinery needs of a backend, and no more.

use std::fmt;

use async_trait::async_trait;
use forge_core::{Digest, Result, Slug, TenantId, Timestamp};

/// A schedule as a backend keeps it. What is in it is the machinery's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredSchedule {
    /// Whose.
    pub tenant: TenantId,
    /// Its name.
    pub name: Slug,
    /// Of this content and time; another after each change.
    pub version: String,
    /// Everything else, as text.
    pub record: String,
}

impl StoredSchedule {
    /// With the version that content and time have.
    pub(super) fn new(tenant: TenantId, name: Slug, record: String, due: Option<Timestamp>) -> Self {
        let due = due.map_or(i64::MAX, Timestamp::as_nanos).to_be_bytes();
        let version = Digest::of_parts(&[b"schedule", &due, record.as_bytes()]).to_string();
        Self { tenant, name, version, record }
    }
}

/// What is due.
#[derive(Debug, Clone)]
pub struct Due {
    /// The store's time.
    pub now: Timestamp,
    /// Schedules whose time has come, those that wait longest first.
    pub schedules: Vec<StoredSchedule>,
    /// When the first of the others is due, where there is one.
    pub next: Option<Timestamp>,
}

/// The rows that parse: a damaged one does not keep the others from being served.
#[cfg(any(feature = "redis", feature = "sqlite"))]
pub(crate) fn readable(rows: impl Iterator<Item = Result<StoredSchedule>>) -> Vec<StoredSchedule> {
    rows.filter_map(|row| row.inspect_err(|e| tracing::error!(error = %e, "a schedule cannot be read")).ok()).collect()
}

/// A backend of schedules. Machinery, like a broker: no context, the tenant stands in each row.
///
/// # Contract
/// `write` is one atomic step: of many that change the same version, one is done. A dropped call has happened or has not. A row is found
/// under its own tenant alone. `due` changes nothing.
#[async_trait]
pub trait ScheduleStore: fmt::Debug + Send + Sync + 'static {
    /// A tenant's schedules, by name.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn schedules(&self, tenant: &TenantId) -> Result<Vec<StoredSchedule>>;

    /// One schedule, if the tenant has it.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn schedule(&self, tenant: &TenantId, name: &Slug) -> Result<Option<StoredSchedule>>;

    /// Writes a schedule in place of the version `was`, or where there was none; false, and nothing changed, if another is there now. It is
    /// due at the time given, or never.
    ///
    /// # Errors
    /// `Unavailable`; it may have been done.
    async fn write(&self, schedule: &StoredSchedule, due: Option<Timestamp>, was: Option<&str>) -> Result<bool>;

    /// Deletes a schedule; whether it was there.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn remove(&self, tenant: &TenantId, name: &Slug) -> Result<bool>;

    /// At most `limit` schedules of all tenants that are due, and the time.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn due(&self, limit: usize) -> Result<Due>;
}
