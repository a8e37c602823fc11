//! What was decided and what came of it, in a chain that shows any change.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::policy::Verdict;
use crate::redact::EntityKind;
use crate::slot::Slot;
use crate::{
    Adapter, DecisionId, Digest, EmployeeId, EventId, ExecutionContext, OperationKey, RequestId, Result, Role, RunId,
    TenantId, Timestamp,
};

/// One thing to keep. Flags, ids, codes and keyed digests; never a payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRecord {
    /// Derived from operation, attempt and event: writing it twice is one row.
    pub id: EventId,
    /// When.
    pub at: Timestamp,
    /// Whose chain.
    pub tenant: TenantId,
    /// Who.
    pub employee: EmployeeId,
    /// As what.
    pub role: Role,
    /// For whom, where it is another.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_behalf_of: Option<EmployeeId>,
    /// In which request.
    pub request: RequestId,
    /// In which run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Which call.
    pub operation: OperationKey,
    /// Which try of it, from 1.
    pub attempt: u32,
    /// What is done, as in the policy's input.
    pub action: String,
    /// On what.
    pub resource: String,
    /// What happened.
    pub event: AuditEvent,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AuditEvent {
    /// A call was allowed, denied or held; exactly one for each call that reached the guard.
    Decision {
        /// Where it ended, for a refusal: `context`, `schema`, `classify`, `policy`, `approval`, `redact`, `permit`, `quota`, `books`, `document`; `executed` for a call that went through.
        phase: String,
        /// The answer.
        verdict: Verdict,
        /// Why, in codes.
        reasons: Vec<String>,
        /// The policy's decision, where it came to one.
        decision: Option<DecisionId>,
        /// The bundle's revision.
        revision: Option<String>,
        /// Kinds found in the arguments.
        pii_flags: BTreeSet<EntityKind>,
        /// Kinds masked in the arguments.
        redacted: BTreeSet<EntityKind>,
        /// Keyed digest of the arguments.
        args_digest: Option<Digest>,
        /// Declared resource fields.
        resource_fields: BTreeMap<String, String>,
    },
    /// An allowed call ended; exactly one for each that was executed.
    Outcome {
        /// `ok`, `cached`, or the kind of the error.
        result: String,
        /// How many attempts were made in this try.
        attempts: u32,
        /// How long it took.
        duration_ms: u64,
        /// Keyed digest of the answer.
        output_digest: Option<Digest>,
    },
    /// A question to a person was answered.
    Approval {
        /// `approve` or `deny`.
        answer: String,
        /// Digest of the arguments that were approved.
        digest: Digest,
    },
    /// Something that the host decided, such as a purge.
    Admin {
        /// What.
        what: String,
    },
}

impl AuditEvent {
    /// `decision`, `outcome`, `approval` or `admin`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Decision { .. } => "decision",
            Self::Outcome { .. } => "outcome",
            Self::Approval { .. } => "approval",
            Self::Admin { .. } => "admin",
        }
    }
}

impl AuditRecord {
    /// A record by this context; the id follows from tenant, operation, attempt and event.
    pub fn new(
        ctx: &ExecutionContext,
        at: Timestamp,
        operation: OperationKey,
        attempt: u32,
        action: impl Into<String>,
        resource: impl Into<String>,
        event: AuditEvent,
    ) -> Self {
        let id = EventId::derived(&[
            b"audit",
            ctx.tenant().as_str().as_bytes(),
            operation.as_str().as_bytes(),
            &attempt.to_be_bytes(),
            event.name().as_bytes(),
        ]);
        Self {
            id,
            at,
            tenant: ctx.tenant().clone(),
            employee: ctx.employee().clone(),
            role: ctx.role().clone(),
            on_behalf_of: ctx.on_behalf_of().cloned(),
            request: ctx.request_id(),
            run: None,
            operation,
            attempt,
            action: action.into(),
            resource: resource.into(),
            event,
        }
    }
}

/// A record in its chain: `hash = SHA-256(prev || canonical JSON of {seq, record})`, see `docs/formats.md`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AuditRow {
    /// From 1, without gaps, per tenant and writer.
    pub seq: u64,
    /// Hash of the row before; zeros for the first.
    pub prev: Digest,
    /// Hash of this row.
    pub hash: Digest,
    /// What is kept.
    #[serde(flatten)]
    pub record: AuditRecord,
}

/// How soon a record must be on the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// Before the call returns: for denials and for what changes the world.
    Durable,
    /// Within a bounded delay: for reads. A full queue makes the caller wait; it never drops a record.
    Enqueued,
}

/// What a verification found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainReport {
    /// Rows looked at.
    pub rows: u64,
    /// The first row that does not fit, and why.
    pub broken: Option<(u64, String)>,
    /// Hash of the last good row.
    pub head: Digest,
}

/// What a backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditCapability {
    /// Rows survive a crash.
    pub durable: bool,
    /// Rows are chained by hashes.
    pub chained: bool,
}

impl AuditCapability {
    /// Both abilities, named.
    pub const fn new(durable: bool, chained: bool) -> Self {
        Self { durable, chained }
    }
}

/// Keeps the audit rows of each tenant apart.
///
/// # Contract
/// A record with the id of a stored one is not written again; with the same id and other contents it is a `Conflict`. A
/// record's tenant must be the context's (`TenantMismatch`). `read` and `verify` see the context's tenant only.
#[async_trait]
pub trait AuditLog: Adapter {
    /// Room for one record that a drop may fill later.
    ///
    /// # Errors
    /// `Unavailable` if the log cannot take one more; the call must not be made.
    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<AuditRecord>>;

    /// Writes one record.
    ///
    /// # Errors
    /// `Unavailable`, `TenantMismatch`, `Conflict`.
    async fn append(&self, ctx: &ExecutionContext, record: AuditRecord, durability: Durability) -> Result<()>;

    /// Rows from `from_seq` on, at most `limit`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn read(&self, ctx: &ExecutionContext, from_seq: u64, limit: usize) -> Result<Vec<AuditRow>>;

    /// Checks the tenant's chain from its first row.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn verify(&self, ctx: &ExecutionContext) -> Result<ChainReport>;

    /// Waits until everything appended so far is on the disk: a tenant's, or everybody's with `None`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn flush(&self, tenant: Option<&TenantId>) -> Result<()>;

    /// What it can do.
    fn capability(&self) -> AuditCapability;
}
