//! What may be done: asked before every call, denied unless a rule says yes.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use crate::redact::EntityKind;
use crate::{
    Adapter, DecisionId, Digest, EmployeeId, ExecutionContext, RequestId, Result, Role, SecurityLevel, Slug, TenantId,
};

/// What a policy knows of a call: names, flags, tags and keyed digests, the same in process and for a remote engine; never
/// the payload.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PolicyInput {
    /// From the context, always.
    pub tenant_id: TenantId,
    /// From the context.
    pub employee_id: EmployeeId,
    /// From the context.
    pub role: Role,
    /// From the context.
    pub request_id: RequestId,
    /// For whom the employee acts, where it is another.
    pub on_behalf_of: Option<EmployeeId>,
    /// From the context.
    pub security_level: SecurityLevel,
    /// From the context.
    pub compliance_flags: Vec<Slug>,
    /// What is done: `tool.call`, `model.route`, `model.complete`, `task.enqueue`, `document.read`, `approval.decide`.
    pub action: String,
    /// On what: a tool's, model's or task's name.
    pub tool_name: String,
    /// `read`, `write` or `send`.
    pub effect: String,
    /// Fields of the arguments that the tool declares as resource fields, such as a channel or a folder.
    pub resource: BTreeMap<String, String>,
    /// Tags of the documents involved.
    pub doc_tags: BTreeSet<String>,
    /// Kinds of personal data and secrets found in the arguments, before anything is replaced.
    pub pii_flags: BTreeSet<EntityKind>,
    /// What is chosen among: the names of models, for `model.route`. The obligations name those that may be used.
    pub candidates: BTreeSet<String>,
    /// Keyed digest of the exact arguments.
    pub args_digest: Option<Digest>,
}

impl PolicyInput {
    /// The input of a call by this context; resource fields, tags and flags are empty.
    pub fn new(
        ctx: &ExecutionContext,
        action: impl Into<String>,
        tool_name: impl Into<String>,
        effect: impl Into<String>,
    ) -> Self {
        Self {
            tenant_id: ctx.tenant().clone(),
            employee_id: ctx.employee().clone(),
            role: ctx.role().clone(),
            request_id: ctx.request_id(),
            on_behalf_of: ctx.on_behalf_of().cloned(),
            security_level: ctx.security_level(),
            compliance_flags: ctx.compliance_flags().to_vec(),
            action: action.into(),
            tool_name: tool_name.into(),
            effect: effect.into(),
            resource: BTreeMap::new(),
            doc_tags: BTreeSet::new(),
            pii_flags: BTreeSet::new(),
            candidates: BTreeSet::new(),
            args_digest: None,
        }
    }
}

/// The answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Go on, as the obligations say.
    Allow,
    /// Stop.
    Deny,
    /// Go on once a person has said yes to exactly these arguments.
    NeedsApproval,
}

/// What an allowed call must do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Obligations {
    /// Kinds to mask in the arguments before they leave.
    pub redact_input: BTreeSet<EntityKind>,
    /// Kinds to mask in the answer before it is handed on.
    pub redact_output: BTreeSet<EntityKind>,
    /// At most so many rows or hits.
    pub max_rows: Option<u32>,
    /// The only models that may be used, where not empty.
    pub model_allow: BTreeSet<String>,
    /// The roles one of which must approve, for [`Verdict::NeedsApproval`].
    pub approver_roles: BTreeSet<Role>,
}

/// A verdict with everything needed to explain and repeat it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Of this decision.
    pub id: DecisionId,
    /// The answer.
    pub verdict: Verdict,
    /// Codes such as `role_not_granted`, sorted; at least one for a denial.
    pub reasons: Vec<String>,
    /// What an allowed call must do.
    pub obligations: Obligations,
    /// The policy, such as `forge.tool_access`.
    pub policy: String,
    /// Digest of the bundle that decided.
    pub revision: String,
}

/// A refusal by policy, for the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The decision; the audit log has the row.
    pub decision: DecisionId,
    /// Why, in codes.
    pub reasons: Vec<String>,
    /// The policy.
    pub policy: String,
    /// Digest of the bundle.
    pub revision: String,
}

impl From<Decision> for Denial {
    fn from(d: Decision) -> Self {
        Self { decision: d.id, reasons: d.reasons, policy: d.policy, revision: d.revision }
    }
}

/// What an engine can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct PolicyCapability {
    /// Decisions may carry obligations.
    pub obligations: bool,
    /// Decisions are made in this process, without IO.
    pub in_process: bool,
}

impl PolicyCapability {
    /// Both abilities, named.
    pub const fn new(obligations: bool, in_process: bool) -> Self {
        Self { obligations, in_process }
    }
}

/// Decides.
///
/// # Contract
/// The tenant of the input is the context's, whatever the input says. Undefined, an unknown shape, a limit, a panic or no
/// policy at all is a `Deny` with a reason that begins with `policy_`, never an `Allow` and never an error that a caller
/// could mistake for one. Rules see the data of the context's tenant and the shared data, nothing else.
#[async_trait]
pub trait PolicyEngine: Adapter {
    /// Decides about one call.
    ///
    /// # Errors
    /// `Unavailable` where a remote engine does not answer; the caller denies.
    async fn decide(&self, ctx: &ExecutionContext, input: &PolicyInput) -> Result<Decision>;

    /// What it can do.
    fn capability(&self) -> PolicyCapability;
}
