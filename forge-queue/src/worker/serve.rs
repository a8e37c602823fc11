//! One lease, from its beginning to its end.

use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forge_core::metrics::Metric;
use forge_core::queue::{Lease, Nack};
use forge_core::redact::{RedactOptions, RedactorExt};
use forge_core::{Error, ErrorKind, Result, Retryability};
use futures::FutureExt;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::hold::Hold;
use super::options::Limits;
use super::settle::Settlement;
use super::slots::Place;
use super::{Entry, Worker};

const HANDLE: &str = "worker.handle";

/// How work on a lease ended.
enum Ended {
    Done(Value),
    Failed(Failure),
    /// Its circuit is open: not begun.
    NotBegun,
    /// The task is another's now.
    Lost,
    /// The worker is shutting down.
    Cut,
}

struct Failure {
    error: Error,
    /// Not tried again, whatever the policy says.
    last: bool,
}

/// How the handler ended.
type Outcome = Result<Value, Stop>;

/// Why there is no result.
enum Stop {
    /// Before the handler was called.
    Refused(Error),
    NotBegun,
    Failed(Error),
    /// Its result may not be kept as it is.
    Unkept(Error),
}

impl Worker {
    /// Does the task of a lease that was asked for at `asked`, and says how it ended.
    pub(super) async fn serve(&self, lease: Lease, _place: Place, asked: Duration) {
        let lease = Arc::new(lease);
        let hold = self.hold(&lease, asked);
        // the renewal's first turn is before the handler's: what tokio runs next on this thread, another thread cannot take over
        tokio::task::yield_now().await;
        let ended = match self.handlers.get(&lease.name) {
            Some(entry) => self.work(&lease, &hold, entry).await,
            None => Ended::Failed(Failure {
                error: Error::new(ErrorKind::Unsupported, HANDLE, "no handler by this name"),
                last: true,
            }),
        };
        self.count(&lease, &ended);
        let settled = match ended {
            Ended::Done(result) => self.settle(&lease, &hold, Settlement::Ack(result)).await,
            Ended::Failed(failure) => {
                let (lease, nack) = self.refused(&lease, &failure);
                self.settle(&lease, &hold, Settlement::Nack(nack)).await
            }
            Ended::NotBegun => return self.give_back(&lease, &hold).await,
            Ended::Lost => {
                tracing::debug!(tenant = %lease.tenant, task = %lease.id, "a lease was lost; another has the task");
                return;
            }
            Ended::Cut => {
                self.hand_over(&lease, &hold).await;
                false
            }
        };
        if self.state.stopping.is_cancelled() {
            let counts = &self.state.counts;
            let count = if settled { &counts.finished } else { &counts.cut };
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives a lease back that was not begun.
    pub(super) async fn release(&self, lease: Lease, asked: Duration) {
        let lease = Arc::new(lease);
        let hold = self.hold(&lease, asked);
        self.give_back(&lease, &hold).await;
    }

    async fn give_back(&self, lease: &Lease, hold: &Hold) {
        if self.settle(lease, hold, Settlement::Nack(Nack::Release)).await && self.state.stopping.is_cancelled() {
            self.state.counts.released.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives a task to another worker that was begun here. On its last try nobody may begin again without a look: its lease runs out.
    async fn hand_over(&self, lease: &Lease, hold: &Hold) {
        let error = Error::new(ErrorKind::Cancelled, HANDLE, "the worker was shut down before the task was done");
        let lease = self.effective(lease);
        if lease.attempt <= lease.max_retries {
            let nack = Nack::Retry { after: Duration::ZERO, report: error.report() };
            self.settle(&lease, hold, Settlement::Nack(nack)).await;
        }
    }

    fn hold(&self, lease: &Arc<Lease>, asked: Duration) -> Hold {
        let parts = &self.parts;
        Hold::new(parts.broker.clone(), parts.clock.clone(), lease.clone(), parts.visibility, asked)
    }

    /// Runs the handler to its end, or until it has to stop.
    async fn work(&self, lease: &Lease, hold: &Hold, entry: &Entry) -> Ended {
        let limits = match entry.internal {
            // the engine has limits of its own
            true => Limits::default(),
            false => entry.options.limits.or(self.settings.limits).and_of(lease),
        };
        let (stop, state) = (CancellationToken::new(), &self.state);
        let mut work = pin!(AssertUnwindSafe(self.handle(lease, entry, &stop, limits.hard)).catch_unwind());
        let mut hard = pin!(self.after(limits.hard));
        let cut = tokio::select! {
            biased;
            outcome = &mut work => return self.ended(lease, outcome, false),
            () = &mut hard => return self.too_long(lease, limits),
            () = hold.lost() => false,
            () = state.cut.cancelled() => true,
            () = self.after(limits.soft) => {
                stop.cancel();
                tokio::select! {
                    biased;
                    outcome = &mut work => return self.ended(lease, outcome, true),
                    () = &mut hard => return self.too_long(lease, limits),
                    () = hold.lost() => false,
                    () = state.cut.cancelled() => true,
                }
            }
        };
        // a step of the engine's would journal that it was cancelled, and the run would fail with it
        let told = !(cut && entry.internal);
        if told {
            stop.cancel();
        }
        let outcome = tokio::select! {
            biased;
            outcome = &mut work => Some(outcome),
            () = &mut hard => None,
            () = self.parts.clock.sleep(self.settings.grace), if !cut => None,
            () = state.halt.cancelled() => None,
        };
        match outcome {
            _ if !cut => Ended::Lost,
            // an error of a handler that was told to stop is not the task's
            Some(outcome) if !told || matches!(outcome, Ok(Ok(_) | Err(Stop::NotBegun))) => {
                self.ended(lease, outcome, false)
            }
            _ => Ended::Cut,
        }
    }

    async fn handle(&self, lease: &Lease, entry: &Entry, stop: &CancellationToken, limit: Option<Duration>) -> Outcome {
        let parts = &self.parts;
        let ctx = self.open(lease, stop, limit).await.map_err(Stop::Refused)?;
        if entry.internal {
            return entry.handler.handle(&ctx, lease).await.map_err(Stop::Failed);
        }
        let revealed = self.admit(&ctx, lease).await.map_err(Stop::Refused)?;
        self.state.circuits.admit(&lease.name, parts.clock.monotonic()).map_err(|_| Stop::NotBegun)?;
        let mut result = entry.handler.handle(&ctx, &revealed).await.map_err(Stop::Failed)?;
        // what the handler says rests as the payload does: personal data as tokens
        let tokens = RedactOptions::tokenize_all();
        parts.redactor.redact_json(&lease.tenant, &mut result, &tokens).map_err(Stop::Unkept)?;
        Ok(result)
    }

    /// What the end of a handler means; `late` if it was told to stop because of its soft limit.
    fn ended(&self, lease: &Lease, outcome: std::thread::Result<Outcome>, late: bool) -> Ended {
        let outcome = outcome.unwrap_or_else(|_| Err(Stop::Failed(Error::unexpected(HANDLE, "the handler panicked"))));
        let outcome = match outcome {
            Err(Stop::Failed(e)) if late => {
                let why = "soft time limit exceeded";
                Err(Stop::Failed(Error::new(ErrorKind::Timeout, HANDLE, why).with("ended_as", e.kind().as_str())))
            }
            outcome => outcome,
        };
        let learnt = match &outcome {
            Ok(_) | Err(Stop::Unkept(_)) => Some(Ok(())),
            Err(Stop::Failed(e)) => Some(Err(e.kind())),
            Err(Stop::Refused(_) | Stop::NotBegun) => None,
        };
        if let Some(learnt) = learnt {
            self.learn(lease, learnt);
        }
        match outcome {
            Ok(result) => Ended::Done(result),
            Err(Stop::Failed(error)) => Ended::Failed(Failure { error, last: false }),
            // what is not allowed is not tried until it is
            Err(Stop::Refused(error)) => {
                let last = error.retry() == Retryability::Never;
                Ended::Failed(Failure { error, last })
            }
            Err(Stop::Unkept(error)) => Ended::Failed(Failure { error, last: true }),
            Err(Stop::NotBegun) => Ended::NotBegun,
        }
    }

    fn too_long(&self, lease: &Lease, limits: Limits) -> Ended {
        self.learn(lease, Err(ErrorKind::Timeout));
        let limit = limits.hard.unwrap_or_default();
        let error = Error::new(ErrorKind::Timeout, HANDLE, "hard time limit exceeded")
            .with("limit_ms", limit.as_millis().to_string())
            .with_retry(Retryability::Never);
        Ended::Failed(Failure { error, last: true })
    }

    fn learn(&self, lease: &Lease, outcome: Result<(), ErrorKind>) {
        let now = self.parts.clock.monotonic();
        if self.state.circuits.learn(&lease.name, now, outcome, || self.settings.breaker()) {
            self.state.slots.freed.notify_one();
        }
    }

    /// Again later, or given up.
    fn refused(&self, lease: &Lease, failure: &Failure) -> (Lease, Nack) {
        let lease = self.effective(lease);
        let report = failure.error.report();
        let next = self.policy(&lease).next(&lease, &failure.error, self.parts.clock.now());
        let nack = match next.filter(|_| !failure.last) {
            Some(after) => Nack::Retry { after, report },
            None => Nack::Dead { report },
        };
        (lease, nack)
    }

    fn policy(&self, lease: &Lease) -> &super::RetryPolicy {
        let own = self.handlers.get(&lease.name).and_then(|entry| entry.options.retry.as_ref());
        own.unwrap_or(&self.settings.retry)
    }

    /// The lease with the number of retries that hold for it here.
    fn effective(&self, lease: &Lease) -> Lease {
        let mut lease = lease.clone();
        lease.max_retries = self.policy(&lease).max_retries.unwrap_or(lease.max_retries);
        lease
    }

    /// Ends after so long; without a limit never.
    async fn after(&self, limit: Option<Duration>) {
        match limit {
            Some(limit) => self.parts.clock.sleep(limit).await,
            None => std::future::pending().await,
        }
    }

    fn count(&self, lease: &Lease, ended: &Ended) {
        let word = match ended {
            Ended::Done(_) => "ok",
            Ended::Failed(failure) => failure.error.kind().as_str(),
            Ended::Lost => ErrorKind::LeaseLost.as_str(),
            Ended::NotBegun | Ended::Cut => return,
        };
        self.parts.metrics.add(Metric::Tasks, &[lease.tenant.as_str(), lease.name.as_str(), word], 1.0);
    }
}
