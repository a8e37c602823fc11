//! Which tenants' files are open.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use forge_core::{Result, TenantId};
use forge_sqlite::Database;

use super::core;

/// Tenants whose files are open at a time; the one that was used longest ago is closed.
const OPEN: usize = 64;

/// A file a tenant, `<dir>/<tenant>/vectors.db`, each opened when it is first needed.
#[derive(Debug)]
pub(super) struct Files {
    dir: PathBuf,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    tenants: BTreeMap<TenantId, (u64, Database)>,
    uses: u64,
}

impl Files {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, open: Mutex::default() }
    }

    /// A tenant's database. A call that still holds one keeps it open, also when its place is given to another's.
    pub(super) async fn of(&self, tenant: &TenantId) -> Result<Database> {
        if let Some(db) = self.lock().used(tenant) {
            return Ok(db);
        }
        // a tenant id holds no separator and no dot: it is one directory's name
        let db = core::open(&self.dir.join(tenant.as_str()).join("vectors.db")).await?;
        let mut open = self.lock();
        // two calls may open one file at once; SQLite serialises them, and the second handle is dropped
        if let Some(first) = open.used(tenant) {
            return Ok(first);
        }
        if open.tenants.len() >= OPEN {
            let oldest = open.tenants.iter().min_by_key(|(_, (used, _))| *used).map(|(t, _)| t.clone());
            oldest.and_then(|t| open.tenants.remove(&t));
        }
        let used = open.uses;
        open.tenants.insert(tenant.clone(), (used, db.clone()));
        Ok(db)
    }

    /// Closes a tenant's file once nobody uses it; its log is then emptied.
    pub(super) fn close(&self, tenant: &TenantId) {
        self.lock().tenants.remove(tenant);
    }

    pub(super) fn all(&self) -> Vec<Database> {
        self.lock().tenants.values().map(|(_, db)| db.clone()).collect()
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn used(&mut self, tenant: &TenantId) -> Option<Database> {
        self.uses += 1;
        let (used, db) = self.tenants.get_mut(tenant)?;
        *used = self.uses;
        Some(db.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn few_stay_open_and_the_one_just_used_is_among_them() {
        let dir = tempfile::tempdir().unwrap();
        let files = Files::new(dir.path().into());
        let tenant = |n: usize| TenantId::parse(format!("t{n}")).unwrap();
        for n in 0..OPEN {
            files.of(&tenant(n)).await.unwrap();
        }
        files.of(&tenant(0)).await.unwrap();
        files.of(&tenant(OPEN)).await.unwrap();
        assert_eq!(files.all().len(), OPEN);
        let open = files.lock();
        assert!(open.tenants.contains_key(&tenant(0)) && !open.tenants.contains_key(&tenant(1)));
    }
}
