//! Approvals, blobs and vectors.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use forge_core::approvals::{Answer, Approval, Approvals, ApprovalsCapability};
use forge_core::blob::{BlobCapability, BlobRef, BlobStore};
use forge_core::fake::{FakeApprovals, FakeBlobs, FakeVectors};
use forge_core::kv::same_tenant;
use forge_core::testing::{Fixture, approvals, blob_store, vector_store};
use forge_core::vector::{Hit, Record, SearchRequest, VectorCapability, VectorStore};
use forge_core::{
    ApprovalId, Depth, Digest, ExecutionContext, Health, HealthCheck, Namespace, OperationKey, Owner, Result,
};

use crate::{everybody, finds_the_leak};

#[tokio::test]
async fn of_approvals() {
    approvals(|| async { Fixture::new(Arc::new(FakeApprovals::default()) as Arc<dyn Approvals>) }).await;
}

#[tokio::test]
async fn of_blobs() {
    blob_store(|| async { Fixture::new(Arc::new(FakeBlobs::default()) as Arc<dyn BlobStore>) }).await;
}

#[tokio::test]
async fn of_vectors() {
    vector_store(|| async { Fixture::new(Arc::new(FakeVectors::default()) as Arc<dyn VectorStore>) }).await;
}

#[tokio::test]
async fn those_that_forget_the_tenant_are_found() {
    finds_the_leak(approvals(|| async {
        Fixture::new(Arc::new(Forgetful(FakeApprovals::default())) as Arc<dyn Approvals>)
    }))
    .await;
    finds_the_leak(blob_store(|| async {
        Fixture::new(Arc::new(Forgetful(FakeBlobs::default())) as Arc<dyn BlobStore>)
    }))
    .await;
    finds_the_leak(vector_store(|| async {
        Fixture::new(Arc::new(Forgetful(FakeVectors::default())) as Arc<dyn VectorStore>)
    }))
    .await;
}

/// Checks the tenant at the door, and then keeps everybody's things in one place.
#[derive(Debug)]
struct Forgetful<T>(T);

#[async_trait]
impl<T: HealthCheck> HealthCheck for Forgetful<T> {
    async fn check(&self, depth: Depth) -> Health {
        self.0.check(depth).await
    }
}

#[async_trait]
impl Approvals for Forgetful<FakeApprovals> {
    async fn ask(&self, ctx: &ExecutionContext, approval: Approval) -> Result<Approval> {
        self.0.ask(&everybody(ctx), approval).await
    }

    async fn find(&self, ctx: &ExecutionContext, id: ApprovalId) -> Result<Approval> {
        self.0.find(&everybody(ctx), id).await
    }

    async fn pending(&self, ctx: &ExecutionContext, limit: usize) -> Result<Vec<Approval>> {
        self.0.pending(&everybody(ctx), limit).await
    }

    async fn answer(&self, ctx: &ExecutionContext, id: ApprovalId, digest: Digest, answer: Answer) -> Result<Approval> {
        self.0.answer(&everybody(ctx), id, digest, answer).await
    }

    async fn consume(&self, ctx: &ExecutionContext, id: ApprovalId, operation: &OperationKey) -> Result<()> {
        self.0.consume(&everybody(ctx), id, operation).await
    }

    fn capability(&self) -> ApprovalsCapability {
        self.0.capability()
    }
}

#[async_trait]
impl BlobStore for Forgetful<FakeBlobs> {
    async fn put(&self, ctx: &ExecutionContext, contents: Bytes) -> Result<BlobRef> {
        self.0.put(&everybody(ctx), contents).await
    }

    async fn get(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<Bytes> {
        self.0.get(&everybody(ctx), blob).await
    }

    async fn delete(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<bool> {
        self.0.delete(&everybody(ctx), blob).await
    }

    fn capability(&self) -> BlobCapability {
        self.0.capability()
    }
}

fn of_everybody(ctx: &ExecutionContext, namespace: &Namespace) -> Result<(ExecutionContext, Namespace)> {
    same_tenant("vector", ctx, namespace)?;
    let all = everybody(ctx);
    let kind = namespace.memory_type().clone();
    let namespace = match namespace.owner() {
        Owner::Employee(employee) => Namespace::of_employee(&all, employee.clone(), kind),
        Owner::Shared(slug) => Namespace::shared(&all, slug.clone(), kind),
    };
    Ok((all, namespace))
}

#[async_trait]
impl VectorStore for Forgetful<FakeVectors> {
    async fn upsert(&self, ctx: &ExecutionContext, namespace: &Namespace, records: Vec<Record>) -> Result<()> {
        let (ctx, namespace) = of_everybody(ctx, namespace)?;
        self.0.upsert(&ctx, &namespace, records).await
    }

    async fn search(&self, ctx: &ExecutionContext, namespace: &Namespace, request: SearchRequest) -> Result<Vec<Hit>> {
        let (ctx, namespace) = of_everybody(ctx, namespace)?;
        self.0.search(&ctx, &namespace, request).await
    }

    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, ids: Vec<String>) -> Result<u64> {
        let (ctx, namespace) = of_everybody(ctx, namespace)?;
        self.0.delete(&ctx, &namespace, ids).await
    }

    async fn count(&self, ctx: &ExecutionContext, namespace: &Namespace) -> Result<u64> {
        let (ctx, namespace) = of_everybody(ctx, namespace)?;
        self.0.count(&ctx, &namespace).await
    }

    fn capability(&self) -> VectorCapability {
        self.0.capability()
    }
}
