//! A running host.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use forge_core::approvals::Approvals;
use forge_core::audit::AuditLog;
use forge_core::blob::BlobStore;
use forge_core::guard::{Guard, Guarded, Models, Tools};
use forge_core::keyring::Keyring;
use forge_core::kv::KeyValue;
use forge_core::queue::TaskQueue;
use forge_core::redact::Redactor;
use forge_core::usage::UsageLedger;
use forge_core::{
    Clock, Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Principal, RequestId, Result, Status,
};
use forge_memory::{Memory, StandardRouter};
use forge_policy::SqliteAudit;
use forge_queue::limits::QueueControl;
use forge_queue::schedule::{Scheduler, Schedules};
use forge_queue::worker::Worker;
use forge_queue::workflow::Engine;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::builder::ForgeBuilder;
use crate::embedded::Upkeep;
use crate::scope::Scope;

/// Everything, assembled. Cheap to clone; [`shutdown`](Forge::shutdown) it once.
#[derive(Clone)]
pub struct Forge(Arc<Parts>);

pub(crate) struct Parts {
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) guard: Guard,
    pub(crate) tools: Tools,
    pub(crate) engine: Engine,
    pub(crate) worker: Worker,
    pub(crate) serving: std::sync::Mutex<Option<JoinHandle<()>>>,
    pub(crate) models: Models,
    pub(crate) preferences: StandardRouter,
    pub(crate) queue: Guarded<dyn TaskQueue>,
    pub(crate) upkeep: Option<Upkeep>,
    pub(crate) schedules: Option<Schedules>,
    pub(crate) beat: Option<Beat>,
    pub(crate) key_values: Guarded<dyn KeyValue>,
    pub(crate) blobs: Guarded<dyn BlobStore>,
    pub(crate) memory: Memory,
    pub(crate) approvals: Arc<dyn Approvals>,
    pub(crate) ledger: Arc<dyn UsageLedger>,
    pub(crate) audit: Arc<dyn AuditLog>,
    pub(crate) exporter: Option<Arc<SqliteAudit>>,
    pub(crate) redactor: Arc<dyn Redactor>,
    pub(crate) keyring: Arc<dyn Keyring>,
    pub(crate) checks: Vec<(&'static str, Arc<dyn HealthCheck>)>,
    pub(crate) config: Config,
}

