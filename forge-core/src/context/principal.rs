//! Who acts.

use serde::{Deserialize, Serialize};

use crate::{EmployeeId, Error, Result, Role, Slug, TenantId, UserId};

/// How much harm a leak of this work would do. Ordered; only policy reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecurityLevel {
    /// May be published.
    Public,
    /// Ordinary business; the default.
    #[default]
    Internal,
    /// Named people only.
    Confidential,
    /// The strictest.
    Restricted,
}

/// An authenticated actor of one tenant: what the host's edge makes of a checked token or session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Principal {
    pub(crate) tenant: TenantId,
    pub(crate) employee: EmployeeId,
    pub(crate) role: Role,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) user: Option<UserId>,
    #[serde(default)]
    pub(crate) security_level: SecurityLevel,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) compliance_flags: Vec<Slug>,
}

impl Principal {
    /// An employee of a tenant.
    ///
    /// # Errors
    /// `InvalidInput` if an id does not parse, or if the employee's name begins with `system.`.
    pub fn employee(tenant: &str, employee: &str, role: &str) -> Result<Self> {
        if employee.starts_with("system.") {
            return Err(Error::invalid(
                "principal.employee",
                "names that begin with `system.` belong to Principal::system",
            ));
        }
        Ok(Self::new(TenantId::parse(tenant)?, EmployeeId::parse(employee)?, Role::parse(role)?))
    }

    /// The host's own upkeep for one tenant, such as `system("acme", "retention")`; its role is `system`.
    ///
    /// # Errors
    /// `InvalidInput` if an id does not parse.
    pub fn system(tenant: &str, job: &str) -> Result<Self> {
        let employee = EmployeeId::parse(format!("system.{job}"))?;
        Ok(Self::new(TenantId::parse(tenant)?, employee, Role::parse("system")?))
    }

    fn new(tenant: TenantId, employee: EmployeeId, role: Role) -> Self {
        Self {
            tenant,
            employee,
            role,
            user: None,
            security_level: SecurityLevel::default(),
            compliance_flags: Vec::new(),
        }
    }

    /// Names the signed-in person.
    #[must_use]
    pub fn with_user(mut self, user: UserId) -> Self {
        self.user = Some(user);
        self
    }

    /// Sets how secret the work is.
    #[must_use]
    pub fn with_security_level(mut self, level: SecurityLevel) -> Self {
        self.security_level = level;
        self
    }

    /// Adds a regime that the work falls under, such as `gdpr`; policies map it to obligations.
    #[must_use]
    pub fn with_compliance_flag(mut self, flag: Slug) -> Self {
        if !self.compliance_flags.contains(&flag) {
            self.compliance_flags.push(flag);
        }
        self
    }

    /// The tenant.
    pub fn tenant(&self) -> &TenantId {
        &self.tenant
    }

    /// The employee.
    pub fn employee_id(&self) -> &EmployeeId {
        &self.employee
    }

    /// The role.
    pub fn role(&self) -> &Role {
        &self.role
    }
}
