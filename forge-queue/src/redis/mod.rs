//! Queue and key-values on Redis, in the layout that Celery reads and writes.

mod kv;

pub use kv::RedisKeyValue;
