//! The consuming side: what is due, to whom in turn, under a fence.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use async_trait::async_trait;
use forge_core::queue::{Broker, Lease, LeaseRequest, Nack};
use forge_core::{ExecutionContext, Result, Slug, TenantId, Timestamp};
use forge_redis::redis::cmd;
use serde_json::Value;

use super::batch::each;
use super::canvas::{Follow, Place, is_followed};
use super::held::Held;
use super::message::{Read, Refused, is_ours};
use super::reap::{NO_ROOM, Taken, fence, handler_name, tag};
use super::settle::lost;
use super::{BATCH, RedisBroker, Shared, at, corrupt, millis};
use crate::celery::forge_id;

const LEASE: &str = "queue.lease";
/// Rounds of one call in which nothing was fit to run, before the caller may breathe.
const ROUNDS: usize = 8;

/// What one run of the script took.
struct Reserved {
    now: Timestamp,
    soonest: Option<Duration>,
    expired: Vec<(String, Vec<u8>)>,
    /// The number of the call.
    call: u64,
    chunks: Vec<Chunk>,
    drained: Vec<String>,
}

/// What it took of one list.
struct Chunk {
    tenant: TenantId,
    queue: String,
    /// Tasks that the call took before.
    before: usize,
    messages: Vec<Vec<u8>>,
    /// Those, from 1, that are not tasks of ours that are open.
    closed: Vec<usize>,
    /// Whether the leases lie where kombu keeps its own.
    shared: bool,
}

/// A chunk as the script gives it.
type TakenOfList = (String, String, usize, Vec<Vec<u8>>, Vec<usize>, bool);

/// Renews a batch of leases: until when each is held, 1970 for one that is lost.
pub(super) async fn renew(shared: Arc<Shared>, items: Vec<(String, Duration)>) -> Vec<Result<Timestamp>> {
    let mut call = shared.call(&shared.scripts.renew);
    for (tag, visibility) in &items {
        call.arg(tag).arg(millis(*visibility));
    }
    let until: Result<Vec<i64>> = shared.redis.script("queue.renew", &call).await;
    each(until.map(|all| all.into_iter().map(at).collect()), items.len())
}

impl RedisBroker {
    async fn reserve(&self, request: &LeaseRequest) -> Result<Reserved> {
        let shared = &self.shared;
        let pushed = self.watch.pushed();
        let mut call = shared.call(&shared.scripts.reserve);
        call.arg(request.max.min(BATCH)).arg(millis(request.visibility)).arg(&shared.who);
        let beside: Vec<_> = shared.queues.served().collect();
        call.arg(beside.len());
        for (tenant, queue) in beside {
            call.arg(tenant.as_str()).arg(queue);
        }
        match request.room.per_tenant {
            Some(most) => call.arg(most),
            None => call.arg(""),
        };
        call.arg(request.room.tenants.len());
        for (tenant, most) in &request.room.tenants {
            call.arg(tenant.as_str()).arg(*most);
        }
        for tenant in &pushed {
            call.arg(tenant);
        }
        type Answer = (i64, i64, Vec<(String, Vec<u8>)>, u64, Vec<TakenOfList>, Vec<String>);
        let answer: Result<Answer> = shared.redis.script(LEASE, &call).await;
        let (now, soonest, expired, call, chunks, drained) = match answer {
            Ok(answer) => answer,
            Err(e) => {
                // it may not have run: they are looked at again
                self.watch.push(pushed);
                return Err(e);
            }
        };
        let chunk = |(tenant, queue, before, messages, closed, shared): TakenOfList| {
            let tenant = TenantId::parse(&tenant).map_err(|_| corrupt(LEASE, "tenant"))?;
            Ok(Chunk { tenant, queue, before, messages, closed, shared })
        };
        let chunks = chunks.into_iter().map(chunk).collect::<Result<_>>()?;
        let soonest = u64::try_from(soonest).ok().map(Duration::from_millis);
        Ok(Reserved { now: at(now), soonest, expired, call, chunks, drained })
    }

    /// The leases that this worker can run; what it cannot goes where it belongs. One that could not be put there keeps none from the others.
    async fn fit(&self, request: &LeaseRequest, reserved: &Reserved) -> (Vec<Lease>, Result<()>) {
        let (mut leases, mut outcome) = (Vec::<Lease>::new(), Ok(()));
        for chunk in &reserved.chunks {
            for (i, message) in chunk.messages.iter().enumerate() {
                let open = !chunk.closed.contains(&(i + 1));
                match self.fit_one(request, reserved, chunk, (chunk.before + i, message, open), &leases).await {
                    Ok(lease) => leases.extend(lease),
                    Err(e) => outcome = Err(e),
                }
            }
        }
        (leases, outcome)
    }

