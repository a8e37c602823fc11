//! A mock of every adapter trait (feature `mock`, by [`mockall`]): for tests that expect one call, and answer it.
//!
//! A fake of [`fake`](crate::fake) keeps the whole contract and is the better choice where a test is about what the host does; a mock
//! is for an expectation on one adapter: this call, with these arguments, so many times.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use forge_core::{Slug, TaskId, mock::MockTaskQueue, queue::{NewTask, TaskQueue}, testing::context};
//! let mut queue = MockTaskQueue::new();
//! queue.expect_enqueue().withf(|ctx, task| ctx.tenant() == "acme" && task.name == "index").times(1).returning(|_, _| Ok(TaskId::fixed(1)));
//! let task = NewTask::new(Slug::parse("index")?, serde_json::json!(7));
//! assert_eq!(queue.enqueue(&context("acme", "ana", "analyst"), task).await?, TaskId::fixed(1));
//! # Ok::<(), forge_core::Error>(()) }).unwrap();
//! ```

#![allow(missing_docs, clippy::missing_errors_doc, reason = "mockall writes these; the traits are documented")]

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use mockall::mock;
use serde_json::Value;

use crate::approvals::{Answer, Approval, Approvals, ApprovalsCapability};
use crate::audit::{AuditCapability, AuditLog, AuditRecord, AuditRow, ChainReport, Durability};
use crate::blob::{BlobCapability, BlobRef, BlobStore};
use crate::embed::{Embedder, EmbedderCapability};
use crate::journal::{Claim, Journal, NewRun, Owed, RunEvent, RunRecord, RunState, StepRecord, Transition};
use crate::keyring::{Keyring, Seal};
use crate::kv::{Entry, KeyValue, KeyValueCapability, PutOptions};
use crate::metrics::{Labels, Metric, Metrics};
use crate::model::{Completion, CompletionRequest, LanguageModel, ModelCapability};
use crate::policy::{Decision, PolicyCapability, PolicyEngine, PolicyInput};
use crate::queue::{
    Broker, Lease, LeaseRequest, Nack, NewTask, QueueCapability, QueueDepth, TaskHandler, TaskQueue, TaskStatus,
};
use crate::redact::{Finding, RedactOptions, Redactor, Text};
use crate::route::{Candidate, ModelRouter};
use crate::secret::{Secret, SecretProvider, SecretRef};
use crate::tool::{Probe, Probed, Tool, ToolCall, ToolOutput, ToolSpec};
use crate::usage::{
    LedgerCapability, Permit, Pricing, Quantity, Quota, QuotaCapability, QuotaRequest, QuotaState, Resource,
    UsageEvent, UsageLedger, UsageQuery, UsageTotals,
};
use crate::vector::{Hit, Record, SearchRequest, VectorCapability, VectorStore};
use crate::{
    ApprovalId, Clock, Depth, Digest, EmployeeId, ExecutionContext, Health, HealthCheck, Money, Namespace,
    OperationKey, Principal, PrincipalResolver, Result, RunId, Slot, TaskId, TenantId, Timestamp,
};

