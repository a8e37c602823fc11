//! A worker as Celery's programs see it: `celery status`, `inspect`, `control` and Flower find it among their own.
//!
//! Celery's workers speak on two channels of the broker. On one they say what they do (events); on the other they are asked and told
//! (pidbox, kombu's name for it), and push their answers to a list of the asker's. A [`Presence`] does both for a [`RedisBroker`]. What
//! it says of tasks it has from the broker, which tells it of every lease and how it ended; so it knows of the tasks of this process.
//!
//! Redis does not say who speaks on a channel: whoever may publish there is obeyed. So a presence allows nothing that changes something
//! until the host says so, and never lets a task with a seal be touched: that one is its tenant's, who can cancel it. A tenant whose
//! Python programs may revoke what they queued gets a presence of its own ([`PresenceOptions::of_tenant`]) on [`Exchanges`] of its own,
//! and the server's access list keeps others from them (`ACL SETUSER acme … &/0.acme.pidbox &/0.acmeev/*`, each behind the prefix).

mod answers;
mod audience;
mod control;
mod options;
mod remembered;
mod revoke;
mod serving;
mod state;

use std::fmt;
use std::sync::Arc;

use forge_core::Result;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{RedisBroker, Shared};
pub(super) use audience::Presences;
pub use options::{Allow, Exchanges, PresenceOptions, Show};
use serving::Serving;
use state::State;

const OP: &str = "queue.presence";

/// A worker that is there. Dropped, it says that it goes, if the runtime still runs, and is gone.
#[must_use = "dropped, the worker is gone"]
pub struct Presence {
    shared: Arc<Shared>,
    state: Arc<State>,
    end: DropGuard,
    task: Option<JoinHandle<()>>,
}

impl RedisBroker {
    /// Shows this process to Celery's programs as a worker of theirs. Of this broker and its clones, not of one that is made from it by
    /// [`bind`](Self::bind), [`route`](Self::route) or [`with_options`](Self::with_options): so it comes last. It connects by itself,
    /// and again when the connection breaks. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// `Config` if a name does not fit or a presence of this broker has it.
    pub fn present(&self, options: PresenceOptions) -> Result<Presence> {
        options.check()?;
        let shared = self.shared.clone();
        let exchanges = options.exchanges.clone().unwrap_or_else(|| shared.options.exchanges.clone());
        let (state, events) = State::new(options, exchanges, shared.redis.config().db, shared.clock.monotonic());
        let state = Arc::new(state);
        shared.presences.add(state.clone())?;
        let end = CancellationToken::new();
        let serving = Serving::new(self.clone(), state.clone(), events, end.clone());
        let task = Some(tokio::spawn(serving.run()));
        Ok(Presence { shared, state, end: end.drop_guard(), task })
    }
}

impl Presence {
    /// The worker's name.
    pub fn name(&self) -> &str {
        &self.state.options.name
    }

    /// Goes, and returns when monitors were told, or could not be within a second. Dropped in the middle, it goes all the same.
    pub async fn leave(mut self) {
        self.end.token().cancel();
        if let Some(task) = self.task.take() {
            // it has no outcome
            let _ = task.await;
        }
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.shared.presences.remove(&self.state);
    }
}

impl fmt::Debug for Presence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Presence").field("options", &self.state.options).finish_non_exhaustive()
    }
}
