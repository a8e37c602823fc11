//! What an engine is built from: policies, shared data, the data of each tenant, and checks that must pass first.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use forge_core::{Digest, Error, ErrorKind, Result, TenantId};
use serde_json::Value;

use super::directory;

/// The policies and data that Forge ships: `tool_access.rego`, the usual compliance flags, and their checks. Without a
/// tenant's data they deny everything.
pub fn standard() -> Sources {
    Sources::new()
        .with_policy("standard/tool_access.rego", include_str!("../../policies/tool_access.rego"))
        .with_checks("standard/tool_access.checks.json", include_str!("../../policies/tool_access.checks.json"))
        .with_shared_text(include_str!("../../policies/shared.json"))
}

/// Policies and data in memory, directories to read, or both.
///
/// A directory holds, at any depth, `*.rego` (but not `*_test.rego`) and `*.checks.json`; `shared/data.json` is
/// `data.shared`; `tenants/<tenant>/data.json` is `data.tenant` of that tenant. Links are refused.
#[derive(Clone, Default)]
pub struct Sources {
    pub(super) policies: BTreeMap<String, String>,
    pub(super) checks: BTreeMap<String, String>,
    pub(super) shared: Vec<Value>,
    pub(super) tenants: BTreeMap<TenantId, Value>,
    directories: Vec<PathBuf>,
}

impl Sources {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a policy, or replaces the one of this name.
    #[must_use]
    pub fn with_policy(mut self, name: impl Into<String>, rego: impl Into<String>) -> Self {
        self.policies.insert(name.into(), rego.into());
        self
    }

    /// Adds checks: a JSON array of `{"name", "input", "tenant", "verdict", "reasons"?, "obligations"?}`, where `tenant` is
    /// what `data.tenant` is to be. Policies that fail one are not put in force.
    #[must_use]
    pub fn with_checks(mut self, name: impl Into<String>, json: impl Into<String>) -> Self {
        self.checks.insert(name.into(), json.into());
        self
    }

    /// Adds to `data.shared`: objects are merged, anything else replaces what was there. What directories hold comes last.
    #[must_use]
    pub fn with_shared_data(mut self, data: Value) -> Self {
        self.shared.push(data);
        self
    }

    /// Sets `data.tenant` of this tenant, whatever a directory says.
    #[must_use]
    pub fn with_tenant_data(mut self, tenant: TenantId, data: Value) -> Self {
        self.tenants.insert(tenant, data);
        self
    }

    /// Adds a directory; it is read at every build and reload.
    #[must_use]
    pub fn with_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.directories.push(path.into());
        self
    }

    fn with_shared_text(self, json: &str) -> Self {
        // our own file: a test reads it
        self.with_shared_data(serde_json::from_str(json).unwrap_or(Value::Null))
    }

    /// Reads the directories and merges all. Blocks.
    pub(super) fn resolve(&self) -> Result<Resolved> {
        let mut found = Self::new();
        for path in &self.directories {
            directory::read(path, &mut found)?;
        }
        let mut policies = found.policies;
        for (name, text) in &self.policies {
            if policies.insert(name.clone(), text.clone()).is_some() {
                return Err(twice(name));
            }
        }
        let mut checks = found.checks;
        checks.extend(self.checks.clone());
        let mut shared = Value::Object(serde_json::Map::new());
        for part in self.shared.iter().chain(&found.shared) {
            merge(&mut shared, part.clone());
        }
        if !shared.is_object() {
            return Err(config("the shared data must be an object"));
        }
        let mut tenants = found.tenants;
        tenants.extend(self.tenants.clone());
        if let Some((tenant, _)) = tenants.iter().find(|(_, data)| !data.is_object()) {
            return Err(config("a tenant's data must be an object").with("tenant", tenant.as_str()));
        }
        Ok(Resolved { policies, checks, shared, tenants })
    }
}

/// All of it, read and merged.
pub(super) struct Resolved {
    pub(super) policies: BTreeMap<String, String>,
    pub(super) checks: BTreeMap<String, String>,
    pub(super) shared: Value,
    pub(super) tenants: BTreeMap<TenantId, Value>,
}

impl Resolved {
    /// The digest of every name and content, in order.
    pub(super) fn digest(&self) -> Digest {
        let mut parts: Vec<Vec<u8>> = Vec::new();
        let mut add = |kind: &str, name: &str, content: &str| {
            parts.extend([kind, name, content].map(|p| p.as_bytes().to_vec()));
        };
        for (name, text) in &self.policies {
            add("policy", name, text);
        }
        for (name, text) in &self.checks {
            add("checks", name, text);
        }
        add("shared", "", &self.shared.to_string());
        for (tenant, data) in &self.tenants {
            add("tenant", tenant.as_str(), &data.to_string());
        }
        Digest::of_parts(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
    }
}

fn merge(into: &mut Value, part: Value) {
    match (into, part) {
        (Value::Object(into), Value::Object(part)) => {
            for (key, value) in part {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, part) => *into = part,
    }
}

pub(super) fn config(message: &'static str) -> Error {
    Error::new(ErrorKind::Config, "policy.load", message)
}

pub(super) fn twice(name: &str) -> Error {
    config("two sources have this name; rename one").with("file", name)
}

impl fmt::Debug for Sources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sources")
            .field("policies", &self.policies.len())
            .field("tenants", &self.tenants.len())
            .field("directories", &self.directories)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn shared_data_merges_and_the_digest_sees_every_part() {
        let base = standard().with_shared_data(json!({"compliance": {"gdpr": {"max_rows": 5}}}));
        let resolved = base.resolve().unwrap();
        assert_eq!(resolved.shared["compliance"]["gdpr"]["max_rows"], 5);
        assert!(resolved.shared["compliance"]["hipaa"].is_object(), "the shipped flags are there");
        let digest = resolved.digest();
        let acme = TenantId::parse("acme").unwrap();
        for other in [
            base.clone().with_policy("x.rego", "package forge.x"),
            base.clone().with_shared_data(json!({"a": 1})),
            base.clone().with_tenant_data(acme.clone(), json!({})),
            base.clone().with_checks("x", "[]"),
        ] {
            assert_ne!(other.resolve().unwrap().digest(), digest);
        }
        assert!(base.clone().with_tenant_data(acme, json!([])).resolve().is_err());
        assert!(base.with_shared_data(json!(1)).resolve().is_err());
    }
}
