//! The worker: leases tasks, runs their handlers, renews, settles, drains.
//!
//! A handler runs under its own context, opened from the seal that came with the task, and behind the guard (`task.run`). Its context is
//! cancelled when its soft time limit has passed, when its lease was lost and when the worker shuts down; a handler that heeds
//! `ctx.cancellation()` ends in good order, another is dropped after a grace. What it answers rests as tokens where it holds personal
//! data; an error is tried again as its [`RetryPolicy`] says, or becomes a dead letter.
//!
//! ```
//! use std::{sync::Arc, time::Duration};
//! use async_trait::async_trait;
//! use forge_core::fake::{FakeKeyring, FakePolicy, FakeQueue, FakeRedactor, ManualClock};
//! use forge_core::queue::{Lease, NewTask, TaskHandler, TaskQueue};
//! use forge_core::{ExecutionContext, Result, Slug, metrics::NoMetrics, testing};
//! use forge_queue::worker::{HandlerOptions, Limits, Worker, WorkerParts};
//! use serde_json::{Value, json};
//!
//! #[derive(Debug)]
//! struct Index;
//! #[async_trait]
//! impl TaskHandler for Index {
//!     async fn handle(&self, _: &ExecutionContext, task: &Lease) -> Result<Value> {
//!         Ok(json!({ "indexed": task.payload["document"] }))
//!     }
//! }
//!
//! # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
//! let clock = Arc::new(ManualClock::default());
//! let queue = Arc::new(FakeQueue::new(clock.clone()));
//! let index = Slug::parse("index")?;
//! let ana = testing::context("acme", "ana", "analyst");
//! queue.enqueue(&ana, NewTask::new(index.clone(), json!({ "document": 7 }))).await?;
//!
//! let limits = Limits { soft: Some(Duration::from_secs(60)), hard: Some(Duration::from_secs(90)) };
//! let worker = Worker::new(WorkerParts {
//!     broker: queue.clone(),
//!     guard: testing::fake_guard(FakePolicy::allow_all(), clock.clone()).guard,
//!     redactor: Arc::new(FakeRedactor),
//!     keyring: Arc::new(FakeKeyring),
//!     metrics: Arc::new(NoMetrics),
//!     clock,
//!     concurrency: 4,
//!     visibility: Duration::from_secs(30),
//! })
//! .handler_with(&index, Arc::new(Index), HandlerOptions::default().with_limits(limits).with_concurrency(2));
//! let serving = tokio::spawn({
//!     let worker = worker.clone();
//!     async move { worker.run().await }
//! });
//! while queue.depth(&ana).await?.ready > 0 {
//!     tokio::task::yield_now().await;
//! }
//! let drained = worker.shutdown(Duration::from_secs(30)).await;
//! assert_eq!((drained.finished, drained.cut), (1, 0));
//! # serving.await.unwrap();
//! # Ok::<(), forge_core::Error>(())
//! # }).unwrap();
//! ```

mod admit;
mod circuits;
mod hold;
mod options;
mod run;
mod serve;
mod settle;
mod slots;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use forge_core::guard::Guard;
use forge_core::keyring::Keyring;
use forge_core::metrics::Metrics;
use forge_core::queue::{Broker, TaskHandler};
use forge_core::redact::Redactor;
use forge_core::{Clock, Slug};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::workflow::{Engine, StepHandler};
use circuits::Circuits;
use slots::Slots;

pub use options::{HandlerOptions, Limits, RetryPolicy, Settings};

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
    options: HandlerOptions,
}

impl Entry {
    /// Its tasks at a time.
    fn most(&self) -> Option<usize> {
        self.options.concurrency.map(|most| most.max(1))
    }
}

/// Serves tasks until it is stopped. Cheap to clone; clones are one worker.
#[derive(Clone)]
pub struct Worker {
    parts: Arc<WorkerParts>,
    settings: Arc<Settings>,
    handlers: Arc<BTreeMap<Slug, Entry>>,
    state: Arc<State>,
}

