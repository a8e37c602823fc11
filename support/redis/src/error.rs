//! The driver's errors in the family's words.

use forge_core::{Error, ErrorKind};
use redis::{ErrorKind as Driver, RedisError, ServerError, ServerErrorKind as Server};

/// Says what an error means. The server's own text is left out: it repeats keys and arguments.
///
/// Of several errors of a pipeline, the one that says that the server is the wrong one is told.
pub fn error(operation: &'static str, e: &RedisError) -> Error {
    if let Some(told) = told(e) {
        let (kind, what) = of_server(&told);
        return Error::new(kind, operation, what).with_adapter("redis").with("code", code(&told));
    }
    let (kind, what) = match e.kind() {
        Driver::Io if e.is_timeout() => (ErrorKind::Timeout, "redis did not answer in time"),
        Driver::Io => (ErrorKind::Unavailable, "the connection to redis broke"),
        Driver::AuthenticationFailed => (ErrorKind::Unauthenticated, REFUSED),
        // the driver gives an error of SELECT a shape of its own
        Driver::Server(Server::ResponseError) => {
            (ErrorKind::Config, "redis refuses the database: there are fewer, or the user may not choose it")
        }
        _ => (ErrorKind::Unexpected, "redis gave an answer that was not expected"),
    };
    Error::new(kind, operation, what).with_adapter("redis")
}

/// Whether the connection that said so leads nowhere: it broke, or its server is not the one that takes writes.
/// One whose slot is on its way stays: it is the master until the last key has moved, and then says so.
pub(crate) fn is_of_the_connection(e: &RedisError) -> bool {
    match told(e) {
        Some(told) => is_of_the_server(&told),
        None => matches!(e.kind(), Driver::Io | Driver::Parse | Driver::AuthenticationFailed),
    }
}

/// Whether the server itself said that it is not the one, or not now.
pub(crate) fn turned_away(e: &RedisError) -> bool {
    told(e).is_some_and(|told| is_of_the_server(&told))
}

/// Whether the server was restarted, or is another, and does not know a script yet.
pub(crate) fn is_unknown_script(e: &RedisError) -> bool {
    told(e).is_some_and(|told| code(&told) == "NOSCRIPT")
}

const REFUSED: &str = "redis does not accept the user or the password";

fn of_server(told: &ServerError) -> (ErrorKind, &'static str) {
    match code(told) {
        "READONLY" | "MASTERDOWN" => (ErrorKind::Unavailable, "redis is a replica or has lost its master"),
        "UNBLOCKED" => (ErrorKind::Unavailable, "redis became a replica while it was waited for"),
        "LOADING" => (ErrorKind::Unavailable, "redis is loading its data"),
        "MOVED" | "ASK" | "TRYAGAIN" | "CLUSTERDOWN" => {
            (ErrorKind::Unavailable, "the slot is moving or its master is down")
        }
        "NOAUTH" | "WRONGPASS" => (ErrorKind::Unauthenticated, REFUSED),
        "NOPERM" => (ErrorKind::Unauthenticated, "the user may not run this command"),
        "DENIED" => (ErrorKind::Unauthenticated, "redis is in protected mode: give it a password"),
        "OOM" => (ErrorKind::Unavailable, "redis is out of memory: raise maxmemory"),
        "MISCONF" => (ErrorKind::Unavailable, "redis cannot write its data to its disk"),
        "NOREPLICAS" => (ErrorKind::Unavailable, "redis has too few replicas to accept a write"),
        "BUSY" => (ErrorKind::Unavailable, "redis is busy with a script"),
        "WRONGTYPE" => (ErrorKind::Corrupt, "a key holds another type than expected; does something else use it"),
        "ERR" if told.details().is_some_and(|d| d.starts_with("max number of clients reached")) => {
            (ErrorKind::Unavailable, "redis has no place for another connection: raise maxclients")
        }
        _ => (ErrorKind::Unexpected, "redis refused the command"),
    }
}

fn is_of_the_server(told: &ServerError) -> bool {
    matches!(
        code(told),
        "READONLY" | "MASTERDOWN" | "UNBLOCKED" | "LOADING" | "MOVED" | "CLUSTERDOWN" | "NOAUTH" | "WRONGPASS"
    )
}

/// What the server said: of a pipeline the first that matters most, of a transaction what aborted it.
fn told(e: &RedisError) -> Option<ServerError> {
    let errors = e.clone().into_server_errors()?;
    let told = errors.iter().find(|(_, e)| is_of_the_server(e)).or(errors.first());
    told.map(|(_, e)| e.clone())
}

/// The first word. Redis before 7.0 wraps what a command in a script was told: `… @user_script: 1: -OOM command not …`.
fn code(told: &ServerError) -> &str {
    let wrapped = told.details().filter(|d| told.code() == "ERR" && d.starts_with("Error running script"));
    let inner = wrapped.and_then(|d| d.split_once(": -")?.1.split(' ').next());
    inner.filter(|word| word.bytes().all(|b| b.is_ascii_uppercase())).unwrap_or(told.code())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_script_was_told_counts_in_older_versions_too() {
        let text = "Error running script (call to f_1): @user_script:1: @user_script: 1: -READONLY You can't write \
                    against a read only replica.";
        let e = redis::make_extension_error("ERR".into(), Some(text.into()));
        assert_eq!(error("test.script", &e).kind(), ErrorKind::Unavailable);
        assert!(is_of_the_connection(&e));
        let other = redis::make_extension_error("ERR".into(), Some("Error running script: attempt to index".into()));
        assert_eq!(error("test.script", &other).kind(), ErrorKind::Unexpected);
    }
}
