//! The durable record of workflow runs: the truth from which a run is resumed and its books are written.
//!
//! Every row is keyed by tenant; bodies (`input`, `output`) arrive encrypted and leave encrypted: a journal sees no personal data.

use std::time::Duration;

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::approvals::ApprovalRequest;
use crate::audit::AuditRecord;
use crate::error::ErrorReport;
use crate::usage::UsageEvent;
use crate::{Digest, ErrorKind, HealthCheck, OperationKey, Result, RunId, SealedContext, Slug, TenantId, Timestamp};

/// Where a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RunState {
    /// Being worked on, or to be resumed.
    Running,
    /// Waiting for a person.
    Parked,
    /// All steps done.
    Completed,
    /// Given up.
    Failed,
    /// Cancelled.
    Cancelled,
}

impl RunState {
    /// Nothing more will happen.
    pub fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Failed | Self::Cancelled)
    }
}

/// A run to be kept.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Whose.
    pub tenant: TenantId,
    /// Chosen by the engine; derived from the business key where there is one.
    pub id: RunId,
    /// The workflow.
    pub workflow: Slug,
    /// Its version.
    pub version: u32,
    /// Of its stages and steps.
    pub definition: Digest,
    /// Who started it, sealed to the run.
    pub context: SealedContext,
    /// The input, encrypted.
    pub input: Vec<u8>,
    /// When.
    pub created: Timestamp,
}

/// A run, as it is kept.
#[derive(Debug, Clone)]
pub struct RunRecord {
    /// What it was started with.
    pub run: NewRun,
    /// Where it is.
    pub state: RunState,
    /// Why it failed or was cancelled.
    pub error: Option<ErrorReport>,
    /// Somebody asked to cancel it.
    pub cancel_requested: bool,
    /// Time spent running, parked time left out.
    pub running: Duration,
    /// Last change.
    pub updated: Timestamp,
}

/// Where a step is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum StepState {
    /// Begun; if its run is not held by a live owner, it was interrupted.
    Running,
    /// Done once and for all.
    Completed,
    /// Failed; to be tried again at `next`, or given up.
    Failed {
        /// Why.
        report: ErrorReport,
        /// When to try again.
        next: Option<Timestamp>,
    },
    /// Waits for a person's yes to exactly these arguments.
    AwaitingApproval {
        /// What to approve.
        request: ApprovalRequest,
    },
    /// Nobody can tell whether its effect happened; a person decides.
    UnknownOutcome {
        /// What is known.
        report: ErrorReport,
    },
}

/// An effect that is about to be made and cannot be repeated.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// Of the operation.
    pub key: OperationKey,
    /// Keyed digest of the exact arguments.
    pub digest: Digest,
}

/// A step of a run, as it is kept.
#[derive(Debug, Clone)]
pub struct StepRecord {
    /// `stage/step`.
    pub path: String,
    /// Tries begun.
    pub attempt: u32,
    /// Where it is.
    pub state: StepState,
    /// The intent written in the current attempt or an interrupted one, if its outcome is not known yet.
    pub intent: Option<Intent>,
    /// The answer, encrypted.
    pub output: Option<Vec<u8>>,
    /// When the current attempt began.
    pub started: Timestamp,
    /// When the last change was.
    pub updated: Timestamp,
}

/// What a finished try owes to the other books; written with it, relayed after it, under the same ids.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outbox {
    /// For the ledger.
    pub usage: Vec<UsageEvent>,
    /// For the audit log.
    pub audit: Vec<AuditRecord>,
}

impl Outbox {
    /// Nothing is owed.
    pub fn is_empty(&self) -> bool {
        self.usage.is_empty() && self.audit.is_empty()
    }

    /// Adds what another owes.
    pub fn extend(&mut self, other: Self) {
        self.usage.extend(other.usage);
        self.audit.extend(other.audit);
    }
}

/// Outbox rows that are not relayed yet.
#[derive(Debug, Clone)]
pub struct Owed {
    /// The row.
    pub id: u64,
    /// Whose.
    pub tenant: TenantId,
    /// Of which run.
    pub run: RunId,
    /// What.
    pub outbox: Outbox,
}

/// The right to change a run: held by one owner at a time, under a fencing token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Whose.
    pub tenant: TenantId,
    /// Which run.
    pub run: RunId,
    /// The fencing token.
    pub fence: u64,
}

/// One change of a run; several are applied together, whole or not at all.
#[derive(Debug, Clone)]
pub enum Transition {
    /// A try of a step begins. Its attempt must be the next one.
    StepStarted {
        /// `stage/step`.
        path: String,
        /// Which try, from 1.
        attempt: u32,
    },
    /// An effect that cannot be repeated is about to be made.
    Intended {
        /// `stage/step`.
        path: String,
        /// Which effect.
        intent: Intent,
    },
    /// A step is done; a second completion is a `Conflict`.
    StepCompleted {
        /// `stage/step`.
        path: String,
        /// Encrypted.
        output: Vec<u8>,
        /// What it owes.
        outbox: Outbox,
    },
    /// A try ended otherwise.
    StepStopped {
        /// `stage/step`.
        path: String,
        /// `Failed`, `AwaitingApproval` or `UnknownOutcome`.
        state: StepState,
        /// What it owes.
        outbox: Outbox,
        /// True where the intent is settled: its effect is known not to have happened.
        clear_intent: bool,
    },
    /// The run goes on, waits or ends.
    RunMoved {
        /// Where it is now.
        state: RunState,
        /// Why it failed.
        error: Option<ErrorReport>,
        /// Running time to add.
        ran: Duration,
    },
}

