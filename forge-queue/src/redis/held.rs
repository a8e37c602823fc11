//! The messages of the leases that this process holds: what a lease was before it was one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forge_core::{ExecutionContext, TaskId, TenantId, Timestamp};
use tokio_util::sync::CancellationToken;

use crate::celery::Envelope;

/// One lease's message.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) tenant: TenantId,
    pub(super) id: TaskId,
    /// The field of `unacked`.
    pub(super) tag: String,
    /// The field of the tenant's `run`.
    pub(super) field: String,
    pub(super) queue: String,
    pub(super) envelope: Envelope,
    /// No seal of ours: another program's task.
    pub(super) foreign: bool,
    /// Until when its end is remembered: for ids that Forge did not give, to whom having no record means nothing.
    pub(super) remember: Option<Timestamp>,
    /// Whom what follows it runs as.
    pub(super) context: Option<ExecutionContext>,
    /// Tells the worker that it lost the lease.
    pub(super) lost: CancellationToken,
    /// When it was leased.
    pub(super) since: Timestamp,
    /// Its end is on the way: to others it does not run any more.
    pub(super) ending: AtomicBool,
}

/// By fence.
#[derive(Default)]
pub(super) struct HeldTasks(Mutex<HashMap<u64, (Timestamp, Arc<Held>)>>);

impl HeldTasks {
    fn all(&self) -> MutexGuard<'_, HashMap<u64, (Timestamp, Arc<Held>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn keep(&self, fence: u64, until: Timestamp, held: Held) {
        self.all().insert(fence, (until, Arc::new(held)));
    }

    pub(super) fn find(&self, fence: u64) -> Option<Arc<Held>> {
        self.all().get(&fence).map(|(_, held)| held.clone())
    }

    /// All whose leases are not lost.
    pub(super) fn running(&self, now: Timestamp) -> Vec<Arc<Held>> {
        let all = self.all();
        let running = all
            .values()
            .filter(|(until, held)| *until > now && !held.lost.is_cancelled() && !held.ending.load(Ordering::Relaxed));
        running.map(|(_, held)| held.clone()).collect()
    }

    pub(super) fn renewed(&self, fence: u64, until: Timestamp) {
        if let Some((old, _)) = self.all().get_mut(&fence) {
            *old = until;
        }
    }

    pub(super) fn forget(&self, fence: u64) {
        self.all().remove(&fence);
    }

    /// Tells the worker that has this task that it is its no more.
    pub(super) fn lose(&self, field: &str) {
        let all = self.all();
        for (_, held) in all.values().filter(|(_, held)| held.field == field) {
            held.lost.cancel();
        }
    }

    /// Forgets what nobody renewed or settled: its worker dropped it.
    pub(super) fn sweep(&self, now: Timestamp) {
        let mut all = self.all();
        if all.len() > 256 {
            all.retain(|_, (until, _)| *until > now);
        }
    }
}