mock! {
    pub KeyValue {}

    #[async_trait]
    impl HealthCheck for KeyValue {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl KeyValue for KeyValue {
        async fn get(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<Option<Entry>>;
        async fn put(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str, value: Bytes, options: PutOptions) -> Result<u64>;
        async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<bool>;
        fn capability(&self) -> KeyValueCapability;
    }
}

mock! {
    pub BlobStore {}

    #[async_trait]
    impl HealthCheck for BlobStore {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl BlobStore for BlobStore {
        async fn put(&self, ctx: &ExecutionContext, contents: Bytes) -> Result<BlobRef>;
        async fn get(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<Bytes>;
        async fn delete(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<bool>;
        fn capability(&self) -> BlobCapability;
    }
}

mock! {
    pub VectorStore {}

    #[async_trait]
    impl HealthCheck for VectorStore {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl VectorStore for VectorStore {
        async fn upsert(&self, ctx: &ExecutionContext, namespace: &Namespace, records: Vec<Record>) -> Result<()>;
        async fn search(&self, ctx: &ExecutionContext, namespace: &Namespace, request: SearchRequest) -> Result<Vec<Hit>>;
        async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, ids: Vec<String>) -> Result<u64>;
        async fn count(&self, ctx: &ExecutionContext, namespace: &Namespace) -> Result<u64>;
        fn capability(&self) -> VectorCapability;
    }
}

mock! {
    pub Embedder {}

    #[async_trait]
    impl HealthCheck for Embedder {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl Embedder for Embedder {
        async fn embed(&self, ctx: &ExecutionContext, texts: Vec<String>) -> Result<Vec<Vec<f32>>>;
        fn model(&self) -> &str;
        fn capability(&self) -> EmbedderCapability;
    }
}

mock! {
    pub LanguageModel {}

    #[async_trait]
    impl HealthCheck for LanguageModel {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl LanguageModel for LanguageModel {
        async fn complete(&self, ctx: &ExecutionContext, request: CompletionRequest) -> Result<Completion>;
        fn model(&self) -> &str;
        fn capability(&self) -> ModelCapability;
    }
}

mock! {
    pub ModelRouter {}

    #[async_trait]
    impl HealthCheck for ModelRouter {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl ModelRouter for ModelRouter {
        async fn route(&self, ctx: &ExecutionContext, request: &CompletionRequest, candidates: &[Candidate]) -> Result<Vec<String>>;
    }
}

mock! {
    pub TaskQueue {}

    #[async_trait]
    impl HealthCheck for TaskQueue {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl TaskQueue for TaskQueue {
        async fn enqueue(&self, ctx: &ExecutionContext, task: NewTask) -> Result<TaskId>;
        async fn status(&self, ctx: &ExecutionContext, id: TaskId) -> Result<TaskStatus>;
        async fn cancel(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool>;
        async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth>;
        fn capability(&self) -> QueueCapability;
    }
}

mock! {
    pub Broker {}

    #[async_trait]
    impl HealthCheck for Broker {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl Broker for Broker {
        async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Lease>>;
        async fn renew(&self, lease: &Lease, visibility: Duration) -> Result<Timestamp>;
        async fn ack(&self, lease: &Lease, result: Value) -> Result<()>;
        async fn nack(&self, lease: &Lease, nack: Nack) -> Result<()>;
        async fn wait(&self, at_most: Duration);
    }
}

mock! {
    pub Journal {}

    #[async_trait]
    impl HealthCheck for Journal {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl Journal for Journal {
        async fn create(&self, run: NewRun) -> Result<RunRecord>;
        async fn run(&self, tenant: &TenantId, run: RunId) -> Result<RunRecord>;
        async fn steps(&self, tenant: &TenantId, run: RunId) -> Result<Vec<StepRecord>>;
        async fn events(&self, tenant: &TenantId, run: RunId, from_seq: u64) -> Result<Vec<RunEvent>>;
        async fn runs(&self, tenant: &TenantId, state: Option<RunState>, limit: usize) -> Result<Vec<RunRecord>>;
        async fn resumable(&self, owner: &str, now: Timestamp, limit: usize) -> Result<Vec<(TenantId, RunId)>>;
        async fn claim(&self, tenant: &TenantId, run: RunId, owner: &str, now: Timestamp, until: Timestamp) -> Result<Claim>;
        async fn extend(&self, claim: &Claim, until: Timestamp) -> Result<()>;
        async fn release(&self, claim: &Claim) -> Result<()>;
        async fn apply(&self, claim: &Claim, now: Timestamp, changes: Vec<Transition>) -> Result<bool>;
        async fn replay(&self, tenant: &TenantId, run: RunId, now: Timestamp) -> Result<bool>;
        async fn request_cancel(&self, tenant: &TenantId, run: RunId) -> Result<bool>;
        async fn owed(&self, after: u64, limit: usize) -> Result<Vec<Owed>>;
        async fn paid(&self, ids: &[u64]) -> Result<()>;
    }
}

mock! {
    pub PolicyEngine {}

    #[async_trait]
    impl HealthCheck for PolicyEngine {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl PolicyEngine for PolicyEngine {
        async fn decide(&self, ctx: &ExecutionContext, input: &PolicyInput) -> Result<Decision>;
        fn capability(&self) -> PolicyCapability;
    }
}

mock! {
    pub Approvals {}

    #[async_trait]
    impl HealthCheck for Approvals {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl Approvals for Approvals {
        async fn ask(&self, ctx: &ExecutionContext, approval: Approval) -> Result<Approval>;
        async fn find(&self, ctx: &ExecutionContext, id: ApprovalId) -> Result<Approval>;
        async fn pending(&self, ctx: &ExecutionContext, limit: usize) -> Result<Vec<Approval>>;
        async fn answer(&self, ctx: &ExecutionContext, id: ApprovalId, digest: Digest, answer: Answer) -> Result<Approval>;
        async fn consume(&self, ctx: &ExecutionContext, id: ApprovalId, operation: &OperationKey) -> Result<()>;
        fn capability(&self) -> ApprovalsCapability;
    }
}

mock! {
    /// A flush is expected with an owned tenant, since a reference inside an option cannot be mocked.
    pub AuditLog {
        pub async fn check(&self, depth: Depth) -> Health;
        pub async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<AuditRecord>>;
        pub async fn append(&self, ctx: &ExecutionContext, record: AuditRecord, durability: Durability) -> Result<()>;
        pub async fn read(&self, ctx: &ExecutionContext, from_seq: u64, limit: usize) -> Result<Vec<AuditRow>>;
        pub async fn verify(&self, ctx: &ExecutionContext) -> Result<ChainReport>;
        pub async fn flush(&self, tenant: Option<TenantId>) -> Result<()>;
        pub fn capability(&self) -> AuditCapability;
    }
}

#[async_trait]
impl HealthCheck for MockAuditLog {
    async fn check(&self, depth: Depth) -> Health {
        self.check(depth).await
    }
}

#[async_trait]
impl AuditLog for MockAuditLog {
    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<AuditRecord>> {
        self.reserve(ctx).await
    }

    async fn append(&self, ctx: &ExecutionContext, record: AuditRecord, durability: Durability) -> Result<()> {
        self.append(ctx, record, durability).await
    }

    async fn read(&self, ctx: &ExecutionContext, from_seq: u64, limit: usize) -> Result<Vec<AuditRow>> {
        self.read(ctx, from_seq, limit).await
    }

    async fn verify(&self, ctx: &ExecutionContext) -> Result<ChainReport> {
        self.verify(ctx).await
    }

    async fn flush(&self, tenant: Option<&TenantId>) -> Result<()> {
        self.flush(tenant.cloned()).await
    }

    fn capability(&self) -> AuditCapability {
        self.capability()
    }
}

mock! {
    /// A flush is expected with an owned tenant, since a reference inside an option cannot be mocked.
    pub UsageLedger {
        pub async fn check(&self, depth: Depth) -> Health;
        pub async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<Vec<UsageEvent>>>;
        pub async fn record(&self, ctx: &ExecutionContext, events: Vec<UsageEvent>) -> Result<()>;
        pub async fn events(&self, ctx: &ExecutionContext, query: &UsageQuery, limit: usize) -> Result<Vec<UsageEvent>>;
        pub async fn totals(&self, ctx: &ExecutionContext, query: &UsageQuery) -> Result<UsageTotals>;
        pub async fn flush(&self, tenant: Option<TenantId>) -> Result<()>;
        pub fn capability(&self) -> LedgerCapability;
    }
}

#[async_trait]
impl HealthCheck for MockUsageLedger {
    async fn check(&self, depth: Depth) -> Health {
        self.check(depth).await
    }
}

#[async_trait]
impl UsageLedger for MockUsageLedger {
    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<Vec<UsageEvent>>> {
        self.reserve(ctx).await
    }

    async fn record(&self, ctx: &ExecutionContext, events: Vec<UsageEvent>) -> Result<()> {
        self.record(ctx, events).await
    }

    async fn events(&self, ctx: &ExecutionContext, query: &UsageQuery, limit: usize) -> Result<Vec<UsageEvent>> {
        self.events(ctx, query, limit).await
    }

    async fn totals(&self, ctx: &ExecutionContext, query: &UsageQuery) -> Result<UsageTotals> {
        self.totals(ctx, query).await
    }

    async fn flush(&self, tenant: Option<&TenantId>) -> Result<()> {
        self.flush(tenant.cloned()).await
    }

    fn capability(&self) -> LedgerCapability {
        self.capability()
    }
}

mock! {
    pub Quota {}

    #[async_trait]
    impl HealthCheck for Quota {
        async fn check(&self, depth: Depth) -> Health;
    }

    #[async_trait]
    impl Quota for Quota {
        async fn peek(&self, ctx: &ExecutionContext, resource: &Resource) -> Result<QuotaState>;
        async fn reserve(&self, ctx: &ExecutionContext, request: QuotaRequest) -> Result<Permit>;
        fn capability(&self) -> QuotaCapability;
    }
}

mock! {
    pub Tool {}

    #[async_trait]
    impl Tool for Tool {
        fn spec(&self) -> ToolSpec;
        async fn call(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<ToolOutput>;
    }
}

mock! {
    pub Probe {}

    #[async_trait]
    impl Tool for Probe {
        fn spec(&self) -> ToolSpec;
        async fn call(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<ToolOutput>;
    }

    #[async_trait]
    impl Probe for Probe {
        async fn probe(&self, ctx: &ExecutionContext, call: ToolCall) -> Result<Probed>;
    }
}

mock! {
    pub TaskHandler {}

    #[async_trait]
    impl TaskHandler for TaskHandler {
        async fn handle(&self, ctx: &ExecutionContext, task: &Lease) -> Result<Value>;
    }
}

mock! {
    pub Pricing {}

    impl Pricing for Pricing {
        fn quote(&self, resource: &Resource, quantity: &Quantity, at: Timestamp) -> Result<Option<Money>>;
    }
}

mock! {
    /// With owned texts, since an answer that borrows from an argument cannot be mocked.
    pub Redactor {
        pub fn find(&self, field: Option<String>, text: String) -> Result<Vec<Finding>>;
        pub fn replace(&self, tenant: &TenantId, text: String, options: &RedactOptions) -> Result<String>;
        pub fn restore(&self, tenant: &TenantId, text: String) -> Result<String>;
    }
}

impl Redactor for MockRedactor {
    fn inspect(&self, text: Text<'_>) -> Result<Vec<Finding>> {
        self.find(text.field.map(str::to_owned), text.text.to_owned())
    }

    fn redact<'a>(&self, tenant: &TenantId, text: Text<'a>, options: &RedactOptions) -> Result<Cow<'a, str>> {
        self.replace(tenant, text.text.to_owned(), options).map(Cow::Owned)
    }

    fn reveal<'a>(&self, tenant: &TenantId, text: &'a str) -> Result<Cow<'a, str>> {
        self.restore(tenant, text.to_owned()).map(Cow::Owned)
    }
}

mock! {
    pub Keyring {}

    #[async_trait]
    impl Keyring for Keyring {
        async fn load(&self, tenant: &TenantId) -> Result<()>;
        async fn destroy(&self, tenant: &TenantId) -> Result<()>;
        fn encrypt(&self, tenant: &TenantId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>>;
        fn decrypt(&self, tenant: &TenantId, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>>;
        fn tokenize(&self, tenant: &TenantId, plain: &str) -> Result<String>;
        fn detokenize(&self, tenant: &TenantId, token: &str) -> Result<Option<String>>;
        fn digest(&self, tenant: &TenantId, bytes: &[u8]) -> Result<Digest>;
        fn seal(&self, bytes: &[u8]) -> Result<Seal>;
        fn verify(&self, bytes: &[u8], seal: &Seal) -> Result<()>;
        fn seal_keys(&self) -> Vec<String>;
        async fn rotate_seal_key(&self) -> Result<String>;
        async fn retire_seal_key(&self, key_id: &str) -> Result<()>;
    }
}

mock! {
    pub SecretProvider {}

    #[async_trait]
    impl SecretProvider for SecretProvider {
        fn scheme(&self) -> &str;
        async fn fetch(&self, reference: &SecretRef) -> Result<Secret>;
    }
}

mock! {
    pub Metrics {}

    impl Metrics for Metrics {
        fn add<'a>(&self, metric: Metric, labels: Labels<'a>, amount: f64);
        fn observe<'a>(&self, metric: Metric, labels: Labels<'a>, seconds: f64);
    }
}

mock! {
    pub Clock {}

    #[async_trait]
    impl Clock for Clock {
        fn now(&self) -> Timestamp;
        fn monotonic(&self) -> Duration;
        async fn sleep(&self, duration: Duration);
    }
}

mock! {
    pub PrincipalResolver {}

    #[async_trait]
    impl PrincipalResolver for PrincipalResolver {
        async fn resolve(&self, ctx: &ExecutionContext, employee: &EmployeeId) -> Result<Principal>;
    }
}

/// A mock prints its name: what it expects is nobody's business.
macro_rules! named {
    ($($mock:ident: $adapter:ident),* $(,)?) => {$(
        impl fmt::Debug for $mock {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(stringify!($mock))
            }
        }

        // it stands where its adapter does
        const _: fn($mock) -> Arc<dyn $adapter> = |mock| Arc::new(mock);
    )*};
}

named! {
    MockKeyValue: KeyValue,
    MockBlobStore: BlobStore,
    MockVectorStore: VectorStore,
    MockEmbedder: Embedder,
    MockLanguageModel: LanguageModel,
    MockModelRouter: ModelRouter,
    MockTaskQueue: TaskQueue,
    MockBroker: Broker,
    MockJournal: Journal,
    MockPolicyEngine: PolicyEngine,
    MockApprovals: Approvals,
    MockAuditLog: AuditLog,
    MockUsageLedger: UsageLedger,
    MockQuota: Quota,
    MockTool: Tool,
    MockProbe: Probe,
    MockTaskHandler: TaskHandler,
    MockPricing: Pricing,
    MockRedactor: Redactor,
    MockKeyring: Keyring,
    MockSecretProvider: SecretProvider,
    MockMetrics: Metrics,
    MockClock: Clock,
    MockPrincipalResolver: PrincipalResolver,
}
