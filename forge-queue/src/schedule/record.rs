//! A schedule as it rests: times and names in clear, the payload encrypted, the context sealed to both.

use std::time::Duration;

use data_encoding::BASE64;
use forge_core::keyring::Keyring;
use forge_core::queue::NewTask;
use forge_core::{
    Digest, EmployeeId, Error, ErrorKind, ExecutionContext, OperationKey, Result, SealedContext, SealedFor, Slug,
    TaskId, TenantId, Timestamp, TraceContext,
};
use serde::{Deserialize, Serialize};

use super::recurrence::nanos;
use super::store::StoredSchedule;
use super::{CatchUp, Recurrence, RefusedTick, Schedule, ScheduleState, ScheduleStatus};

/// How long a schedule goes on as the one who put it: as long as a run of a workflow may take.
const SEALED_FOR: Duration = Duration::from_secs(366 * 24 * 3600);
/// The queue that a schedule's seal names; no queue has such a name.
const QUEUE: &str = "schedules";

/// The record of a stored schedule.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Record {
    v: u8,
    /// The [`Spec`] as text: the seal is bound to it letter by letter.
    spec: String,
    /// The task's payload, encrypted, in base64.
    payload: String,
    context: SealedContext,
    runs_as: EmployeeId,
    sealed_until: Timestamp,
    /// What `Every` counts from.
    pub(super) start: Timestamp,
    pub(super) state: ScheduleState,
    /// The first tick that is not decided.
    pub(super) next: Option<Timestamp>,
    /// Ticks that are to be queued, the oldest first.
    pub(super) pending: Vec<Timestamp>,
    pub(super) last: Option<Timestamp>,
    pub(super) refused: Option<RefusedTick>,
}

/// What was asked for, without the payload.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Spec {
    pub(super) every: Recurrence,
    pub(super) catch_up: CatchUp,
    task: Slug,
    #[serde(with = "nanos")]
    delay: Duration,
    unique: Option<OperationKey>,
    max_retries: u32,
    #[serde(with = "nanos")]
    expires: Duration,
}

/// A schedule that may tick: its seal holds.
pub(super) struct Opened {
    pub(super) spec: Spec,
    task: NewTask,
    ctx: ExecutionContext,
}

impl Record {
    /// A new record, which has not ticked.
    pub(super) async fn new(
        ctx: &ExecutionContext,
        schedule: &Schedule,
        keys: &dyn Keyring,
        now: Timestamp,
    ) -> Result<Self> {
        const OP: &str = "schedule.put";
        let task = &schedule.task;
        let spec = Spec {
            every: schedule.every.clone(),
            catch_up: schedule.catch_up,
            task: task.name.clone(),
            delay: task.delay,
            unique: task.unique.clone(),
            max_retries: task.max_retries,
            expires: task.expires,
        };
        let spec = to_json(OP, &spec)?;
        let payload = task.payload.to_string();
        keys.load(ctx.tenant()).await?;
        let encrypted =
            keys.encrypt(ctx.tenant(), place(ctx.tenant(), &schedule.name).as_bytes(), payload.as_bytes())?;
        let until = now.after(SEALED_FOR);
        let bound = bound(ctx.tenant(), &schedule.name, &spec, &payload);
        Ok(Self {
            v: 1,
            spec,
            payload: BASE64.encode(&encrypted),
            context: SealedContext::seal(ctx, bound, keys, now, until)?,
            runs_as: ctx.employee().clone(),
            sealed_until: until,
            start: now,
            state: ScheduleState::Active,
            next: schedule.every.next(now, now),
            pending: Vec::new(),
            last: None,
            refused: None,
        })
    }

    pub(super) fn parse(operation: &'static str, stored: &StoredSchedule) -> Result<Self> {
        let record: Self = serde_json::from_str(&stored.record).map_err(|e| corrupt(operation).with_source(e))?;
        if record.v == 1 { Ok(record) } else { Err(corrupt(operation)) }
    }

    pub(super) fn spec(&self, operation: &'static str) -> Result<Spec> {
        serde_json::from_str(&self.spec).map_err(|e| corrupt(operation).with_source(e))
    }

    /// As a row that is due at a time.
    pub(super) fn stored(&self, tenant: &TenantId, name: &Slug, due: Option<Timestamp>) -> Result<StoredSchedule> {
        Ok(StoredSchedule::new(tenant.clone(), name.clone(), to_json("schedule.write", self)?, due))
    }

    /// When it has to be looked at, if nobody has it in hand.
    pub(super) fn due(&self, now: Timestamp) -> Option<Timestamp> {
        match self.state {
            ScheduleState::Active if !self.pending.is_empty() => Some(now),
            ScheduleState::Active => self.next,
            _ => None,
        }
    }

    /// Ends it, with the reason; ticks that were to be queued are given up.
    pub(super) fn stop(&mut self, reason: impl Into<String>) {
        self.state = ScheduleState::Stopped { reason: reason.into() };
        self.next = None;
        self.pending.clear();
    }

