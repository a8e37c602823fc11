//! Who, for whom, until when: the first argument of every call that is made for somebody.
//!
//! A context is built once, from an authenticated principal, at the host's edge. It is immutable and cheap to clone; it
//! has no `Default` and nothing that changes its tenant; no code may read one from a thread or a task.
//!
//! ```
//! use forge_core::{ExecutionContext, Principal, RequestId, SystemClock, Clock};
//! let ana = Principal::employee("acme", "ana", "analyst")?;
//! let ctx = ExecutionContext::issue(ana, RequestId::random(SystemClock.now()));
//! assert_eq!(ctx.tenant(), &"acme");
//! # Ok::<(), forge_core::Error>(())
//! ```

mod principal;
mod resolver;
mod seal;
mod trace;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

pub use principal::{Principal, SecurityLevel};
pub use resolver::{Directory, PrincipalResolver};
pub use seal::{SealedContext, SealedFor};
pub use trace::{TraceContext, derived_span, span};

use crate::{
    CaseId, Clock, EmployeeId, Error, ErrorKind, OperationKey, RequestId, Result, Role, SessionId, Slug, TenantId,
    Timestamp, UserId,
};

/// One request of one tenant. See the [module](self).
#[derive(Clone)]
pub struct ExecutionContext(Arc<Inner>);

#[derive(Clone)]
struct Inner {
    record: ContextRecord,
    deadline: Option<Timestamp>,
    cancel: CancellationToken,
    /// What was unsealed: the task or the run that goes on elsewhere. Its calls are not those of the request's own process.
    scope: Arc<str>,
    /// Counts the calls in that scope, so that each has a key of its own; children count with their parent.
    ordinals: Arc<AtomicU64>,
}

/// The part of a context that outlives the process: what a journal keeps and a queue carries, always [sealed](SealedContext).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ContextRecord {
    principal: Principal,
    request_id: RequestId,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    case_id: Option<CaseId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    session_id: Option<SessionId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    on_behalf_of: Option<EmployeeId>,
    trace: TraceContext,
}

impl ExecutionContext {
    /// The context of a request that `principal` makes. A host calls `forge.context(principal)`, which ends here.
    pub fn issue(principal: Principal, request_id: RequestId) -> Self {
        let trace = TraceContext::derived(&[b"request", request_id.as_bytes()]);
        let record =
            ContextRecord { principal, request_id, case_id: None, session_id: None, on_behalf_of: None, trace };
        Self::from_record(record, "")
    }

    fn from_record(record: ContextRecord, scope: &str) -> Self {
        let (cancel, ordinals) = (CancellationToken::new(), Arc::default());
        Self(Arc::new(Inner { record, deadline: None, cancel, scope: scope.into(), ordinals }))
    }

    fn edit(&self, change: impl FnOnce(&mut Inner)) -> Self {
        let mut inner = Inner::clone(&self.0);
        change(&mut inner);
        Self(Arc::new(inner))
    }

    /// Binds the request to a matter.
    #[must_use]
    pub fn with_case(&self, case: CaseId) -> Self {
        self.edit(|i| i.record.case_id = Some(case))
    }

    /// Binds the request to a conversation.
    #[must_use]
    pub fn with_session(&self, session: SessionId) -> Self {
        self.edit(|i| i.record.session_id = Some(session))
    }

    /// Sets the time after which nothing is begun; the earlier of two deadlines stays.
    #[must_use]
    pub fn with_deadline(&self, deadline: Timestamp) -> Self {
        self.edit(|i| i.deadline = Some(i.deadline.map_or(deadline, |d| d.min(deadline))))
    }

    /// Replaces the trace position; see [`span`].
    #[must_use]
    pub fn with_trace(&self, trace: TraceContext) -> Self {
        self.edit(|i| i.record.trace = trace)
    }

    /// A context whose cancellation follows `token` too.
    #[must_use]
    pub fn with_cancellation(&self, token: CancellationToken) -> Self {
        self.edit(|i| i.cancel = token)
    }

    /// A context for a colleague in the same tenant, who acts on behalf of this one's employee.
    ///
    /// # Errors
    /// `TenantMismatch` if the principal belongs to another tenant.
    pub fn on_behalf(&self, principal: Principal) -> Result<Self> {
        if principal.tenant != *self.tenant() {
            return Err(Error::new(
                ErrorKind::TenantMismatch,
                "context.on_behalf",
                "the principal belongs to another tenant",
            ));
        }
        let origin = self.0.record.on_behalf_of.clone().unwrap_or_else(|| self.employee().clone());
        Ok(self.edit(|i| {
            i.record.on_behalf_of = (principal.employee != origin).then_some(origin);
            i.record.principal = principal;
        }))
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.0.record.principal.tenant
    }

    /// The employee who acts.
    pub fn employee(&self) -> &EmployeeId {
        &self.0.record.principal.employee
    }

