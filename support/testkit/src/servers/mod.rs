//! Real servers, each a process of its own in a directory of its own; `scripts/servers.sh` installs them.

mod celery;
mod process;
mod redis;

pub use celery::Celery;
pub use process::Process;
pub use redis::{RedisBuilder, RedisServer};
