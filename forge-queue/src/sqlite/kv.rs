//! Key-values: values rest encrypted, versions never come back, what is past its time is not there.

use async_trait::async_trait;
use bytes::Bytes;
use forge_core::kv::{Entry, KeyValue, KeyValueCapability, PutMode, PutOptions, same_tenant};
use forge_core::{Error, ErrorKind, ExecutionContext, Namespace, Result, Timestamp};
use forge_sqlite::error;
use forge_sqlite::rusqlite::{OptionalExtension, Transaction, params};

use super::SqliteStore;
use super::row::{signed, unsigned};

const VALUE_MAX: usize = 1024 * 1024;
/// Rows past their time that one write takes away.
const SWEEP: i64 = 64;

/// Where a value is; its columns are the key.
#[derive(Clone)]
struct Place {
    tenant: String,
    owner: String,
    memory_type: String,
    key: String,
}

impl Place {
    fn of(operation: &'static str, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<Self> {
        same_tenant(operation, ctx, namespace)?;
        if !(1..=512).contains(&key.len()) {
            return Err(Error::invalid(operation, "a key has 1 to 512 bytes").with("bytes", key.len().to_string()));
        }
        Ok(Self {
            tenant: namespace.tenant().to_string(),
            owner: namespace.owner().to_string(),
            memory_type: namespace.memory_type().to_string(),
            key: key.to_owned(),
        })
    }

    fn for_cipher(&self) -> [&[u8]; 5] {
        [b"kv.value", self.tenant.as_bytes(), self.owner.as_bytes(), self.memory_type.as_bytes(), self.key.as_bytes()]
    }
}

#[async_trait]
impl KeyValue for SqliteStore {
    async fn get(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<Option<Entry>> {
        const OP: &str = "kv.get";
        let place = Place::of(OP, ctx, namespace, key)?;
        let (at, now) = (place.clone(), self.clock.now().as_nanos());
        let sql = "SELECT value, version FROM key_values WHERE tenant = ?1 AND owner = ?2 AND memory_type = ?3
                   AND key = ?4 AND (until IS NULL OR until > ?5)";
        let row = self.db.read(OP, move |c| {
            c.prepare_cached(sql)
                .and_then(|mut s| {
                    let values = params![at.tenant, at.owner, at.memory_type, at.key, now];
                    s.query_row(values, |r| Ok((r.get::<_, Vec<u8>>(0)?, r.get::<_, i64>(1)?))).optional()
                })
                .map_err(error(OP))
        });
        let Some((blob, version)) = row.await? else { return Ok(None) };
        let value = self.decrypt(ctx.tenant(), &place.for_cipher(), &blob).await?;
        Ok(Some(Entry { value: value.into(), version: unsigned(version) }))
    }

    async fn put(
        &self,
        ctx: &ExecutionContext,
        namespace: &Namespace,
        key: &str,
        value: Bytes,
        options: PutOptions,
    ) -> Result<u64> {
        const OP: &str = "kv.put";
        let place = Place::of(OP, ctx, namespace, key)?;
        if value.len() > VALUE_MAX {
            return Err(Error::invalid(OP, "the value is too large; keep it as a blob and put its reference")
                .with("bytes", value.len().to_string())
                .with("max", VALUE_MAX.to_string()));
        }
        let blob = self.encrypt(ctx.tenant(), &place.for_cipher(), &value).await?;
        let now = self.clock.now();
        self.db.write(OP, move |tx| put(tx, &place, &blob, options, now)).await
    }

    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<bool> {
        const OP: &str = "kv.delete";
        let place = Place::of(OP, ctx, namespace, key)?;
        let now = self.clock.now().as_nanos();
        let sql = "DELETE FROM key_values WHERE tenant = ?1 AND owner = ?2 AND memory_type = ?3 AND key = ?4
                   RETURNING until IS NULL OR until > ?5";
        let delete = move |tx: &Transaction<'_>| {
            let values = params![place.tenant, place.owner, place.memory_type, place.key, now];
            tx.query_row(sql, values, |r| r.get(0)).optional().map(|was| was.unwrap_or(false)).map_err(error(OP))
        };
        self.db.write(OP, delete).await
    }

    fn capability(&self) -> KeyValueCapability {
        KeyValueCapability::new(true, VALUE_MAX)
    }
}

fn put(tx: &Transaction<'_>, place: &Place, blob: &[u8], options: PutOptions, now: Timestamp) -> Result<u64> {
    const OP: &str = "kv.put";
    let sql = "SELECT version FROM key_values WHERE tenant = ?1 AND owner = ?2 AND memory_type = ?3 AND key = ?4
               AND (until IS NULL OR until > ?5)";
    let values = params![place.tenant, place.owner, place.memory_type, place.key, now.as_nanos()];
    let old: Option<i64> =
        tx.prepare_cached(sql).and_then(|mut s| s.query_row(values, |r| r.get(0)).optional()).map_err(error(OP))?;
    let fits = match options.mode {
        PutMode::Overwrite => true,
        PutMode::Create => old.is_none(),
        PutMode::Match(version) => old == Some(signed(version)),
    };
    if !fits {
        return Err(Error::new(ErrorKind::Conflict, OP, "the stored version is another"));
    }
    // one count a tenant: a key that was deleted and made again does not get an old version back
    let sql = "INSERT INTO tenants (tenant, kv_version) VALUES (?1, 1)
               ON CONFLICT (tenant) DO UPDATE SET kv_version = kv_version + 1 RETURNING kv_version";
    let version: i64 =
        tx.prepare_cached(sql).and_then(|mut s| s.query_row([&place.tenant], |r| r.get(0))).map_err(error(OP))?;
    let sql = "INSERT INTO key_values (tenant, owner, memory_type, key, value, version, until)
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (tenant, owner, memory_type, key)
               DO UPDATE SET value = excluded.value, version = excluded.version, until = excluded.until";
    let until = options.ttl.map(|ttl| now.after(ttl).as_nanos());
    let values = params![place.tenant, place.owner, place.memory_type, place.key, blob, version, until];
    tx.prepare_cached(sql).and_then(|mut s| s.execute(values)).map_err(error(OP))?;
    // the sign keeps the outer statement off the tenant's index: it goes by the few rows found
    let sql = "DELETE FROM key_values WHERE +tenant = ?1 AND rowid IN (SELECT rowid FROM key_values
               WHERE tenant = ?1 AND until IS NOT NULL AND until <= ?2 LIMIT ?3)";
    let values = params![place.tenant, now.as_nanos(), SWEEP];
    tx.prepare_cached(sql).and_then(|mut s| s.execute(values)).map_err(error(OP))?;
    Ok(unsigned(version))
}
