//! Which queue is whose.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use forge_core::{Error, ErrorKind, Principal, Result, Slug, TenantId};

/// The queues that are bound, and the tasks that go to them. A tenant's own queue needs no entry.
#[derive(Clone, Default)]
pub(super) struct Queues {
    bound: Arc<BTreeMap<String, Principal>>,
    routes: Arc<BTreeMap<String, Vec<String>>>,
    left: Arc<BTreeSet<String>>,
    /// From which this process takes nothing for now.
    paused: Arc<RwLock<BTreeSet<String>>>,
}

/// The queue of a tenant's own tasks.
pub(super) fn own(tenant: &TenantId) -> String {
    format!("{tenant}{OWN}")
}

const OWN: &str = ".default";

impl Queues {
    pub(super) fn bound(&self, queue: &str, principal: Principal) -> Result<Self> {
        let wrong = |why: &'static str| {
            Err(Error::new(ErrorKind::Config, "queue.bind", why)
                .with("queue", queue.chars().take(64).collect::<String>()))
        };
        // such names are those of kombu's keys and ours, and must stand in a script's JSON as they are
        let plain =
            queue.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-' | b'@' | b':' | b'#'));
        if queue.is_empty() || queue.len() > 128 || !plain {
            return wrong("a queue's name has 1 to 128 of letters, digits and _.-@:#");
        }
        if ["forge:", "unacked", "_kombu.", "celery-task"].iter().any(|theirs| queue.starts_with(theirs)) {
            return wrong("the name is that of a key that the queue itself uses");
        }
        match queue.strip_suffix(OWN).map(TenantId::parse) {
            Some(Ok(tenant)) if tenant != *principal.tenant() => return wrong("the queue is another tenant's own"),
            _ => {}
        }
        let mut all = BTreeMap::clone(&self.bound);
        if all.insert(queue.to_owned(), principal).is_some() {
            return wrong("the queue is bound already");
        }
        Ok(Self { bound: Arc::new(all), paused: Arc::default(), ..self.clone() })
    }

    pub(super) fn left(&self, queue: &str) -> Result<Self> {
        if !self.bound.contains_key(queue) {
            return Err(Error::new(ErrorKind::Config, "queue.leave", "the queue is not bound; bind it first"));
        }
        let mut all = BTreeSet::clone(&self.left);
        all.insert(queue.to_owned());
        Ok(Self { left: Arc::new(all), paused: Arc::default(), ..self.clone() })
    }

    pub(super) fn routed(&self, task: &Slug, queue: &str) -> Result<Self> {
        if !self.bound.contains_key(queue) {
            return Err(Error::new(ErrorKind::Config, "queue.route", "the queue is not bound; bind it first"));
        }
        let mut all = BTreeMap::clone(&self.routes);
        all.entry(task.to_string()).or_default().push(queue.to_owned());
        Ok(Self { routes: Arc::new(all), paused: Arc::default(), ..self.clone() })
    }

    /// Where a tenant's tasks of this name go.
    pub(super) fn queue_of(&self, tenant: &TenantId, task: &str) -> String {
        self.routed_to(tenant, task).map_or_else(|| own(tenant), str::to_owned)
    }

    /// The queue beside the tenant's own to which its tasks of this name are routed.
    pub(super) fn routed_to(&self, tenant: &TenantId, task: &str) -> Option<&str> {
        let queues = self.routes.get(task)?;
        queues.iter().map(String::as_str).find(|queue| self.is_bound(tenant, queue))
    }

    /// Whether a queue is the tenant's own or bound to it.
    pub(super) fn belongs(&self, tenant: &TenantId, queue: &str) -> bool {
        queue == own(tenant) || self.is_bound(tenant, queue)
    }

    /// Whether a queue is bound to the tenant.
    pub(super) fn is_bound(&self, tenant: &TenantId, queue: &str) -> bool {
        self.principal(queue).is_some_and(|p| p.tenant() == tenant)
    }

    /// Whose queue it is: the tenant's that it is bound to, or whose own it is by its name.
    pub(super) fn tenant_of(&self, queue: &str) -> Option<TenantId> {
        match self.principal(queue) {
            Some(principal) => Some(principal.tenant().clone()),
            None => queue.strip_suffix(OWN).and_then(|tenant| TenantId::parse(tenant).ok()),
        }
    }

    /// As whom tasks without a seal run; nobody where the queue is not bound.
    pub(super) fn principal(&self, queue: &str) -> Option<&Principal> {
        self.bound.get(queue)
    }

    /// Tenants and the queues that are bound to them.
    pub(super) fn all(&self) -> impl Iterator<Item = (&TenantId, &str)> {
        self.bound.iter().map(|(queue, principal)| (principal.tenant(), queue.as_str()))
    }

    /// Tenants and the queues that are bound to them beside their own, and not left to others.
    pub(super) fn beside(&self) -> impl Iterator<Item = (&TenantId, &str)> {
        self.all().filter(|(tenant, queue)| own(tenant) != *queue && !self.left.contains(*queue))
    }

    /// The bound queues from which this process takes tasks now.
    pub(super) fn served(&self) -> impl Iterator<Item = (&TenantId, &str)> {
        self.all().filter(|(_, queue)| !self.left.contains(*queue) && !self.is_paused(queue))
    }

    pub(super) fn is_paused(&self, queue: &str) -> bool {
        self.paused.read().unwrap_or_else(PoisonError::into_inner).contains(queue)
    }

    /// Takes no more tasks from a queue in this process, or takes them again.
    pub(super) fn pause(&self, queue: &str, pause: bool) {
        let mut paused = self.paused.write().unwrap_or_else(PoisonError::into_inner);
        match pause {
            true => paused.insert(queue.to_owned()),
            false => paused.remove(queue),
        };
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.bound.iter().map(|(q, p)| (q, p.tenant().as_str()))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(tenant: &str) -> Principal {
        Principal::employee(tenant, "celery", "worker").unwrap()
    }

    #[test]
    fn a_queue_is_bound_once_and_to_nobody_elses_name() {
        let queues = Queues::default().bound("celery", of("acme")).unwrap();
        assert!(queues.bound("celery", of("globex")).is_err(), "isolation: bound to one tenant");
        assert!(queues.bound("globex.default", of("acme")).is_err(), "isolation: another tenant's own queue");
        assert!(queues.bound("acme.default", of("acme")).is_ok());
        for bad in ["", "a b", "a\"b", "a\nb", "unacked", "unacked_index", "forge:leases", "_kombu.binding.x"] {
            assert!(queues.bound(bad, of("acme")).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_route_leads_to_a_queue_of_the_same_tenant() {
        let task = Slug::parse("mail.send").unwrap();
        let queues = Queues::default().bound("celery", of("acme")).unwrap().routed(&task, "celery").unwrap();
        let queue = |tenant: &str, task: &str| queues.queue_of(&TenantId::parse(tenant).unwrap(), task);
        assert_eq!(queue("acme", "mail.send"), "celery");
        assert_eq!(queue("globex", "mail.send"), "globex.default", "isolation: another tenant's tasks stay with it");
        assert_eq!(queue("acme", "other"), "acme.default");
        assert!(queues.routed(&task, "nowhere").is_err());
    }
}
