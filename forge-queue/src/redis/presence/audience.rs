//! The presences of a broker, as the broker tells them what happens. Where there is none, nothing is done.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use forge_core::error::ErrorReport;
use forge_core::queue::LeaseRequest;
use forge_core::{Clock, Error, ErrorKind, Result, Slug, TenantId};
use serde_json::Value;

use super::state::{HIDDEN, State};
use crate::celery::{Envelope, Stamp, TaskEvent, TaskEventKind, value_repr};
use crate::redis::held::Held;
use crate::redis::message::{Read, Refused};
use crate::redis::settle::raised;

/// Beyond, a clock is nonsense, and following it would leave no room for a next.
const CLOCK_MAX: u64 = 1 << 53;

/// Who is told.
pub(in crate::redis) struct Presences {
    clock: Arc<dyn Clock>,
    /// Lamport's, one for the process.
    lamport: AtomicU64,
    all: RwLock<Arc<[Arc<State>]>>,
    asked: Mutex<Asked>,
}

/// What the worker asks the queue for.
#[derive(Default)]
pub(super) struct Asked {
    /// Its handlers.
    pub(super) names: Vec<Slug>,
    /// The most tasks that it wanted at once.
    pub(super) most: usize,
}

impl Presences {
    pub(in crate::redis) fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock, lamport: AtomicU64::new(0), all: RwLock::default(), asked: Mutex::default() }
    }

    pub(super) fn all(&self) -> Arc<[Arc<State>]> {
        self.all.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn add(&self, state: Arc<State>) -> Result<()> {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        if all.iter().any(|other| other.options.name == state.options.name) {
            return Err(Error::new(ErrorKind::Config, super::OP, "a presence of this name is there already"));
        }
        *all = all.iter().cloned().chain([state]).collect();
        Ok(())
    }

    pub(super) fn remove(&self, state: &Arc<State>) {
        let mut all = self.all.write().unwrap_or_else(PoisonError::into_inner);
        *all = all.iter().filter(|other| !Arc::ptr_eq(other, state)).cloned().collect();
    }

    pub(super) fn asked_for(&self) -> MutexGuard<'_, Asked> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The time of something that happens now.
    pub(super) fn stamp(&self) -> Stamp {
        Stamp { at: self.clock.now(), clock: self.lamport.fetch_add(1, Ordering::Relaxed) + 1 }
    }

    /// Somebody else's clock was at this.
    pub(super) fn heard(&self, clock: u64) {
        if clock < CLOCK_MAX {
            self.lamport.fetch_max(clock, Ordering::Relaxed);
        }
        self.lamport.fetch_add(1, Ordering::Relaxed);
    }

    /// A worker asks for tasks.
    pub(in crate::redis) fn asked(&self, request: &LeaseRequest) {
        let mut asked = self.asked_for();
        if asked.names != request.names {
            asked.names.clone_from(&request.names);
        }
        asked.most = asked.most.max(request.max);
    }

    /// A task was handed out. It runs: a worker takes no more than it has room for.
    pub(in crate::redis) fn leased(&self, held: &Held) {
        for state in self.all().iter().filter(|state| state.sees(&held.tenant)) {
            state.count(&held.envelope.task);
        }
        let e = &held.envelope;
        self.tell(&held.tenant, &e.id, |state| {
            let (args, kwargs) = state.arguments(held);
            TaskEventKind::Received {
                name: e.task.clone(),
                args,
                kwargs,
                root_id: e.root_id.clone(),
                parent_id: e.parent_id.clone(),
                retries: e.retries,
                eta: e.eta,
                expires: e.expires,
            }
        });
        self.tell(&held.tenant, &e.id, |_| TaskEventKind::Started);
    }

    /// A result as text, if somebody may see it.
    pub(in crate::redis) fn shown(&self, held: &Held, result: &Value) -> Option<String> {
        let wanted = self.all().iter().any(|state| state.options.show.results && state.tells(&held.tenant));
        wanted.then(|| value_repr(result))
    }

    /// A task returned.
    pub(in crate::redis) fn succeeded(&self, held: &Held, shown: Option<&str>) {
        let runtime = self.clock.now().since(held.since).as_secs_f64();
        self.tell(&held.tenant, &held.envelope.id, |state| {
            let result = shown.filter(|_| state.options.show.results).unwrap_or(HIDDEN).to_owned();
            TaskEventKind::Succeeded { result, runtime }
        });
    }

    /// A task failed; whether it comes again.
    pub(in crate::redis) fn failed(&self, held: &Held, report: &ErrorReport, again: bool) {
        let (exception, traceback) = raised(report);
        let text = exception.message.first().map(value_repr).unwrap_or_default();
        let exception = format!("{}({text})", exception.kind);
        self.tell(&held.tenant, &held.envelope.id, |_| {
            let (exception, traceback) = (exception.clone(), traceback.clone());
            match again {
                true => TaskEventKind::Retried { exception, traceback },
                false => TaskEventKind::Failed { exception, traceback },
            }
        });
    }

    /// A message was refused.
    pub(in crate::redis) fn refused(&self, tenant: &TenantId, read: &Read, refused: Refused) {
        let kind = |_: &State| match refused {
            Refused::Expired => Some(TaskEventKind::Revoked { terminated: false, signum: None, expired: true }),
            Refused::Lost => Some(TaskEventKind::Failed {
                exception: "WorkerLostError('lease lost too often')".to_owned(),
                traceback: None,
            }),
            Refused::Unsealed | Refused::ForeignQueue | Refused::ForeignStamp => {
                Some(TaskEventKind::Rejected { requeue: false })
            }
            // of a replay, the task whose id it has is not to blame; the others have no id
            Refused::Replayed | Refused::Malformed(_) | Refused::BadSeal => None,
        };
        self.tell_perhaps(tenant, &read.envelope.id, kind);
    }

    /// A task was dropped, or stopped while it ran.
    pub(super) fn revoked(&self, tenant: &TenantId, id: &str, terminated: bool) {
        self.tell(tenant, id, |_| TaskEventKind::Revoked { terminated, signum: None, expired: false });
    }

    /// Whether one that may said that this task of another program's is not to run.
    pub(super) fn revokes(&self, tenant: &TenantId, task: &Envelope) -> bool {
        let now = self.clock.monotonic();
        self.all().iter().any(|state| state.sees(tenant) && state.is_revoked(task, now))
    }

    fn tell(&self, tenant: &TenantId, uuid: &str, kind: impl Fn(&State) -> TaskEventKind) {
        self.tell_perhaps(tenant, uuid, |state| Some(kind(state)));
    }

    fn tell_perhaps(&self, tenant: &TenantId, uuid: &str, kind: impl Fn(&State) -> Option<TaskEventKind>) {
        for state in self.all().iter().filter(|state| state.tells(tenant)) {
            if let Some(kind) = kind(state) {
                state.send(TaskEvent { uuid: uuid.to_owned(), stamp: self.stamp(), kind });
            }
        }
    }
}
