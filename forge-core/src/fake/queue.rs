//! A queue in memory, and a model that says what it is told.

use std::collections::VecDeque;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::FakeKeyring;
use crate::model::{Completion, CompletionRequest, Finish, LanguageModel, ModelCapability};
use crate::queue::{
    Broker, Lease, LeaseRequest, Nack, NewTask, Priority, QueueCapability, QueueDepth, TaskQueue, TaskState, TaskStatus,
};
use crate::time::{Clock, Timestamp};
use crate::usage::Quantity;
use crate::{
    Depth, Digest, Error, ErrorKind, ExecutionContext, Health, HealthCheck, OperationKey, Result, SealedContext,
    SealedFor, TaskId,
};

/// Tasks in memory; tenants are served in turn, and one lease in eight begins with what has the lowest priority.
#[derive(Debug)]
pub struct FakeQueue {
    tasks: Mutex<Vec<Task>>,
    leases: AtomicU64,
    clock: Arc<dyn Clock>,
    wake: Notify,
}

#[derive(Debug, Clone)]
struct Task {
    lease: Lease,
    unique: Option<OperationKey>,
    priority: Priority,
    due: Timestamp,
    expires: Timestamp,
    served: u64,
    state: TaskState,
}

impl FakeQueue {
    /// With the clock that decides what is due.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { tasks: Mutex::default(), leases: AtomicU64::new(0), clock, wake: Notify::new() }
    }

    fn tasks(&self) -> MutexGuard<'_, Vec<Task>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn mine<T>(&self, ctx: &ExecutionContext, id: TaskId, look: impl FnOnce(&mut Task) -> T) -> Result<T> {
        let mut tasks = self.tasks();
        let task = tasks.iter_mut().find(|t| t.lease.id == id && t.lease.tenant == *ctx.tenant());
        task.map(look).ok_or_else(|| Error::not_found("queue.status", "no such task"))
    }

    fn held<T>(&self, lease: &Lease, change: impl FnOnce(&mut Task) -> T) -> Result<T> {
        let mut tasks = self.tasks();
        let task = tasks
            .iter_mut()
            .find(|t| t.lease.id == lease.id && t.lease.fence == lease.fence && t.state == TaskState::Leased);
        task.map(change).ok_or_else(|| Error::new(ErrorKind::LeaseLost, "queue.ack", "another worker has the task"))
    }
}

#[async_trait]
impl HealthCheck for FakeQueue {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

impl Task {
    /// Given up, if nobody took it in time.
    fn expire(&mut self, now: Timestamp) {
        if self.state == TaskState::Ready && self.expires <= now {
            let e = Error::new(ErrorKind::Timeout, "queue.lease", "the task expired before a worker had done it");
            self.state = TaskState::Dead { report: e.report() };
        }
    }
}

fn open(state: &TaskState) -> bool {
    matches!(state, TaskState::Ready | TaskState::Leased)
}

#[async_trait]
impl TaskQueue for FakeQueue {
    async fn enqueue(&self, ctx: &ExecutionContext, task: NewTask) -> Result<TaskId> {
        let now = self.clock.now();
        let id = task.id(ctx.tenant(), now);
        if self.mine(ctx, id, |_| ()).is_ok() {
            return Ok(id);
        }
        let same = |t: &&Task| {
            t.unique.is_some() && t.unique == task.unique && t.lease.tenant == *ctx.tenant() && open(&t.state)
        };
        if let Some(known) = self.tasks().iter().find(same) {
            return Ok(known.lease.id);
        }
        let queue = format!("{}.default", ctx.tenant());
        let body = Digest::of(task.payload.to_string().as_bytes());
        let bound = SealedFor { id: id.to_string(), name: task.name.to_string(), queue: queue.clone(), body };
        let lease = Lease {
            tenant: ctx.tenant().clone(),
            id,
            name: task.name,
            queue,
            payload: task.payload,
            body,
            context: SealedContext::seal(ctx, bound, &FakeKeyring, now, now.after(task.expires))?,
            attempt: 0,
            max_retries: task.max_retries,
            fence: 0,
            until: now,
            lost: CancellationToken::new(),
            soft_time_limit: None,
            time_limit: None,
        };
        self.tasks().push(Task {
            lease,
            unique: task.unique,
            priority: task.priority,
            due: now.after(task.delay),
            expires: now.after(task.expires),
            served: 0,
            state: TaskState::Ready,
        });
        self.wake.notify_waiters();
        Ok(id)
    }

    async fn status(&self, ctx: &ExecutionContext, id: TaskId) -> Result<TaskStatus> {
        self.mine(ctx, id, |t| TaskStatus {
            id,
            name: t.lease.name.clone(),
            attempts: t.lease.attempt,
            state: t.state.clone(),
        })
    }

