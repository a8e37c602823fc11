//! The beat: each host runs one, and each tick is queued once.

use std::sync::Arc;
use std::time::Duration;

use forge_core::keyring::Keyring;
use forge_core::queue::TaskQueue;
use forge_core::{Clock, Error, ErrorKind, Result, Retryability, Slug, TenantId, Timestamp};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

use super::record::{Opened, Record};
use super::store::StoredSchedule;
use super::{CatchUp, ON_TIME, RefusedTick, ScheduleState, Schedules};

/// How long a schedule is one host's: what a tick is late at most when its host dies with it.
const HELD: Duration = Duration::from_secs(60);
/// How long a task may take to be queued, so that what follows is written before another host has the schedule.
const QUEUED_WITHIN: Duration = Duration::from_secs(30);
/// When a tick that could not be queued is tried again.
const AGAIN: Duration = Duration::from_secs(30);
/// How often a host looks, as another may have put a schedule.
const LOOK: Duration = Duration::from_secs(1);
/// Schedules of one look, and how many of them at a time.
const BATCH: usize = 64;
const AT_A_TIME: usize = 16;

/// Queues the tasks of schedules. Every host runs one; there is no leader, and hosts need not know of each other. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Scheduler {
    schedules: Schedules,
    queue: Arc<dyn TaskQueue>,
    clock: Arc<dyn Clock>,
}

impl Scheduler {
    /// Over a store that hosts share, into the guarded queue. The clock is to wait by; the time is the store's.
    pub fn new(schedules: Schedules, queue: Arc<dyn TaskQueue>, clock: Arc<dyn Clock>) -> Self {
        Self { schedules, queue, clock }
    }

    /// Runs until it is cancelled, which lets the ticks in hand be queued first. A store that cannot be reached is waited for. Dropped in the
    /// middle, it leaves its ticks to another host, or to the next run, a minute later.
    pub async fn run(&self, cancel: CancellationToken) {
        while !cancel.is_cancelled() {
            let pause = self.round(&cancel).await.unwrap_or_else(|e| {
                tracing::warn!(error = %e, "schedules could not be looked at; trying again");
                LOOK
            });
            tokio::select! {
                () = self.clock.sleep(pause) => {}
                () = cancel.cancelled() => {}
            }
        }
    }

    fn keyring(&self) -> &dyn Keyring {
        self.schedules.keyring.as_ref()
    }

    /// Serves what is due; how long nothing is, or how long to wait for others.
    async fn round(&self, cancel: &CancellationToken) -> Result<Duration> {
        let began = self.clock.monotonic();
        let due = self.schedules.store.due(BATCH).await?;
        let serve = |stored: StoredSchedule| async move {
            if cancel.is_cancelled() {
                return false;
            }
            let (tenant, name) = (stored.tenant.clone(), stored.name.clone());
            self.serve(stored, (due.now, began), cancel).await.unwrap_or_else(|e| {
                tracing::warn!(%tenant, schedule = %name, error = %e, "a schedule could not be served; trying again");
                false
            })
        };
        let served = futures::stream::iter(due.schedules).map(serve).buffer_unordered(AT_A_TIME);
        let moved = served.fold(false, |moved, one| async move { moved | one }).await;
        if moved {
            return Ok(Duration::ZERO);
        }
        Ok(due.next.map_or(LOOK, |next| next.since(due.now).min(LOOK)))
    }

    /// Serves one schedule; whether it was changed.
    async fn serve(
        &self,
        stored: StoredSchedule,
        (read, began): (Timestamp, Duration),
        cancel: &CancellationToken,
    ) -> Result<bool> {
        let record = match Record::parse("schedule.tick", &stored) {
            Ok(record) => record,
            Err(e) => {
                tracing::error!(tenant = %stored.tenant, schedule = %stored.name, error = %e, "a schedule is given up");
                let StoredSchedule { tenant, name, version, record } = stored;
                let never = StoredSchedule::new(tenant, name, record, None);
                return self.schedules.store.write(&never, None, Some(&version)).await;
            }
        };
        let StoredSchedule { tenant, name, version, .. } = stored;
        InHand { beat: self, read, began, tenant, name, version, record }.serve(cancel).await
    }
}

/// One schedule in hand.
struct InHand<'a> {
    beat: &'a Scheduler,
    /// The store's time when it was read, and the clock's.
    read: Timestamp,
    began: Duration,
    tenant: TenantId,
    name: Slug,
    /// The version that the store has, as far as is known here.
    version: String,
    record: Record,
}

