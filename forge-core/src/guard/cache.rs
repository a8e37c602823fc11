//! Answers that may be given again: for tools and models that say so, each tenant's apart.
//!
//! An answer is kept as it was let out, under everything that made it what it is: the arguments, the policy's revision and its
//! obligations. A hit is still decided, audited and metered, as `cached` and with nothing used.

use std::collections::BTreeSet;
use std::time::Duration;

use quick_cache::Weighter;
use quick_cache::sync::Cache;
use serde_json::Value;

use super::call::Operation;
use crate::policy::Decision;
use crate::{Digest, ExecutionContext, TenantId};

/// Who may be given an answer again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CacheFor {
    /// The employee who asked, in the same role: where the answer depends on who asks.
    Employee,
    /// Everybody in the tenant who may ask.
    Tenant,
}

/// Tenants whose answers are kept at a time; the longest unused is dropped as a whole.
const TENANTS: usize = 1024;

/// Answers of one tenant that room is made for at once; more find theirs as they come.
const EXPECTED: usize = 64 * 1024;

/// What is kept.
#[derive(Debug, Clone)]
pub(super) struct Kept {
    pub(super) content: Value,
    pub(super) documents: BTreeSet<String>,
    bytes: usize,
    until: Duration,
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Digest, Kept> for Bytes {
    fn weight(&self, _: &Digest, kept: &Kept) -> u64 {
        u64::try_from(kept.bytes).unwrap_or(u64::MAX).saturating_add(128)
    }
}

type OfTenant = std::sync::Arc<Cache<Digest, Kept, Bytes>>;

/// The answers of all tenants, each within its own bytes.
#[derive(Debug)]
pub(super) struct Answers {
    tenants: Cache<TenantId, OfTenant>,
    bytes: usize,
}

impl Answers {
    /// So many bytes for each tenant.
    pub(super) fn new(bytes: usize) -> Self {
        Self { tenants: Cache::new(TENANTS), bytes }
    }

    /// The answer to a question, if it is fresh at `now`.
    pub(super) fn find(&self, tenant: &TenantId, question: &Digest, now: Duration) -> Option<Kept> {
        let answers = self.tenants.get(tenant)?;
        let kept = answers.get(question)?;
        if kept.until > now {
            return Some(kept);
        }
        answers.remove(question);
        None
    }

    pub(super) fn keep(
        &self,
        tenant: &TenantId,
        question: Digest,
        answer: (&Value, BTreeSet<String>, usize),
        until: Duration,
    ) {
        let (content, documents, bytes) = answer;
        // one answer may not push out all others
        if bytes > self.bytes / 4 {
            return;
        }
        let made = self.tenants.get_or_insert_with::<_, std::convert::Infallible>(tenant, || {
            let bytes = u64::try_from(self.bytes).unwrap_or(u64::MAX);
            Ok(std::sync::Arc::new(Cache::with_weighter((self.bytes / 1024 + 16).min(EXPECTED), bytes, Bytes)))
        });
        let Ok(answers) = made;
        answers.insert(question, Kept { content: content.clone(), documents, bytes, until });
    }
}

/// Everything that the answer depends on; `args` is the keyed digest of the arguments as they came.
pub(super) fn question(
    ctx: &ExecutionContext,
    op: &Operation<'_>,
    whose: CacheFor,
    args: &Digest,
    decision: &Decision,
) -> Digest {
    let (employee, role) = match whose {
        CacheFor::Employee => (ctx.employee().as_str(), ctx.role().as_str()),
        CacheFor::Tenant => ("", ""),
    };
    let obligations = serde_json::to_vec(&decision.obligations).unwrap_or_default();
    Digest::of_parts(&[
        b"cache",
        op.action.as_bytes(),
        op.resource.as_bytes(),
        args.as_bytes(),
        employee.as_bytes(),
        role.as_bytes(),
        decision.revision.as_bytes(),
        &obligations,
    ])
}
