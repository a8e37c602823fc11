//! Document access, enforced where content leaves an adapter: in the answer of a tool, in the hits of a search.
//!
//! Whoever fetches a document knows its tags; a policy decides by them, in the middle of a workflow too. Each set of tags that
//! is decided about is an operation of its own, with its one row.

use std::collections::{BTreeMap, BTreeSet};

use super::Guard;
use super::admit::Seen;
use super::books::Facts;
use crate::audit::Durability;
use crate::policy::{Denial, Obligations, PolicyInput, Verdict};
use crate::redact::{EntityKind, RedactOptions, RedactorExt};
use crate::vector::Hit;
use crate::{Error, ErrorKind, ExecutionContext, OperationKey, Result};

/// What policies and audit rows call it.
const ACTION: &str = "document.read";

impl Guard {
    /// Whether content of documents with these tags may be handed on, and the kinds to mask in it, those that the call's own
    /// obligations name included.
    pub(super) async fn documents(
        &self,
        ctx: &ExecutionContext,
        resource: &str,
        call: &Facts,
        tags: &BTreeSet<String>,
        obligations: &Obligations,
    ) -> Result<BTreeSet<EntityKind>> {
        let mut kinds = obligations.redact_output.clone();
        if !tags.is_empty() {
            kinds.extend(self.may_read(ctx, resource, call, tags).await?.redact_output);
        }
        Ok(kinds)
    }

    /// Decides about one set of tags.
    ///
    /// # Errors
    /// `PolicyDenied`, also where a person would have to be asked; `Unavailable` if it could not be audited.
    pub(super) async fn may_read(
        &self,
        ctx: &ExecutionContext,
        resource: &str,
        call: &Facts,
        tags: &BTreeSet<String>,
    ) -> Result<Obligations> {
        let mut parts: Vec<&[u8]> = vec![b"document", call.key.as_str().as_bytes(), resource.as_bytes()];
        parts.extend(tags.iter().map(|t| t.as_bytes()));
        let facts = Facts {
            action: ACTION,
            resource: resource.to_owned(),
            billed: None,
            key: OperationKey::derived(&parts),
            ..call.clone()
        };
        let mut seen = Seen { phase: "document", ..Seen::nothing() };
        let mut input = PolicyInput::new(ctx, ACTION, resource, "read");
        input.doc_tags.clone_from(tags);
        seen.input = Some(input.clone());
        let outcome = match self.decide(ctx, &input).await {
            Ok(decision) => {
                seen.decision = Some(decision.clone());
                match decision.verdict {
                    Verdict::Allow => Ok(decision.obligations),
                    Verdict::Deny | Verdict::NeedsApproval => {
                        Err(Error::denied("guard.document", Denial::from(decision)))
                    }
                }
            }
            Err(e) => Err(e),
        };
        match outcome {
            Ok(obligations) => {
                self.allowed(ctx, &facts, &mut seen, Durability::Enqueued).await?;
                Ok(obligations)
            }
            Err(refusal) => {
                self.refuse(ctx, &facts, &seen, &refusal).await;
                Err(refusal)
            }
        }
    }

    /// The hits whose documents may be read, with what the policy masks in them. `decided` remembers a set of tags over several
    /// looks of one search, so that each is decided, and has its row, once.
    pub(super) async fn readable(
        &self,
        ctx: &ExecutionContext,
        resource: &str,
        hits: Vec<Hit>,
        decided: &mut BTreeMap<BTreeSet<String>, Option<BTreeSet<EntityKind>>>,
    ) -> Result<Vec<Hit>> {
        let mut open = Vec::with_capacity(hits.len());
        for mut hit in hits {
            if !hit.tags.is_empty() {
                if !decided.contains_key(&hit.tags) {
                    let answer = match self.may_read(ctx, resource, &Facts::outside(ctx), &hit.tags).await {
                        Ok(obliged) => Some(obliged.redact_output),
                        Err(e) if e.kind() == ErrorKind::PolicyDenied => None,
                        Err(e) => return Err(e),
                    };
                    decided.insert(hit.tags.clone(), answer);
                }
                let Some(Some(kinds)) = decided.get(&hit.tags) else { continue };
                let mask = RedactOptions::mask(kinds.iter().copied());
                self.parts().redactor.redact_texts(ctx.tenant(), [&mut hit.title, &mut hit.text], &mask)?;
            }
            open.push(hit);
        }
        Ok(open)
    }
}
