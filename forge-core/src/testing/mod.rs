//! Helpers for tests of backends and hosts (feature `testing`).

use std::sync::Arc;

use serde_json::Value;

use crate::tool::{ToolCall, ToolEnv};
use crate::{ExecutionContext, OperationKey, Principal, RequestId, Result, ToolName, fake};

/// A context of `tenant/employee` with a role; its request id follows from the two names.
///
/// # Panics
/// If a name does not parse.
#[expect(clippy::expect_used, reason = "a test helper")]
pub fn context(tenant: &str, employee: &str, role: &str) -> ExecutionContext {
    let principal = Principal::employee(tenant, employee, role).expect("valid names");
    ExecutionContext::issue(principal, RequestId::derived(&[tenant.as_bytes(), employee.as_bytes()]))
}

/// A call as the guard would make it, for unit tests of one tool.
///
/// # Errors
/// `InvalidInput` if the name or the arguments do not fit.
pub fn tool_call(name: &str, args: &Value, env: ToolEnv) -> Result<ToolCall> {
    let raw = serde_json::value::to_raw_value(args)
        .map_err(|e| crate::Error::invalid("testing.tool_call", "the arguments do not serialise").with_source(e))?;
    let key = OperationKey::derived(&[b"test", name.as_bytes(), raw.get().as_bytes()]);
    Ok(ToolCall::new(ToolName::parse(name)?, Arc::from(raw), key, 1, None, env))
}

/// A tool's environment made of fakes.
pub fn tool_env() -> ToolEnv {
    ToolEnv {
        blobs: Arc::new(fake::FakeBlobs::default()),
        vectors: Arc::new(fake::FakeVectors::default()),
        embedder: Arc::new(fake::FakeEmbedder),
        secrets: crate::secret::Secrets::standard(),
        clock: Arc::new(fake::ManualClock::default()),
    }
}
