//! How patient the guard is, and how much it lets through at a time.

use std::time::Duration;

/// Bounds of the guard; the defaults are those that the names say. All hold for each tenant apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Settings {
    /// Failures in a row after which the circuit of a tool or model opens; 5.
    pub breaker_failures: u32,
    /// How long it stays open before one call is let through as a trial; 30 seconds.
    pub breaker_open: Duration,
    /// Calls of one tool, model or task at a time; the next waits; 64. Zero counts as one, here and below.
    pub tool_concurrency: usize,
    /// Calls of everything at a time; the next waits; 256.
    pub tenant_concurrency: usize,
    /// Retries of one tool or model at once; one more comes back every ten seconds, and one for every five calls; 10. When they
    /// are used up, a failure is final: retries must not be what keeps a far side down.
    pub retry_budget: u32,
    /// How long a policy may think before the call is denied; 5 seconds.
    pub policy_timeout: Duration,
    /// Bytes of cached answers; 8 MiB. Zero switches caching off.
    pub cache_bytes: usize,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            breaker_failures: 5,
            breaker_open: Duration::from_secs(30),
            tool_concurrency: 64,
            tenant_concurrency: 256,
            retry_budget: 10,
            policy_timeout: Duration::from_secs(5),
            cache_bytes: 8 * 1024 * 1024,
        }
    }
}
