//! Real servers, each a process of its own in a directory of its own; `scripts/servers.sh` installs them.

mod authority;
mod celery;
mod cluster;
mod flower;
mod process;
mod redis;
mod sentinel;

pub use authority::Authority;
pub use celery::Celery;
pub use cluster::{Cluster, SlotMove};
pub use flower::Flower;
pub use process::Process;
pub use redis::{RedisBuilder, RedisServer};
pub use sentinel::{Sentinels, SentinelsBuilder};
