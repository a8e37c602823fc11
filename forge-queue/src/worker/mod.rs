//! The worker: leases tasks, runs their handlers, renews, acknowledges, drains.

use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use forge_core::guard::{Access, Guard, Tries};
use forge_core::keyring::Keyring;
use forge_core::metrics::{Metric, Metrics};
use forge_core::queue::{Broker, Lease, LeaseRequest, Nack, TaskHandler};
use forge_core::redact::{Redactor, RedactorExt};
use forge_core::tool::Effect;
use forge_core::{Clock, Error, ErrorKind, ExecutionContext, Result, SealedFor, Slug};
use futures::FutureExt;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::workflow::Engine;
use crate::workflow::StepHandler;

/// What a worker is made of.
#[derive(Debug, Clone)]
pub struct WorkerParts {
    /// Where tasks come from.
    pub broker: Arc<dyn Broker>,
    /// Decides whether a task may run.
    pub guard: Guard,
    /// Puts the values of tokens back.
    pub redactor: Arc<dyn Redactor>,
    /// Opens sealed contexts.
    pub keyring: Arc<dyn Keyring>,
    /// Counts.
    pub metrics: Arc<dyn Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Tasks at a time; 4 is a good start.
    pub concurrency: usize,
    /// How long a worker that stopped answering keeps a task; renewed at a third of it.
    pub visibility: Duration,
}

#[derive(Clone)]
struct Entry {
    handler: Arc<dyn TaskHandler>,
    /// The engine's own steps decide and reveal inside, call by call.
    internal: bool,
}

/// Serves tasks until it is stopped. Cheap to clone.
#[derive(Clone)]
pub struct Worker {
    parts: Arc<WorkerParts>,
    handlers: BTreeMap<String, Entry>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    cut: CancellationToken,
}

