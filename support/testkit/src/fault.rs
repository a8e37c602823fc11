//! What goes wrong, and when.

use std::ops::RangeInclusive;
use std::time::Duration;

/// One fault of one request, or of several in a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fault {
    route: &'static str,
    first: u64,
    last: u64,
    play: Play,
}

impl Fault {
    /// A fault of the request number `nth` to a route.
    ///
    /// Routes are named as in the record: `token`, `files.get`, `files.download`, `files.export`, `chat.postMessage`,
    /// `conversations.history`, `auth.test`, `chat.completions`. Requests count from 1, by route; those of an earlier process count.
    pub const fn new(route: &'static str, nth: u64, play: Play) -> Self {
        Self { route, first: nth, last: nth, play }
    }

    /// A fault of each of these requests to a route.
    pub const fn range(route: &'static str, requests: RangeInclusive<u64>, play: Play) -> Self {
        Self { route, first: *requests.start(), last: *requests.end(), play }
    }

    pub(crate) fn of(&self, route: &str, nth: u64) -> Option<Play> {
        (self.route == route && (self.first..=self.last).contains(&nth)).then_some(self.play)
    }
}

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Play {
    /// It is refused with this status and this `Retry-After`, before anything is done.
    Status(u16, Option<Duration>),
    /// It is refused with this error of the protocol, before anything is done: at Slack `ok: false` under status 200, at Drive a
    /// reason under 403, at the token endpoint an OAuth error under 400, at OpenAI a code.
    Refuse(&'static str),
    /// As [`Refuse`](Self::Refuse), with a `Retry-After`.
    Throttle(&'static str, Duration),
    /// It is done; then the connection is closed without an answer.
    LoseAnswer,
    /// It is done; the connection breaks in the middle of the answer's body.
    Truncate,
    /// It is done; the answer's body is a half that looks whole.
    Shorten,
    /// It is done; the answer waits.
    Delay(Duration),
}
