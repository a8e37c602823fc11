//! What a presence knows of its worker.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forge_core::TenantId;
use serde_json::{Map, Value};
use tokio::sync::mpsc;

use super::options::{Exchanges, PresenceOptions};
use super::remembered::Remembered;
use crate::celery::{Envelope, EventSource, TaskEvent};
use crate::redis::held::Held;

/// Events that wait to be sent; what comes while they are as many is dropped. Monitors can do without, tasks cannot wait for them.
const EVENTS: usize = 4096;
/// In place of what is not shown.
pub(super) const HIDDEN: &str = "...";

/// One presence. What belongs to another tenant than its own is not there.
pub(in crate::redis) struct State {
    pub(super) options: PresenceOptions,
    pub(super) exchanges: Exchanges,
    pub(super) source: EventSource,
    /// When it began, on the monotonic clock.
    pub(super) began: Duration,
    pub(super) events: AtomicBool,
    pub(super) dropped: AtomicU64,
    queue: mpsc::Sender<TaskEvent>,
    totals: Mutex<BTreeMap<String, u64>>,
    revoked: Mutex<Revoked>,
}

#[derive(Default)]
struct Revoked {
    ids: Remembered,
    /// Stamps, as [`stamp`] writes them.
    stamps: Remembered,
}

impl State {
    pub(super) fn new(
        options: PresenceOptions,
        exchanges: Exchanges,
        db: i64,
        began: Duration,
    ) -> (Self, mpsc::Receiver<TaskEvent>) {
        let (queue, events) = mpsc::channel(EVENTS);
        let source = EventSource {
            hostname: options.name.clone(),
            pid: std::process::id(),
            prefix: exchanges.prefix(db),
            exchange: exchanges.events.clone(),
        };
        let state = Self {
            events: AtomicBool::new(options.events),
            dropped: AtomicU64::new(0),
            queue,
            totals: Mutex::default(),
            revoked: Mutex::default(),
            options,
            exchanges,
            source,
            began,
        };
        (state, events)
    }

    pub(super) fn sees(&self, tenant: &TenantId) -> bool {
        self.options.tenant.as_ref().is_none_or(|own| own == tenant)
    }

    /// Whether somebody wants to know what happens to tasks of this tenant.
    pub(super) fn tells(&self, tenant: &TenantId) -> bool {
        self.events.load(Ordering::Relaxed) && self.sees(tenant)
    }

    pub(super) fn send(&self, event: TaskEvent) {
        if self.queue.try_send(event).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Arguments and keyword arguments as they may be seen.
    pub(super) fn arguments(&self, held: &Held) -> (String, String) {
        let shown = !held.foreign || self.options.show.foreign_arguments;
        let text = |repr: &Option<String>| repr.clone().filter(|_| shown).unwrap_or_else(|| HIDDEN.to_owned());
        (text(&held.envelope.argsrepr), text(&held.envelope.kwargsrepr))
    }

    pub(super) fn count(&self, task: &str) {
        *self.totals().entry(task.to_owned()).or_default() += 1;
    }

    /// How many were begun of each name.
    pub(super) fn totals(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn revoked(&self) -> MutexGuard<'_, Revoked> {
        self.revoked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn revoke<'a>(&self, ids: impl IntoIterator<Item = &'a str>, now: Duration) {
        let mut revoked = self.revoked();
        ids.into_iter().for_each(|id| revoked.ids.insert(id, now));
    }

    pub(super) fn revoke_stamps(&self, headers: &Map<String, Value>, now: Duration) {
        let mut revoked = self.revoked();
        stamps(headers).for_each(|stamp| revoked.stamps.insert(&stamp, now));
    }

    pub(super) fn revoked_ids(&self, now: Duration) -> Vec<String> {
        self.revoked().ids.all(now).into_iter().map(str::to_owned).collect()
    }

    pub(super) fn is_revoked(&self, task: &Envelope, now: Duration) -> bool {
        let mut revoked = self.revoked();
        revoked.ids.contains(&task.id, now) || stamps(&task.stamps).any(|stamp| revoked.stamps.contains(&stamp, now))
    }
}

/// Stamps with one value each; a stamp may have several.
pub(super) fn stamps(headers: &Map<String, Value>) -> impl Iterator<Item = String> {
    headers.iter().flat_map(|(name, values)| {
        let values = values.as_array().map_or_else(|| std::slice::from_ref(values), Vec::as_slice);
        values.iter().map(move |value| format!("{name}\0{value}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::celery::{Stamp, TaskEventKind};

    #[test]
    fn what_nobody_can_take_is_dropped_and_counted() {
        let (state, _events) = State::new(PresenceOptions::new("w@t"), Exchanges::default(), 0, Duration::ZERO);
        let stamp = Stamp { at: forge_core::Timestamp::from_nanos(0), clock: 1 };
        for n in 0..EVENTS + 3 {
            state.send(TaskEvent { uuid: n.to_string(), stamp, kind: TaskEventKind::Started });
        }
        assert_eq!(state.dropped.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_stamp_with_several_values_is_revoked_by_each() {
        let (state, _events) = State::new(PresenceOptions::new("w@t"), Exchanges::default(), 0, Duration::ZERO);
        let stamped = |value: Value| {
            let mut task = Envelope::new("a", "t");
            task.stamps = Map::from_iter([("customer".to_owned(), value)]);
            task
        };
        state.revoke_stamps(&stamped(serde_json::json!(["7", 8])).stamps, Duration::ZERO);
        for (value, revoked) in [
            (serde_json::json!("7"), true),
            (serde_json::json!(["9", 8]), true),
            (serde_json::json!("9"), false),
            (serde_json::json!([]), false),
        ] {
            assert_eq!(state.is_revoked(&stamped(value.clone()), Duration::ZERO), revoked, "{value}");
        }
    }
}
