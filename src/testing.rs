//! A host for tests (feature `testing`): the real guard, tools and engine on stores in memory, under a clock that the test moves.

use std::ops::Deref;
use std::sync::Arc;

use async_trait::async_trait;
use forge_core::audit::AuditRecord;
use forge_core::fake::{
    FakeApprovals, FakeAudit, FakeBlobs, FakeJournal, FakeKeyValue, FakeKeyring, FakeLedger, FakePolicy, FakePricing,
    FakeQueue, FakeQuota, FakeRedactor, FakeVectors, ManualClock,
};
use forge_core::policy::PolicyEngine;
use forge_core::queue::TaskQueue;
use forge_core::tool::{Effect, Tool, ToolCall, ToolOutput, ToolSpec};
use forge_core::usage::UsageEvent;
use forge_core::{Error, ExecutionContext, Principal, Result};
use serde_json::Value;

use crate::builder::{begin, named};
use crate::embedded::Stores;
use crate::{BuildError, Forge, ForgeBuilder};

/// Collects what a host under test is made of.
#[must_use]
pub struct TestBuilder {
    host: ForgeBuilder,
    policy: Arc<dyn PolicyEngine>,
    queue: Option<Arc<dyn TaskQueue>>,
    clock: Arc<ManualClock>,
}

impl Forge {
    /// Begins a host for a test: fakes for everything, a clock that only the test moves, no file, no network. Everything is
    /// allowed until a [`policy`](TestBuilder::policy) says otherwise; what happened is in [`TestForge::audit`] and
    /// [`TestForge::usage`].
    pub fn for_tests() -> TestBuilder {
        let clock = Arc::new(ManualClock::default());
        let host = Forge::builder().clock(clock.clone()).embedder(Arc::new(forge_core::fake::FakeEmbedder));
        TestBuilder { host, policy: Arc::new(FakePolicy::allow_all()), queue: None, clock }
    }
}

impl TestBuilder {
    /// Changes anything else of the host: tools, workflows, models, employees.
    pub fn with(mut self, change: impl FnOnce(ForgeBuilder) -> ForgeBuilder) -> Self {
        self.host = change(self.host);
        self
    }

    /// Adds a tool.
    pub fn tool(self, tool: impl Tool) -> Self {
        self.with(|host| host.tool(tool))
    }

    /// Replaces the policy.
    pub fn policy(mut self, policy: impl PolicyEngine) -> Self {
        self.policy = Arc::new(policy);
        self
    }

    /// Replaces the producing side of the queue, for instance by a mock; the worker then has nothing to do.
    pub fn queue(mut self, queue: impl TaskQueue) -> Self {
        self.queue = Some(Arc::new(queue));
        self
    }

    /// Puts the host together. Needs a tokio runtime, as every host does.
    ///
    /// # Errors
    /// Every problem of tools and workflows at once.
    pub async fn build(mut self) -> Result<TestForge, BuildError> {
        let mut problems = self.host.take_problems();
        let handlers = named(self.host.take_handlers(), &mut problems);
        if !problems.is_empty() {
            return Err(BuildError::new(problems));
        }
        let (audit, ledger, queue) =
            (FakeAudit::default(), FakeLedger::default(), Arc::new(FakeQueue::new(self.clock.clone())));
        let stores = Stores {
            keyring: Arc::new(FakeKeyring),
            redactor: Arc::new(FakeRedactor),
            broker: queue.clone(),
            queue: self.queue.unwrap_or(queue),
            journal: Arc::new(FakeJournal::default()),
            approvals: Arc::new(FakeApprovals::default()),
            key_values: Arc::new(FakeKeyValue::new(self.clock.clone())),
            blobs: Arc::new(FakeBlobs::default()),
            vectors: Arc::new(FakeVectors::default()),
            ledger: Arc::new(ledger.clone()),
            quota: Arc::new(FakeQuota::default()),
            audit: Arc::new(audit.clone()),
            upkeep: None,
            exporter: None,
            owner: "test".to_owned(),
        };
        let pricing = self.host.take_pricing().unwrap_or_else(|| Arc::new(FakePricing));
        let forge = begin(self.host.assemble(stores, self.policy, pricing, handlers)?).await?;
        Ok(TestForge { forge, audit, ledger, clock: self.clock })
    }
}

impl std::fmt::Debug for TestBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("TestBuilder").field("host", &self.host).finish_non_exhaustive()
    }
}

/// A host under test; everything that a [`Forge`] can do, and what it did.
#[derive(Debug, Clone)]
pub struct TestForge {
    forge: Forge,
    audit: FakeAudit,
    ledger: FakeLedger,
    clock: Arc<ManualClock>,
}

impl TestForge {
    /// A context of `tenant/employee` with a role.
    ///
    /// # Panics
    /// If a name does not parse.
    #[expect(clippy::expect_used, reason = "for tests")]
    pub fn act_as(&self, tenant: &str, employee: &str, role: &str) -> ExecutionContext {
        self.forge.context(Principal::employee(tenant, employee, role).expect("valid names"))
    }

    /// Every decision, outcome and answer so far, of all tenants.
    pub fn audit(&self) -> Vec<AuditRecord> {
        self.audit.records()
    }

    /// Everything that was used so far, with its price: a cent a call of a tool.
    pub fn usage(&self) -> Vec<UsageEvent> {
        self.ledger.all()
    }

    /// The host's clock.
    pub fn clock(&self) -> &ManualClock {
        &self.clock
    }
}

impl Deref for TestForge {
    type Target = Forge;

    fn deref(&self) -> &Forge {
        &self.forge
    }
}

/// A tool that answers what a closure says: a read that takes any arguments, until the test says otherwise.
pub fn mock_tool(name: &str) -> MockTool {
    let spec = ToolSpec::new(name, "a tool of a test").input::<Value>().effect(Effect::Read);
    MockTool { spec, answer: Box::new(|_, _| Err(Error::unexpected("mock_tool.call", "say what it returns"))) }
}

type Answers = Box<dyn Fn(&ExecutionContext, &ToolCall) -> Result<ToolOutput> + Send + Sync>;

/// See [`mock_tool`].
pub struct MockTool {
    spec: ToolSpec,
    answer: Answers,
}

impl MockTool {
    /// What it does to the world.
    #[must_use]
    pub fn effect(mut self, effect: Effect) -> Self {
        self.spec = ToolSpec::new(self.spec.name(), self.spec.description()).input::<Value>().effect(effect);
        self
    }

    /// What it answers.
    #[must_use]
    pub fn returning(
        mut self,
        answer: impl Fn(&ExecutionContext, &ToolCall) -> Result<ToolOutput> + Send + Sync + 'static,
    ) -> Self {
        self.answer = Box::new(answer);
        self
    }
}

#[async_trait]
impl Tool for MockTool {
    fn spec(&self) -> ToolSpec {
        self.spec.clone()
    }

    async fn call(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        (self.answer)(ctx, &call)
    }
}

impl std::fmt::Debug for MockTool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("MockTool").field(&self.spec.name()).finish()
    }
}
