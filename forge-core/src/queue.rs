//! Work for later: the producing side (called for somebody) and the consuming side (machinery).

use std::collections::BTreeMap;
use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::error::ErrorReport;
use crate::{
    Adapter, Digest, ExecutionContext, HealthCheck, OperationKey, Result, SealedContext, Slug, TaskId, TenantId,
    Timestamp,
};

/// A task to be queued. The tenant is the context's; nothing here can choose another.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct NewTask {
    /// Which handler.
    pub name: Slug,
    /// Its arguments. Behind the guard, personal data in it rests as reversible tokens.
    pub payload: Value,
    /// Not before this long from now.
    pub delay: Duration,
    /// A task with the key of one that is not finished is that one.
    pub unique: Option<OperationKey>,
    /// A task with the key of one that the tenant has queued before, finished or not, is that one, for as long as the queue remembers
    /// it.
    pub once: Option<OperationKey>,
    /// Retries after the first try; 3 by default.
    pub max_retries: u32,
    /// Given up after this long; 24 hours by default.
    pub expires: Duration,
    /// Which of a tenant's own tasks go first.
    pub priority: Priority,
}

/// Which of a tenant's tasks go first; between tenants it changes nothing. As in Celery on Redis, nothing overtakes a task that asks for
/// nothing, and work that can wait steps back. A lower one is not starved: one time in eight the lowest goes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// First, as what asks for nothing; Celery's 0.
    #[default]
    Normal,
    /// After those; Celery's 3.
    Low,
    /// After those; Celery's 6.
    Lower,
    /// Last; Celery's 9.
    Lowest,
}

impl Priority {
    /// All, the first to go first.
    pub const ALL: [Self; 4] = [Self::Normal, Self::Low, Self::Lower, Self::Lowest];

    /// As Celery numbers it.
    pub const fn step(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::Low => 3,
            Self::Lower => 6,
            Self::Lowest => 9,
        }
    }
}

impl NewTask {
    /// A task, now, with the defaults.
    pub fn new(name: Slug, payload: Value) -> Self {
        Self {
            name,
            payload,
            delay: Duration::ZERO,
            unique: None,
            once: None,
            max_retries: 3,
            expires: Duration::from_secs(24 * 3600),
            priority: Priority::default(),
        }
    }

    /// Not before this long from now.
    #[must_use]
    pub fn with_delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// At most one unfinished task with this key.
    #[must_use]
    pub fn with_unique(mut self, key: OperationKey) -> Self {
        self.unique = Some(key);
        self
    }

    /// Lets others of the tenant go first.
    #[must_use]
    pub fn with_priority(mut self, priority: Priority) -> Self {
        self.priority = priority;
        self
    }

    /// Queued once under this key, however often it is asked for.
    #[must_use]
    pub fn with_once(mut self, key: OperationKey) -> Self {
        self.once = Some(key);
        self
    }

    /// Retries after the first try.
    #[must_use]
    pub fn with_max_retries(mut self, n: u32) -> Self {
        self.max_retries = n;
        self
    }

    /// Given up after this long.
    #[must_use]
    pub fn with_expires(mut self, after: Duration) -> Self {
        self.expires = after;
        self
    }

    /// The id that a queue gives it: from tenant and key where it is queued once, a new one else.
    pub fn id(&self, tenant: &TenantId, now: Timestamp) -> TaskId {
        match &self.once {
            Some(key) => TaskId::derived_v8(&[b"task.once", tenant.as_str().as_bytes(), key.as_str().as_bytes()]),
            None => TaskId::random(now),
        }
    }
}

/// Where a task is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum TaskState {
    /// Waiting for its time or for a worker.
    Ready,
    /// With a worker.
    Leased,
    /// Done, with the handler's answer.
    Succeeded {
        /// The answer.
        result: Value,
    },
    /// Given up: a dead letter.
    Dead {
        /// Why.
        report: ErrorReport,
    },
    /// Cancelled before it ran to its end.
    Cancelled,
}

/// A task as its tenant sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskStatus {
    /// Which.
    pub id: TaskId,
    /// Of which handler.
    pub name: Slug,
    /// Tries begun.
    pub attempts: u32,
    /// Where it is.
    pub state: TaskState,
}

/// How much a tenant has waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct QueueDepth {
    /// Waiting.
    pub ready: u64,
    /// With a worker.
    pub leased: u64,
    /// Given up.
    pub dead: u64,
}

/// What a queue can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QueueCapability {
    /// Tasks survive a crash.
    pub durable: bool,
    /// Tenants are served in turn.
    pub fair: bool,
    /// Largest payload in bytes.
    pub payload_max_size: usize,
}

impl QueueCapability {
    /// The abilities, named.
    pub const fn new(durable: bool, fair: bool, payload_max_size: usize) -> Self {
        Self { durable, fair, payload_max_size }
    }
}

/// The producing side.
///
/// # Contract
/// A task is durable when `enqueue` returns. Another tenant's task is not there. The context travels sealed.
#[async_trait]
pub trait TaskQueue: Adapter {
    /// Queues a task.
    ///
    /// # Errors
    /// `InvalidInput` if it is too large; `Unavailable`.
    async fn enqueue(&self, ctx: &ExecutionContext, task: NewTask) -> Result<TaskId>;

    /// Where a task is.
    ///
    /// # Errors
    /// `NotFound`.
    async fn status(&self, ctx: &ExecutionContext, id: TaskId) -> Result<TaskStatus>;

