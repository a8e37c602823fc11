//! A run from outside: its reference, its progress, its end.

use std::fmt;
use std::time::Duration;

use forge_core::approvals::ApprovalRequest;
use forge_core::error::ErrorReport;
use forge_core::journal::{RunEvent, RunRecord, RunState, StepState};
use forge_core::{Error, ErrorKind, Result, RunId, Slug, TenantId, Timestamp};
use futures::stream::{self, BoxStream, StreamExt};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::engine::Engine;

/// Which run of which tenant. A reference may come from outside; whose it is, is checked wherever it is used.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RunRef {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub run: RunId,
}

/// Where a run stands.
#[derive(Debug, Clone)]
pub struct RunStatus {
    /// Of the whole.
    pub state: RunState,
    /// Why it failed or was cancelled.
    pub error: Option<ErrorReport>,
    /// The steps that were begun, in order.
    pub steps: Vec<StepStatus>,
}

/// Where a step stands.
#[derive(Debug, Clone)]
pub struct StepStatus {
    /// `stage/step`.
    pub path: String,
    /// Tries begun.
    pub attempt: u32,
    /// Where it is.
    pub state: StepState,
}

impl RunStatus {
    /// What a person must approve before the run goes on, if it waits for that.
    pub fn approval(&self) -> Option<&ApprovalRequest> {
        self.steps.iter().find_map(|s| match &s.state {
            StepState::AwaitingApproval { request } => Some(request),
            _ => None,
        })
    }
}

/// A run that was given up.
#[derive(Debug, Clone)]
pub struct FailedRun {
    /// Which.
    pub run: RunRef,
    /// Of which workflow.
    pub workflow: Slug,
    /// Why.
    pub error: Option<ErrorReport>,
    /// When.
    pub at: Timestamp,
}

impl From<RunRecord> for FailedRun {
    fn from(of: RunRecord) -> Self {
        let run = RunRef { tenant: of.run.tenant, run: of.run.id };
        Self { run, workflow: of.run.workflow, error: of.error, at: of.updated }
    }
}

/// How waiting for a run ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// All steps are done.
    Completed,
    /// It waits for a person: an approval, or an unknown outcome to be looked into.
    Parked,
    /// It failed or was cancelled.
    Ended(ErrorReport),
}

/// One line of progress; `Display` for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress(pub RunEvent);

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let e = &self.0;
        write!(f, "{} {}", e.path, e.what)?;
        if e.attempt > 1 {
            write!(f, " (try {})", e.attempt)?;
        }
        match &e.error {
            Some(error) => write!(f, ": {error}"),
            None => Ok(()),
        }
    }
}

/// A run of the tenant that asked for it. Dropping it changes nothing.
#[derive(Clone)]
pub struct RunHandle {
    engine: Engine,
    run: RunRef,
}

impl RunHandle {
    pub(super) fn new(engine: Engine, run: RunRef) -> Self {
        Self { engine, run }
    }

    /// The reference, to be kept or shown.
    pub fn reference(&self) -> &RunRef {
        &self.run
    }

    /// Where it stands.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn status(&self) -> Result<RunStatus> {
        let journal = &self.engine.0.parts.journal;
        let record = journal.run(&self.run.tenant, self.run.run).await?;
        let steps = journal.steps(&self.run.tenant, self.run.run).await?;
        let steps =
            steps.into_iter().map(|s| StepStatus { path: s.path, attempt: s.attempt, state: s.state }).collect();
        Ok(RunStatus { state: record.state, error: record.error, steps })
    }

    /// Its history from the beginning and then as it happens, until it ends or parks.
    pub fn progress(&self) -> BoxStream<'static, Result<Progress>> {
        self.progress_after(0)
    }

    /// [`progress`](Self::progress) after the event with this number: for whoever has seen the rest.
    pub fn progress_after(&self, seq: u64) -> BoxStream<'static, Result<Progress>> {
        let handle = self.clone();
        let pages = stream::try_unfold((handle, seq.saturating_add(1), false), |(handle, from, ended)| async move {
            if ended {
                return Ok::<_, Error>(None);
            }
            let listener = handle.engine.0.bells.listen(handle.run.run);
            loop {
                let changed = listener.bell.changed.notified();
                // the state first: events that follow it belong to the next look
                let resting = handle.resting().await?;
                let run = &handle.run;
                let events = handle.engine.0.parts.journal.events(&run.tenant, run.run, from).await?;
                if !events.is_empty() || resting {
                    let next = events.last().map_or(from, |e| e.seq + 1);
                    let page = stream::iter(events.into_iter().map(|e| Ok(Progress(e))));
                    return Ok(Some((page, (handle.clone(), next, resting))));
                }
                handle.pause(changed).await?;
            }
        });
        pages
            .map(|page| page.map_or_else(|e| stream::iter([Err(e)]).left_stream(), StreamExt::right_stream))
            .flatten()
            .boxed()
    }

    /// Waits until it ends or parks.
    ///
    /// # Errors
    /// `Unavailable`, also if the host shuts down meanwhile: the run goes on at the next start.
    pub async fn wait(&self) -> Result<Outcome> {
        let listener = self.engine.0.bells.listen(self.run.run);
        loop {
            let rested = listener.bell.rested.notified();
            if self.resting().await? {
                let record = self.engine.0.parts.journal.run(&self.run.tenant, self.run.run).await?;
                let unnamed = || Error::unexpected("run.wait", "the run ended without a reason").report();
                return Ok(match record.state {
                    RunState::Completed => Outcome::Completed,
                    RunState::Parked | RunState::Running => Outcome::Parked,
                    RunState::Failed | RunState::Cancelled => Outcome::Ended(record.error.unwrap_or_else(unnamed)),
                });
            }
            self.pause(rested).await?;
        }
    }

    /// The answer of a step that is done.
    ///
    /// # Errors
    /// `NotFound` if it is not; `Unexpected` if it has another shape.
    pub async fn output<T: DeserializeOwned>(&self, path: &str) -> Result<T> {
        let shared = &self.engine.0;
        let steps = shared.parts.journal.steps(&self.run.tenant, self.run.run).await?;
        let blob = steps.into_iter().find(|s| s.path == path).and_then(|s| s.output);
        let blob = blob.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "run.output", "the step is not done").with("step", path.to_owned())
        })?;
        shared.parts.keyring.load(&self.run.tenant).await?;
        let value = shared.decrypt(&self.run.tenant, self.run.run, path, &blob)?;
        serde_json::from_value(value)
            .map_err(|_| Error::unexpected("run.output", "the answer has another shape").with("step", path.to_owned()))
    }

    /// True once the run is final, or parked with nobody driving it on.
    async fn resting(&self) -> Result<bool> {
        // looked at first: a driver leaves only after its last write
        let driven = self.engine.0.driving().contains_key(&self.run.run);
        let state = self.engine.0.parts.journal.run(&self.run.tenant, self.run.run).await?.state;
        Ok(state.is_final() || (state == RunState::Parked && !driven))
    }

    async fn pause(&self, changed: tokio::sync::futures::Notified<'_>) -> Result<()> {
        let shared = &self.engine.0;
        if shared.stopping.is_cancelled() && !shared.driving().contains_key(&self.run.run) {
            let why = "the host is shutting down; the run goes on at the next start";
            return Err(Error::new(ErrorKind::Unavailable, "run.wait", why));
        }
        // another process may drive it: look again without being told
        tokio::select! {
            () = changed => {}
            () = shared.parts.clock.sleep(Duration::from_millis(200)) => {}
        }
        Ok(())
    }
}

impl fmt::Debug for RunHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("RunHandle").field(&self.run).finish()
    }
}