impl InHand<'_> {
    async fn serve(mut self, cancel: &CancellationToken) -> Result<bool> {
        let opened = match self.record.open(&self.tenant, &self.name, self.beat.keyring(), self.read).await {
            Ok(opened) => opened,
            Err(e) if hopeless(&e) => {
                self.stopped(e.message());
                return self.write(None).await;
            }
            Err(e) => return self.later(&e).await,
        };
        if self.record.pending.is_empty() {
            self.plan(&opened);
        }
        if self.record.pending.is_empty() {
            return self.write(self.record.due(self.read)).await;
        }
        if !self.write(Some(self.now().after(HELD))).await? {
            return Ok(false);
        }
        let mut held = self.now();
        while let Some(tick) = self.record.pending.first().copied() {
            if cancel.is_cancelled() {
                break;
            }
            match self.queue(&opened, tick).await {
                Ok(()) => self.record.last = Some(tick),
                Err(e) if refused(&e) => {
                    tracing::warn!(tenant = %self.tenant, schedule = %self.name, %tick, error = %e, "a tick was refused");
                    let message = e.message().to_owned();
                    self.record.refused = Some(RefusedTick { tick, kind: e.kind(), message });
                }
                Err(e) => return self.later(&e).await,
            }
            self.record.pending.remove(0);
            // what is crossed off is not repeated, and the others are held on to
            if !self.record.pending.is_empty() && self.now().since(held) >= HELD / 3 {
                if !self.write(Some(self.now().after(HELD))).await? {
                    return Ok(false);
                }
                held = self.now();
            }
        }
        self.write(self.record.due(self.now())).await
    }

    /// Decides which ticks are queued, and when the next one is.
    fn plan(&mut self, opened: &Opened) {
        let (now, spec) = (self.read, &opened.spec);
        let Some(from) = self.record.next.filter(|next| *next <= now) else { return };
        let most = match spec.catch_up {
            CatchUp::All { at_most } => at_most,
            CatchUp::Last | CatchUp::Skip => 1,
        };
        self.record.pending = spec.every.newest(self.record.start, from, now, most);
        if spec.catch_up == CatchUp::Skip {
            self.record.pending.retain(|tick| now.since(*tick) <= ON_TIME);
        }
        self.record.next = spec.every.next(self.record.start, now);
    }

    async fn queue(&self, opened: &Opened, tick: Timestamp) -> Result<()> {
        let (ctx, task) = opened.task(&self.name, tick, self.beat.keyring(), self.now())?;
        tokio::select! {
            biased;
            queued = self.beat.queue.enqueue(&ctx, task) => queued.map(drop),
            () = self.beat.clock.sleep(QUEUED_WITHIN) => {
                Err(Error::new(ErrorKind::Timeout, "schedule.tick", "the task could not be queued in time"))
            }
        }
    }

    /// Leaves it for a while, with what is still to be queued.
    async fn later(&mut self, why: &Error) -> Result<bool> {
        tracing::warn!(tenant = %self.tenant, schedule = %self.name, error = %why, "a tick could not be queued; trying again");
        self.write(Some(self.now().after(AGAIN))).await
    }

    fn stopped(&mut self, reason: &str) {
        tracing::error!(tenant = %self.tenant, schedule = %self.name, reason, "a schedule is stopped");
        self.record.stop(reason);
    }

    /// Writes it back, to be looked at then; false if another has changed it meanwhile.
    async fn write(&mut self, due: Option<Timestamp>) -> Result<bool> {
        if self.record.state == ScheduleState::Active && self.record.pending.is_empty() && self.record.next.is_none() {
            self.stopped("it has no more ticks");
        }
        let stored = self.record.stored(&self.tenant, &self.name, due)?;
        let written = self.beat.schedules.store.write(&stored, due, Some(&self.version)).await?;
        self.version = stored.version;
        Ok(written)
    }

    /// The store's time.
    fn now(&self) -> Timestamp {
        self.read.after(self.beat.clock.monotonic().saturating_sub(self.began))
    }
}

/// Whether a schedule that cannot be opened never can.
fn hopeless(e: &Error) -> bool {
    matches!(e.kind(), ErrorKind::Unauthenticated | ErrorKind::TenantMismatch | ErrorKind::Corrupt)
}

/// Whether the tick is answered: to ask again cannot help, or not before something else is decided. A full queue may have room later, and
/// what may have happened is asked for again under the same key.
fn refused(e: &Error) -> bool {
    let may_pass = matches!(e.kind(), ErrorKind::QuotaExceeded | ErrorKind::Cancelled | ErrorKind::UnknownOutcome);
    e.retry() == Retryability::Never && !may_pass
}
