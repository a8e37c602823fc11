//! The driver's errors in the family's words.

use forge_core::{Error, ErrorKind};
use redis::{ErrorKind as Driver, RedisError, ServerErrorKind as Server};

/// Says what an error means. The server's own text is left out: it repeats keys and arguments.
pub fn error(operation: &'static str, e: &RedisError) -> Error {
    let (kind, what) = match e.kind() {
        Driver::Io if e.is_timeout() => (ErrorKind::Timeout, "redis did not answer in time"),
        Driver::Io => (ErrorKind::Unavailable, "the connection to redis broke"),
        Driver::AuthenticationFailed => (ErrorKind::Unauthenticated, "redis does not accept the user or the password"),
        Driver::Server(Server::NoPerm) => (ErrorKind::Unauthenticated, "the user may not run this command"),
        Driver::Server(Server::ReadOnly | Server::MasterDown) => {
            (ErrorKind::Unavailable, "redis is a replica or has lost its master")
        }
        Driver::Server(Server::BusyLoading) => (ErrorKind::Unavailable, "redis is loading its data"),
        Driver::Server(Server::Moved | Server::Ask | Server::TryAgain | Server::ClusterDown) => {
            (ErrorKind::Unavailable, "the slot is moving or its master is down")
        }
        Driver::MasterNameNotFoundBySentinel | Driver::ClusterConnectionNotFound => {
            (ErrorKind::Unavailable, "no master is known")
        }
        Driver::Server(_) | Driver::Extension => match e.code() {
            Some("NOAUTH" | "WRONGPASS") => {
                (ErrorKind::Unauthenticated, "redis does not accept the user or the password")
            }
            Some("OOM") => (ErrorKind::Unavailable, "redis is out of memory: raise maxmemory"),
            Some("MISCONF") => (ErrorKind::Unavailable, "redis cannot write its data to its disk"),
            Some("NOREPLICAS") => (ErrorKind::Unavailable, "redis has too few replicas to accept a write"),
            Some("BUSY") => (ErrorKind::Unavailable, "redis is busy with a script"),
            Some("WRONGTYPE") => {
                (ErrorKind::Corrupt, "a key holds another type than expected; does something else use it")
            }
            _ => (ErrorKind::Unexpected, "redis refused the command"),
        },
        _ => (ErrorKind::Unexpected, "redis gave an answer that was not expected"),
    };
    let e2 = Error::new(kind, operation, what).with_adapter("redis");
    match e.code() {
        Some(code) => e2.with("code", code),
        None => e2,
    }
}

/// Whether the connection that said so leads nowhere: it broke, or its server is not the master any more.
pub(crate) fn is_of_the_connection(e: &RedisError) -> bool {
    match e.kind() {
        Driver::Io | Driver::Parse | Driver::AuthenticationFailed | Driver::ClusterConnectionNotFound => true,
        Driver::Server(
            Server::ReadOnly
            | Server::MasterDown
            | Server::BusyLoading
            | Server::Moved
            | Server::Ask
            | Server::TryAgain
            | Server::ClusterDown,
        ) => true,
        _ => matches!(e.code(), Some("NOAUTH" | "WRONGPASS" | "UNBLOCKED")),
    }
}
