//! A journal in memory.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;

use crate::journal::{
    Claim, Journal, NewRun, Outbox, Owed, RunEvent, RunRecord, RunState, StepRecord, StepState, Transition,
};
use crate::{Depth, Error, ErrorKind, Health, HealthCheck, Result, RunId, TenantId, Timestamp};

/// Keeps runs as the contract says, until it is dropped.
#[derive(Debug, Default)]
pub struct FakeJournal(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    runs: BTreeMap<(TenantId, RunId), Kept>,
    owed: BTreeMap<u64, Owed>,
    next: u64,
}

#[derive(Debug, Clone)]
struct Kept {
    record: RunRecord,
    steps: Vec<StepRecord>,
    events: Vec<RunEvent>,
    fence: u64,
    held: Option<(String, Timestamp)>,
}

impl FakeJournal {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, tenant: &TenantId, run: RunId, look: impl FnOnce(&mut Kept) -> Result<T>) -> Result<T> {
        let mut state = self.state();
        let kept = state.runs.get_mut(&(tenant.clone(), run));
        look(kept.ok_or_else(|| Error::not_found("journal.run", "no such run"))?)
    }
}

impl Kept {
    fn fenced(&mut self, claim: &Claim) -> Result<&mut Self> {
        if self.fence == claim.fence && self.held.is_some() {
            return Ok(self);
        }
        Err(Error::new(ErrorKind::LeaseLost, "journal.apply", "another owner holds the run"))
    }

    /// By another than `owner`.
    fn is_held(&self, owner: &str, now: Timestamp) -> bool {
        self.held.as_ref().is_some_and(|(by, until)| by != owner && *until > now)
    }

    fn tell(&mut self, at: Timestamp, path: &str, what: &str, attempt: u32, error: Option<ErrorKind>) {
        let seq = u64::try_from(self.events.len()).unwrap_or(u64::MAX) + 1;
        let error = error.map(|k| k.as_str().to_owned());
        self.events.push(RunEvent { seq, at, path: path.into(), what: what.into(), attempt, error });
    }

    fn step(&mut self, path: &str) -> Result<&mut StepRecord> {
        let step = self.steps.iter_mut().find(|s| s.path == path);
        step.ok_or_else(|| Error::new(ErrorKind::Conflict, "journal.apply", "the step was not begun"))
    }

    fn open_step(&mut self, path: &str) -> Result<&mut StepRecord> {
        let step = self.step(path)?;
        if step.state == StepState::Completed {
            return Err(Error::new(ErrorKind::Conflict, "journal.apply", "the step is completed"));
        }
        Ok(step)
    }

    fn change(&mut self, now: Timestamp, transition: Transition) -> Result<Outbox> {
        self.record.updated = now;
        let (what, error) = {
            let (_, what, error) = transition.event();
            (what, error)
        };
        match transition {
            Transition::StepStarted { path, attempt } => {
                let fresh = StepRecord {
                    path: path.clone(),
                    attempt: 0,
                    state: StepState::Running,
                    intent: None,
                    output: None,
                    started: now,
                    updated: now,
                };
                if self.step(&path).is_err() {
                    self.steps.push(fresh);
                }
                let step = self.open_step(&path)?;
                if attempt != step.attempt + 1 {
                    return Err(Error::new(ErrorKind::Conflict, "journal.apply", "another try was begun"));
                }
                (step.attempt, step.state, step.started, step.updated) = (attempt, StepState::Running, now, now);
                self.tell(now, &path, what, attempt, error);
                Ok(Outbox::default())
            }
            Transition::Intended { path, intent } => {
                let step = self.open_step(&path)?;
                step.intent = Some(intent);
                let attempt = step.attempt;
                self.tell(now, &path, what, attempt, error);
                Ok(Outbox::default())
            }
            Transition::StepCompleted { path, output, outbox } => {
                let step = self.open_step(&path)?;
                (step.state, step.output, step.intent, step.updated) = (StepState::Completed, Some(output), None, now);
                let attempt = step.attempt;
                self.tell(now, &path, what, attempt, error);
                Ok(outbox)
            }
            Transition::StepStopped { path, state, outbox, clear_intent } => {
                let step = self.open_step(&path)?;
                if clear_intent {
                    step.intent = None;
                }
                (step.state, step.updated) = (state, now);
                let attempt = step.attempt;
                self.tell(now, &path, what, attempt, error);
                Ok(outbox)
            }
            Transition::RunMoved { state, error: report, ran } => {
                self.record.running += ran;
                (self.record.state, self.record.error) = (state, report);
                self.tell(now, "run", what, 0, error);
                Ok(Outbox::default())
            }
        }
    }
}

#[async_trait]
impl HealthCheck for FakeJournal {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl Journal for FakeJournal {
    async fn create(&self, run: NewRun) -> Result<RunRecord> {
        let mut state = self.state();
        let kept = state.runs.entry((run.tenant.clone(), run.id)).or_insert_with(|| {
            let updated = run.created;
            let record = RunRecord {
                run,
                state: RunState::Running,
                error: None,
                cancel_requested: false,
                running: Duration::ZERO,
                updated,
            };
            let mut kept = Kept { record, steps: Vec::new(), events: Vec::new(), fence: 0, held: None };
            kept.tell(updated, "run", "started", 0, None);
            kept
        });
        Ok(kept.record.clone())
    }

