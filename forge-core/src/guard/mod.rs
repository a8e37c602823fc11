//! The guard: the only place where cross-cutting concerns live.
//!
//! Every tool call, model call and enqueued task passes the same phases in one order, outer to inner:
//!
//! | | phase | refuses with |
//! |---|---|---|
//! | 1 | span, opened first so that a refusal has one; attempts are its children | |
//! | 2 | context: deadline, cancellation; the tenant's keys are loaded | `Timeout`, `Cancelled` |
//! | 3 | schema and size of the arguments | `InvalidInput` |
//! | 4 | classify: a scan without change, so that policy knows the true flags | `Redaction` |
//! | 5 | policy; an error, a timeout and undefined are a denial | `PolicyDenied` |
//! | 6 | approval, where the verdict asks: bound to the digest of the exact arguments | `ApprovalRequired` |
//! | 7 | redact the input as the obligations say | `Redaction` |
//! | 8 | quota; a concurrency permit by tenant and resource | `QuotaExceeded` |
//! | 9 | audit the decision: durable before a write or send; room for the outcome; the intent | `Unavailable` |
//! | | a cached answer, where the tool or model declares that it may be given again | |
//! | 10 | breaker, attempts with a time limit, backoff, a budget of retries | the call's own |
//! | 11 | strip control characters; document access by the tags of what was read; redact the output | `PolicyDenied`, `Redaction` |
//! | 12 | settle the usage | |
//! | 13 | audit the outcome; in a workflow 12 and 13 ride in the row that completes the step | |
//!
//! Which operation passes which of them is the [`TABLE`]. A refusal writes its one `decision` row; an executed call writes
//! one `decision` and one `outcome`, when it is dropped or panics too.
//!
//! A tool cannot be reached around the guard: [`Tools`] seals it, and [`ToolCall`](crate::tool::ToolCall) has no public constructor.

mod admit;
mod attempt;
mod books;
mod breaker;
mod cache;
mod call;
mod clean;
mod documents;
mod models;
mod phase;
mod run;
mod schema;
mod settings;
mod stores;
mod tools;
mod work;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

pub use attempt::Tries;
pub use books::{Books, StepBooks};
pub use breaker::{Breaker, Circuit};
pub use cache::CacheFor;
pub use call::{CallOptions, IntentLog};
pub use models::Models;
pub use phase::{Guarding, Phases, TABLE};
pub use settings::Settings;
pub use stores::Guarded;
pub use tools::{ToolSet, Tools};

use crate::approvals::{Answer, Approval, Approvals};
use crate::audit::{AuditEvent, AuditLog, AuditRecord, Durability};
use crate::keyring::Keyring;
use crate::metrics::Metrics;
use crate::policy::{Obligations, PolicyEngine};
use crate::redact::Redactor;
use crate::time::Clock;
use crate::tool::Effect;
use crate::usage::{Pricing, Quantity, Quota, UsageLedger};
use crate::{ApprovalId, Digest, Error, ExecutionContext, Result, TenantId};

use serde_json::{Value, json};
use tracing::Instrument;

use admit::Seen;
use attempt::Resilience;
use books::Facts;
use call::Operation;

/// What the guard is made of. All of it is required: there is no guard without a policy, an audit log or a ledger.
#[derive(Debug, Clone)]
pub struct GuardParts {
    /// Decides.
    pub policy: Arc<dyn PolicyEngine>,
    /// Asks people.
    pub approvals: Arc<dyn Approvals>,
    /// Finds and replaces.
    pub redactor: Arc<dyn Redactor>,
    /// Digests and encrypts.
    pub keyring: Arc<dyn Keyring>,
    /// Limits.
    pub quota: Arc<dyn Quota>,
    /// Prices.
    pub pricing: Arc<dyn Pricing>,
    /// Records usage.
    pub ledger: Arc<dyn UsageLedger>,
    /// Records decisions and outcomes.
    pub audit: Arc<dyn AuditLog>,
    /// Counts.
    pub metrics: Arc<dyn Metrics>,
    /// Time.
    pub clock: Arc<dyn Clock>,
}

/// What [`Guard::authorize`] decides about.
#[derive(Debug, Clone)]
pub struct Access<'a> {
    /// As policies name it: `run.read`, `usage.read`, `workflow.start`.
    pub action: &'static str,
    /// Which one: a workflow's name, a namespace.
    pub resource: &'a str,
    /// Whose.
    pub owner: &'a TenantId,
    /// What it does.
    pub effect: Effect,
    /// What a start is given; null for a read.
    pub payload: Value,
}

/// The engine that runs the phases. Cheap to clone.
#[derive(Clone)]
pub struct Guard(Arc<Shared>);

struct Shared {
    parts: GuardParts,
    settings: Settings,
    resilience: Resilience,
    answers: cache::Answers,
}

impl Guard {
    /// A guard of these parts, with the default settings.
    pub fn new(parts: GuardParts) -> Self {
        Self::with_settings(parts, Settings::default())
    }