    async fn fit_one(
        &self,
        request: &LeaseRequest,
        reserved: &Reserved,
        chunk: &Chunk,
        (place, message, open): (usize, &[u8], bool),
        leases: &[Lease],
    ) -> Result<Option<Lease>> {
        let (shared, Chunk { tenant, queue, .. }) = (&self.shared, chunk);
        let (now, until) = (reserved.now, reserved.now.after(request.visibility));
        let place = u8::try_from(place).map_err(|_| corrupt(LEASE, "place"))?;
        let id = forge_id(message).unwrap_or("-");
        let tag = tag(chunk.shared, reserved.call, place, tenant.as_str(), id, &shared.who);
        let field = if id == "-" { tag.clone() } else { id.to_owned() };
        let taken = Taken { tag: &tag, tenant, field: &field, queue, message };
        let read = match Read::of(shared, tenant, message) {
            Ok(read) => read,
            Err(refused) => return self.quarantine(&taken, refused, None).await.map(|()| None),
        };
        if self.drop_revoked(&taken, &read).await? {
            return Ok(None);
        }
        if !open && self.has_ended(tenant, &read).await? {
            return self.quarantine(&taken, Refused::Replayed, Some(&read)).await.map(|()| None);
        }
        if read.envelope.expires.is_some_and(|t| t <= now) {
            return self.quarantine(&taken, Refused::Expired, Some(&read)).await.map(|()| None);
        }
        let early = read.envelope.eta.map(|eta| eta.since(now)).filter(|left| !left.is_zero());
        let name = handler_name(&read.envelope).filter(|name| request.names.contains(name));
        let (Some(name), None) = (name, early) else {
            let put_back = early.map_or_else(|| taken.for_others(&read), |early| taken.deferred(&read, early));
            return self.settlements.call(LEASE, put_back).await.map(|_| None);
        };
        if !request.room.fits(tenant, &name, leases) {
            return self.settlements.call(LEASE, taken.deferred(&read, NO_ROOM)).await.map(|_| None);
        }
        let fence = fence(reserved.call, place);
        match self.leased(&taken, name, &read, fence, (now, until)) {
            Ok((lease, context)) => {
                let (foreign, remember) = (read.sealed.is_none(), read.remembered(queue));
                let lost = lease.lost.clone();
                let (tenant, queue, since) = (tenant.clone(), queue.clone(), shared.clock.now());
                let held = Held {
                    tenant,
                    id: read.id,
                    tag,
                    field,
                    queue,
                    envelope: read.envelope,
                    foreign,
                    remember,
                    context,
                    lost,
                    since,
                    ending: AtomicBool::new(false),
                };
                shared.presences.leased(&held);
                shared.held.keep(fence, until, held);
                Ok(Some(lease))
            }
            Err(refused) => self.quarantine(&taken, refused, Some(&read)).await.map(|()| None),
        }
    }

    /// Whether a task that is not open has ended before. A sealed one with an id of ours has: it was open when it was queued.
    async fn has_ended(&self, tenant: &TenantId, read: &Read) -> Result<bool> {
        match read.sealed {
            Some(_) if is_ours(&read.envelope.id) => return Ok(true),
            None if !read.is_stamped() => return Ok(false),
            _ => {}
        }
        let mut ended = cmd("ZSCORE");
        ended.arg(self.shared.key(tenant, "ended")).arg(read.id.to_string());
        self.shared.redis.query::<Option<f64>>(LEASE, &ended).await.map(|score| score.is_some())
    }

    /// A lease, and whom what follows the task runs as. What could not be followed as it asks is not begun.
    fn leased(
        &self,
        taken: &Taken<'_>,
        name: Slug,
        read: &Read,
        fence: u64,
        (now, until): (Timestamp, Timestamp),
    ) -> Result<(Lease, Option<ExecutionContext>), Refused> {
        let (tenant, queue, tag) = (taken.tenant, taken.queue, taken.tag);
        let lease = self.shared.to_lease(tenant, queue, name, read, fence, (now, until))?;
        let context = self.shared.runs_as(tenant, queue, read, now)?;
        if is_followed(&read.envelope) {
            Follow::new(&self.shared, Place { tenant, queue, tag }, &read.envelope, None, now).check()?;
        }
        Ok((lease, context))
    }
}

#[async_trait]
impl Broker for RedisBroker {
    /// Dropped in the middle, it may have taken tasks; their leases run out.
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Lease>> {
        if request.max == 0 || request.names.is_empty() {
            return Ok(Vec::new());
        }
        self.watch.begin();
        self.shared.presences.asked(request);
        for _ in 0..ROUNDS {
            let reserved = self.reserve(request).await?;
            self.shared.held.sweep(reserved.now);
            self.watch.drained(&reserved.drained, reserved.soonest);
            let (expired, taken) = (!reserved.expired.is_empty(), !reserved.chunks.is_empty());
            let (leases, fit) = self.fit(request, &reserved).await;
            let reaped = self.reap(&reserved.expired).await;
            match fit.and(reaped) {
                // the leases run whatever became of the others: dropped here, each would have lost a try
                Err(e) if leases.is_empty() => return Err(e),
                Err(e) => tracing::warn!(error = %e, "some tasks were not put where they belong; their leases run out"),
                Ok(()) => {}
            }
            if !leases.is_empty() || !(expired || taken) {
                return Ok(leases);
            }
        }
        self.watch.wake();
        Ok(Vec::new())
    }

    async fn renew(&self, lease: &Lease, visibility: Duration) -> Result<Timestamp> {
        const OP: &str = "queue.renew";
        let held = self.holding(OP, lease)?;
        let until = self.renewals.call(OP, (held.tag.clone(), visibility)).await?;
        if until == at(0) {
            self.shared.held.forget(lease.fence);
            lease.lost.cancel();
            return Err(lost(OP, lease));
        }
        self.shared.held.renewed(lease.fence, until);
        Ok(until)
    }

    async fn ack(&self, lease: &Lease, result: Value) -> Result<()> {
        self.acknowledge(lease, result).await
    }

    async fn nack(&self, lease: &Lease, nack: Nack) -> Result<()> {
        self.refuse(lease, nack).await
    }

    async fn wait(&self, at_most: Duration) {
        self.watch.wait(at_most).await;
    }
}
