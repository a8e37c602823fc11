//! The phases, in their order. See the table in the [module](super).

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;
use tracing::Instrument;

use super::attempt::{Bounds, Tries, attempts};
use super::books::{Books, Closing, Facts, Open, keyed};
use super::{Guard, Guarding, clean, schema};
use crate::approvals::{Approval, ApprovalRequest, ApprovalState};
use crate::audit::{AuditEvent, AuditRecord, Durability};
use crate::context::span;
use crate::journal::Intent;
use crate::metrics::Metric;
use crate::policy::{Decision, Denial, Obligations, PolicyInput, Verdict};
use crate::redact::{EntityKind, RedactOptions, RedactorExt};
use crate::tool::Effect;
use crate::usage::{Quantity, QuotaRequest, Resource};
use crate::{
    ApprovalId, DecisionId, Digest, Error, ErrorKind, ExecutionContext, OperationKey, Result, RunId, TenantId,
};

/// Where the intent of an effect that cannot be repeated is written before it is made.
#[async_trait]
pub trait IntentLog: Send + Sync {
    /// Writes it; durable when it returns.
    ///
    /// # Errors
    /// `LeaseLost`, `Unavailable`: the effect is then not made.
    async fn intend(&self, intent: Intent) -> Result<()>;
}

/// How a caller wants a call to be made.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct CallOptions {
    /// The operation's key; by default the next of the request.
    pub key: Option<OperationKey>,
    /// Which try of the operation this is, where a journal counts them; 0 means 1.
    pub attempt: u32,
    /// Tries within this call.
    pub tries: Tries,
    /// Where usage and outcome are written.
    pub books: Books,
    /// Where the intent is written.
    pub intent: Option<Arc<dyn IntentLog>>,
    /// The run that it belongs to.
    pub run: Option<RunId>,
}

impl CallOptions {
    /// Repeating the call with the same key is the same operation.
    #[must_use]
    pub fn with_key(mut self, key: OperationKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Tries within this call.
    #[must_use]
    pub fn with_tries(mut self, tries: Tries) -> Self {
        self.tries = tries;
        self
    }

    /// For a step of a run: one try, counted by the journal, its books in the step's outbox.
    #[must_use]
    pub fn in_step(
        mut self,
        run: RunId,
        attempt: u32,
        books: super::StepBooks,
        intent: Option<Arc<dyn IntentLog>>,
    ) -> Self {
        self.run = Some(run);
        self.attempt = attempt;
        self.tries = Tries::ONCE;
        self.books = Books::Step(books);
        self.intent = intent;
        self
    }
}

/// One operation, as a wrapper describes it to the engine.
pub(super) struct Operation<'a> {
    pub(super) guarding: Guarding,
    pub(super) span: &'a str,
    pub(super) action: &'static str,
    pub(super) resource: &'a str,
    pub(super) effect: Effect,
    pub(super) idempotent: bool,
    pub(super) payload: Value,
    pub(super) schema: Option<&'a Value>,
    pub(super) max_input: usize,
    pub(super) resource_fields: &'a [&'static str],
    pub(super) timeout: Duration,
    pub(super) billed: Option<Resource>,
    pub(super) reserve: Quantity,
    /// Whose thing it is, where the caller named one.
    pub(super) owner: Option<&'a TenantId>,
}

/// What an attempt is given.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) payload: Arc<Value>,
    pub(super) key: OperationKey,
    pub(super) obligations: Arc<Obligations>,
}

/// What an attempt answers.
pub(super) struct Answered {
    pub(super) content: Value,
    pub(super) quantity: Quantity,
    pub(super) billed: Option<Resource>,
}

/// What is known of a call when it is refused or audited.
struct Seen {
    phase: &'static str,
    decision: Option<Decision>,
    pii_flags: BTreeSet<EntityKind>,
    redacted: BTreeSet<EntityKind>,
    digest: Option<Digest>,
    input: Option<PolicyInput>,
}

