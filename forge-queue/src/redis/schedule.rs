//! Schedules in Redis: a hash for each tenant, and one sorted set of when each is due.

use async_trait::async_trait;
use forge_core::{Result, Slug, TenantId, Timestamp};
use forge_redis::redis::{cmd, pipe};

use super::{RedisBroker, at, corrupt};
use crate::schedule::{Due, ScheduleStore, StoredSchedule, readable};

const HASH: &str = "schedules";

#[async_trait]
impl ScheduleStore for RedisBroker {
    async fn schedules(&self, tenant: &TenantId) -> Result<Vec<StoredSchedule>> {
        const OP: &str = "schedule.list";
        let mut all = cmd("HGETALL");
        all.arg(self.shared.key(tenant, HASH));
        let mut values: Vec<(String, String)> = self.shared.redis.query(OP, &all).await?;
        values.sort();
        values.into_iter().map(|(name, value)| stored(OP, tenant.clone(), &name, &value)).collect()
    }

    async fn schedule(&self, tenant: &TenantId, name: &Slug) -> Result<Option<StoredSchedule>> {
        const OP: &str = "schedule.find";
        let mut get = cmd("HGET");
        get.arg(self.shared.key(tenant, HASH)).arg(name.as_str());
        let value: Option<String> = self.shared.redis.query(OP, &get).await?;
        value.map(|value| stored(OP, tenant.clone(), name.as_str(), &value)).transpose()
    }

    async fn write(&self, schedule: &StoredSchedule, due: Option<Timestamp>, was: Option<&str>) -> Result<bool> {
        let mut call = self.shared.call(&self.shared.scripts.schedule_write);
        call.arg(schedule.tenant.as_str()).arg(schedule.name.as_str()).arg(was.unwrap_or_default());
        call.arg(&schedule.version).arg(&schedule.record).arg(due.map(up).map(|n| n.to_string()).unwrap_or_default());
        self.shared.run("schedule.write", &call).await
    }

    async fn remove(&self, tenant: &TenantId, name: &Slug) -> Result<bool> {
        let mut remove = pipe();
        remove.atomic().cmd("HDEL").arg(self.shared.key(tenant, HASH)).arg(name.as_str());
        remove.cmd("ZREM").arg(self.shared.redis.key("forge:schedules")).arg(format!("{tenant}:{name}"));
        let (was, _): (bool, i64) = self.shared.redis.pipeline("schedule.remove", &remove).await?;
        Ok(was)
    }

    async fn due(&self, limit: usize) -> Result<Due> {
        const OP: &str = "schedule.due";
        let mut call = self.shared.call(&self.shared.scripts.schedule_due);
        call.arg(limit);
        let answer: Vec<String> = self.shared.redis.script(OP, &call).await?;
        let [now, next, rows @ ..] = answer.as_slice() else { return Err(corrupt(OP, "answer")) };
        let time = |text: &String| text.parse().map(at).map_err(|_| corrupt(OP, "time"));
        let row = |row: &[String]| match row {
            [tenant, name, value] => {
                let tenant = TenantId::parse(tenant).map_err(|_| corrupt(OP, "tenant"))?;
                stored(OP, tenant, name, value)
            }
            _ => Err(corrupt(OP, "answer")),
        };
        Ok(Due {
            now: time(now)?,
            schedules: readable(rows.chunks(3).map(row)),
            next: if next.is_empty() { None } else { Some(time(next)?) },
        })
    }
}

/// A script's milliseconds: rounded up, so that what is due has come.
fn up(time: Timestamp) -> i64 {
    time.after(std::time::Duration::from_nanos(999_999)).as_millis()
}

fn stored(operation: &'static str, tenant: TenantId, name: &str, value: &str) -> Result<StoredSchedule> {
    let name = Slug::parse(name).map_err(|_| corrupt(operation, "name"))?;
    let (version, record) = value.split_once('\n').ok_or_else(|| corrupt(operation, "schedule"))?;
    Ok(StoredSchedule { tenant, name, version: version.to_owned(), record: record.to_owned() })
}
