//! Dead letters: the tasks that were given up, and what their tenant may do about them.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use forge_core::error::ErrorReport;
use forge_core::{Clock, Error, ErrorKind, ExecutionContext, Result, Slug, TaskId, Timestamp};

/// A task that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Which.
    pub id: TaskId,
    /// The task's name as the message says it; empty where the message cannot be understood.
    pub name: String,
    /// The queue that it came from.
    pub queue: String,
    /// One word: the kind of the error, or why the queue itself gave it up, such as `expired`, `lost`, `unsealed`, `not_json`.
    pub reason: String,
    /// Tries begun.
    pub attempts: u32,
    /// When it was given up.
    pub died: Timestamp,
    /// The trace that it belonged to, 32 hex digits; none where the message had none.
    pub trace: Option<String>,
    /// What went wrong.
    pub report: ErrorReport,
}

/// Which dead letters. Everything by default.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct LetterFilter {
    /// Tasks of this name.
    pub name: Option<Slug>,
    /// Those with this reason.
    pub reason: Option<String>,
    /// Those that died before this time.
    pub died_before: Option<Timestamp>,
}

impl LetterFilter {
    /// Only tasks of this name.
    #[must_use]
    pub fn with_name(mut self, name: Slug) -> Self {
        self.name = Some(name);
        self
    }

    /// Only those with this reason.
    #[must_use]
    pub fn with_reason(mut self, reason: impl Into<String>) -> Self {
        self.reason = Some(reason.into());
        self
    }

    /// Only those that died before this time.
    #[must_use]
    pub fn with_died_before(mut self, time: Timestamp) -> Self {
        self.died_before = Some(time);
        self
    }

    /// Whether it is one of them.
    pub fn fits(&self, letter: &DeadLetter) -> bool {
        self.name.as_ref().is_none_or(|n| n.as_str() == letter.name)
            && self.reason.as_ref().is_none_or(|r| *r == letter.reason)
            && self.died_before.is_none_or(|t| letter.died < t)
    }
}

/// A queue's dead letters. Those of the context's tenant; another's are not there.
#[async_trait]
pub trait DeadLetters: fmt::Debug + Send + Sync + 'static {
    /// Those that the filter lets through, the last to die first, at most `limit`.
    ///
    /// # Errors
    /// `Unavailable`, `Corrupt`.
    async fn dead_letters(
        &self,
        ctx: &ExecutionContext,
        filter: &LetterFilter,
        limit: usize,
    ) -> Result<Vec<DeadLetter>>;

    /// Queues one again, with all its tries, and for as long as it was queued at first. It runs as the caller: the seal of the one who
    /// queued it has run out, or may any time.
    ///
    /// # Errors
    /// `NotFound`; `Conflict` if the task is not dead, or another one with its unique key is not finished; `InvalidInput` if its message
    /// cannot be understood.
    async fn replay(&self, ctx: &ExecutionContext, id: TaskId) -> Result<()>;

    /// Deletes one; whether it was there.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn purge(&self, ctx: &ExecutionContext, id: TaskId) -> Result<bool>;
}

/// What [`replay_all`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Replayed {
    /// Queued again.
    pub replayed: usize,
    /// Left: somebody else was faster, or the message cannot be understood.
    pub left: usize,
}

/// Replays what the filter lets through, the oldest first, at most `limit` and not faster than `per_second`: what made the tasks fail may
/// not stand all of them at once. Dropped in the middle, it has replayed some.
///
/// # Errors
/// `InvalidInput` for no rate; `Unavailable`, after which it can be called again.
pub async fn replay_all(
    letters: &dyn DeadLetters,
    ctx: &ExecutionContext,
    filter: &LetterFilter,
    limit: usize,
    per_second: f64,
    clock: &dyn Clock,
) -> Result<Replayed> {
    if !(per_second > 0.0 && per_second.is_finite()) {
        return Err(Error::invalid("queue.replay_all", "give a rate above 0 a second"));
    }
    let pause = Duration::from_secs_f64((1.0 / per_second).min(3600.0));
    let mut done = Replayed::default();
    let mut found = letters.dead_letters(ctx, filter, usize::MAX).await?;
    found.reverse();
    for letter in found.into_iter().take(limit) {
        if done.replayed > 0 {
            clock.sleep(pause).await;
        }
        match letters.replay(ctx, letter.id).await {
            Ok(()) => done.replayed += 1,
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::Conflict | ErrorKind::InvalidInput) => {
                done.left += 1;
            }
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}
