//! Schedules: tasks that queue themselves, with every host as their beat.
//!
//! Celery's beat is one process: it stops and nothing ticks, it runs twice and everything ticks twice. Here each host runs a [`Scheduler`]
//! over the store that they share, and each tick is queued once however many run. A tick goes in three steps:
//! 1. **Taken.** One compare-and-set moves the schedule's next time on, writes down which ticks are to be queued, and holds the schedule for
//!    a minute. One host wins it.
//! 2. **Queued**, through the guarded [`TaskQueue`](forge_core::queue::TaskQueue), as whom the schedule was put and under a key of tenant,
//!    schedule and tick: the queue knows the key again, also of a task that is done.
//! 3. **Done.** A second compare-and-set crosses the ticks off.
//!
//! A host that dies before the first step has done nothing. One that dies after it leaves the ticks written down: a minute later another
//! queues them, under the same keys. So none is lost; and none is doubled for as long as the queue remembers the task: in SQLite until it
//! is pruned, in Redis for its `expires` and a day.
//!
//! The time is the store's: Redis's own, or that of the process that opened the file. Put back, nothing that has ticked ticks again; put
//! forward, the ticks between have been missed, and [`CatchUp`] says what becomes of them.
//!
//! ```
//! # use std::sync::Arc;
//! # use forge_core::{Clock, ExecutionContext, Result, Slug, keyring::Keyring, queue::{NewTask, TaskQueue}};
//! # use forge_queue::schedule::{CatchUp, Recurrence, Schedule, ScheduleStore, Scheduler, Schedules};
//! # use tokio_util::sync::CancellationToken;
//! async fn beat(
//!     store: Arc<dyn ScheduleStore>, // SqliteStore or RedisBroker
//!     keyring: Arc<dyn Keyring>,
//!     queue: Arc<dyn TaskQueue>, // behind the guard
//!     clock: Arc<dyn Clock>,
//!     ctx: &ExecutionContext,
//!     cancel: CancellationToken,
//! ) -> Result<()> {
//!     let schedules = Schedules::new(store, keyring);
//!     let digest = NewTask::new(Slug::parse("mail.digest")?, serde_json::json!({ "to": "team" }));
//!     let weekdays = Recurrence::cron("30 7 * * mon-fri", "Europe/Berlin")?;
//!     let schedule = Schedule::new(Slug::parse("digest")?, weekdays, digest).with_catch_up(CatchUp::Skip);
//!     schedules.put(ctx, schedule).await?;
//!     Scheduler::new(schedules, queue, clock).run(cancel).await;
//!     Ok(())
//! }
//! ```

mod cron;
mod manage;
mod record;
mod recurrence;
mod run;
mod store;

use std::time::Duration;

use forge_core::queue::NewTask;
use forge_core::{EmployeeId, ErrorKind, Slug, Timestamp};
use serde::{Deserialize, Serialize};

pub use manage::Schedules;
pub use recurrence::{Cron, Recurrence};
pub use run::Scheduler;
#[cfg(any(feature = "redis", feature = "sqlite"))]
pub(crate) use store::readable;
pub use store::{Due, ScheduleStore, StoredSchedule};

/// How late a tick may be and still be on time, for [`CatchUp::Skip`].
pub const ON_TIME: Duration = Duration::from_secs(60);

/// What is to be queued, and when.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct Schedule {
    /// Its name, which is its tenant's only once.
    pub name: Slug,
    /// When.
    pub every: Recurrence,
    /// What. A `unique` key in it means: not while the task of an earlier tick is unfinished. `once` is the schedule's own.
    pub task: NewTask,
    /// What becomes of ticks that nobody was there for.
    pub catch_up: CatchUp,
}

impl Schedule {
    /// A schedule that catches up on the last missed tick.
    pub fn new(name: Slug, every: Recurrence, task: NewTask) -> Self {
        Self { name, every, task, catch_up: CatchUp::default() }
    }

    /// What becomes of ticks that nobody was there for.
    #[must_use]
    pub fn with_catch_up(mut self, catch_up: CatchUp) -> Self {
        self.catch_up = catch_up;
        self
    }
}

/// What becomes of ticks that were missed: no host ran, or the clock was put forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CatchUp {
    /// Nothing: a tick more than [`ON_TIME`] late is left out.
    Skip,
    /// The last one is queued, the others are left out.
    #[default]
    Last,
    /// The newest so many are queued, the oldest of them first; earlier ones are left out.
    All {
        /// 1 to 100.
        at_most: usize,
    },
}

/// Whether a schedule ticks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ScheduleState {
    /// It does.
    Active,
    /// Somebody paused it.
    Paused,
    /// It cannot go on, such as after 366 days, or once the key of its seal is retired. [`Schedules::resume`] or [`Schedules::put`] start it
    /// again, as the caller.
    Stopped {
        /// Why.
        reason: String,
    },
}

/// A tick that was not queued because the guard or the queue refused it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedTick {
    /// Which.
    pub tick: Timestamp,
    /// The kind of the refusal.
    pub kind: ErrorKind,
    /// The operator's sentence.
    pub message: String,
}

/// A schedule as its tenant sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ScheduleStatus {
    /// Its name.
    pub name: Slug,
    /// When it ticks.
    pub every: Recurrence,
    /// The name of the task.
    pub task: Slug,
    /// What becomes of missed ticks.
    pub catch_up: CatchUp,
    /// As whom the task is queued.
    pub runs_as: EmployeeId,
    /// Until when, without being put or resumed again.
    pub sealed_until: Timestamp,
    /// Whether it ticks.
    pub state: ScheduleState,
    /// The next tick; none while it is paused or stopped.
    pub next: Option<Timestamp>,
    /// The last tick whose task was queued.
    pub last: Option<Timestamp>,
    /// The last tick that was refused.
    pub refused: Option<RefusedTick>,
}
