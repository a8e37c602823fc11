//! Contexts, calls and guards for tests of backends and hosts.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::guard::{Guard, GuardParts};
use crate::metrics::NoMetrics;
use crate::queue::Lease;
use crate::tool::{ToolCall, ToolEnv};
use crate::{
    Clock, Digest, ExecutionContext, OperationKey, Principal, RequestId, Result, SealedContext, SealedFor, Slug,
    TaskId, Timestamp, ToolName, fake,
};

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

/// A task as a worker would hand it to its handler, for unit tests of one handler.
///
/// # Panics
/// If the context cannot be sealed, which fakes always can.
#[expect(clippy::expect_used, reason = "a test helper")]
pub fn lease(ctx: &ExecutionContext, id: TaskId, payload: Value, attempt: u32) -> Lease {
    let name = Slug::parse("task").expect("a name");
    let body = Digest::of(payload.to_string().as_bytes());
    let bound = SealedFor { id: id.to_string(), name: name.to_string(), queue: "default".into(), body };
    let (now, hour) = (Timestamp::from_nanos(0), Duration::from_secs(3600));
    let context = SealedContext::seal(ctx, bound, &fake::FakeKeyring, now, now.after(hour)).expect("a seal");
    Lease {
        tenant: ctx.tenant().clone(),
        id,
        name,
        queue: "default".into(),
        payload,
        body,
        context,
        attempt,
        max_retries: 5,
        fence: u64::from(attempt),
        until: now.after(hour),
        lost: tokio_util::sync::CancellationToken::new(),
        soft_time_limit: None,
        time_limit: None,
    }
}

/// A tool's environment made of fakes.
pub fn tool_env() -> ToolEnv {
    ToolEnv {
        blobs: Arc::new(fake::FakeBlobs::default()),
        vectors: Arc::new(fake::FakeVectors::default()),
        embedder: Arc::new(fake::FakeEmbedder),
        redactor: Arc::new(fake::FakeRedactor),
        secrets: crate::secret::Secrets::standard(),
        clock: Arc::new(fake::ManualClock::default()),
    }
}

/// A guard made of fakes, with handles on its books.
#[derive(Debug, Clone)]
pub struct FakeGuard {
    /// The guard.
    pub guard: Guard,
    /// What it is made of.
    pub parts: GuardParts,
    /// Its audit rows.
    pub audit: fake::FakeAudit,
    /// Its usage.
    pub ledger: fake::FakeLedger,
}

/// A guard with this policy and clock; everything else is a fake without limits.
pub fn fake_guard(policy: fake::FakePolicy, clock: Arc<dyn Clock>) -> FakeGuard {
    let (audit, ledger) = (fake::FakeAudit::default(), fake::FakeLedger::default());
    let parts = GuardParts {
        policy: Arc::new(policy),
        approvals: Arc::new(fake::FakeApprovals::default()),
        redactor: Arc::new(fake::FakeRedactor),
        keyring: Arc::new(fake::FakeKeyring),
        quota: Arc::new(fake::FakeQuota::default()),
        pricing: Arc::new(fake::FakePricing),
        ledger: Arc::new(ledger.clone()),
        audit: Arc::new(audit.clone()),
        metrics: Arc::new(NoMetrics),
        clock,
    };
    FakeGuard { guard: Guard::new(parts.clone()), parts, audit, ledger }
}
