//! Who an employee is, asked when a stage of a workflow names one.

use std::collections::BTreeMap;
use std::fmt;

use async_trait::async_trait;

use super::{ExecutionContext, Principal};
use crate::{EmployeeId, Error, Result, TenantId};

/// The host's directory of employees. Machinery: it answers for the tenant of the context and no other.
///
/// # Contract
/// The principal is the one who was asked for, of the context's tenant: its role there, not that of a namesake elsewhere. An employee whom
/// only another tenant has is `NotFound`, with the same words as one whom nobody has. The context itself is not changed: who acts
/// as the principal makes a child by [`ExecutionContext::on_behalf`], which records for whom.
#[async_trait]
pub trait PrincipalResolver: fmt::Debug + Send + Sync + 'static {
    /// The principal of a colleague of the context's employee.
    ///
    /// # Errors
    /// `NotFound` if the tenant has no such employee.
    async fn resolve(&self, ctx: &ExecutionContext, employee: &EmployeeId) -> Result<Principal>;
}

/// A directory that the host fills at start.
#[derive(Debug, Clone, Default)]
pub struct Directory(BTreeMap<(TenantId, EmployeeId), Principal>);

impl Directory {
    /// Adds an employee.
    #[must_use]
    pub fn with(mut self, principal: Principal) -> Self {
        self.0.insert((principal.tenant.clone(), principal.employee.clone()), principal);
        self
    }
}

#[async_trait]
impl PrincipalResolver for Directory {
    async fn resolve(&self, ctx: &ExecutionContext, employee: &EmployeeId) -> Result<Principal> {
        let found = self.0.get(&(ctx.tenant().clone(), employee.clone()));
        found.cloned().ok_or_else(|| {
            Error::not_found("directory.resolve", "the tenant has no such employee")
                .with("employee", employee.to_string())
        })
    }
}
