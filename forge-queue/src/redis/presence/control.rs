//! What is asked and told on the control channel, and what comes of it.

use std::sync::atomic::Ordering;

use forge_core::Result;
use forge_redis::Pushes;
use serde_json::{Map, Value, json};

use super::serving::Serving;
use crate::celery::{Method, WorkerEvent, value_repr};

/// An answer that says that it was done, in Celery's shape.
pub(super) fn ok(text: impl Into<String>) -> Value {
    json!({"ok": text.into()})
}

/// An answer that says why it was not.
pub(super) fn nok(text: impl Into<String>) -> Value {
    json!({"error": text.into()})
}

const NOT_ALLOWED: &str = "this worker does not let that be changed from here";

impl Serving {
    /// Does as it is told, if that is allowed, and gives the answer.
    ///
    /// # Errors
    /// If the connection leads nowhere.
    pub(super) async fn obey(&self, pushes: &Pushes, method: Method) -> Result<Value> {
        let allow = self.state.options.allow;
        Ok(match method {
            Method::Ping => ok("pong"),
            Method::Hello { from_node, revoked } => self.greet(&from_node, &revoked),
            Method::Stats => self.stats(),
            Method::Active => Value::Array(self.active().iter().map(|held| self.info(held)).collect()),
            // a worker takes no more than it runs, and what waits for its time waits in Redis
            Method::Reserved | Method::Scheduled => json!([]),
            Method::Revoked => self.state.revoked_ids(self.now()).into(),
            Method::Registered => self.registered(),
            Method::ActiveQueues => self.queues(),
            Method::Conf => self.conf(),
            Method::Report => ok(self.report()),
            Method::Clock => json!({"clock": self.broker.shared.presences.stamp().clock}),
            Method::QueryTask { ids } => self.query(&ids),
            Method::Heartbeat => {
                self.say(pushes, WorkerEvent::Heartbeat).await?;
                Value::Null
            }
            Method::EnableEvents => match self.state.events.swap(true, Ordering::Relaxed) {
                false => ok("task events enabled"),
                true => ok("task events already enabled"),
            },
            Method::DisableEvents if self.state.options.events => nok("task events are always on in this worker"),
            Method::DisableEvents => match self.state.events.swap(false, Ordering::Relaxed) {
                true => ok("task events disabled"),
                false => ok("task events already disabled"),
            },
            Method::Revoke { .. } | Method::RevokeByStampedHeaders { .. } if !allow.revoke => nok(NOT_ALLOWED),
            Method::Revoke { ids, terminate, .. } => self.revoke(ids, terminate).await,
            Method::RevokeByStampedHeaders { headers, terminate, .. } => {
                self.revoke_by_stamps(&headers, terminate).await
            }
            Method::AddConsumer { .. } | Method::CancelConsumer { .. } if !allow.consumers => nok(NOT_ALLOWED),
            Method::AddConsumer { queue } => self.consume(&queue, true),
            Method::CancelConsumer { queue } => self.consume(&queue, false),
            Method::PoolGrow { n } => self.resize(n, 1, "pool will grow"),
            Method::PoolShrink { n } => self.resize(n, -1, "pool will shrink"),
            Method::Shutdown => match &self.state.options.shutdown {
                Some(shutdown) => {
                    tracing::warn!(worker = self.state.options.name, "told to shut down through the control channel");
                    shutdown.cancel();
                    ok("shutting down")
                }
                None => nok(NOT_ALLOWED),
            },
            Method::RateLimit { .. } => {
                nok("rate_limit is not supported: forge limits the rate of a tenant, in all workers together")
            }
            Method::TimeLimit { .. } => nok("time_limit is not supported: a task carries its limits with it"),
            Method::Autoscale { .. } => nok("autoscale is not supported"),
            // gossip of Celery's workers among each other
            Method::Other { method, .. } if method == "election" => Value::Null,
            Method::Other { method, .. } => nok(format!("KeyError({})", value_repr(&method.into()))),
        })
    }

    /// Another worker begins: each learns what the other knows to be revoked.
    fn greet(&self, from: &str, revoked: &Value) -> Value {
        if from == self.state.options.name {
            return Value::Null;
        }
        let now = self.now();
        if self.state.options.allow.revoke {
            match revoked {
                Value::Array(ids) => self.state.revoke(ids.iter().filter_map(Value::as_str), now),
                // as older versions say it, with times
                Value::Object(ids) => self.state.revoke(ids.keys().map(String::as_str), now),
                _ => {}
            }
        }
        let clock = self.broker.shared.presences.stamp().clock;
        json!({"revoked": self.state.revoked_ids(now), "clock": clock})
    }

    /// Takes tasks from a bound queue again, or no more.
    fn consume(&self, queue: &str, on: bool) -> Value {
        let queues = &self.broker.shared.queues;
        let Some((tenant, _)) = queues.beside().find(|(tenant, q)| *q == queue && self.state.sees(tenant)) else {
            return nok("the queue is not one that others push to and this worker takes from");
        };
        queues.pause(queue, !on);
        if on {
            self.broker.watch.push([tenant.to_string()].into());
            self.broker.watch.wake();
            return ok(format!("add consumer {queue}"));
        }
        ok(format!("no longer consuming from {queue}"))
    }

    fn resize(&self, n: u64, sign: i64, said: &'static str) -> Value {
        match (&self.state.options.resize, i64::try_from(n)) {
            (Some(resize), Ok(n)) => {
                resize(n.saturating_mul(sign));
                ok(said)
            }
            (Some(_), Err(_)) => nok("the number is too large"),
            (None, _) => nok("the number of tasks that this worker runs at a time is set in forge"),
        }
    }
}

/// A list of texts as Python prints a set.
pub(super) fn set_repr<'a>(texts: impl IntoIterator<Item = &'a String>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| value_repr(&text.as_str().into())).collect();
    if texts.is_empty() { "set()".to_owned() } else { format!("{{{}}}", texts.join(", ")) }
}

/// Stamps as Python prints a dictionary.
pub(super) fn map_repr(map: &Map<String, Value>) -> String {
    value_repr(&Value::Object(map.clone()))
}