/// What changes while it serves.
#[derive(Default)]
struct State {
    tasks: TaskTracker,
    slots: Arc<Slots>,
    circuits: Circuits,
    /// No more tasks are taken.
    stopping: CancellationToken,
    /// Those that run are told to stop.
    cut: CancellationToken,
    /// Those that did not are dropped, and nothing is said to the broker a second time.
    halt: CancellationToken,
    counts: Counts,
}

/// Since it was told to stop.
#[derive(Default)]
struct Counts {
    finished: AtomicUsize,
    cut: AtomicUsize,
    released: AtomicUsize,
}

/// How a worker came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Drained {
    /// Tasks that ended by themselves, well or not.
    pub finished: usize,
    /// Tasks that did not: another worker begins again with them.
    pub cut: usize,
    /// Tasks that were leased and not begun, given back.
    pub released: usize,
}

impl Worker {
    /// A worker without handlers, with the default settings.
    pub fn new(parts: WorkerParts) -> Self {
        Self { parts: Arc::new(parts), settings: Arc::default(), handlers: Arc::default(), state: Arc::default() }
    }

    /// Replaces the settings.
    #[must_use]
    pub fn with_settings(mut self, settings: Settings) -> Self {
        self.settings = Arc::new(settings);
        self
    }

    /// Adds a handler for tasks of this name.
    #[must_use]
    pub fn handler(self, name: &Slug, handler: Arc<dyn TaskHandler>) -> Self {
        self.handler_with(name, handler, HandlerOptions::default())
    }

    /// Adds a handler for tasks of this name, with limits, retries or a concurrency of its own.
    #[must_use]
    pub fn handler_with(self, name: &Slug, handler: Arc<dyn TaskHandler>, options: HandlerOptions) -> Self {
        self.with_entry(name.clone(), Entry { handler, internal: false, options })
    }

    /// Adds the handler for the queued steps of an engine's workflows.
    #[must_use]
    pub fn steps(self, engine: Engine) -> Self {
        let (handler, options) = (Arc::new(StepHandler(engine)), HandlerOptions::default());
        match Slug::parse(StepHandler::NAME) {
            Ok(name) => self.with_entry(name, Entry { handler, internal: true, options }),
            Err(_) => self,
        }
    }

    fn with_entry(mut self, name: Slug, entry: Entry) -> Self {
        Arc::make_mut(&mut self.handlers).insert(name, entry);
        self
    }

    /// Takes no more tasks and lets the running ones finish. Shortly before the end of `within` (by the grace of the settings, but not by
    /// more than half) it cancels the contexts of those that are left, and at the end drops them. What was cut off goes to another worker,
    /// or its lease runs out where that was the last try; what was leased and not begun goes back uncounted. A broker that does not answer,
    /// and a handler that blocks its thread, may keep it for 2 seconds more.
    pub async fn shutdown(&self, within: Duration) -> Drained {
        let state = &self.state;
        state.stopping.cancel();
        state.tasks.close();
        let grace = self.settings.grace.min(within / 2);
        if !self.idle(within.saturating_sub(grace)).await {
            state.cut.cancel();
            if !self.idle(grace).await {
                state.halt.cancel();
                self.idle(Duration::from_secs(2)).await;
            }
        }
        let count = |n: &AtomicUsize| n.load(Ordering::Relaxed);
        let drained = Drained {
            finished: count(&state.counts.finished),
            cut: count(&state.counts.cut).saturating_add(state.slots.count()),
            released: count(&state.counts.released),
        };
        tracing::info!(drained.finished, drained.cut, drained.released, "the worker has stopped");
        drained
    }

    /// Whether everything has ended, at the latest after so long.
    async fn idle(&self, within: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.state.tasks.wait() => true,
            () = self.parts.clock.sleep(within) => false,
        }
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("handlers", &self.handlers.keys().collect::<Vec<_>>()).finish_non_exhaustive()
    }
}