impl Guard {
    /// Runs one operation through every phase that its row of the table has.
    pub(super) async fn run<F, Fut>(
        &self,
        ctx: &ExecutionContext,
        mut op: Operation<'_>,
        options: CallOptions,
        call: F,
    ) -> Result<Value>
    where
        F: Fn(ExecutionContext, Prepared, u32) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Answered>> + Send,
    {
        let (ctx, call_span) = span(ctx, op.span);
        let key = options.key.clone().unwrap_or_else(|| ctx.next_operation());
        call_span.record("resource", op.resource);
        call_span.record("operation_key", key.as_str());
        call_span.record("attempt", options.attempt.max(1));
        let mut facts = Facts {
            action: op.action,
            resource: op.resource.to_owned(),
            billed: op.billed.clone(),
            key: key.clone(),
            attempt: options.attempt.max(1),
            run: options.run,
            decision: None,
            repeatable: op.idempotent || op.effect != Effect::Send,
        };
        let mut seen = Seen {
            phase: "context",
            decision: None,
            pii_flags: BTreeSet::new(),
            redacted: BTreeSet::new(),
            digest: None,
            input: None,
        };
        let work = async {
            let prepared = match self.admit(&ctx, &mut op, &facts, &mut seen).await {
                Ok(prepared) => prepared,
                Err(refusal) => {
                    self.refuse(&ctx, &facts, &seen, &refusal).await;
                    return Err(refusal);
                }
            };
            facts.decision = seen.decision.as_ref().map(|d| d.id);
            self.execute(&ctx, &op, options, facts, seen, prepared, call).await
        };
        let outcome = work.instrument(call_span.clone()).await;
        match &outcome {
            Ok(_) => call_span.record("verdict", "allow"),
            Err(e) => {
                call_span.record("verdict", if e.kind().is_refusal() { "deny" } else { "allow" });
                call_span.record("error", e.kind().as_str())
            }
        };
        outcome
    }

    /// Phases 2 to 7: everything before something is taken or changed.
    async fn admit(
        &self,
        ctx: &ExecutionContext,
        op: &mut Operation<'_>,
        facts: &Facts,
        seen: &mut Seen,
    ) -> Result<Prepared> {
        let parts = self.parts();
        ctx.check("guard.context", parts.clock.now())?;
        if op.owner.is_some_and(|owner| owner != ctx.tenant()) {
            return Err(Error::new(ErrorKind::TenantMismatch, "guard.context", "it belongs to another tenant"));
        }
        parts.keyring.load(ctx.tenant()).await?;

        seen.phase = "schema";
        // a canonical text: objects have sorted keys
        let text = op.payload.to_string();
        if text.len() > op.max_input {
            return Err(Error::invalid("guard.schema", "the arguments are too large")
                .with("bytes", text.len().to_string())
                .with("limit", op.max_input.to_string()));
        }
        if let Some(schema) = op.schema {
            schema::check(op.resource, schema, &op.payload)?;
        }

        seen.phase = "classify";
        seen.pii_flags = parts.redactor.inspect_json(&op.payload)?;
        for kind in &seen.pii_flags {
            parts.metrics.add(Metric::Findings, &[ctx.tenant().as_str(), kind.as_str()], 1.0);
        }
        let digest = keyed(self, ctx, text.as_bytes())?;
        seen.digest = Some(digest);

        seen.phase = "policy";
        let mut input = PolicyInput::new(ctx, op.action, op.resource, op.effect.as_str());
        input.pii_flags.clone_from(&seen.pii_flags);
        input.args_digest = Some(digest);
        for field in op.resource_fields {
            if let Some(value) = op.payload.get(field).and_then(Value::as_str) {
                input.resource.insert((*field).to_owned(), value.to_owned());
            }
        }
        seen.input = Some(input.clone());
        let decision = parts.policy.decide(ctx, &input).await?;
        seen.decision = Some(decision.clone());
        match decision.verdict {
            Verdict::Allow => {}
            Verdict::Deny => return Err(Error::denied("guard.policy", Denial::from(decision))),
            Verdict::NeedsApproval => {
                seen.phase = "approval";
                self.approved(ctx, facts, digest, &decision).await?;
            }
        }

        seen.phase = "redact";
        let obligations = decision.obligations;
        let mut payload = std::mem::take(&mut op.payload);
        if op.guarding.phases().tokenised {
            parts.redactor.redact_json(ctx.tenant(), &mut payload, &RedactOptions::tokenize_all())?;
        }
        let mask = RedactOptions::mask(obligations.redact_input.iter().copied());
        if parts.redactor.redact_json(ctx.tenant(), &mut payload, &mask)? > 0 {
            seen.redacted = obligations.redact_input.intersection(&seen.pii_flags).copied().collect();
        }
        Ok(Prepared { payload: Arc::new(payload), key: facts.key.clone(), obligations: Arc::new(obligations) })
    }