impl Worker {
    /// A worker without handlers.
    pub fn new(parts: WorkerParts) -> Self {
        Self {
            parts: Arc::new(parts),
            handlers: BTreeMap::new(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            cut: CancellationToken::new(),
        }
    }

    /// Adds a handler for tasks of this name.
    #[must_use]
    pub fn handler(mut self, name: &Slug, handler: Arc<dyn TaskHandler>) -> Self {
        self.handlers.insert(name.to_string(), Entry { handler, internal: false });
        self
    }

    /// Adds the handler for the queued steps of an engine's workflows.
    #[must_use]
    pub fn steps(mut self, engine: Engine) -> Self {
        self.handlers
            .insert(StepHandler::NAME.to_owned(), Entry { handler: Arc::new(StepHandler(engine)), internal: true });
        self
    }

    /// Serves until [`shutdown`](Worker::shutdown). An unreachable broker is waited for.
    pub async fn run(&self) {
        let names: Vec<Slug> = self.handlers.keys().filter_map(|n| Slug::parse(n).ok()).collect();
        let free = Arc::new(Semaphore::new(self.parts.concurrency.max(1)));
        let mut failures = 0;
        while !self.stopping.is_cancelled() {
            let Ok(first) = free.clone().acquire_owned().await else { return };
            let max = 1 + free.available_permits();
            let request = LeaseRequest::new(names.clone(), max, self.parts.visibility);
            let leases = match self.parts.broker.lease(&request).await {
                Ok(leases) => {
                    failures = 0;
                    leases
                }
                Err(e) => {
                    failures += 1;
                    tracing::warn!(error = %e, "no tasks could be leased; trying again");
                    self.rest(Tries::default().backoff(failures.min(2), &e).unwrap_or(Duration::from_secs(1))).await;
                    continue;
                }
            };
            if leases.is_empty() {
                drop(first);
                tokio::select! {
                    () = self.parts.broker.wait(Duration::from_secs(1)) => {}
                    () = self.stopping.cancelled() => {}
                }
                continue;
            }
            let mut first = Some(first);
            for lease in leases {
                let permit = match first.take() {
                    Some(p) => p,
                    None => match free.clone().acquire_owned().await {
                        Ok(p) => p,
                        Err(_) => return,
                    },
                };
                let worker = self.clone();
                self.tasks.spawn(async move {
                    worker.serve(lease).await;
                    drop(permit);
                });
            }
        }
    }

    /// Takes no more tasks, lets the running ones finish, and cuts off what is left after `within`: its lease runs out and
    /// another worker takes it.
    pub async fn shutdown(&self, within: Duration) {
        self.stopping.cancel();
        self.tasks.close();
        tokio::select! {
            () = self.tasks.wait() => {}
            () = self.parts.clock.sleep(within) => self.cut.cancel(),
        }
    }

    async fn rest(&self, d: Duration) {
        tokio::select! {
            () = self.parts.clock.sleep(d) => {}
            () = self.stopping.cancelled() => {}
        }
    }

    async fn serve(&self, lease: Lease) {
        let outcome = tokio::select! {
            outcome = AssertUnwindSafe(self.handle(&lease)).catch_unwind() => {
                outcome.unwrap_or_else(|_| Err(Error::unexpected("worker.handle", "the handler panicked")))
            }
            lost = self.renew(&lease) => Err(lost),
            () = self.cut.cancelled() => return,
        };
        let labels =
            [lease.tenant.as_str(), lease.name.as_str(), outcome.as_ref().map_or_else(|e| e.kind().as_str(), |_| "ok")];
        self.parts.metrics.add(Metric::Tasks, &labels, 1.0);
        let settled = match outcome {
            Ok(result) => self.parts.broker.ack(&lease, result).await,
            // the task is another's now
            Err(e) if e.kind() == ErrorKind::LeaseLost && e.operation() == "worker.renew" => return,
            Err(e) => {
                let tries = Tries { max: lease.max_retries.saturating_add(1), ..Tries::default() };
                let nack = match tries.backoff(lease.attempt, &e) {
                    Some(after) => Nack::Retry { after, report: e.report() },
                    None => Nack::Dead { report: e.report() },
                };
                self.parts.broker.nack(&lease, nack).await
            }
        };
        if let Err(e) = settled {
            tracing::warn!(tenant = %lease.tenant, task = %lease.id, error = %e, "a task could not be settled; its lease runs out");
        }
    }

    async fn handle(&self, lease: &Lease) -> Result<Value> {
        let parts = &self.parts;
        let entry = self
            .handlers
            .get(lease.name.as_str())
            .ok_or_else(|| Error::new(ErrorKind::Unsupported, "worker.handle", "no handler by this name"))?;
        let ctx = self.open(lease).await?;
        if entry.internal {
            return entry.handler.handle(&ctx, lease).await;
        }
        let access = Access {
            action: "task.run",
            resource: lease.name.as_str(),
            owner: &lease.tenant,
            effect: Effect::Write,
            payload: lease.payload.clone(),
        };
        parts.guard.authorize(&ctx, access).await?;
        let mut revealed = lease.clone();
        parts.redactor.reveal_json(&lease.tenant, &mut revealed.payload)?;
        entry.handler.handle(&ctx, &revealed).await
    }

    /// The context that the task was queued with; a seal of another task, queue, body or tenant is refused.
    async fn open(&self, lease: &Lease) -> Result<ExecutionContext> {
        let parts = &self.parts;
        parts.keyring.load(&lease.tenant).await?;
        let bound = SealedFor {
            id: lease.id.to_string(),
            name: lease.name.to_string(),
            queue: lease.queue.clone(),
            body: lease.body,
        };
        let ctx = lease.context.open(&bound, parts.keyring.as_ref(), parts.clock.now())?;
        if *ctx.tenant() != lease.tenant {
            return Err(Error::new(
                ErrorKind::TenantMismatch,
                "worker.open",
                "the sealed context belongs to another tenant than the queue",
            ));
        }
        Ok(ctx)
    }

    /// Renews until the lease is lost.
    async fn renew(&self, lease: &Lease) -> Error {
        loop {
            self.parts.clock.sleep(self.parts.visibility / 3).await;
            match self.parts.broker.renew(lease, self.parts.visibility).await {
                Err(e) if e.kind() == ErrorKind::LeaseLost => {
                    return Error::new(ErrorKind::LeaseLost, "worker.renew", "another worker has the task");
                }
                Err(e) => tracing::warn!(task = %lease.id, error = %e, "a lease could not be renewed; trying again"),
                Ok(_) => {}
            }
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("handlers", &self.handlers.keys().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}
