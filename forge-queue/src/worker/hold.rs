//! Keeps a lease while its task is worked on and settled.
//!
//! It does so in a task of its own, so that a handler that does not yield for long keeps its lease. On a runtime of one thread nothing
//! runs beside a handler that blocks it: give blocking work to `tokio::task::spawn_blocking`, or the runtime a second thread.

use std::sync::Arc;
use std::time::Duration;

use forge_core::queue::{Broker, Lease};
use forge_core::{Clock, ErrorKind};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A lease that is renewed at a third of its length. Dropped, it is left to run out.
pub(super) struct Hold {
    lost: CancellationToken,
    renewing: JoinHandle<()>,
}

impl Hold {
    /// Holds a lease of this length that was asked for at `asked`, on the monotonic clock: the clocks of two machines differ.
    pub(super) fn new(
        broker: Arc<dyn Broker>,
        clock: Arc<dyn Clock>,
        lease: Arc<Lease>,
        length: Duration,
        asked: Duration,
    ) -> Self {
        let lost = CancellationToken::new();
        let renewal = Renewal { broker, clock, lease, length, until: asked.saturating_add(length) };
        let renewing = tokio::spawn({
            let lost = lost.clone();
            async move {
                renewal.run().await;
                lost.cancel();
            }
        });
        Self { lost, renewing }
    }

    /// Ends once the task is another worker's or nobody's: it was cancelled, or the lease was not renewed in time.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.renewing.abort();
    }
}

struct Renewal {
    broker: Arc<dyn Broker>,
    clock: Arc<dyn Clock>,
    lease: Arc<Lease>,
    length: Duration,
    until: Duration,
}

impl Renewal {
    /// Renews until the lease is lost.
    async fn run(mut self) {
        let third = (self.length / 3).max(Duration::from_millis(1));
        let mut pause = third;
        loop {
            let left = self.until.saturating_sub(self.clock.monotonic());
            if left.is_zero() {
                tracing::warn!(tenant = %self.lease.tenant, task = %self.lease.id, "a lease ran out; it could not be renewed in time");
                return;
            }
            tokio::select! {
                () = self.clock.sleep(pause.min(left)) => {}
                () = self.lease.lost.cancelled() => return,
            }
            let begun = self.clock.monotonic();
            let left = self.until.saturating_sub(begun);
            let renewed = tokio::select! {
                biased;
                renewed = self.broker.renew(&self.lease, self.length) => renewed,
                () = self.clock.sleep(left) => continue,
                () = self.lease.lost.cancelled() => return,
            };
            pause = match renewed {
                Ok(_) => {
                    self.until = begun.saturating_add(self.length);
                    third
                }
                Err(e) if e.kind() == ErrorKind::LeaseLost => return,
                Err(e) => {
                    tracing::warn!(tenant = %self.lease.tenant, task = %self.lease.id, error = %e, "a lease could not be renewed; trying again");
                    (third / 4).max(Duration::from_millis(1))
                }
            };
        }
    }
}
