//! The phases, in their order. See the table in the [module](super).

use std::future::Future;

use serde_json::Value;
use tracing::Instrument;

use super::admit::Seen;
use super::attempt::{Bounds, Tries, attempts};
use super::books::{Books, Closing, Facts, Open, keyed};
use super::call::{Answered, CallOptions, Operation, Prepared};
use super::{Guard, cache, clean};
use crate::audit::Durability;
use crate::context::span;
use crate::journal::Intent;
use crate::policy::Obligations;
use crate::redact::{RedactOptions, RedactorExt};
use crate::tool::Effect;
use crate::usage::{Permit, Quantity, QuotaRequest};
use crate::{Digest, ExecutionContext, Result};

impl Guard {
    /// Runs one operation through every phase that its row of the table has.
    pub(super) async fn run<F, Fut>(
        &self,
        ctx: &ExecutionContext,
        op: Operation<'_>,
        options: CallOptions,
        call: F,
    ) -> Result<Value>
    where
        F: Fn(ExecutionContext, Prepared, u32) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Answered>> + Send,
    {
        let (ctx, call_span) = span(ctx, op.span);
        let facts = Facts::of(&ctx, &op, &options);
        call_span.record("resource", op.resource);
        call_span.record("operation_key", facts.key.as_str());
        call_span.record("attempt", facts.attempt);
        let outcome = self.phases(&ctx, op, options, facts, call).instrument(call_span.clone()).await;
        match &outcome {
            Ok(_) => call_span.record("verdict", "allow"),
            Err(e) => {
                call_span.record("verdict", if e.kind().is_refusal() { "deny" } else { "allow" });
                call_span.record("error", e.kind().as_str())
            }
        };
        outcome
    }

    async fn phases<F, Fut>(
        &self,
        ctx: &ExecutionContext,
        mut op: Operation<'_>,
        options: CallOptions,
        mut facts: Facts,
        call: F,
    ) -> Result<Value>
    where
        F: Fn(ExecutionContext, Prepared, u32) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Answered>> + Send,
    {
        let mut seen = Seen::nothing();
        let taken = async {
            let prepared = self.admit(ctx, &mut op, &facts, &mut seen).await?;
            facts.decision = seen.decision.as_ref().map(|d| d.id);
            // a place among the tenant's own calls comes before what all tenants share
            let place = self.place(ctx, &op, &mut seen).await?;
            let open = self.take(ctx, &op, &facts, &options.books, &mut seen).await?;
            Ok((prepared, place, open))
        };
        let (prepared, _place, open) = match taken.await {
            Ok(taken) => taken,
            Err(refusal) => {
                self.refuse(ctx, &facts, &seen, &refusal).await;
                return Err(refusal);
            }
        };
        if let Err(e) = self.allowed(ctx, &facts, &mut seen, durability(op.effect)).await {
            // not audited, so not called: there is no row for which an outcome would stand
            open.abandon();
            return Err(e);
        }

        let (outcome, closing) = self.call(ctx, &op, &options, &facts, &seen, prepared, call).await;
        open.close(closing);
        if matches!(options.books, Books::Direct) && op.effect != Effect::Read {
            self.flush(ctx, op.resource).await;
        }
        outcome
    }

    /// Phase 8: the permits.
    async fn place(
        &self,
        ctx: &ExecutionContext,
        op: &Operation<'_>,
        seen: &mut Seen,
    ) -> Result<super::attempt::Place> {
        seen.phase = "permit";
        self.within(ctx, "guard.permit", self.resilience().place(ctx.tenant(), op.resource)).await
    }

    /// Phases 8 and 9: the reservation, and room in the books for however the call ends.
    async fn take(
        &self,
        ctx: &ExecutionContext,
        op: &Operation<'_>,
        facts: &Facts,
        books: &Books,
        seen: &mut Seen,
    ) -> Result<Open> {
        seen.phase = "quota";
        let permit = self.reservation(ctx, op, facts).await?;
        seen.phase = "books";
        self.within(ctx, "guard.books", Open::take(self, ctx, facts.clone(), books, permit)).await
    }

    async fn reservation(&self, ctx: &ExecutionContext, op: &Operation<'_>, facts: &Facts) -> Result<Option<Permit>> {
        let (true, Some(resource)) = (op.guarding.phases().billed, &op.billed) else { return Ok(None) };
        let parts = self.parts();
        let request = QuotaRequest {
            operation: facts.key.clone(),
            resource: resource.clone(),
            quantity: op.reserve,
            cost: parts.pricing.quote(resource, &op.reserve, parts.clock.now())?,
            durability: durability(op.effect),
        };
        self.within(ctx, "guard.quota", parts.quota.reserve(ctx, request)).await.map(Some)
    }

