//! Revocation: of what is not begun, of what runs, and of what Python's workers may have.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use forge_core::{Result, TaskId, TenantId};
use forge_redis::redis::cmd;
use serde_json::{Map, Value, json};

use super::OP;
use super::control::{map_repr, nok, ok, set_repr};
use super::serving::Serving;
use super::state::stamps;
use crate::celery::{ResultState, Revocation, control_message};
use crate::redis::RedisBroker;
use crate::redis::held::Held;
use crate::redis::message::{Read, task_id};
use crate::redis::reap::Taken;
use crate::redis::settle::{Settlement, Then};

impl Serving {
    pub(super) fn now(&self) -> Duration {
        self.broker.shared.clock.monotonic()
    }

    /// A task that runs goes on unless it is to be terminated, as in Celery; tried again, it is dropped.
    pub(super) async fn revoke(&self, ids: Vec<String>, terminate: bool) -> Value {
        let ids: BTreeSet<String> = ids.into_iter().collect();
        let mut named = self.active();
        named.retain(|held| ids.contains(&held.envelope.id));
        if named.iter().any(|held| !held.foreign) {
            return nok("a task that forge queued is cancelled in forge, as its tenant");
        }
        self.state.revoke(ids.iter().map(String::as_str), self.now());
        if !terminate {
            return ok(format!("tasks {} flagged as revoked", set_repr(&ids)));
        }
        match self.terminate(named).await {
            Ok(ended) if ended.is_empty() => ok("terminate: tasks unknown"),
            Ok(ended) => ok(format!("terminate: {}", ended.join(", "))),
            Err(e) => nok(e.to_string()),
        }
    }

    pub(super) async fn revoke_by_stamps(&self, headers: &Map<String, Value>, terminate: bool) -> Value {
        self.state.revoke_stamps(headers, self.now());
        let headers_repr = map_repr(headers);
        if !terminate {
            return ok(format!("headers {headers_repr} flagged as revoked, but not terminated"));
        }
        let wanted: BTreeSet<String> = stamps(headers).collect();
        let mut stamped = self.active();
        stamped.retain(|held| held.foreign && stamps(&held.envelope.stamps).any(|stamp| wanted.contains(&stamp)));
        match self.terminate(stamped).await {
            Ok(ended) if ended.is_empty() => ok(format!("headers {headers_repr} were not terminated")),
            Ok(_) => ok(format!("headers {headers_repr} revoked")),
            Err(e) => nok(e.to_string()),
        }
    }

    /// Ends leases of other programs' tasks; the ids of those that were still held.
    async fn terminate(&self, tasks: Vec<Arc<Held>>) -> Result<Vec<String>> {
        let mut ended = Vec::new();
        for held in tasks {
            if self.broker.revoke_held(&held).await? {
                ended.push(held.envelope.id.clone());
            }
        }
        Ok(ended)
    }
}

impl RedisBroker {
    async fn revoke_held(&self, held: &Held) -> Result<bool> {
        let (shared, e) = (&self.shared, &held.envelope);
        let mut result =
            shared.result(&held.tenant, e.id.clone(), ResultState::Revoked { reason: Revocation::Terminated });
        result.group_id.clone_from(&e.group);
        result.parent_id.clone_from(&e.parent_id);
        let settlement = Settlement {
            tag: held.tag.clone(),
            field: held.field.clone(),
            tenant: held.tenant.clone(),
            id: task_id(&held.tenant, &e.id),
            record: String::new(),
            remember: None,
            result: Some(result).filter(|_| e.ignore_result != Some(true)),
            careful: true,
            then: Then::End,
            ops: Vec::new(),
        };
        let was_held = self.settlements.call(OP, settlement).await?;
        held.lost.cancel();
        if was_held {
            shared.presences.revoked(&held.tenant, &e.id, true);
        }
        Ok(was_held)
    }

    /// Drops a task of another program's that was revoked before it began; whether it was.
    pub(in crate::redis) async fn drop_revoked(&self, taken: &Taken<'_>, read: &Read) -> Result<bool> {
        let (shared, e) = (&self.shared, &read.envelope);
        let foreign = read.sealed.is_none() && shared.queues.principal(taken.queue).is_some();
        if !foreign || !shared.presences.revokes(taken.tenant, e) {
            return Ok(false);
        }
        let mut settlement = taken.settlement(read.id, String::new(), Then::End);
        let state = ResultState::Revoked { reason: Revocation::Revoked };
        let mut result = shared.result(taken.tenant, e.id.clone(), state);
        result.group_id.clone_from(&e.group);
        result.parent_id.clone_from(&e.parent_id);
        settlement.result = Some(result).filter(|_| e.ignore_result != Some(true));
        if self.settlements.call(OP, settlement).await? {
            shared.presences.revoked(taken.tenant, &e.id, false);
        }
        Ok(true)
    }

    /// Tells Python's workers that a task was cancelled: one that took it before drops it. Their control channel keeps nothing, so a
    /// worker that does not listen runs it; what it returns is not the task's state.
    pub(in crate::redis) async fn tell_cancelled(&self, tenant: &TenantId, id: TaskId) {
        let shared = &self.shared;
        let theirs = shared.presences.all();
        let theirs = theirs.iter().filter(|state| state.sees(tenant)).map(|state| &state.exchanges);
        let mut told = BTreeSet::new();
        for exchanges in std::iter::once(&shared.options.exchanges).chain(theirs) {
            let channel = shared.redis.key(exchanges.control_channel(shared.redis.config().db));
            if !told.insert(channel.clone()) {
                continue;
            }
            let arguments = json!({"task_id": id.to_string(), "terminate": false, "signal": null});
            let tag = TaskId::random(shared.clock.now()).to_string();
            let message =
                control_message("revoke", &arguments, &exchanges.control, shared.presences.stamp().clock, &tag);
            let said = shared.redis.query::<i64>("queue.cancel", cmd("PUBLISH").arg(channel).arg(message)).await;
            if let Err(e) = said {
                tracing::debug!(error = %e, "the workers of Celery were not told of a cancelled task");
            }
        }
    }
}
