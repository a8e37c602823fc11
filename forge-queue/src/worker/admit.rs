//! Before a handler sees a task: whose it is, whether it may run, its payload in clear.

use std::time::Duration;

use forge_core::guard::Access;
use forge_core::queue::Lease;
use forge_core::redact::RedactorExt;
use forge_core::tool::Effect;
use forge_core::{Error, ErrorKind, ExecutionContext, Principal, RequestId, Result, Retryability, SealedFor};
use tokio_util::sync::CancellationToken;

use super::Worker;

const RUN: &str = "task.run";

impl Worker {
    /// The context that the task was queued with. It is cancelled by `stop`, and no later than after `limit` nothing begins in it. A seal
    /// that does not hold is refused, with a row in the audit log of the tenant in whose queue it was.
    pub(super) async fn open(
        &self,
        lease: &Lease,
        stop: &CancellationToken,
        limit: Option<Duration>,
    ) -> Result<ExecutionContext> {
        let parts = &self.parts;
        parts.keyring.load(&lease.tenant).await?;
        let ctx = match self.unseal(lease) {
            Err(e) if e.retry() == Retryability::Never => {
                let worker = Principal::system(lease.tenant.as_str(), "worker")?;
                let nobody = ExecutionContext::issue(worker, RequestId::derived(&[b"task", lease.id.as_bytes()]));
                parts.guard.refused(&nobody, RUN, lease.name.as_str(), &e).await;
                return Err(e);
            }
            opened => opened?.with_cancellation(stop.clone()),
        };
        Ok(match limit {
            Some(limit) => ctx.with_deadline(parts.clock.now().after(limit)),
            None => ctx,
        })
    }

    /// A seal of another task, queue, body or tenant is refused.
    fn unseal(&self, lease: &Lease) -> Result<ExecutionContext> {
        let parts = &self.parts;
        let bound = SealedFor {
            id: lease.id.to_string(),
            name: lease.name.to_string(),
            queue: lease.queue.clone(),
            body: lease.body,
        };
        let ctx = lease.context.open(&bound, parts.keyring.as_ref(), parts.clock.now())?;
        if *ctx.tenant() != lease.tenant {
            return Err(Error::new(
                ErrorKind::TenantMismatch,
                "worker.open",
                "the sealed context belongs to another tenant than the queue",
            ));
        }
        Ok(ctx)
    }

    /// The guard decides; then the tokens of the payload are what they stand for.
    pub(super) async fn admit(&self, ctx: &ExecutionContext, lease: &Lease) -> Result<Lease> {
        let access = Access {
            action: RUN,
            resource: lease.name.as_str(),
            owner: &lease.tenant,
            effect: Effect::Write,
            payload: lease.payload.clone(),
        };
        self.parts.guard.authorize(ctx, access).await?;
        let mut revealed = lease.clone();
        self.parts.redactor.reveal_json(&lease.tenant, &mut revealed.payload)?;
        Ok(revealed)
    }
}