    /// A guard of these parts.
    pub fn with_settings(parts: GuardParts, settings: Settings) -> Self {
        let answers = cache::Answers::new(settings.cache_bytes);
        Self(Arc::new(Shared { parts, settings, resilience: Resilience::new(settings), answers }))
    }

    pub(crate) fn parts(&self) -> &GuardParts {
        &self.0.parts
    }

    fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn resilience(&self) -> &Resilience {
        &self.0.resilience
    }

    fn answers(&self) -> &cache::Answers {
        &self.0.answers
    }

    /// Decides about something that is no call of an adapter: starting a workflow, reading a run, usage, audit rows. Whose it
    /// is comes from outside with the request, so it is checked, not trusted. Returns what the caller must do with what it
    /// hands on.
    ///
    /// # Errors
    /// `TenantMismatch` if it is another tenant's; `PolicyDenied`; the other refusals. Each has its audit row.
    pub async fn authorize(&self, ctx: &ExecutionContext, access: Access<'_>) -> Result<Obligations> {
        self.choose(ctx, access, BTreeSet::new()).await
    }

    /// As [`authorize`](Self::authorize), about a set of which the obligations name those that may be used.
    async fn choose(
        &self,
        ctx: &ExecutionContext,
        access: Access<'_>,
        candidates: BTreeSet<String>,
    ) -> Result<Obligations> {
        let mut op = Operation {
            guarding: Guarding::Access,
            span: access.action,
            action: access.action,
            resource: access.resource,
            effect: access.effect,
            idempotent: true,
            payload: access.payload,
            schema: None,
            max_input: 1024 * 1024,
            resource_fields: &[],
            timeout: std::time::Duration::ZERO,
            billed: None,
            reserve: Quantity::default(),
            owner: Some(access.owner),
            candidates,
            cache: None,
        };
        let (ctx, span) = crate::context::span(ctx, op.span);
        span.record("resource", op.resource);
        let mut facts = Facts::of(&ctx, &op, &CallOptions::default());
        let decide = async {
            let mut seen = Seen::nothing();
            let admitted = self.admit(&ctx, &mut op, &facts, &mut seen).await;
            facts.decision = seen.decision.as_ref().map(|d| d.id);
            let prepared = match admitted {
                Ok(prepared) => prepared,
                Err(refusal) => {
                    self.refuse(&ctx, &facts, &seen, &refusal).await;
                    return Err(refusal);
                }
            };
            self.allowed(&ctx, &facts, &mut seen, run::durability(access.effect)).await?;
            Ok(Obligations::clone(&prepared.obligations))
        };
        let outcome = decide.instrument(span.clone()).await;
        span.record("verdict", if outcome.is_ok() { "allow" } else { "deny" });
        outcome
    }

    /// Writes the row of a refusal that came before anything could be decided, such as that of a queued task whose seal is forged: the
    /// context is the host's own in the tenant that was asked for, since whoever asked is not known. It is durable when this returns;
    /// a row that could not be written is logged.
    pub async fn refused(&self, ctx: &ExecutionContext, action: &'static str, resource: &str, refusal: &Error) {
        let mut facts = Facts::outside(ctx);
        facts.action = action;
        resource.clone_into(&mut facts.resource);
        self.refuse(ctx, &facts, &Seen::nothing(), refusal).await;
    }

    /// Answers a question as the employee of the context: the policy must grant `approval.decide` on the resource, the asker
    /// may not answer, and the digest must be the stored one.
    ///
    /// # Errors
    /// `PolicyDenied`, `NotFound`, `Conflict`; `Unavailable` if the answer could not be audited: then it does not count. Each try has its
    /// own decision row.
    pub async fn answer(
        &self,
        ctx: &ExecutionContext,
        id: ApprovalId,
        digest: Digest,
        answer: Answer,
    ) -> Result<Approval> {
        let parts = self.parts();
        let asked = parts.approvals.find(ctx, id).await?;
        let access = Access {
            action: "approval.decide",
            resource: &asked.resource,
            owner: ctx.tenant(),
            effect: Effect::Write,
            payload: json!({ "approval": id.to_string(), "digest": digest.to_string() }),
        };
        self.authorize(ctx, access).await?;
        let word = match answer {
            Answer::Approve => "approve",
            Answer::Deny => "deny",
        };
        let event = AuditEvent::Approval { answer: word.into(), digest };
        // an operation of whoever answers: the question's rows belong to the one who asked, and an answer that a crash kept from
        // counting is given anew
        let key = ctx.next_operation();
        let record = AuditRecord::new(ctx, parts.clock.now(), key, 1, "approval.decide", asked.resource, event);
        // the row first: an answer without one does not count, and a row whose answer was refused shows who tried
        parts.audit.append(ctx, record, Durability::Durable).await?;
        parts.approvals.answer(ctx, id, digest, answer).await
    }
}

impl fmt::Debug for Guard {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Guard")
    }
}
