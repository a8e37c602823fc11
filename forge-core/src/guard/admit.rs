//! Phases 2 to 7: everything before something is taken or changed, and the one row of a call that ends there.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value;

use super::books::{Facts, keyed};
use super::call::{Operation, Prepared};
use super::{Guard, schema};
use crate::approvals::{Approval, ApprovalRequest, ApprovalState};
use crate::audit::{AuditEvent, AuditRecord, Durability};
use crate::metrics::Metric;
use crate::policy::{Decision, Denial, PolicyInput, Verdict};
use crate::redact::{EntityKind, RedactOptions, RedactorExt};
use crate::{ApprovalId, DecisionId, Digest, Error, ErrorKind, ExecutionContext, Result};

/// What is known of a call when it is refused or audited.
pub(super) struct Seen {
    pub(super) phase: &'static str,
    pub(super) decision: Option<Decision>,
    pub(super) pii_flags: BTreeSet<EntityKind>,
    pub(super) redacted: BTreeSet<EntityKind>,
    pub(super) digest: Option<Digest>,
    pub(super) input: Option<PolicyInput>,
}

impl Seen {
    pub(super) fn nothing() -> Self {
        Self {
            phase: "context",
            decision: None,
            pii_flags: BTreeSet::new(),
            redacted: BTreeSet::new(),
            digest: None,
            input: None,
        }
    }
}

impl Guard {
    /// Phases 2 to 7: everything before something is taken or changed.
    pub(super) async fn admit(
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
        self.within(ctx, "guard.context", parts.keyring.load(ctx.tenant())).await?;

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
        input.candidates = std::mem::take(&mut op.candidates);
        for field in op.resource_fields {
            if let Some(value) = op.payload.get(field).and_then(Value::as_str) {
                input.resource.insert((*field).to_owned(), value.to_owned());
            }
        }
        seen.input = Some(input.clone());
        let decision = self.decide(ctx, &input).await?;
        seen.decision = Some(decision.clone());
        match decision.verdict {
            Verdict::Allow => {}
            Verdict::Deny => return Err(Error::denied("guard.policy", Denial::from(decision))),
            Verdict::NeedsApproval => {
                seen.phase = "approval";
                self.within(ctx, "guard.approval", self.approved(ctx, facts, digest, &decision)).await?;
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
    pub(super) async fn refuse(&self, ctx: &ExecutionContext, facts: &Facts, seen: &Seen, refusal: &Error) {
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

    /// The row of a decision that lets through: durable before what changes the world.
    pub(super) async fn allowed(
        &self,
        ctx: &ExecutionContext,
        facts: &Facts,
        seen: &mut Seen,
        how: Durability,
    ) -> Result<()> {
        seen.phase = "executed";
        let row = self.decision_row(ctx, facts, seen, Verdict::Allow);
        self.parts().audit.append(ctx, row, how).await?;
        self.parts().metrics.add(Metric::Decisions, &[ctx.tenant().as_str(), &facts.resource, "allow"], 1.0);
        Ok(())
    }

    /// The policy's answer, which it gives within its time or not at all.
    pub(super) async fn decide(&self, ctx: &ExecutionContext, input: &PolicyInput) -> Result<Decision> {
        let parts = self.parts();
        let late = async {
            parts.clock.sleep(self.settings().policy_timeout).await;
            Err(Error::new(ErrorKind::Timeout, "guard.policy", "the policy did not answer in time; the call is denied"))
        };
        let answer = async {
            tokio::select! {
                biased;
                answer = parts.policy.decide(ctx, input) => answer,
                late = late => late,
            }
        };
        self.within(ctx, "guard.policy", answer).await
    }

    /// Waits no longer than the request lives: a deadline and a cancellation end every wait of the guard's own.
    pub(super) async fn within<T>(
        &self,
        ctx: &ExecutionContext,
        operation: &'static str,
        wait: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let clock = &self.parts().clock;
        let late = async {
            match ctx.deadline() {
                Some(deadline) => clock.sleep(deadline.since(clock.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            outcome = wait => outcome,
            () = late => Err(Error::new(ErrorKind::Timeout, operation, "the deadline has passed")),
            () = ctx.cancellation().cancelled() => Err(Error::new(ErrorKind::Cancelled, operation, "the request was cancelled")),
        }
    }
}
