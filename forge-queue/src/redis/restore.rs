//! Tasks that a worker of Celery took and did not live to finish.
//!
//! Celery's workers do not renew: kombu gives a message back to its queue once it was held for the visibility timeout, whoever notices
//! first. So does this, by the same rule and only for queues that are served here: what a dead Python worker held is run, also where no
//! Python worker is left. Each step is one script, so nothing is given back twice; kombu's mutex is looked at, so that nobody is disturbed.
//! Tags of our own are not touched: those leases have their own, shorter, end.

use std::sync::Arc;
use std::time::Duration;

use forge_core::{Result, TenantId};
use serde_json::Value;

use super::{Shared, millis};
use crate::celery::{Envelope, queue_for, written};

const OP: &str = "queue.restore";
/// How often it is looked.
const INTERVAL: Duration = Duration::from_secs(10);
/// Messages of one look.
const PAGE: usize = 64;

/// Looks from time to time.
pub(super) async fn run(shared: Arc<Shared>) {
    let interval = INTERVAL.min(shared.options.visibility_timeout / 4).max(Duration::from_millis(100));
    loop {
        shared.clock.sleep(interval).await;
        match shared.restore().await {
            Ok(0) => {}
            Ok(tasks) => tracing::info!(tasks, "tasks that a worker of Celery held too long were given back"),
            Err(e) => tracing::debug!(error = %e, "what workers of Celery held too long was not looked at"),
        }
    }
}

impl Shared {
    /// Gives back what was held too long; how many.
    async fn restore(&self) -> Result<usize> {
        let (mut passed, mut given) = (0, 0);
        loop {
            let mut call = self.call(&self.scripts.overdue);
            call.arg(millis(self.options.visibility_timeout)).arg(passed).arg(PAGE);
            let (seen, overdue): (usize, Vec<(String, Vec<u8>)>) = self.redis.script(OP, &call).await?;
            let ours = overdue.iter().filter_map(|(tag, value)| Some((tag, self.restored(value)?)));
            let mut call = self.call(&self.scripts.restore);
            let mut any = false;
            for (tag, (tenant, list, message)) in ours {
                any = true;
                call.arg(tag).arg(tenant.as_str()).arg(list).arg(message);
            }
            let back = if any { self.redis.script::<usize>(OP, &call).await? } else { 0 };
            given += back;
            passed += seen.saturating_sub(back);
            if seen < PAGE {
                return Ok(given);
            }
        }
    }

    /// Whose a held message is, and where it goes; nothing for a queue that is not served here.
    fn restored(&self, value: &[u8]) -> Option<(TenantId, String, Vec<u8>)> {
        if value.len() > self.options.limits.envelope.saturating_add(1024) {
            return None;
        }
        let (mut message, exchange, key): (Value, String, String) = serde_json::from_slice(value).ok()?;
        // an exchange other than the direct one is kombu's to look up
        let queue = Some(key).filter(|_| exchange.is_empty())?;
        let tenant = self.queues.tenant_of(&queue)?;
        if let Some(Value::Object(headers)) = message.get_mut("headers") {
            headers.insert("redelivered".to_owned(), true.into());
        }
        if let Some(Value::Object(info)) = message.pointer_mut("/properties/delivery_info") {
            info.insert("redelivered".to_owned(), true.into());
        }
        let message = written(&message);
        let priority = Envelope::parse(&message, &self.options.limits).map_or(0, |e| e.priority);
        Some((tenant, queue_for(&queue, priority), message))
    }
}