    /// Cancels a task that is not finished; returns whether it was cancelled.
    ///
    /// # Errors
    /// `NotFound`.
    async fn cancel(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool>;

    /// How much the tenant has waiting.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth>;

    /// What it can do.
    fn capability(&self) -> QueueCapability;
}

/// A task held by a worker until `until`, under a fencing token: a later lease of the same task has a higher one.
#[derive(Debug, Clone)]
pub struct Lease {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub id: TaskId,
    /// Of which handler.
    pub name: Slug,
    /// Which queue it came from, as the seal names it.
    pub queue: String,
    /// The arguments, as they rest.
    pub payload: Value,
    /// The digest of the body as it rests, which the seal is bound to.
    pub body: Digest,
    /// The context, sealed to this task.
    pub context: SealedContext,
    /// Which try, from 1.
    pub attempt: u32,
    /// Retries after the first try.
    pub max_retries: u32,
    /// The fencing token.
    pub fence: u64,
    /// Until when it is held.
    pub until: Timestamp,
    /// Cancelled once the queue learns that the lease is lost: the task was cancelled, or another worker has it. A queue may learn it
    /// no earlier than at the next renewal.
    pub lost: CancellationToken,
    /// After so long its sender wants it asked to stop; a worker's own limit may be shorter.
    pub soft_time_limit: Option<Duration>,
    /// After so long its sender wants it cut off, and given up.
    pub time_limit: Option<Duration>,
}

/// What a worker asks for.
#[derive(Debug, Clone)]
pub struct LeaseRequest {
    /// The handlers it has.
    pub names: Vec<Slug>,
    /// At most so many.
    pub max: usize,
    /// Held for so long.
    pub visibility: Duration,
    /// How much of that it can start now.
    pub room: Room,
}

impl LeaseRequest {
    /// Tasks for these handlers, whosever they are.
    pub fn new(names: Vec<Slug>, max: usize, visibility: Duration) -> Self {
        Self { names, max, visibility, room: Room::default() }
    }
}

/// What a worker can start, beside the number in all: so that no task is held by one that cannot begin with it.
#[derive(Debug, Clone, Default)]
pub struct Room {
    /// At most so many of each tenant; no limit by default.
    pub per_tenant: Option<usize>,
    /// Of these tenants at most so many, whatever `per_tenant` says.
    pub tenants: BTreeMap<TenantId, usize>,
    /// For these handlers at most so many. One without room stays among the names, so that its tasks are known and left.
    pub names: BTreeMap<Slug, usize>,
}

impl Room {
    /// How many more of this tenant; `None` for no limit.
    pub fn of_tenant(&self, tenant: &TenantId) -> Option<usize> {
        self.tenants.get(tenant).copied().or(self.per_tenant)
    }

    /// Whether one more of this tenant and handler fits beside those that were `taken`, each counted as it fits.
    pub fn fits(&self, tenant: &TenantId, name: &Slug, taken: &[Lease]) -> bool {
        let of_tenant = || taken.iter().filter(|l| l.tenant == *tenant).count();
        let of_name = || taken.iter().filter(|l| l.name == *name).count();
        self.of_tenant(tenant).is_none_or(|most| of_tenant() < most)
            && self.names.get(name).is_none_or(|most| of_name() < *most)
    }
}

/// What to do with a task that was not done.
#[derive(Debug, Clone)]
pub enum Nack {
    /// Not begun: give it back as it was, before those that were queued after it; no try is counted.
    Release,
    /// Try again after so long.
    Retry {
        /// How long.
        after: Duration,
        /// Why it failed.
        report: ErrorReport,
    },
    /// Give up: a dead letter.
    Dead {
        /// Why.
        report: ErrorReport,
    },
}

/// The consuming side, for workers. No context: each lease carries its own, sealed.
///
/// # Contract
/// A task is with one worker at a time; a lease that ran out is given again with a higher fence. `renew`, `ack` and `nack` of
/// an old fence are `LeaseLost` and change nothing. Tenants are served in turn. No more is taken than the request has [`Room`] for. A retry
/// that the passed lease's `max_retries` do not allow is a dead letter.
#[async_trait]
pub trait Broker: HealthCheck + std::fmt::Debug + Send + Sync + 'static {
    /// Takes tasks that are due; empty if there are none.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Lease>>;

    /// Holds on for so long from now.
    ///
    /// # Errors
    /// `LeaseLost`.
    async fn renew(&self, lease: &Lease, visibility: Duration) -> Result<Timestamp>;

    /// Done.
    ///
    /// # Errors
    /// `LeaseLost`.
    async fn ack(&self, lease: &Lease, result: Value) -> Result<()>;

    /// Failed, or not begun.
    ///
    /// # Errors
    /// `LeaseLost`.
    async fn nack(&self, lease: &Lease, nack: Nack) -> Result<()>;

    /// Waits until something may be due, at most so long. Spurious wake-ups are allowed.
    async fn wait(&self, at_most: Duration);
}

/// Does the work of one kind of task.
///
/// # Contract
/// The same task may be handed over again, after a crash or where a try was cut off: an effect in it goes through the guard with a
/// key, so that it is made once. The task's tenant is part of what it is: another tenant's task with the same id is another task.
/// A payload that it does not know is `InvalidInput`. The error's retryability decides what follows.
#[async_trait]
pub trait TaskHandler: std::fmt::Debug + Send + Sync + 'static {
    /// Does it; the answer is kept as the task's result.
    ///
    /// # Errors
    /// Any kind.
    async fn handle(&self, ctx: &ExecutionContext, task: &Lease) -> Result<Value>;
}
