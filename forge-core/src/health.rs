//! Whether an adapter can do its work now.

use std::fmt;

use async_trait::async_trait;
use serde::Serialize;

/// How hard to look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// Liveness: cheap enough for every probe.
    Shallow,
    /// Readiness: one real round trip, a write where writing is the adapter's work.
    Deep,
}

/// The verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It works.
    Up,
    /// It works, but something is lost: `detail` says what.
    Degraded,
    /// It does not work.
    Down,
}

/// One adapter's health.
#[derive(Debug, Clone, Serialize)]
pub struct Health {
    /// The verdict.
    pub status: Status,
    /// For operators; no secret, no tenant's datum.
    pub detail: String,
}

impl Health {
    /// It works.
    pub fn up() -> Self {
        Self { status: Status::Up, detail: String::new() }
    }

    /// It does not, and why.
    pub fn down(detail: impl Into<String>) -> Self {
        Self { status: Status::Down, detail: detail.into() }
    }
}

/// Answers for its own health. Not tenant work, so no context.
///
/// # Contract
/// A fresh adapter is up, at both depths. To look changes nothing, however many look at once, or stop in the middle. An adapter whose server
/// is gone is down, and the detail says why, without a secret.
#[async_trait]
pub trait HealthCheck: Send + Sync {
    /// Looks. Never longer than a few seconds; never an error: a failure is [`Status::Down`].
    async fn check(&self, depth: Depth) -> Health;
}

/// What every adapter is: it can be printed without secrets, shared between threads and asked for its health.
pub trait Adapter: HealthCheck + fmt::Debug + Send + Sync + 'static {}

impl<T: HealthCheck + fmt::Debug + Send + Sync + 'static + ?Sized> Adapter for T {}
