//! Schedules: rows that change by compare-and-set.

use async_trait::async_trait;
use forge_core::{Result, Slug, TenantId, Timestamp};
use forge_sqlite::error;
use forge_sqlite::rusqlite::{Connection, OptionalExtension, Row, Transaction, params};

use super::SqliteStore;
use super::row::{at, parsed, signed};
use crate::schedule::{Due, ScheduleStore, StoredSchedule, readable};

#[async_trait]
impl ScheduleStore for SqliteStore {
    async fn schedules(&self, tenant: &TenantId) -> Result<Vec<StoredSchedule>> {
        const OP: &str = "schedule.list";
        let tenant = tenant.to_string();
        let rows = self.db.read(OP, move |c| {
            let sql = "SELECT tenant, name, version, record FROM schedules WHERE tenant = ?1 ORDER BY name";
            c.prepare_cached(sql)
                .and_then(|mut s| s.query_map([tenant], Columns::read)?.collect::<Result<Vec<_>, _>>())
                .map_err(error(OP))
        });
        rows.await?.into_iter().map(|row| row.stored(OP)).collect()
    }

    async fn schedule(&self, tenant: &TenantId, name: &Slug) -> Result<Option<StoredSchedule>> {
        const OP: &str = "schedule.find";
        let (tenant, name) = (tenant.to_string(), name.to_string());
        let row = self.db.read(OP, move |c| {
            let sql = "SELECT tenant, name, version, record FROM schedules WHERE tenant = ?1 AND name = ?2";
            c.prepare_cached(sql)
                .and_then(|mut s| s.query_row([tenant, name], Columns::read).optional())
                .map_err(error(OP))
        });
        row.await?.map(|row| row.stored(OP)).transpose()
    }

    async fn write(&self, schedule: &StoredSchedule, due: Option<Timestamp>, was: Option<&str>) -> Result<bool> {
        const OP: &str = "schedule.write";
        let (new, was) = (schedule.clone(), was.map(str::to_owned));
        let write = move |tx: &Transaction<'_>| {
            let sql = match was {
                Some(_) => {
                    "UPDATE schedules SET version = ?3, due = ?4, record = ?5
                     WHERE tenant = ?1 AND name = ?2 AND version = ?6"
                }
                None => {
                    "INSERT INTO schedules (tenant, name, version, due, record) SELECT ?1, ?2, ?3, ?4, ?5 WHERE ?6 IS NULL
                     ON CONFLICT (tenant, name) DO NOTHING"
                }
            };
            let due = due.map(Timestamp::as_nanos);
            let values = params![new.tenant.as_str(), new.name.as_str(), new.version, due, new.record, was];
            tx.prepare_cached(sql).and_then(|mut s| s.execute(values)).map(|rows| rows > 0).map_err(error(OP))
        };
        self.db.write(OP, write).await
    }

    async fn remove(&self, tenant: &TenantId, name: &Slug) -> Result<bool> {
        const OP: &str = "schedule.remove";
        let (tenant, name) = (tenant.to_string(), name.to_string());
        let remove = move |tx: &Transaction<'_>| {
            let sql = "DELETE FROM schedules WHERE tenant = ?1 AND name = ?2";
            tx.execute(sql, [tenant, name]).map(|rows| rows > 0).map_err(error(OP))
        };
        self.db.write(OP, remove).await
    }

    async fn due(&self, limit: usize) -> Result<Due> {
        const OP: &str = "schedule.due";
        let now = self.clock.now();
        let look = move |c: &Connection| {
            let now = now.as_nanos();
            let sql = "SELECT tenant, name, version, record FROM schedules WHERE due <= ?1 ORDER BY due LIMIT ?2";
            let rows = c.prepare_cached(sql).and_then(|mut s| {
                s.query_map(params![now, signed(limit)], Columns::read)?.collect::<Result<Vec<_>, _>>()
            });
            let sql = "SELECT min(due) FROM schedules WHERE due > ?1";
            let next = c.prepare_cached(sql).and_then(|mut s| s.query_row([now], |r| r.get::<_, Option<i64>>(0)));
            Ok((rows.map_err(error(OP))?, next.map_err(error(OP))?))
        };
        let (rows, next) = self.db.read(OP, look).await?;
        Ok(Due { now, schedules: readable(rows.into_iter().map(|row| row.stored(OP))), next: next.map(at) })
    }
}

struct Columns {
    tenant: String,
    name: String,
    version: String,
    record: String,
}

impl Columns {
    fn read(r: &Row<'_>) -> forge_sqlite::rusqlite::Result<Self> {
        Ok(Self { tenant: r.get(0)?, name: r.get(1)?, version: r.get(2)?, record: r.get(3)? })
    }

    fn stored(self, operation: &'static str) -> Result<StoredSchedule> {
        Ok(StoredSchedule {
            tenant: parsed(operation, "tenant", TenantId::parse(&self.tenant))?,
            name: parsed(operation, "name", Slug::parse(&self.name))?,
            version: self.version,
            record: self.record,
        })
    }
}