    /// Phases 9 to 11: the intent, the cache, the attempts, and what is let out.
    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename the list")]
    async fn call<F, Fut>(
        &self,
        ctx: &ExecutionContext,
        op: &Operation<'_>,
        options: &CallOptions,
        facts: &Facts,
        seen: &Seen,
        prepared: Prepared,
        call: F,
    ) -> (Result<Value>, Closing)
    where
        F: Fn(ExecutionContext, Prepared, u32) -> Fut + Send + Sync,
        Fut: Future<Output = Result<Answered>> + Send,
    {
        let parts = self.parts();
        if let (false, Some(log), Some(digest)) = (facts.repeatable, &options.intent, seen.digest)
            && let Err(e) = log.intend(Intent { key: facts.key.clone(), digest }).await
        {
            let closing = Closing::failed(e.kind(), 0);
            return (Err(e), closing);
        }
        let question = op
            .cache
            .zip(seen.digest)
            .zip(seen.decision.as_ref())
            .map(|(((time, whose), args), decision)| (cache::question(ctx, op, whose, &args, decision), time));
        if let Some((question, _)) = &question
            && let Some(kept) = self.answers().find(ctx.tenant(), question, parts.clock.monotonic())
        {
            // who asks now may be shown less than who asked first
            let again = Answered { documents: kept.documents, ..Answered::new(kept.content, Quantity::default()) };
            return match self.let_out(ctx, op.resource, facts, &prepared.obligations, again).await {
                Ok((content, _)) => {
                    let closing = Closing::cached(self.output_digest(ctx, &content.to_string()));
                    (Ok(content), closing)
                }
                Err(e) => {
                    let closing = Closing::failed(e.kind(), 0);
                    (Err(e), closing)
                }
            };
        }

        let tries = if op.guarding.phases().retried { options.tries } else { Tries::ONCE };
        let bounds = Bounds {
            clock: parts.clock.as_ref(),
            resilience: self.resilience(),
            tenant: ctx.tenant(),
            resource: op.resource,
            tries,
            timeout: op.timeout,
            repeatable: facts.repeatable,
        };
        let (outcome, attempts) = attempts(ctx, &bounds, |ctx, n| call(ctx, prepared.clone(), n)).await;
        let outcome = match outcome {
            Ok(answered) => self.let_out(ctx, op.resource, facts, &prepared.obligations, answered).await,
            Err(e) => Err(e),
        };
        match outcome {
            Ok((content, answered)) => {
                let text = content.to_string();
                let closing = Closing {
                    result: Ok(answered.quantity),
                    cached: false,
                    attempts,
                    output: self.output_digest(ctx, &text),
                    billed: answered.billed,
                };
                if let Some((question, time)) = question {
                    let until = parts.clock.monotonic() + time;
                    self.answers().keep(ctx.tenant(), question, (&content, answered.documents, text.len()), until);
                }
                (Ok(content), closing)
            }
            Err(e) => {
                let closing = Closing::failed(e.kind(), attempts);
                (Err(e), closing)
            }
        }
    }

    fn output_digest(&self, ctx: &ExecutionContext, text: &str) -> Option<Digest> {
        keyed(self, ctx, text.as_bytes()).ok()
    }

    /// Phase 11. Returns the content apart from the facts of the answer.
    async fn let_out(
        &self,
        ctx: &ExecutionContext,
        resource: &str,
        facts: &Facts,
        obligations: &Obligations,
        mut answered: Answered,
    ) -> Result<(Value, Answered)> {
        let mut content = std::mem::take(&mut answered.content);
        clean::clean(&mut content);
        let kinds = self.documents(ctx, resource, facts, &answered.documents, obligations).await?;
        if !kinds.is_empty() {
            self.parts().redactor.redact_json(ctx.tenant(), &mut content, &RedactOptions::mask(kinds))?;
        }
        Ok((content, answered))
    }

    /// An effect was made: its outcome is on the disk before the caller goes on.
    async fn flush(&self, ctx: &ExecutionContext, resource: &str) {
        let parts = self.parts();
        let tenant = Some(ctx.tenant());
        let (audit, usage) = futures::join!(parts.audit.flush(tenant), parts.ledger.flush(tenant));
        // an error here must not hide the answer: whoever is told "failed" does it again
        if let Err(e) = audit.and(usage) {
            tracing::error!(error = %e, resource, "the books of a call that was made are behind");
        }
    }
}

pub(super) fn durability(effect: Effect) -> Durability {
    if effect == Effect::Read { Durability::Enqueued } else { Durability::Durable }
}
