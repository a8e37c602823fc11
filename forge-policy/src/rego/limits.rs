//! How much one decision may cost.

use std::num::NonZeroU32;
use std::time::Duration;

use regorus::utils::limits::ExecutionTimerConfig;

/// The bounds of one decision; beyond them it is a denial with `policy_limit` or `policy_input`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Bytecode instructions; 200,000. The interpreter knows only the time.
    pub instructions: usize,
    /// Wall time, looked at every thousand instructions or statements; 100 ms. It also passes while other threads have the
    /// processor, so it is far above what a decision takes.
    pub time: Duration,
    /// Bytes of all names and values of one input; 64 KiB.
    pub input_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { instructions: 200_000, time: Duration::from_millis(100), input_bytes: 64 * 1024 }
    }
}

impl Limits {
    /// Other bound of instructions.
    #[must_use]
    pub fn with_instructions(mut self, instructions: usize) -> Self {
        self.instructions = instructions;
        self
    }

    /// Other bound of time.
    #[must_use]
    pub fn with_time(mut self, time: Duration) -> Self {
        self.time = time;
        self
    }

    /// Other bound of the input.
    #[must_use]
    pub fn with_input_bytes(mut self, bytes: usize) -> Self {
        self.input_bytes = bytes;
        self
    }

    pub(super) fn timer(&self) -> ExecutionTimerConfig {
        ExecutionTimerConfig { limit: self.time, check_interval: NonZeroU32::new(1_000).unwrap_or(NonZeroU32::MIN) }
    }
}