    /// Phase 6: the yes of a person to exactly these arguments, or the question.
    async fn approved(&self, ctx: &ExecutionContext, facts: &Facts, digest: Digest, decision: &Decision) -> Result<()> {
        let parts = self.parts();
        let id = ApprovalId::derived(&[
            b"approval",
            ctx.tenant().as_str().as_bytes(),
            ctx.employee().as_str().as_bytes(),
            facts.action.as_bytes(),
            facts.resource.as_bytes(),
            facts.key.as_str().as_bytes(),
            digest.as_bytes(),
        ]);
        let question = Approval {
            id,
            operation: facts.key.clone(),
            resource: facts.resource.clone(),
            digest,
            asker: ctx.employee().clone(),
            approver_roles: decision.obligations.approver_roles.iter().cloned().collect(),
            asked: parts.clock.now(),
            state: ApprovalState::Pending,
            decided: None,
        };
        match parts.approvals.ask(ctx, question).await?.state {
            ApprovalState::Approved | ApprovalState::Used => parts.approvals.consume(ctx, id, &facts.key).await,
            ApprovalState::Pending => Err(Error::needs_approval("guard.approval", ApprovalRequest { id, digest })),
            ApprovalState::Denied => {
                let denial = Denial { reasons: vec!["approval_denied".into()], ..Denial::from(decision.clone()) };
                Err(Error::denied("guard.approval", denial))
            }
        }
    }

    /// The one row of a call that was not let through.
    async fn refuse(&self, ctx: &ExecutionContext, facts: &Facts, seen: &Seen, refusal: &Error) {
        let verdict =
            if refusal.kind() == ErrorKind::ApprovalRequired { Verdict::NeedsApproval } else { Verdict::Deny };
        let mut record = self.decision_row(ctx, facts, seen, verdict);
        if let AuditEvent::Decision { reasons, .. } = &mut record.event
            && (reasons.is_empty() || refusal.kind() != ErrorKind::PolicyDenied)
        {
            reasons.push(refusal.kind().as_str().to_owned());
        }
        let labels = [ctx.tenant().as_str(), facts.resource.as_str(), refusal.kind().as_str()];
        self.parts().metrics.add(Metric::Decisions, &labels, 1.0);
        if let Err(e) = self.parts().audit.append(ctx, record, Durability::Durable).await {
            // the call is refused either way; that its row is missing must not go unseen
            tracing::error!(error = %e, resource = facts.resource, "a refusal could not be audited");
        }
    }

    fn decision_row(&self, ctx: &ExecutionContext, facts: &Facts, seen: &Seen, verdict: Verdict) -> AuditRecord {
        let event = AuditEvent::Decision {
            phase: seen.phase.to_owned(),
            verdict,
            reasons: seen.decision.as_ref().map(|d| d.reasons.clone()).unwrap_or_default(),
            decision: seen.decision.as_ref().map(|d| d.id),
            revision: seen.decision.as_ref().map(|d| d.revision.clone()),
            pii_flags: seen.pii_flags.clone(),
            redacted: seen.redacted.clone(),
            args_digest: seen.digest,
            resource_fields: seen.input.as_ref().map(|i| self.masked_fields(ctx, i)).unwrap_or_default(),
        };
        let at = self.parts().clock.now();
        let mut record =
            AuditRecord::new(ctx, at, facts.key.clone(), facts.attempt, facts.action, facts.resource.clone(), event);
        record.run = facts.run;
        // a call that is asked about again is decided again: each decision is a row of its own
        let of_decision = seen.decision.as_ref().map(|d| d.id).unwrap_or_else(|| DecisionId::random(at));
        record.id = Facts { decision: Some(of_decision), ..facts.clone() }.row_id(ctx, "decision");
        record
    }

    /// Declared resource fields are names, but they came from a caller: what looks like a datum is masked.
    fn masked_fields(&self, ctx: &ExecutionContext, input: &PolicyInput) -> std::collections::BTreeMap<String, String> {
        let all = RedactOptions::mask_all();
        let mask = |v: &String| {
            self.parts()
                .redactor
                .redact(ctx.tenant(), v.as_str().into(), &all)
                .map_or("[withheld]".into(), |c| c.into_owned())
        };
        input.resource.iter().map(|(k, v)| (k.clone(), mask(v))).collect()
    }