    async fn run(&self, tenant: &TenantId, run: RunId) -> Result<RunRecord> {
        self.with(tenant, run, |k| Ok(k.record.clone()))
    }

    async fn steps(&self, tenant: &TenantId, run: RunId) -> Result<Vec<StepRecord>> {
        let state = self.state();
        Ok(state.runs.get(&(tenant.clone(), run)).map(|k| k.steps.clone()).unwrap_or_default())
    }

    async fn events(&self, tenant: &TenantId, run: RunId, from_seq: u64) -> Result<Vec<RunEvent>> {
        let state = self.state();
        let events = state.runs.get(&(tenant.clone(), run)).into_iter().flat_map(|k| &k.events);
        Ok(events.filter(|e| e.seq >= from_seq).cloned().collect())
    }

    async fn runs(&self, tenant: &TenantId, wanted: Option<RunState>, limit: usize) -> Result<Vec<RunRecord>> {
        let state = self.state();
        let is_wanted = |k: &Kept| wanted.is_none_or(|w| k.record.state == w);
        let mine = state.runs.iter().filter(|((t, _), k)| t == tenant && is_wanted(k));
        let mut mine: Vec<_> = mine.map(|(_, k)| k.record.clone()).collect();
        mine.sort_by_key(|r| std::cmp::Reverse(r.run.created));
        mine.truncate(limit);
        Ok(mine)
    }

    async fn resumable(&self, owner: &str, now: Timestamp, limit: usize) -> Result<Vec<(TenantId, RunId)>> {
        let state = self.state();
        let left = state.runs.iter().filter(|(_, k)| !k.record.state.is_final() && !k.is_held(owner, now));
        let mut left: Vec<_> = left.collect();
        left.sort_by_key(|(_, k)| (k.record.state == RunState::Parked, k.record.run.created));
        Ok(left.into_iter().take(limit).map(|(id, _)| id.clone()).collect())
    }

    async fn claim(
        &self,
        tenant: &TenantId,
        run: RunId,
        owner: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim> {
        self.with(tenant, run, |k| {
            if k.is_held(owner, now) {
                return Err(Error::new(ErrorKind::Conflict, "journal.claim", "another owner holds the run"));
            }
            k.fence += 1;
            k.held = Some((owner.to_owned(), until));
            Ok(Claim { tenant: tenant.clone(), run, fence: k.fence })
        })
    }

    async fn extend(&self, claim: &Claim, until: Timestamp) -> Result<()> {
        self.with(&claim.tenant, claim.run, |k| {
            if let Some((_, held_until)) = &mut k.fenced(claim)?.held {
                *held_until = until;
            }
            Ok(())
        })
    }

    async fn release(&self, claim: &Claim) -> Result<()> {
        self.with(&claim.tenant, claim.run, |k| {
            k.fenced(claim)?.held = None;
            Ok(())
        })
    }

    async fn apply(&self, claim: &Claim, now: Timestamp, changes: Vec<Transition>) -> Result<bool> {
        let (owed, cancel) = self.with(&claim.tenant, claim.run, |k| {
            let mut changed = k.fenced(claim)?.clone();
            let mut owed = Vec::new();
            for change in changes {
                if changed.record.state.is_final() {
                    return Err(Error::new(ErrorKind::Conflict, "journal.apply", "the run has ended"));
                }
                owed.push(changed.change(now, change)?);
            }
            *k = changed;
            Ok((owed, k.record.cancel_requested))
        })?;
        for outbox in owed.into_iter().filter(|o| !o.is_empty()) {
            let mut state = self.state();
            state.next += 1;
            let id = state.next;
            state.owed.insert(id, Owed { id, tenant: claim.tenant.clone(), run: claim.run, outbox });
        }
        Ok(cancel)
    }

    async fn replay(&self, tenant: &TenantId, run: RunId, now: Timestamp) -> Result<bool> {
        self.with(tenant, run, |k| {
            if k.record.state != RunState::Failed {
                return Ok(false);
            }
            (k.record.state, k.record.error, k.record.updated) = (RunState::Running, None, now);
            k.record.running = Duration::ZERO;
            k.tell(now, "run", "replayed", 0, None);
            Ok(true)
        })
    }

    async fn request_cancel(&self, tenant: &TenantId, run: RunId) -> Result<bool> {
        self.with(tenant, run, |k| {
            let open = !k.record.state.is_final();
            k.record.cancel_requested |= open;
            Ok(open)
        })
    }

    async fn owed(&self, after: u64, limit: usize) -> Result<Vec<Owed>> {
        let later = (std::ops::Bound::Excluded(after), std::ops::Bound::Unbounded);
        Ok(self.state().owed.range(later).take(limit).map(|(_, o)| o.clone()).collect())
    }

    async fn paid(&self, ids: &[u64]) -> Result<()> {
        let mut state = self.state();
        for id in ids {
            state.owed.remove(id);
        }
        Ok(())
    }
}
