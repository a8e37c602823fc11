//! Questions to a person, each bound to the digest of the exact arguments.

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::{Adapter, ApprovalId, Digest, EmployeeId, ExecutionContext, OperationKey, Result, Role, Timestamp};

/// What a caller learns when a person must say yes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRequest {
    /// The question.
    pub id: ApprovalId,
    /// Of the exact arguments; the approver repeats it.
    pub digest: Digest,
}

/// What was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalState {
    /// Nobody has answered.
    Pending,
    /// Yes; not yet used.
    Approved,
    /// No.
    Denied,
    /// The yes was used by its one call.
    Used,
}

/// One question, as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Approval {
    /// Derived from operation and digest: asking twice asks once.
    pub id: ApprovalId,
    /// The call that waits.
    pub operation: OperationKey,
    /// The tool, model or task.
    pub resource: String,
    /// Of the exact arguments.
    pub digest: Digest,
    /// Who asks; may not answer.
    pub asker: EmployeeId,
    /// The roles that may answer; empty: none, so nobody can.
    pub approver_roles: Vec<Role>,
    /// When it was asked.
    pub asked: Timestamp,
    /// The answer.
    pub state: ApprovalState,
    /// Who answered, and when.
    pub decided: Option<(EmployeeId, Timestamp)>,
}

/// Yes or no.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// Yes, once.
    Approve,
    /// No.
    Deny,
}

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct ApprovalsCapability {
    /// Questions survive a crash.
    pub durable: bool,
}

impl ApprovalsCapability {
    /// The ability, named.
    pub const fn new(durable: bool) -> Self {
        Self { durable }
    }
}

/// Keeps the questions of a tenant.
///
/// # Contract
/// `ask` with the same id returns the stored question. `answer` refuses another digest (`Conflict`), the asker and a role
/// that is not named (`PolicyDenied`), and a second answer (`Conflict`). `consume` succeeds once. Another tenant's question is
/// `NotFound`.
#[async_trait]
pub trait Approvals: Adapter {
    /// Asks, or returns the question that is already there.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn ask(&self, ctx: &ExecutionContext, approval: Approval) -> Result<Approval>;

    /// One question.
    ///
    /// # Errors
    /// `NotFound`.
    async fn find(&self, ctx: &ExecutionContext, id: ApprovalId) -> Result<Approval>;

    /// The questions that nobody has answered, oldest first.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn pending(&self, ctx: &ExecutionContext, limit: usize) -> Result<Vec<Approval>>;

    /// Answers as the employee of the context.
    ///
    /// # Errors
    /// `NotFound`, `Conflict`, `PolicyDenied`.
    async fn answer(&self, ctx: &ExecutionContext, id: ApprovalId, digest: Digest, answer: Answer) -> Result<Approval>;

    /// Uses an approval for its one call. Using it again for the same operation is allowed: it is the same call, repeated.
    ///
    /// # Errors
    /// `Conflict` if it is not approved.
    async fn consume(&self, ctx: &ExecutionContext, id: ApprovalId, operation: &OperationKey) -> Result<()>;

    /// What it can do.
    fn capability(&self) -> ApprovalsCapability;
}
