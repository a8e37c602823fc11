//! What goes wrong, and when.

use std::time::Duration;

/// One fault of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    /// As the server names it: `token`, `files.get`, `files.download`, `chat.postMessage`, `conversations.history`.
    pub route: &'static str,
    /// Which request to it, from 1; those of an earlier process count.
    pub nth: u64,
    /// What happens.
    pub play: Play,
}

impl Fault {
    /// A fault of the request number `nth` to a route.
    pub const fn new(route: &'static str, nth: u64, play: Play) -> Self {
        Self { route, nth, play }
    }
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Play {
    /// It is refused with this status, before anything is done.
    Status(u16, Option<Duration>),
    /// It is done; then the connection is closed without an answer.
    LoseAnswer,
    /// It is done; the answer's body is cut in the middle.
    Truncate,
    /// The answer waits.
    Delay(Duration),
}
