//! What runs, so that nobody has more than their share.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use forge_core::queue::{Lease, Room};
use forge_core::{Slug, TenantId};
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// Tasks that run, by tenant and by handler.
#[derive(Debug, Default)]
pub(super) struct Slots {
    running: Mutex<Running>,
    /// A place is free of a tenant or a handler that had none.
    pub(super) freed: Notify,
}

#[derive(Debug, Default)]
struct Running {
    tenants: BTreeMap<TenantId, usize>,
    names: BTreeMap<Slug, usize>,
}

/// The place of one task; dropped, it is free.
pub(super) struct Place {
    slots: Arc<Slots>,
    tenant: TenantId,
    name: Slug,
    /// Another may wait for it.
    capped: bool,
    _permit: OwnedSemaphorePermit,
}

impl Slots {
    fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many run.
    pub(super) fn count(&self) -> usize {
        self.running().tenants.values().sum()
    }

    /// What can begin now, of each tenant at most so many and of each of these handlers.
    pub(super) fn room(&self, per_tenant: Option<usize>, names: impl Iterator<Item = (Slug, usize)>) -> Room {
        let running = self.running();
        let left = |most: usize| running.tenants.iter().map(move |(t, n)| (t.clone(), most.saturating_sub(*n)));
        let of = |name: &Slug| running.names.get(name).copied().unwrap_or(0);
        Room {
            per_tenant,
            tenants: per_tenant.map(|most| left(most).collect()).unwrap_or_default(),
            names: names.map(|(name, most)| (name.clone(), most.saturating_sub(of(&name)))).collect(),
        }
    }

    /// A place for this task; none if its tenant or its handler has as many as it may.
    pub(super) fn begin(
        self: &Arc<Self>,
        lease: &Lease,
        per_tenant: Option<usize>,
        of_name: Option<usize>,
        permit: OwnedSemaphorePermit,
    ) -> Option<Place> {
        let running = &mut *self.running();
        let tenant = running.tenants.get(&lease.tenant).copied().unwrap_or(0).saturating_add(1);
        let name = running.names.get(&lease.name).copied().unwrap_or(0).saturating_add(1);
        if per_tenant.is_some_and(|most| tenant > most) || of_name.is_some_and(|most| name > most) {
            return None;
        }
        running.tenants.insert(lease.tenant.clone(), tenant);
        running.names.insert(lease.name.clone(), name);
        Some(Place {
            slots: self.clone(),
            tenant: lease.tenant.clone(),
            name: lease.name.clone(),
            capped: per_tenant.is_some() || of_name.is_some(),
            _permit: permit,
        })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let running = &mut *self.slots.running();
        less(&mut running.tenants, &self.tenant);
        less(&mut running.names, &self.name);
        if self.capped {
            self.slots.freed.notify_one();
        }
    }
}

fn less<K: Ord>(counts: &mut BTreeMap<K, usize>, of: &K) {
    if let Some(n) = counts.get_mut(of) {
        *n = n.saturating_sub(1);
        if *n == 0 {
            counts.remove(of);
        }
    }
}
