//! A circuit that opens when a far side fails again and again.

use std::time::Duration;

use crate::ErrorKind;

/// Lets calls through until so many have failed in a row, then none for a while, then one as a trial. Times are those of
/// [`Clock::monotonic`](crate::Clock::monotonic).
#[derive(Debug, Clone, Copy)]
pub struct Breaker {
    opens_at: u32,
    open_for: Duration,
    failures: u32,
    open_until: Duration,
}

/// What a [`Breaker`] lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Circuit {
    /// Everything.
    Closed,
    /// Nothing, for so long.
    Open(Duration),
    /// One call, whose end decides.
    HalfOpen,
}

impl Breaker {
    /// Opens at so many failures in a row, for so long.
    pub const fn new(opens_at: u32, open_for: Duration) -> Self {
        Self { opens_at, open_for, failures: 0, open_until: Duration::ZERO }
    }

    /// What it lets through at `now`; changes nothing.
    pub fn circuit(&self, now: Duration) -> Circuit {
        match self.open_until.checked_sub(now).filter(|left| !left.is_zero()) {
            _ if self.failures < self.opens_at => Circuit::Closed,
            Some(left) => Circuit::Open(left),
            None => Circuit::HalfOpen,
        }
    }

    /// Lets a call through. Of a half-open circuit this is the trial, and the next call waits for its result.
    ///
    /// # Errors
    /// How long it stays open.
    pub fn admit(&mut self, now: Duration) -> Result<(), Duration> {
        match self.circuit(now) {
            Circuit::Closed => {}
            Circuit::Open(left) => return Err(left),
            Circuit::HalfOpen => self.open_until = now.saturating_add(self.open_for),
        }
        Ok(())
    }

    /// Learns how a call ended that was let through.
    pub fn learn(&mut self, now: Duration, outcome: Result<(), ErrorKind>) {
        match outcome {
            Err(ErrorKind::Unavailable | ErrorKind::Timeout | ErrorKind::UnknownOutcome) => {
                self.failures = self.failures.saturating_add(1);
                self.open_until = now.saturating_add(self.open_for);
            }
            // cut off by its caller: that says nothing about the far side
            Err(ErrorKind::Cancelled) => {}
            // an answer, even a refusal, shows that the far side lives
            _ => self.failures = 0,
        }
    }
}
