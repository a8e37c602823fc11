//! What a presence answers when it is asked about its worker. No payload, no address with a password.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Map, Value, json};

use super::serving::Serving;
use crate::celery::seconds;
use crate::redis::held::Held;
use crate::redis::queues::own;

impl Serving {
    /// The tasks that run and may be seen, the oldest first.
    pub(super) fn active(&self) -> Vec<Arc<Held>> {
        let shared = &self.broker.shared;
        let mut all = shared.held.running(shared.clock.now());
        all.retain(|held| self.state.sees(&held.tenant));
        all.sort_by_key(|held| held.since);
        all
    }

    /// One of them.
    pub(super) fn info(&self, held: &Held) -> Value {
        let (args, kwargs) = self.state.arguments(held);
        let e = &held.envelope;
        let queue = if self.names(&held.queue) { held.queue.as_str() } else { "" };
        json!({
            "id": e.id, "name": e.task, "args": args, "kwargs": kwargs, "type": e.task,
            "hostname": self.state.options.name, "time_start": seconds(held.since), "acknowledged": false,
            "delivery_info": {
                "exchange": "", "routing_key": queue, "priority": e.priority, "redelivered": e.redelivered,
            },
            "worker_pid": self.state.source.pid,
        })
    }

    pub(super) fn query(&self, ids: &[String]) -> Value {
        let mut active = self.active();
        active.retain(|held| ids.contains(&held.envelope.id));
        let found = active.iter().map(|held| (held.envelope.id.clone(), json!(["active", self.info(held)])));
        Value::Object(found.collect())
    }

    pub(super) fn stats(&self) -> Value {
        let shared = &self.broker.shared;
        let config = shared.redis.config();
        let most = shared.presences.asked_for().most;
        let node = config.nodes.first();
        let uptime = self.now().saturating_sub(self.state.began).as_secs();
        json!({
            "total": *self.state.totals(),
            "pid": self.state.source.pid,
            "clock": shared.presences.stamp().clock.to_string(),
            "uptime": uptime,
            "pool": {
                "implementation": "forge-queue:tokio", "max-concurrency": most,
                "processes": [self.state.source.pid], "timeouts": [0, 0],
            },
            "broker": {
                "hostname": node.map(|n| n.host.as_str()), "port": node.map(|n| n.port), "transport": "redis",
                "virtual_host": config.db.to_string(), "ssl": config.tls,
            },
            "prefetch_count": most,
            "rusage": {},
        })
    }

    pub(super) fn registered(&self) -> Value {
        let asked = self.broker.shared.presences.asked_for();
        asked.names.iter().map(ToString::to_string).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// The queues that it takes from and that may be named.
    pub(super) fn queues(&self) -> Value {
        let queues = &self.broker.shared.queues;
        let bound = queues.all().filter(|(tenant, queue)| self.state.sees(tenant) && !queues.is_paused(queue));
        let mut names: BTreeSet<String> = bound.map(|(_, queue)| queue.to_owned()).collect();
        if self.state.options.show.own_queues {
            let tenants = self.broker.watch.known().into_iter().filter(|tenant| self.state.sees(tenant));
            names.extend(tenants.map(|tenant| own(&tenant)));
        }
        let queue = |name: String| {
            json!({
                "name": name, "exchange": {"name": "", "type": "direct", "durable": true, "delivery_mode": 2},
                "routing_key": name, "durable": true, "exclusive": false, "auto_delete": false,
            })
        };
        names.into_iter().map(queue).collect()
    }

    /// Whether a queue may be named: a tenant's own names its tenant.
    fn names(&self, queue: &str) -> bool {
        self.state.options.show.own_queues || self.broker.shared.queues.principal(queue).is_some()
    }

    /// What there is to configure, by Celery's names.
    pub(super) fn conf(&self) -> Value {
        let (shared, exchanges) = (&self.broker.shared, &self.state.exchanges);
        json!({
            "accept_content": ["json"], "task_serializer": "json", "result_serializer": "json",
            "enable_utc": true, "timezone": "UTC",
            "result_expires": shared.options.result_ttl.as_secs(),
            "task_acks_late": true,
            "control_exchange": exchanges.control, "event_exchange": exchanges.events,
            "broker_transport_options": {
                "global_keyprefix": shared.redis.config().prefix, "fanout_prefix": exchanges.fanout_prefix,
            },
            "worker_send_task_events": self.state.events.load(Ordering::Relaxed),
            "worker_concurrency": shared.presences.asked_for().most,
        })
    }

    pub(super) fn report(&self) -> String {
        let software = format!("forge-queue:{} rust", env!("CARGO_PKG_VERSION"));
        let platform = format!("system:{} arch:{}", std::env::consts::OS, std::env::consts::ARCH);
        let conf: Map<String, Value> = match self.conf() {
            Value::Object(conf) => conf,
            _ => Map::new(),
        };
        let settings = conf.iter().map(|(name, value)| format!("{name}: {value}\n")).collect::<String>();
        format!("software -> {software}\nplatform -> {platform}\ntransport:redis results:redis\n\n{settings}")
    }
}
