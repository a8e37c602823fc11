//! How a lease ends. The broker makes single attempts; here they are repeated until one works or the lease is over.

use std::time::Duration;

use forge_core::guard::Tries;
use forge_core::queue::{Lease, Nack};
use forge_core::{Error, ErrorKind, Result};
use serde_json::Value;

use super::Worker;
use super::hold::Hold;

/// Between two attempts. Their number is bounded by the lease.
const TRIES: Tries = Tries { max: u32::MAX, base: Duration::from_millis(100), cap: Duration::from_secs(5) };

/// What is to be said to the broker.
pub(super) enum Settlement {
    Ack(Value),
    Nack(Nack),
}

impl Worker {
    /// Says it until the broker has heard it, or the lease is lost. Whether it has.
    pub(super) async fn settle(&self, lease: &Lease, hold: &Hold, settlement: Settlement) -> bool {
        let outcome = match self.say(lease, hold, &settlement).await {
            // the work is done, but its result cannot be kept: trying again would end the same way
            Err(e) if matches!(settlement, Settlement::Ack(_)) && !is_over(&e) => {
                let dead = Settlement::Nack(Nack::Dead { report: e.report() });
                self.say(lease, hold, &dead).await
            }
            outcome => outcome,
        };
        if let Err(e) = &outcome {
            tracing::warn!(tenant = %lease.tenant, task = %lease.id, error = %e, "a task could not be settled; its lease runs out");
        }
        outcome.is_ok()
    }

    async fn say(&self, lease: &Lease, hold: &Hold, settlement: &Settlement) -> Result<()> {
        let attempts = async {
            let mut n = 0_u32;
            loop {
                n = n.saturating_add(1);
                let outcome = match settlement {
                    Settlement::Ack(result) => self.parts.broker.ack(lease, result.clone()).await,
                    Settlement::Nack(nack) => self.parts.broker.nack(lease, nack.clone()).await,
                };
                match outcome {
                    Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => {
                        tracing::debug!(tenant = %lease.tenant, task = %lease.id, error = %e, "a task could not be settled; trying again");
                        tokio::select! {
                            () = self.parts.clock.sleep(TRIES.backoff(n, &e).unwrap_or(TRIES.cap)) => {}
                            () = self.state.halt.cancelled() => return Err(e),
                        }
                    }
                    outcome => return outcome,
                }
            }
        };
        tokio::select! {
            biased;
            outcome = attempts => outcome,
            () = hold.lost() => Err(Error::new(ErrorKind::LeaseLost, "worker.settle", "the lease is over")),
        }
    }
}

/// Nothing more is to be said about the lease; after any other error the broker has heard what was said, and does not take it.
fn is_over(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::LeaseLost | ErrorKind::Cancelled | ErrorKind::Unavailable | ErrorKind::Timeout)
}
