//! One call, as its caller, its wrapper and its attempts each see it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::Value;

use super::attempt::Tries;
use super::books::{Books, StepBooks};
use super::{CacheFor, Guarding};
use crate::journal::Intent;
use crate::policy::Obligations;
use crate::tool::Effect;
use crate::usage::{Quantity, Resource};
use crate::{OperationKey, Result, RunId, TenantId};

/// Where the intent of an effect that cannot be repeated is written before it is made.
#[async_trait]
pub trait IntentLog: Send + Sync {
    /// Writes it; durable when it returns.
    ///
    /// # Errors
    /// `LeaseLost`, `Unavailable`: the effect is then not made.
    async fn intend(&self, intent: Intent) -> Result<()>;
}

/// How a caller wants a call to be made.
#[derive(Clone, Default)]
#[non_exhaustive]
pub struct CallOptions {
    /// The operation's key; by default the next of the request.
    pub key: Option<OperationKey>,
    /// Which try of the operation this is, where a journal counts them; 0 means 1.
    pub attempt: u32,
    /// Tries within this call.
    pub tries: Tries,
    /// Where usage and outcome are written.
    pub books: Books,
    /// Where the intent is written.
    pub intent: Option<Arc<dyn IntentLog>>,
    /// The run that it belongs to.
    pub run: Option<RunId>,
}

impl CallOptions {
    /// Repeating the call with the same key is the same operation.
    #[must_use]
    pub fn with_key(mut self, key: OperationKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Tries within this call.
    #[must_use]
    pub fn with_tries(mut self, tries: Tries) -> Self {
        self.tries = tries;
        self
    }

    /// For a step of a run: one try, counted by the journal, its books in the step's outbox.
    #[must_use]
    pub fn in_step(mut self, run: RunId, attempt: u32, books: StepBooks, intent: Option<Arc<dyn IntentLog>>) -> Self {
        self.run = Some(run);
        self.attempt = attempt;
        self.tries = Tries::ONCE;
        self.books = Books::Step(books);
        self.intent = intent;
        self
    }
}

/// One operation, as a wrapper describes it to the engine.
pub(super) struct Operation<'a> {
    pub(super) guarding: Guarding,
    pub(super) span: &'a str,
    pub(super) action: &'static str,
    pub(super) resource: &'a str,
    pub(super) effect: Effect,
    pub(super) idempotent: bool,
    pub(super) payload: Value,
    pub(super) schema: Option<&'a Value>,
    pub(super) max_input: usize,
    pub(super) resource_fields: &'a [&'static str],
    pub(super) timeout: Duration,
    pub(super) billed: Option<Resource>,
    pub(super) reserve: Quantity,
    /// Whose thing it is, where the caller named one.
    pub(super) owner: Option<&'a TenantId>,
    /// What is chosen among.
    pub(super) candidates: BTreeSet<String>,
    /// How long an answer may be given again, and to whom.
    pub(super) cache: Option<(Duration, CacheFor)>,
}

/// What an attempt is given.
#[derive(Clone)]
pub(super) struct Prepared {
    pub(super) payload: Arc<Value>,
    pub(super) key: OperationKey,
    pub(super) obligations: Arc<Obligations>,
}

/// What an attempt answers.
pub(super) struct Answered {
    pub(super) content: Value,
    pub(super) quantity: Quantity,
    pub(super) billed: Option<Resource>,
    /// Tags of the documents whose content is in it.
    pub(super) documents: BTreeSet<String>,
}

impl Answered {
    pub(super) fn new(content: Value, quantity: Quantity) -> Self {
        Self { content, quantity, billed: None, documents: BTreeSet::new() }
    }
}