impl Transition {
    /// Whether it owes something to the other books.
    pub fn owes(&self) -> bool {
        match self {
            Self::StepCompleted { outbox, .. } | Self::StepStopped { outbox, .. } => !outbox.is_empty(),
            Self::StepStarted { .. } | Self::Intended { .. } | Self::RunMoved { .. } => false,
        }
    }

    /// The line of the history that it makes: the path (`run`, or `stage/step`), what happened, and the error's kind.
    pub fn event(&self) -> (&str, &'static str, Option<ErrorKind>) {
        match self {
            Self::StepStarted { path, .. } => (path, "started", None),
            Self::Intended { path, .. } => (path, "intended", None),
            Self::StepCompleted { path, .. } => (path, "completed", None),
            Self::StepStopped { path, state, .. } => match state {
                StepState::Failed { report, next: Some(_) } => (path, "retrying", Some(report.kind)),
                StepState::Failed { report, next: None } => (path, "failed", Some(report.kind)),
                StepState::AwaitingApproval { .. } => (path, "awaiting_approval", None),
                StepState::UnknownOutcome { .. } => (path, "unknown_outcome", Some(ErrorKind::UnknownOutcome)),
                StepState::Running | StepState::Completed => (path, "stopped", None),
            },
            Self::RunMoved { state, error, .. } => {
                let what = match state {
                    RunState::Running => "resumed",
                    RunState::Parked => "parked",
                    RunState::Completed => "completed",
                    RunState::Failed => "failed",
                    RunState::Cancelled => "cancelled",
                };
                ("run", what, error.as_ref().map(|e| e.kind))
            }
        }
    }
}

/// One line of a run's history; names and codes, never a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunEvent {
    /// From 1, without gaps, per run.
    pub seq: u64,
    /// When.
    pub at: Timestamp,
    /// `run`, or `stage/step`.
    pub path: String,
    /// `started`, `intended`, `completed`, `failed`, `retrying`, `awaiting_approval`, `unknown_outcome`, `parked`,
    /// `cancelled`, `replayed`.
    pub what: String,
    /// Which try, for a step.
    pub attempt: u32,
    /// The error's kind, where there is one.
    pub error: Option<String>,
}

/// Keeps runs.
///
/// # Contract
/// Every method names the tenant; another tenant's run is not there. `create` with the id of a stored run returns that run
/// and changes nothing. `apply` is atomic and durable when it returns; under an old fence it is `LeaseLost` and changes
/// nothing. `claim` succeeds where nobody holds the run, the holder's time ran out, or the holder is this owner (a process
/// that took its place: an owner is one at a time), and raises the fence.
#[async_trait]
pub trait Journal: HealthCheck + std::fmt::Debug + Send + Sync + 'static {
    /// Keeps a new run, or returns the one with its id.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn create(&self, run: NewRun) -> Result<RunRecord>;

    /// One run.
    ///
    /// # Errors
    /// `NotFound`.
    async fn run(&self, tenant: &TenantId, run: RunId) -> Result<RunRecord>;

    /// The steps of a run that were begun, in the order they were; none of a run that is not there.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn steps(&self, tenant: &TenantId, run: RunId) -> Result<Vec<StepRecord>>;

    /// The history from `from_seq` on; none of a run that is not there.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn events(&self, tenant: &TenantId, run: RunId, from_seq: u64) -> Result<Vec<RunEvent>>;

    /// A tenant's runs, or those of them in one state, newest first, at most `limit`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn runs(&self, tenant: &TenantId, state: Option<RunState>, limit: usize) -> Result<Vec<RunRecord>>;

    /// Runs of any tenant that are not final and that `owner` may claim at `now`: first those that are running, then those that
    /// are parked, each oldest first. What a starting host looks at.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn resumable(&self, owner: &str, now: Timestamp, limit: usize) -> Result<Vec<(TenantId, RunId)>>;

    /// Takes a run, until `until`.
    ///
    /// # Errors
    /// `Conflict` if another holds it; `NotFound`.
    async fn claim(
        &self,
        tenant: &TenantId,
        run: RunId,
        owner: &str,
        now: Timestamp,
        until: Timestamp,
    ) -> Result<Claim>;

    /// Holds on until `until`.
    ///
    /// # Errors
    /// `LeaseLost`.
    async fn extend(&self, claim: &Claim, until: Timestamp) -> Result<()>;

    /// Gives a run back.
    ///
    /// # Errors
    /// `LeaseLost`.
    async fn release(&self, claim: &Claim) -> Result<()>;

    /// Changes a run: all of it in this order, or nothing. Returns whether somebody asked to cancel the run.
    ///
    /// # Errors
    /// `LeaseLost`, `Conflict`, `Unavailable`.
    async fn apply(&self, claim: &Claim, now: Timestamp, changes: Vec<Transition>) -> Result<bool>;

    /// Makes a failed run `Running` again, with its steps as they are and without its error; the history says `replayed`. Returns
    /// false, and changes nothing, where it is not `Failed`.
    ///
    /// # Errors
    /// `NotFound`.
    async fn replay(&self, tenant: &TenantId, run: RunId, now: Timestamp) -> Result<bool>;

    /// Asks for a run to be cancelled; returns false if it is already final.
    ///
    /// # Errors
    /// `NotFound`.
    async fn request_cancel(&self, tenant: &TenantId, run: RunId) -> Result<bool>;

    /// Outbox rows with a higher id than `after` that are not relayed, oldest first.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn owed(&self, after: u64, limit: usize) -> Result<Vec<Owed>>;

    /// Forgets outbox rows that were relayed.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn paid(&self, ids: &[u64]) -> Result<()>;
}
