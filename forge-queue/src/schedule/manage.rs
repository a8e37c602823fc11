//! A tenant's schedules: put, seen, paused, resumed, removed.

use std::sync::Arc;
use std::time::Duration;

use forge_core::keyring::Keyring;
use forge_core::{Error, ErrorKind, ExecutionContext, Result, Slug, TenantId, Timestamp};

use super::record::Record;
use super::store::ScheduleStore;
use super::{CatchUp, Recurrence, Schedule, ScheduleState, ScheduleStatus};

/// What the smaller of the queues takes.
const PAYLOAD_MAX: usize = 128 * 1024;
const SHORTEST: Duration = Duration::from_secs(1);
const AT_MOST: usize = 100;
/// A change that meets another is made anew, so often.
const TRIES: usize = 16;

/// The schedules of each tenant. Those of the context's tenant; another's are not there. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Schedules {
    pub(super) store: Arc<dyn ScheduleStore>,
    pub(super) keyring: Arc<dyn Keyring>,
}

impl Schedules {
    /// Schedules in a store.
    pub fn new(store: Arc<dyn ScheduleStore>, keyring: Arc<dyn Keyring>) -> Self {
        Self { store, keyring }
    }

    /// Puts a schedule, or another in the place of that name; it runs as the caller, for 366 days from now, and whether the caller may queue
    /// the task is decided at each tick. To be called at every start of a host: where the recurrence is what it was, it goes on counting
    /// from where it was and catches up. One that is paused stays paused; one that was stopped goes on. Dropped, it was put or was not.
    ///
    /// # Errors
    /// `InvalidInput` for a recurrence that never ticks or ticks more often than each second, for more than 100 ticks to catch up on, for a
    /// task with a `once` key of its own and for one that is too large; `Unavailable`.
    pub async fn put(&self, ctx: &ExecutionContext, schedule: Schedule) -> Result<()> {
        const OP: &str = "schedule.put";
        check(OP, &schedule)?;
        for _ in 0..TRIES {
            let now = self.now().await?;
            let mut record = Record::new(ctx, &schedule, self.keyring.as_ref(), now).await?;
            let old = self.store.schedule(ctx.tenant(), &schedule.name).await?;
            // what cannot be read any more is replaced
            if let Some(was) = old.as_ref().and_then(|stored| Record::parse(OP, stored).ok()) {
                let same = was.spec(OP).is_ok_and(|spec| spec.every == schedule.every);
                if same {
                    (record.start, record.next) = (was.start, was.next.or_else(|| schedule.every.next(was.start, now)));
                }
                (record.pending, record.last, record.refused) = (was.pending, was.last, was.refused);
                if was.state == ScheduleState::Paused {
                    (record.state, record.next) = (ScheduleState::Paused, None);
                }
            }
            if record.state == ScheduleState::Active && record.next.is_none() {
                return Err(Error::invalid(OP, "the schedule never ticks"));
            }
            let version = old.map(|stored| stored.version);
            if self.write(ctx.tenant(), &schedule.name, &record, now, version.as_deref()).await? {
                return Ok(());
            }
        }
        Err(busy(OP))
    }

    /// Every schedule of the tenant, by name.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    pub async fn list(&self, ctx: &ExecutionContext) -> Result<Vec<ScheduleStatus>> {
        let stored = self.store.schedules(ctx.tenant()).await?;
        stored.iter().map(|s| Record::parse("schedule.list", s)?.status(s.name.clone())).collect()
    }

    /// Deletes one. A tick that is being queued in this moment may still be.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn remove(&self, ctx: &ExecutionContext, name: &Slug) -> Result<()> {
        match self.store.remove(ctx.tenant(), name).await? {
            true => Ok(()),
            false => Err(unknown("schedule.remove")),
        }
    }

    /// Lets one tick no more, until it is resumed. A tick that is being queued in this moment may still be. One that was stopped stays so.
    ///
    /// # Errors
    /// `NotFound`; `Unavailable`.
    pub async fn pause(&self, ctx: &ExecutionContext, name: &Slug) -> Result<()> {
        self.change("schedule.pause", ctx, name, async |record, _| {
            if record.state == ScheduleState::Active {
                (record.state, record.next) = (ScheduleState::Paused, None);
                record.pending.clear();
            }
            Ok(())
        })
        .await
    }

    /// Lets one that is paused or was stopped tick again, as the caller and for 366 days from now. Ticks of the time between are not made
    /// up. One that ticks is left as it is.
    ///
    /// # Errors
    /// `NotFound`; `Corrupt` if its payload cannot be read any more: put it again; `Unavailable`.
    pub async fn resume(&self, ctx: &ExecutionContext, name: &Slug) -> Result<()> {
        const OP: &str = "schedule.resume";
        self.change(OP, ctx, name, async |record, now| {
            if record.state != ScheduleState::Active {
                record.reseal(ctx, name, self.keyring.as_ref(), now).await?;
                record.state = ScheduleState::Active;
                record.next = record.spec(OP)?.every.next(record.start, now);
                if record.next.is_none() {
                    return Err(Error::invalid(OP, "the schedule never ticks again"));
                }
            }
            Ok(())
        })
        .await
    }

    async fn change(
        &self,
        operation: &'static str,
        ctx: &ExecutionContext,
        name: &Slug,
        edit: impl AsyncFn(&mut Record, Timestamp) -> Result<()>,
    ) -> Result<()> {
        for _ in 0..TRIES {
            let now = self.now().await?;
            let stored = self.store.schedule(ctx.tenant(), name).await?.ok_or_else(|| unknown(operation))?;
            let mut record = Record::parse(operation, &stored)?;
            let before = record.state.clone();
            edit(&mut record, now).await?;
            if record.state == before || self.write(ctx.tenant(), name, &record, now, Some(&stored.version)).await? {
                return Ok(());
            }
        }
        Err(busy(operation))
    }

    async fn write(
        &self,
        tenant: &TenantId,
        name: &Slug,
        record: &Record,
        now: Timestamp,
        was: Option<&str>,
    ) -> Result<bool> {
        let due = record.due(now);
        self.store.write(&record.stored(tenant, name, due)?, due, was).await
    }

    /// The store's time: the same that the ticks go by.
    async fn now(&self) -> Result<Timestamp> {
        Ok(self.store.due(0).await?.now)
    }
}

fn check(operation: &'static str, schedule: &Schedule) -> Result<()> {
    let wrong = |what: &'static str| Err(Error::invalid(operation, what));
    if matches!(schedule.every, Recurrence::Every(d) if d < SHORTEST) {
        return wrong("a schedule ticks once a second at most");
    }
    if matches!(schedule.catch_up, CatchUp::All { at_most } if !(1..=AT_MOST).contains(&at_most)) {
        return wrong("1 to 100 ticks can be caught up on");
    }
    if schedule.task.once.is_some() {
        return wrong("a scheduled task has no `once` key of its own: each tick has one");
    }
    if schedule.task.payload.to_string().len() > PAYLOAD_MAX {
        return wrong("the payload is too large; keep it as a blob and queue its reference");
    }
    Ok(())
}

fn unknown(operation: &'static str) -> Error {
    Error::not_found(operation, "no such schedule")
}

fn busy(operation: &'static str) -> Error {
    Error::new(ErrorKind::Unavailable, operation, "the schedule changed each time it was to be changed; try again")
}
