//! The only way to a storage key.
//!
//! ```
//! use forge_core::{ExecutionContext, Namespace, Principal, RequestId, Slug};
//! let ctx = ExecutionContext::issue(Principal::employee("acme", "ana", "analyst")?, RequestId::fixed(1));
//! let mine = Namespace::of(&ctx, Slug::parse("notes")?);
//! assert_eq!(mine.to_string(), "acme:ana:notes");
//! let shared = Namespace::shared(&ctx, Slug::parse("firm")?, Slug::parse("playbook")?);
//! assert_eq!(shared.to_string(), "acme:~firm:playbook");
//! # Ok::<(), forge_core::Error>(())
//! ```

use std::fmt;

use crate::{EmployeeId, ExecutionContext, Slug, TenantId};

/// Whose memory it is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Owner {
    /// One employee's own.
    Employee(EmployeeId),
    /// Shared by the tenant; written `~slug`, which no employee id can be.
    Shared(Slug),
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Employee(id) => write!(f, "{id}"),
            Self::Shared(slug) => write!(f, "~{slug}"),
        }
    }
}

/// `{tenant}:{owner}:{memory type}`. The tenant comes from the context, so a namespace cannot name a foreign one; no part
/// can hold a `:`, so two namespaces never spell the same.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Namespace {
    tenant: TenantId,
    owner: Owner,
    memory_type: Slug,
}

impl Namespace {
    /// The acting employee's own.
    pub fn of(ctx: &ExecutionContext, memory_type: Slug) -> Self {
        Self { tenant: ctx.tenant().clone(), owner: Owner::Employee(ctx.employee().clone()), memory_type }
    }

    /// What the tenant shares under `slug`.
    pub fn shared(ctx: &ExecutionContext, slug: Slug, memory_type: Slug) -> Self {
        Self { tenant: ctx.tenant().clone(), owner: Owner::Shared(slug), memory_type }
    }

    /// A colleague's, in the same tenant; policy decides who may read it.
    pub fn of_employee(ctx: &ExecutionContext, employee: EmployeeId, memory_type: Slug) -> Self {
        Self { tenant: ctx.tenant().clone(), owner: Owner::Employee(employee), memory_type }
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The owner.
    pub fn owner(&self) -> &Owner {
        &self.owner
    }

    /// The kind of memory.
    pub fn memory_type(&self) -> &Slug {
        &self.memory_type
    }
}

impl fmt::Display for Namespace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}", self.tenant, self.owner, self.memory_type)
    }
}
