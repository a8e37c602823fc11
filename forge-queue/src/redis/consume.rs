//! The consuming side: what is due, to whom in turn, under a fence.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use forge_core::queue::{Broker, Lease, LeaseRequest, Nack};
use forge_core::{Error, ErrorKind, Result, Timestamp};
use forge_redis::redis::{self, FromRedisValue};
use serde_json::Value;

use super::held::Held;
use super::message::{Read, Refused};
use super::reap::{NO_HANDLER, NO_ROOM, Taken, handler_name, parse_tag};
use super::{BATCH, RedisBroker, Shared, at, corrupt, millis};

const LEASE: &str = "queue.lease";
/// Rounds of one call in which nothing was fit to run, before the caller may breathe.
const ROUNDS: usize = 8;

/// What one run of the script took.
struct Reserved {
    now: Timestamp,
    soonest: Option<Duration>,
    expired: Vec<(String, Vec<u8>)>,
    leases: Vec<Reservation>,
    drained: Vec<String>,
}

/// Tag, queue, message, and whether the task has ended before.
type Reservation = (String, String, Vec<u8>, String);

/// Renews a batch of leases: until when each is held, 1970 for one that is lost.
pub(super) async fn renew(shared: Arc<Shared>, items: Vec<(String, Duration)>) -> Result<Vec<Timestamp>> {
    let mut call = shared.call(&shared.scripts.renew);
    for (tag, visibility) in &items {
        call.arg(tag).arg(millis(*visibility));
    }
    let until: Vec<i64> = shared.redis.script("queue.renew", &call).await?;
    Ok(until.into_iter().map(at).collect())
}

impl RedisBroker {
    async fn reserve(&self, request: &LeaseRequest) -> Result<Reserved> {
        let shared = &self.shared;
        let pushed = self.watch.pushed();
        let mut call = shared.call(&shared.scripts.reserve);
        call.arg(request.max.min(BATCH)).arg(millis(request.visibility));
        let beside: Vec<_> = shared.queues.beside().collect();
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
        let answer =
            shared.redis.script::<(i64, i64, Vec<(String, Vec<u8>)>, Vec<redis::Value>, Vec<String>)>(LEASE, &call);
        let (now, soonest, expired, leases, drained) = match answer.await {
            Ok(answer) => answer,
            Err(e) => {
                // it may not have run: they are looked at again
                self.watch.push(pushed);
                return Err(e);
            }
        };
        let leases = leases.chunks_exact(4).map(|four| {
            let text = |i: usize| four.get(i).and_then(|v| String::from_redis_value_ref(v).ok());
            let message = four.get(2).and_then(|v| Vec::<u8>::from_redis_value_ref(v).ok());
            Some((text(0)?, text(1)?, message?, text(3)?))
        });
        let leases = leases.collect::<Option<Vec<_>>>().ok_or_else(|| corrupt(LEASE, "answer"))?;
        let soonest = u64::try_from(soonest).ok().map(Duration::from_millis);
        Ok(Reserved { now: at(now), soonest, expired, leases, drained })
    }

    /// The leases that this worker can run; what it cannot goes where it belongs.
    async fn fit(&self, request: &LeaseRequest, reserved: Vec<Reservation>, now: Timestamp) -> Result<Vec<Lease>> {
        let until = now.after(request.visibility);
        let mut leases = Vec::with_capacity(reserved.len());
        for (tag, queue, message, ended) in &reserved {
            let (fence, tenant, field) = parse_tag(tag).ok_or_else(|| corrupt(LEASE, "tag"))?;
            let taken = Taken { tag, tenant: &tenant, field: &field, queue, message };
            let read = match Read::of(&self.shared, &tenant, message) {
                Ok(read) => read,
                Err(refused) => {
                    self.quarantine(&taken, refused, None).await?;
                    continue;
                }
            };
            let early = read.envelope.eta.filter(|eta| *eta > now);
            let name = handler_name(&read.envelope).filter(|name| request.names.contains(name));
            let refused = match (&name, early) {
                _ if !ended.is_empty() && read.sealed.is_some() => Some(Refused::Replayed),
                _ if read.envelope.expires.is_some_and(|t| t <= now) => Some(Refused::Expired),
                (_, Some(eta)) => {
                    let deferred = taken.deferred(&read, eta.since(now));
                    self.settlements.call(LEASE, deferred).await?;
                    continue;
                }
                (None, None) => {
                    self.settlements.call(LEASE, taken.deferred(&read, NO_HANDLER)).await?;
                    continue;
                }
                (Some(name), None) if !request.room.fits(&tenant, name, &leases) => {
                    self.settlements.call(LEASE, taken.deferred(&read, NO_ROOM)).await?;
                    continue;
                }
                _ => None,
            };
            let lease = match (refused, name) {
                (None, Some(name)) => self.shared.to_lease(&tenant, queue, name, &read, fence, (now, until)),
                (refused, _) => Err(refused.unwrap_or(Refused::Unsealed)),
            };
            match lease {
                Ok(lease) => {
                    let foreign = read.sealed.is_none();
                    let held = Held {
                        tag: tag.clone(),
                        field: field.clone(),
                        envelope: read.envelope,
                        foreign,
                        lost: lease.lost.clone(),
                    };
                    self.shared.held.keep(fence, until, held);
                    leases.push(lease);
                }
                Err(refused) => self.quarantine(&taken, refused, Some(&read)).await?,
            }
        }
        Ok(leases)
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
        for _ in 0..ROUNDS {
            let reserved = self.reserve(request).await?;
            self.shared.held.sweep(reserved.now);
            self.watch.drained(reserved.drained, reserved.soonest);
            let (lost, taken) = (!reserved.expired.is_empty(), !reserved.leases.is_empty());
            self.reap(reserved.expired).await?;
            let leases = self.fit(request, reserved.leases, reserved.now).await?;
            if !leases.is_empty() || !(lost || taken) {
                return Ok(leases);
            }
        }
        self.watch.wake();
        Ok(Vec::new())
    }

    async fn renew(&self, lease: &Lease, visibility: Duration) -> Result<Timestamp> {
        const OP: &str = "queue.renew";
        let lost = || Error::new(ErrorKind::LeaseLost, OP, "the task is with another worker, finished or cancelled");
        let held = self.shared.held.find(lease.fence).ok_or_else(lost)?;
        let until = self.renewals.call(OP, (held.tag.clone(), visibility)).await?;
        if until == at(0) {
            self.shared.held.forget(lease.fence);
            lease.lost.cancel();
            return Err(lost());
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
