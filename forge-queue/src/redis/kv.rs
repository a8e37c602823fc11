//! Key-values on Redis: values rest encrypted, versions never come back, the server forgets what is past its time.
//!
//! | key, behind the prefix | what it holds |
//! |---|---|
//! | `forge:<tenant>:kv:<owner>:<memory type>:<key>` | `<version>:` and the encrypted value |
//! | `forge:<tenant>:kv-version` | the last version that the tenant was given |
//!
//! No id can hold a `:`, so what follows the fifth is the key, whatever text it is: two places never spell the same, and none leaves
//! its tenant. Keys rest in clear, as they do on SQLite: put no personal data there.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use forge_core::keyring::Keyring;
use forge_core::kv::{Entry, KeyValue, KeyValueCapability, PutMode, PutOptions, same_tenant};
use forge_core::{Depth, Digest, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Namespace, Result};
use forge_redis::Redis;
use forge_redis::redis::{Script, cmd};

const VALUE_MAX: usize = 1024 * 1024;

/// Writes where the mode allows it; returns the new version, or nil.
///
/// A version is the server's time in microseconds, or one more than the last, whichever is later: a count alone would give versions
/// again after a crash or a failover that lost the last writes.
static PUT: LazyLock<Script> = LazyLock::new(|| {
    Script::new(
        r"
        local place, versions = KEYS[1], KEYS[2]
        local mode, value, ttl = ARGV[1], ARGV[2], ARGV[3]
        if mode ~= 'any' then
            local head = redis.call('GETRANGE', place, 0, 20)
            local there = head == '' and 'none' or string.match(head, '^%d+')
            if there ~= mode then return false end
        end
        local time = redis.call('TIME')
        local now = time[1] * 1000000 + time[2]
        local version = string.format('%.0f', math.max(now, (redis.call('GET', versions) or 0) + 1))
        redis.call('SET', versions, version)
        if ttl == '0' then
            redis.call('DEL', place)
        elseif ttl == 'none' then
            redis.call('SET', place, version .. ':' .. value)
        else
            redis.call('SET', place, version .. ':' .. value, 'PX', ttl)
        end
        return version
        ",
    )
});

/// Key-values on one Redis. Cheap to clone; nothing connects before the first call.
///
/// What survives a crash of the server is what its persistence and its replicas have: a write that a failover loses is gone, and its
/// version is not given again as long as the servers' clocks agree within the time that the failover takes. A time to live is counted in
/// whole milliseconds, rounded up, by the server's clock. A dropped call may have been done.
#[derive(Clone)]
pub struct RedisKeyValue {
    redis: Redis,
    keyring: Arc<dyn Keyring>,
}

impl RedisKeyValue {
    /// On these connections; values are encrypted by `keyring`.
    pub fn new(redis: Redis, keyring: Arc<dyn Keyring>) -> Self {
        Self { redis, keyring }
    }

    fn place(
        &self,
        operation: &'static str,
        ctx: &ExecutionContext,
        namespace: &Namespace,
        key: &str,
    ) -> Result<Place> {
        same_tenant(operation, ctx, namespace)?;
        if !(1..=512).contains(&key.len()) {
            return Err(Error::invalid(operation, "a key has 1 to 512 bytes").with("bytes", key.len().to_string()));
        }
        let (tenant, owner, memory_type) = (namespace.tenant(), namespace.owner().to_string(), namespace.memory_type());
        let parts = ["kv.value", tenant.as_str(), owner.as_str(), memory_type.as_str(), key];
        Ok(Place {
            key: self.redis.key(format_args!("forge:{tenant}:kv:{owner}:{memory_type}:{key}")),
            for_cipher: Digest::of_parts(&parts.map(str::as_bytes)),
        })
    }
}

/// Where a value is.
struct Place {
    key: String,
    for_cipher: Digest,
}