    /// Checks the seal against everything that was put.
    ///
    /// # Errors
    /// `Unauthenticated`, `TenantMismatch` or `Corrupt` where it can never tick again; `Unavailable`.
    pub(super) async fn open(
        &self,
        tenant: &TenantId,
        name: &Slug,
        keys: &dyn Keyring,
        now: Timestamp,
    ) -> Result<Opened> {
        const OP: &str = "schedule.open";
        let spec = self.spec(OP)?;
        let payload = self.payload(tenant, name, keys).await?;
        let ctx = self.context.open(&bound(tenant, name, &self.spec, &payload), keys, now)?;
        if ctx.tenant() != tenant {
            return Err(Error::new(ErrorKind::TenantMismatch, OP, "the seal is another tenant's"));
        }
        let payload = serde_json::from_str(&payload).map_err(|e| corrupt(OP).with_source(e))?;
        let mut task = NewTask::new(spec.task.clone(), payload)
            .with_delay(spec.delay)
            .with_max_retries(spec.max_retries)
            .with_expires(spec.expires);
        task.unique.clone_from(&spec.unique);
        Ok(Opened { spec, task, ctx })
    }

    /// Seals it again, as the caller.
    ///
    /// # Errors
    /// `Corrupt` if the payload does not decrypt; those of the keyring.
    pub(super) async fn reseal(
        &mut self,
        ctx: &ExecutionContext,
        name: &Slug,
        keys: &dyn Keyring,
        now: Timestamp,
    ) -> Result<()> {
        let payload = self.payload(ctx.tenant(), name, keys).await?;
        self.sealed_until = now.after(SEALED_FOR);
        let bound = bound(ctx.tenant(), name, &self.spec, &payload);
        self.context = SealedContext::seal(ctx, bound, keys, now, self.sealed_until)?;
        self.runs_as = ctx.employee().clone();
        Ok(())
    }

    async fn payload(&self, tenant: &TenantId, name: &Slug, keys: &dyn Keyring) -> Result<String> {
        const OP: &str = "schedule.open";
        let encrypted = BASE64.decode(self.payload.as_bytes()).map_err(|e| corrupt(OP).with_source(e))?;
        keys.load(tenant).await?;
        let plain = keys.decrypt(tenant, place(tenant, name).as_bytes(), &encrypted)?;
        String::from_utf8(plain).map_err(|e| corrupt(OP).with_source(e))
    }

    pub(super) fn status(self, name: Slug) -> Result<ScheduleStatus> {
        let Spec { every, catch_up, task, .. } = self.spec("schedule.list")?;
        Ok(ScheduleStatus {
            name,
            every,
            task,
            catch_up,
            runs_as: self.runs_as,
            sealed_until: self.sealed_until,
            state: self.state,
            next: self.next,
            last: self.last,
            refused: self.refused,
        })
    }
}

impl Opened {
    /// The task of a tick and the context that queues it. The same for the same tick, whoever asks and whenever: so are the keys under
    /// which the guard books the call.
    pub(super) fn task(
        &self,
        name: &Slug,
        tick: Timestamp,
        keys: &dyn Keyring,
        now: Timestamp,
    ) -> Result<(ExecutionContext, NewTask)> {
        let tenant = self.ctx.tenant();
        let nanos = tick.as_nanos().to_be_bytes();
        let key =
            OperationKey::derived(&[b"schedule.tick", tenant.as_str().as_bytes(), name.as_str().as_bytes(), &nanos]);
        let task = self.task.clone().with_once(key);
        let id: TaskId = task.id(tenant, now);
        // a context counts its calls within what it was unsealed for: within the tick, not within the schedule
        let bound = SealedFor { id: id.to_string(), ..bound(tenant, name, "", "") };
        let sealed = SealedContext::seal(&self.ctx, bound.clone(), keys, now, now.after(SEALED_FOR))?;
        let ctx = sealed.open(&bound, keys, now)?.with_trace(TraceContext::derived(&[b"schedule.tick", id.as_bytes()]));
        Ok((ctx, task))
    }
}

fn bound(tenant: &TenantId, name: &Slug, spec: &str, payload: &str) -> SealedFor {
    SealedFor {
        id: format!("{tenant}:{name}"),
        name: name.to_string(),
        queue: QUEUE.to_owned(),
        body: Digest::of_parts(&[spec.as_bytes(), payload.as_bytes()]),
    }
}

fn place(tenant: &TenantId, name: &Slug) -> Digest {
    Digest::of_parts(&[b"schedule.payload", tenant.as_str().as_bytes(), name.as_str().as_bytes()])
}

fn to_json<T: Serialize>(operation: &'static str, value: &T) -> Result<String> {
    serde_json::to_string(value)
        .map_err(|e| Error::unexpected(operation, "the schedule does not serialise").with_source(e))
}

fn corrupt(operation: &'static str) -> Error {
    Error::new(ErrorKind::Corrupt, operation, "the stored schedule does not parse; put it again")
}