    /// Phases 8 to 13.
    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename the list")]
    async fn execute<F, Fut>(
        &self,
        ctx: &ExecutionContext,
        op: &Operation<'_>,
        options: CallOptions,
        facts: Facts,
        mut seen: Seen,
        prepared: Prepared,
        call: F,
    ) -> Result<Value>
    where
        F: Fn(ExecutionContext, Prepared, u32) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Answered>> + Send,
    {
        let parts = self.parts();
        let phases = op.guarding.phases();
        // first a place among the tenant's own calls, then what all tenants share
        let lane = (ctx.tenant().clone(), op.resource.to_owned());
        let _lane_permit = self.resilience().permit(&lane).await?;
        ctx.check("guard.permit", parts.clock.now())?;
        seen.phase = "quota";
        let permit = match (phases.billed, &op.billed) {
            (true, Some(resource)) => {
                let cost = parts.pricing.quote(resource, &op.reserve, parts.clock.now())?;
                let request = QuotaRequest {
                    operation: facts.key.clone(),
                    resource: resource.clone(),
                    quantity: op.reserve,
                    cost,
                };
                match parts.quota.reserve(ctx, request).await {
                    Ok(permit) => Some(permit),
                    Err(refusal) => {
                        self.refuse(ctx, &facts, &seen, &refusal).await;
                        return Err(refusal);
                    }
                }
            }
            _ => None,
        };

        seen.phase = "executed";
        let row = self.decision_row(ctx, &facts, &seen, Verdict::Allow);
        let durability = if op.effect == Effect::Read { Durability::Enqueued } else { Durability::Durable };
        parts.audit.append(ctx, row, durability).await?;
        parts.metrics.add(Metric::Decisions, &[ctx.tenant().as_str(), op.resource, "allow"], 1.0);
        let repeatable = facts.repeatable;
        if let (false, Some(log), Some(digest)) = (repeatable, &options.intent, seen.digest) {
            log.intend(Intent { key: facts.key.clone(), digest }).await?;
        }
        if !phases.answered {
            // a decision was all that was asked for: what follows is work of its own
            return Ok(Value::clone(&prepared.payload));
        }
        let open = Open::take(self, ctx, facts, &options.books, permit).await?;

        let tries = if phases.retried { options.tries } else { Tries::ONCE };
        let bounds = Bounds {
            clock: parts.clock.as_ref(),
            resilience: self.resilience(),
            key: &lane,
            tries,
            timeout: op.timeout,
            repeatable,
        };
        let (outcome, attempts) = attempts(ctx, &bounds, |ctx, n| call(ctx, prepared.clone(), n)).await;
        let outcome = outcome.and_then(|answered| self.let_out(ctx, &prepared.obligations, answered));
        let closing = match &outcome {
            Ok((content, answered)) => Closing {
                result: Ok(answered.quantity),
                attempts,
                output: keyed(self, ctx, content.to_string().as_bytes()).ok(),
                billed: answered.billed.clone(),
            },
            Err(e) => Closing { result: Err(e.kind()), attempts, output: None, billed: None },
        };
        open.close(closing);
        if matches!(options.books, Books::Direct) && op.effect != Effect::Read {
            // an effect was made: its outcome is on the disk before the caller goes on
            // an error here must not hide the answer: whoever is told "failed" does it again
            if let Err(e) = parts.audit.flush().await.and(parts.ledger.flush().await) {
                tracing::error!(error = %e, resource = op.resource, "the books of a call that was made are behind");
            }
        }
        outcome.map(|(content, _)| content)
    }

    /// Phase 11. Returns the content apart from the facts of the answer.
    fn let_out(
        &self,
        ctx: &ExecutionContext,
        obligations: &Obligations,
        mut answered: Answered,
    ) -> Result<(Value, Answered)> {
        let mut content = std::mem::take(&mut answered.content);
        clean::clean(&mut content);
        let mask = RedactOptions::mask(obligations.redact_output.iter().copied());
        if !mask.kinds.is_empty() {
            self.parts().redactor.redact_json(ctx.tenant(), &mut content, &mask)?;
        }
        Ok((content, answered))
    }
}