#[async_trait]
impl KeyValue for RedisKeyValue {
    async fn get(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<Option<Entry>> {
        const OP: &str = "kv.get";
        let place = self.place(OP, ctx, namespace, key)?;
        let stored: Option<Vec<u8>> = self.redis.query(OP, cmd("GET").arg(&place.key)).await?;
        let Some(stored) = stored else { return Ok(None) };
        let (version, blob) = parse(&stored).ok_or_else(|| {
            Error::new(ErrorKind::Corrupt, OP, "the stored value has no version; does something else write here")
                .with_adapter("redis")
        })?;
        self.keyring.load(ctx.tenant()).await?;
        let value = self.keyring.decrypt(ctx.tenant(), place.for_cipher.as_bytes(), blob)?;
        Ok(Some(Entry { value: value.into(), version }))
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
        let place = self.place(OP, ctx, namespace, key)?;
        if value.len() > VALUE_MAX {
            return Err(Error::invalid(OP, "the value is too large; keep it as a blob and put its reference")
                .with("bytes", value.len().to_string())
                .with("max", VALUE_MAX.to_string()));
        }
        self.keyring.load(ctx.tenant()).await?;
        let blob = self.keyring.encrypt(ctx.tenant(), place.for_cipher.as_bytes(), &value)?;
        let mode = match options.mode {
            PutMode::Overwrite => "any".to_owned(),
            PutMode::Create => "none".to_owned(),
            PutMode::Match(version) => version.to_string(),
        };
        let ttl = options.ttl.map_or_else(|| "none".to_owned(), |ttl| millis(ttl).to_string());
        let mut put = PUT.key(place.key);
        put.key(self.redis.key(format_args!("forge:{}:kv-version", ctx.tenant()))).arg(mode).arg(blob).arg(ttl);
        let version: Option<u64> = self.redis.script(OP, &put).await?;
        version.ok_or_else(|| Error::new(ErrorKind::Conflict, OP, "the stored version is another"))
    }

    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<bool> {
        const OP: &str = "kv.delete";
        let place = self.place(OP, ctx, namespace, key)?;
        self.redis.query(OP, cmd("DEL").arg(place.key)).await
    }

    fn capability(&self) -> KeyValueCapability {
        KeyValueCapability::new(true, VALUE_MAX)
    }
}

#[async_trait]
impl HealthCheck for RedisKeyValue {
    async fn check(&self, depth: Depth) -> Health {
        const OP: &str = "kv.check";
        if depth == Depth::Shallow {
            return Health::up();
        }
        // a replica, and a server without memory or disk, still answer a ping: this is a write, of a key that nobody has
        let mut write = cmd("SET");
        write.arg(self.redis.key("forge:kv-check")).arg("").arg("PX").arg(1);
        match self.redis.query::<()>(OP, &write).await {
            Ok(()) => Health::up(),
            Err(e) => Health::down(e.to_string()),
        }
    }
}

impl fmt::Debug for RedisKeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisKeyValue").field("redis", &self.redis).finish_non_exhaustive()
    }
}

/// The version and the encrypted value.
fn parse(stored: &[u8]) -> Option<(u64, &[u8])> {
    let colon = stored.iter().position(|b| *b == b':')?;
    let (version, blob) = stored.split_at_checked(colon)?;
    Some((std::str::from_utf8(version).ok()?.parse().ok()?, blob.get(1..)?))
}

/// Whole milliseconds, rounded up; what the server cannot count to is as long as it can.
fn millis(ttl: Duration) -> i64 {
    i64::try_from(ttl.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX).min(i64::MAX / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_is_a_version_and_the_rest() {
        assert_eq!(parse(b"17:a:b"), Some((17, &b"a:b"[..])));
        assert_eq!(parse(b"17:"), Some((17, &b""[..])));
        for other in [&b""[..], b"17", b":a", b"x:a", b"-1:a", b"99999999999999999999:a", b"\xff:a"] {
            assert_eq!(parse(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_time_is_never_shorter_than_was_asked_for() {
        let of = |nanos| millis(Duration::from_nanos(nanos));
        assert_eq!([of(0), of(1), of(1_000_000), of(1_000_001)], [0, 1, 1, 2]);
        assert_eq!(millis(Duration::MAX), i64::MAX / 2);
    }
}