    async fn cancel(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool> {
        self.mine(ctx, id, |t| {
            let was = open(&t.state);
            if was {
                t.state = TaskState::Cancelled;
                t.lease.lost.cancel();
            }
            was
        })
    }

    async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth> {
        let mut depth = QueueDepth::default();
        for t in self.tasks().iter().filter(|t| t.lease.tenant == *ctx.tenant()) {
            match t.state {
                TaskState::Ready => depth.ready += 1,
                TaskState::Leased => depth.leased += 1,
                TaskState::Dead { .. } => depth.dead += 1,
                _ => {}
            }
        }
        Ok(depth)
    }

    fn capability(&self) -> QueueCapability {
        QueueCapability::new(false, true, usize::MAX)
    }
}

#[async_trait]
impl Broker for FakeQueue {
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Lease>> {
        let now = self.clock.now();
        let mut tasks = self.tasks();
        tasks.iter_mut().for_each(|t| t.expire(now));
        let lowest_first = self.leases.fetch_add(1, Ordering::Relaxed) % 8 == 7;
        let rank = |t: &Task| if lowest_first { u8::MAX - t.priority.step() } else { t.priority.step() };
        let mut leases = Vec::new();
        while leases.len() < request.max {
            let served = |tenant| tasks.iter().filter(|t| t.lease.tenant == tenant).map(|t| t.served).sum::<u64>();
            let due = |t: &Task| {
                let ready =
                    t.state == TaskState::Ready && t.due <= now || t.state == TaskState::Leased && t.lease.until <= now;
                ready
                    && request.names.contains(&t.lease.name)
                    && request.room.fits(&t.lease.tenant, &t.lease.name, &leases)
            };
            let next = (0..tasks.len()).filter(|i| tasks.get(*i).is_some_and(due));
            let next = next.min_by_key(|i| tasks.get(*i).map(|t| (served(t.lease.tenant.clone()), rank(t), *i)));
            let Some(task) = next.and_then(|i| tasks.get_mut(i)) else { break };
            task.state = TaskState::Leased;
            task.served += 1;
            task.lease.attempt += 1;
            task.lease.fence += 1;
            task.lease.until = now.after(request.visibility);
            task.lease.lost = CancellationToken::new();
            leases.push(task.lease.clone());
        }
        Ok(leases)
    }

    async fn renew(&self, lease: &Lease, visibility: Duration) -> Result<Timestamp> {
        let until = self.clock.now().after(visibility);
        self.held(lease, |t| t.lease.until = until)?;
        Ok(until)
    }

    async fn ack(&self, lease: &Lease, result: Value) -> Result<()> {
        self.held(lease, |t| t.state = TaskState::Succeeded { result })
    }

    async fn nack(&self, lease: &Lease, nack: Nack) -> Result<()> {
        let now = self.clock.now();
        self.held(lease, |t| match nack {
            Nack::Release => {
                t.state = TaskState::Ready;
                t.lease.attempt = t.lease.attempt.saturating_sub(1);
            }
            Nack::Retry { after, .. } if lease.attempt <= lease.max_retries => {
                (t.state, t.due) = (TaskState::Ready, now.after(after));
            }
            Nack::Retry { report, .. } | Nack::Dead { report } => t.state = TaskState::Dead { report },
        })?;
        self.wake.notify_waiters();
        Ok(())
    }

    async fn wait(&self, at_most: Duration) {
        let now = self.clock.now();
        let due = |t: &Task| match t.state {
            TaskState::Ready => Some(t.due),
            TaskState::Leased => Some(t.lease.until),
            _ => None,
        };
        // what is due already, the caller has just looked at
        let soonest = self.tasks().iter().filter_map(due).filter(|at| *at > now).min();
        let left = soonest.map_or(at_most, |at| at.since(now).min(at_most));
        tokio::select! {
            () = self.wake.notified() => {}
            () = self.clock.sleep(left) => {}
        }
    }
}

/// A model that gives the scripted answers in order, then fails.
pub struct FakeModel(Mutex<VecDeque<Result<String>>>);

impl FakeModel {
    /// With these answers.
    pub fn new(answers: impl IntoIterator<Item = Result<String>>) -> Self {
        Self(Mutex::new(answers.into_iter().collect()))
    }
}

impl fmt::Debug for FakeModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeModel")
    }
}

#[async_trait]
impl HealthCheck for FakeModel {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl LanguageModel for FakeModel {
    async fn complete(&self, _: &ExecutionContext, request: CompletionRequest) -> Result<Completion> {
        if request.messages.is_empty() {
            return Err(Error::invalid("model.complete", "the conversation has no message"));
        }
        let next = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
        let text = next.unwrap_or_else(|| Err(Error::unexpected("model.complete", "the script has no answer left")))?;
        let words = |s: &str| u64::try_from(s.split_whitespace().count()).unwrap_or(u64::MAX);
        let tokens_in = request.messages.iter().map(|m| words(&m.text)).sum();
        let quantity = Quantity { tokens_in, tokens_out: words(&text), ..Quantity::default() };
        Ok(Completion {
            text,
            model: self.model().to_owned(),
            response_id: None,
            citations: Vec::new(),
            quantity,
            finish: Finish::Stop,
        })
    }

    fn model(&self) -> &str {
        "fake/scripted"
    }

    fn capability(&self) -> ModelCapability {
        ModelCapability::new(true, false, false)
    }
}