/// The scheduler while it runs.
pub(crate) struct Beat {
    cancel: CancellationToken,
    running: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Beat {
    pub(crate) fn begin(scheduler: Scheduler) -> Self {
        let cancel = CancellationToken::new();
        let until = cancel.clone();
        let running = tokio::spawn(async move { scheduler.run(until).await });
        Self { cancel, running: std::sync::Mutex::new(Some(running)) }
    }

    /// Lets the ticks in hand be queued.
    async fn end(&self, within: Duration, clock: &dyn Clock) {
        self.cancel.cancel();
        let running = self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(mut running) = running {
            tokio::select! {
                _ = &mut running => {}
                () = clock.sleep(within) => running.abort(),
            }
        }
    }
}

/// The health of every adapter, by name.
#[derive(Debug, Clone)]
pub struct HealthReport(pub Vec<(&'static str, Health)>);

impl HealthReport {
    /// Whether work can be done: nothing is down.
    pub fn is_ready(&self) -> bool {
        self.0.iter().all(|(_, h)| h.status != Status::Down)
    }
}

impl Parts {
    pub(crate) fn upkeep(&self) -> Result<&Upkeep> {
        self.upkeep.as_ref().ok_or_else(|| {
            Error::new(
                ErrorKind::Config,
                "queue.upkeep",
                "this host's queue keeps no dead letters, limits or schedules",
            )
        })
    }
}

impl Forge {
    /// Begins with the embedded backends; whatever is added replaces or extends them.
    pub fn builder() -> ForgeBuilder {
        ForgeBuilder::new()
    }

    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    pub(crate) fn parts(&self) -> &Parts {
        &self.0
    }

    /// The context of a new request: the only way to one in a host. The principal must come from a checked token or session.
    pub fn context(&self, principal: Principal) -> ExecutionContext {
        ExecutionContext::issue(principal, RequestId::random(self.0.clock.now()))
    }

    /// The adapters, bound to a context.
    pub fn scope(&self, ctx: &ExecutionContext) -> Scope<'_> {
        Scope { forge: self, ctx: ctx.clone() }
    }

    /// The key-value store, behind the guard.
    pub fn key_values(&self) -> &dyn KeyValue {
        &self.0.key_values
    }

    /// The blob store, behind the guard.
    pub fn blobs(&self) -> &dyn BlobStore {
        &self.0.blobs
    }

    /// The operator's side of the queue: limits, pause, who waits. Across tenants, so no tenant's request leads here.
    ///
    /// # Errors
    /// `Config` if this host's queue has none, as that of a test.
    pub fn queue_control(&self) -> Result<&dyn QueueControl> {
        self.0.upkeep().map(|upkeep| upkeep.control.as_ref())
    }

    /// The redactor, for the host's own logs.
    pub fn redactor(&self) -> &Arc<dyn Redactor> {
        &self.0.redactor
    }

    /// Seals contexts under a new key from now on and returns its id; what older keys sealed is still accepted. For the host's
    /// operator: no tenant's request leads here.
    ///
    /// # Errors
    /// `Unavailable` if that cannot be written down.
    pub async fn rotate_seal_key(&self) -> Result<String> {
        self.0.keyring.rotate_seal_key().await
    }

    /// Accepts seals of a key, and of those older than it, no more: queued tasks and runs under them become dead letters. The ids are those of
    /// [`seal_keys`](Self::seal_keys).
    ///
    /// # Errors
    /// `NotFound`; `Conflict` for the key that seals; `Unavailable`.
    pub async fn retire_seal_key(&self, key_id: &str) -> Result<()> {
        self.0.keyring.retire_seal_key(key_id).await
    }

    /// The ids of the keys whose seals are accepted, the one that seals first.
    pub fn seal_keys(&self) -> Vec<String> {
        self.0.keyring.seal_keys()
    }

    /// What each key of the configuration is, who gave it and over whom; see [`Config::explain`].
    pub fn explain_config(&self) -> String {
        self.0.config.explain()
    }

    /// Asks every adapter for its health.
    pub async fn health(&self, depth: Depth) -> HealthReport {
        let checks = self.0.checks.iter().map(|(name, adapter)| async move { (*name, adapter.check(depth).await) });
        HealthReport(futures::future::join_all(checks).await)
    }

    /// Stops in good order: no new work, running tasks and steps end, the books are flushed. What is not done within the time
    /// is cut off; queue and journal know how to go on.
    ///
    /// # Errors
    /// `Unavailable` if the books could not be flushed.
    pub async fn shutdown(&self, within: Duration) -> Result<()> {
        let p = &self.0;
        let ends = p.clock.monotonic() + within;
        let left = |clock: &Arc<dyn Clock>| ends.saturating_sub(clock.monotonic());
        if let Some(beat) = &p.beat {
            beat.end(left(&p.clock), p.clock.as_ref()).await;
        }
        // the engine first: its queued steps still need the worker
        p.engine.shutdown(left(&p.clock)).await;
        p.worker.shutdown(left(&p.clock)).await;
        let serving = p.serving.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(mut serving) = serving {
            tokio::select! {
                _ = &mut serving => {}
                () = p.clock.sleep(left(&p.clock)) => serving.abort(),
            }
        }
        p.ledger.flush(None).await?;
        p.audit.flush(None).await
    }
}

impl fmt::Debug for Forge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Forge")
            .field("tools", &self.0.tools)
            .field("engine", &self.0.engine)
            .field("adapters", &self.0.checks.iter().map(|(n, _)| n).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}
