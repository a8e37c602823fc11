//! Which phases each adapter passes. The engine reads this table; there is no other place that decides it.

/// An adapter operation that the guard wraps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guarding {
    /// `Tool::call`.
    Tool,
    /// `LanguageModel::complete`.
    LanguageModel,
    /// `TaskQueue::enqueue`.
    Enqueue,
    /// [`Guard::authorize`](super::Guard::authorize): reading a run, a task, usage or audit rows; starting a workflow.
    Access,
    /// `Embedder`, `VectorStore`, `KeyValue`, and what `TaskQueue` reads: work inside a call that was already decided. A search
    /// decides about `document.read` by the tags of its hits.
    Store,
}

/// The phases that differ between adapters; span, context, breaker and outcome metrics are passed by all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Phases {
    /// Schema and size, classification, policy, approval, redaction of the input, the decision's audit row.
    pub decided: bool,
    /// Quota before, usage after.
    pub billed: bool,
    /// Personal data in the payload rests as reversible tokens.
    pub tokenised: bool,
    /// Document access, masking and cleaning of the answer, the outcome's audit row.
    pub answered: bool,
    /// More than one attempt.
    pub retried: bool,
}

/// The table.
///
/// | operation | decided | billed | tokenised | answered | retried |
/// |---|---|---|---|---|---|
/// | `Tool::call` | yes | yes | | yes | yes |
/// | `LanguageModel::complete` | yes | yes | | yes | yes |
/// | `TaskQueue::enqueue` | yes | | yes | yes | yes |
/// | `Guard::authorize` | yes | | | | |
/// | stores and embedders | | | | | |
pub const TABLE: [(Guarding, Phases); 5] = [
    (Guarding::Tool, Phases { decided: true, billed: true, tokenised: false, answered: true, retried: true }),
    (Guarding::LanguageModel, Phases { decided: true, billed: true, tokenised: false, answered: true, retried: true }),
    (Guarding::Enqueue, Phases { decided: true, billed: false, tokenised: true, answered: true, retried: true }),
    (Guarding::Access, Phases { decided: true, billed: false, tokenised: false, answered: false, retried: false }),
    (Guarding::Store, Phases { decided: false, billed: false, tokenised: false, answered: false, retried: false }),
];

impl Guarding {
    /// The row of this operation. Without a row everything is on: a new operation is strict until somebody decides.
    pub fn phases(self) -> Phases {
        let strict = Phases { decided: true, billed: true, tokenised: false, answered: true, retried: false };
        TABLE.iter().find(|(g, _)| *g == self).map_or(strict, |(_, p)| *p)
    }
}
