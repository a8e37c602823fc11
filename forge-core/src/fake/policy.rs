//! Policies that a test can read at a glance, and approvals in memory.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;

use crate::approvals::{Answer, Approval, ApprovalState, Approvals, ApprovalsCapability};
use crate::policy::{Decision, Denial, Obligations, PolicyCapability, PolicyEngine, PolicyInput, Verdict};
use crate::{
    ApprovalId, DecisionId, Depth, Digest, Error, ErrorKind, ExecutionContext, Health, HealthCheck, OperationKey,
    Result, TenantId,
};

type Rule = Box<dyn Fn(&PolicyInput) -> (Verdict, Obligations) + Send + Sync>;

/// A policy that is one closure. It fails open if the closure says so: tests only.
pub struct FakePolicy(Rule, AtomicU64);

impl FakePolicy {
    /// Decides by `rule`; the reason is `rule`.
    pub fn by(rule: impl Fn(&PolicyInput) -> (Verdict, Obligations) + Send + Sync + 'static) -> Self {
        Self(Box::new(rule), AtomicU64::new(0))
    }

    /// Allows everything.
    pub fn allow_all() -> Self {
        Self::by(|_| (Verdict::Allow, Obligations::default()))
    }

    /// Denies everything.
    pub fn deny_all() -> Self {
        Self::by(|_| (Verdict::Deny, Obligations::default()))
    }
}

impl std::fmt::Debug for FakePolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FakePolicy")
    }
}

#[async_trait]
impl HealthCheck for FakePolicy {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl PolicyEngine for FakePolicy {
    async fn decide(&self, ctx: &ExecutionContext, input: &PolicyInput) -> Result<Decision> {
        let input = PolicyInput { tenant_id: ctx.tenant().clone(), ..input.clone() };
        let (verdict, obligations) = (self.0)(&input);
        let id = DecisionId::fixed(self.1.fetch_add(1, Ordering::Relaxed).into());
        Ok(Decision {
            id,
            verdict,
            reasons: vec!["rule".into()],
            obligations,
            policy: "fake".into(),
            revision: "0".into(),
        })
    }

    fn capability(&self) -> PolicyCapability {
        PolicyCapability::new(true, true)
    }
}

/// Questions in memory.
#[derive(Debug, Default)]
pub struct FakeApprovals(Mutex<BTreeMap<(TenantId, ApprovalId), Approval>>);

impl FakeApprovals {
    fn edit<T>(
        &self,
        ctx: &ExecutionContext,
        id: ApprovalId,
        change: impl FnOnce(&mut Approval) -> Result<T>,
    ) -> Result<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let one = all.get_mut(&(ctx.tenant().clone(), id));
        change(one.ok_or_else(|| Error::not_found("approvals.find", "no such question"))?)
    }
}

#[async_trait]
impl HealthCheck for FakeApprovals {
    async fn check(&self, _: Depth) -> Health {
        Health::up()
    }
}

#[async_trait]
impl Approvals for FakeApprovals {
    async fn ask(&self, ctx: &ExecutionContext, approval: Approval) -> Result<Approval> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(all.entry((ctx.tenant().clone(), approval.id)).or_insert(approval).clone())
    }

    async fn find(&self, ctx: &ExecutionContext, id: ApprovalId) -> Result<Approval> {
        self.edit(ctx, id, |a| Ok(a.clone()))
    }

    async fn pending(&self, ctx: &ExecutionContext, limit: usize) -> Result<Vec<Approval>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mine = all.iter().filter(|((t, _), a)| t == ctx.tenant() && a.state == ApprovalState::Pending);
        let mut open: Vec<_> = mine.map(|(_, a)| a.clone()).collect();
        open.sort_by_key(|a| (a.asked, a.id));
        open.truncate(limit);
        Ok(open)
    }

    async fn answer(&self, ctx: &ExecutionContext, id: ApprovalId, digest: Digest, answer: Answer) -> Result<Approval> {
        self.edit(ctx, id, |a| {
            if a.digest != digest || a.state != ApprovalState::Pending {
                return Err(Error::new(
                    ErrorKind::Conflict,
                    "approvals.answer",
                    "answered already, or about other arguments",
                ));
            }
            if a.asker == *ctx.employee() || !a.approver_roles.contains(ctx.role()) {
                let reasons = vec!["not_an_approver".to_owned()];
                let denial = Denial {
                    decision: DecisionId::fixed(0),
                    reasons,
                    policy: "approvals".into(),
                    revision: "0".into(),
                };
                return Err(Error::denied("approvals.answer", denial));
            }
            a.state = if answer == Answer::Approve { ApprovalState::Approved } else { ApprovalState::Denied };
            a.decided = Some((ctx.employee().clone(), a.asked));
            Ok(a.clone())
        })
    }

    async fn consume(&self, ctx: &ExecutionContext, id: ApprovalId, operation: &OperationKey) -> Result<()> {
        self.edit(ctx, id, |a| match a.state {
            ApprovalState::Approved | ApprovalState::Used if a.operation == *operation => {
                a.state = ApprovalState::Used;
                Ok(())
            }
            _ => Err(Error::new(ErrorKind::Conflict, "approvals.consume", "not approved for this operation")),
        })
    }

    fn capability(&self) -> ApprovalsCapability {
        ApprovalsCapability::new(false)
    }
}
