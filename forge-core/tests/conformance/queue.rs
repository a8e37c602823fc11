//! Queues.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_core::fake::{FakeQueue, ManualClock};
use forge_core::queue::{
    Broker, Lease, LeaseRequest, Nack, NewTask, QueueCapability, QueueDepth, TaskQueue, TaskStatus,
};
use forge_core::testing::{Fixture, WholeQueue, task_queue};
use forge_core::{Depth, ExecutionContext, Health, HealthCheck, Result, TaskId, Timestamp};
use serde_json::Value;

use crate::{everybody, finds_the_leak};

fn fixture<Q: WholeQueue>(wrap: impl FnOnce(FakeQueue) -> Q) -> Fixture<dyn WholeQueue> {
    let clock = Arc::new(ManualClock::default());
    Fixture::new(Arc::new(wrap(FakeQueue::new(clock.clone()))) as Arc<dyn WholeQueue>).with_clock(clock)
}

#[tokio::test]
async fn queues() {
    task_queue(|| async { fixture(|queue| queue) }).await;
}

#[tokio::test]
async fn queues_that_forget_the_tenant_are_found() {
    finds_the_leak(task_queue(|| async { fixture(Forgetful) })).await;
}

/// Keeps everybody's tasks in one place.
#[derive(Debug)]
struct Forgetful(FakeQueue);

#[async_trait]
impl HealthCheck for Forgetful {
    async fn check(&self, depth: Depth) -> Health {
        self.0.check(depth).await
    }
}

#[async_trait]
impl TaskQueue for Forgetful {
    async fn enqueue(&self, ctx: &ExecutionContext, task: NewTask) -> Result<TaskId> {
        self.0.enqueue(&everybody(ctx), task).await
    }

    async fn status(&self, ctx: &ExecutionContext, id: TaskId) -> Result<TaskStatus> {
        self.0.status(&everybody(ctx), id).await
    }

    async fn cancel(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool> {
        self.0.cancel(&everybody(ctx), id).await
    }

    async fn depth(&self, ctx: &ExecutionContext) -> Result<QueueDepth> {
        self.0.depth(&everybody(ctx)).await
    }

    fn capability(&self) -> QueueCapability {
        TaskQueue::capability(&self.0)
    }
}

#[async_trait]
impl Broker for Forgetful {
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Lease>> {
        self.0.lease(request).await
    }

    async fn renew(&self, lease: &Lease, visibility: Duration) -> Result<Timestamp> {
        self.0.renew(lease, visibility).await
    }

    async fn ack(&self, lease: &Lease, result: Value) -> Result<()> {
        self.0.ack(lease, result).await
    }

    async fn nack(&self, lease: &Lease, nack: Nack) -> Result<()> {
        self.0.nack(lease, nack).await
    }

    async fn wait(&self, at_most: Duration) {
        self.0.wait(at_most).await;
    }
}