    /// The acting employee's role.
    pub fn role(&self) -> &Role {
        &self.0.record.principal.role
    }

    /// The signed-in person, where there is one.
    pub fn user(&self) -> Option<&UserId> {
        self.0.record.principal.user.as_ref()
    }

    /// The employee whose request this is, where another acts for them.
    pub fn on_behalf_of(&self) -> Option<&EmployeeId> {
        self.0.record.on_behalf_of.as_ref()
    }

    /// The request.
    pub fn request_id(&self) -> RequestId {
        self.0.record.request_id
    }

    /// The matter.
    pub fn case_id(&self) -> Option<&CaseId> {
        self.0.record.case_id.as_ref()
    }

    /// The conversation.
    pub fn session_id(&self) -> Option<&SessionId> {
        self.0.record.session_id.as_ref()
    }

    /// How secret the work is.
    pub fn security_level(&self) -> SecurityLevel {
        self.0.record.principal.security_level
    }

    /// The regimes that the work falls under.
    pub fn compliance_flags(&self) -> &[Slug] {
        &self.0.record.principal.compliance_flags
    }

    /// The time after which nothing is begun.
    pub fn deadline(&self) -> Option<Timestamp> {
        self.0.deadline
    }

    /// Cancels the work of this context and of those derived from it.
    pub fn cancellation(&self) -> &CancellationToken {
        &self.0.cancel
    }

    /// The position in the trace.
    pub fn trace(&self) -> TraceContext {
        self.0.record.trace
    }

    /// Fails if the work was cancelled or its deadline has passed at `now`.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout`.
    pub fn check(&self, operation: &'static str, now: Timestamp) -> Result<()> {
        if self.0.cancel.is_cancelled() {
            return Err(Error::new(ErrorKind::Cancelled, operation, "the request was cancelled"));
        }
        match self.0.deadline {
            Some(d) if d <= now => {
                let e = Error::new(ErrorKind::Timeout, operation, "the deadline has passed")
                    .with("deadline", d.to_string());
                Err(e.with_retry(crate::Retryability::Never))
            }
            _ => Ok(()),
        }
    }

    /// Does `work` until the deadline or a cancellation; it is dropped then. Nothing is begun after either.
    pub(crate) async fn within<T>(
        &self,
        operation: &'static str,
        clock: &dyn Clock,
        work: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        self.check(operation, clock.now())?;
        let late = async {
            match self.0.deadline {
                Some(d) => clock.sleep(d.since(clock.now())).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            outcome = work => outcome,
            () = late => Err(Error::new(ErrorKind::Timeout, operation, "the deadline has passed")),
            () = self.0.cancel.cancelled() => Err(Error::new(ErrorKind::Cancelled, operation, "the request was cancelled")),
        }
    }

    /// A key for the next call outside a workflow: the request, the task that it runs in, and the call's ordinal there. A task that
    /// is delivered again makes its calls under the same keys.
    pub fn next_operation(&self) -> OperationKey {
        let n = self.0.ordinals.fetch_add(1, Ordering::Relaxed);
        OperationKey::derived(&[
            b"call",
            self.tenant().as_str().as_bytes(),
            self.request_id().as_bytes(),
            self.0.scope.as_bytes(),
            &n.to_be_bytes(),
        ])
    }
}

impl fmt::Debug for ExecutionContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExecutionContext")
            .field("tenant", &self.tenant().as_str())
            .field("employee", &self.employee().as_str())
            .field("role", &self.role().as_str())
            .field("request", &self.request_id())
            .field("deadline", &self.deadline().map(|d| d.to_string()))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ctx(tenant: &str) -> ExecutionContext {
        ExecutionContext::issue(Principal::employee(tenant, "ana", "analyst").unwrap(), RequestId::fixed(1))
    }

    #[test]
    fn a_colleague_stays_in_the_tenant() {
        let acme = ctx("acme");
        let colleague = acme.on_behalf(Principal::employee("acme", "bo", "lawyer").unwrap()).unwrap();
        assert_eq!(colleague.on_behalf_of().unwrap(), &"ana");
        let foreign = Principal::employee("globex", "bo", "lawyer").unwrap();
        assert_eq!(acme.on_behalf(foreign).unwrap_err().kind(), ErrorKind::TenantMismatch);
    }

    #[test]
    fn nothing_begins_after_the_deadline_or_a_cancellation() {
        let now = Timestamp::from_nanos(10);
        let late = ctx("acme").with_deadline(now);
        assert_eq!(late.check("t", now).unwrap_err().kind(), ErrorKind::Timeout);
        let c = ctx("acme");
        c.cancellation().cancel();
        assert_eq!(c.check("t", now).unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn every_call_of_a_request_has_its_own_key() {
        let c = ctx("acme");
        assert_ne!(c.next_operation(), c.clone().next_operation());
        assert_ne!(ctx("acme").next_operation(), ctx("globex").next_operation());
    }
}
