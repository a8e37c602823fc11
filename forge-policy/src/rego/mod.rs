//! Rego in this process: policies compiled once, a decision in microseconds, and every doubt a denial.
//!
//! A snapshot is immutable: one bytecode program, and for each tenant the data that its decisions
//! may see. A reload builds another one beside it and swaps; a decision works on the one that it took, so it never mixes
//! two. What the evaluator cannot answer cleanly (see [`Failure`]) is a `Deny` with a reason that begins with `policy_`.

mod answer;
mod checks;
mod directory;
mod failure;
mod gate;
mod input;
mod limits;
mod snapshot;
mod sources;
mod walk;

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use async_trait::async_trait;
use forge_core::policy::{Decision, Obligations, PolicyCapability, PolicyEngine, PolicyInput, Verdict};
use forge_core::{Clock, DecisionId, Depth, Error, ExecutionContext, Health, HealthCheck, Result, Status};

pub use failure::Failure;
pub use limits::Limits;
pub use snapshot::Evaluator;
pub use sources::{Sources, standard};

use answer::Answer;
use snapshot::{POLICY, Snapshot};

/// The policy engine on regorus. Cheap to clone; clones share the policies.
///
/// Decisions are made inline, without IO and without awaiting; [`reload`](Self::reload) runs on tokio's blocking pool. A
/// panic of the evaluator is caught, which needs a host that is not built with `panic = "abort"`.
#[derive(Clone)]
pub struct RegorusEngine(Arc<Inner>);

struct Inner {
    clock: Arc<dyn Clock>,
    limits: Limits,
    state: RwLock<State>,
}

/// What is in force, and which build made it.
#[derive(Default)]
struct State {
    sources: Sources,
    snapshot: Option<Arc<Snapshot>>,
    /// The number of the last build that was begun, and of the one that is in force: a slow old build never replaces a
    /// newer one.
    begun: u64,
    installed: u64,
    stale: bool,
}

impl RegorusEngine {
    /// An engine without policies: it denies everything with `policy_no_policy` until [`replace`](Self::replace).
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::with_limits(clock, Limits::default())
    }

    /// As [`new`](Self::new), with other limits.
    pub fn with_limits(clock: Arc<dyn Clock>, limits: Limits) -> Self {
        Self(Arc::new(Inner { clock, limits, state: RwLock::default() }))
    }

    /// An engine with these policies.
    ///
    /// # Errors
    /// `Config` naming file and line, if they cannot be read, do not parse or are not admitted.
    pub async fn load(sources: Sources, clock: Arc<dyn Clock>) -> Result<Self> {
        let engine = Self::new(clock);
        engine.replace(sources).await?;
        Ok(engine)
    }

    /// Puts other policies and data in force; every decision after it returns is made by them. Returns their revision. On
    /// an error, or if the future is dropped early, what was in force stays or the new ones take over: never a mixture.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn replace(&self, sources: Sources) -> Result<String> {
        self.build(Some(sources)).await
    }

    /// Reads the directories again and puts what they hold in force, or keeps the last good policies. Returns the revision.
    ///
    /// # Errors
    /// As [`load`](Self::load).
    pub async fn reload(&self) -> Result<String> {
        self.build(None).await
    }

    /// The digest of all policies and data in force; `None` without policies.
    pub fn revision(&self) -> Option<String> {
        self.snapshot().map(|s| s.revision.clone())
    }

    /// What evaluates the policy in force: the interpreter only where the bytecode compiler refused it.
    pub fn evaluator(&self) -> Option<Evaluator> {
        self.snapshot().map(|s| s.evaluator())
    }

    /// Decides, without a future. What the input says of tenant, employee, role and the rest of the context is overwritten
    /// from the context.
    pub fn decide_now(&self, ctx: &ExecutionContext, input: &PolicyInput) -> Decision {
        let id = DecisionId::random(self.0.clock.now());
        let Some(snapshot) = self.snapshot() else {
            return self.denied(id, ctx, Failure::NoPolicy, "none".to_owned());
        };
        match snapshot.decide(ctx, input, &self.0.limits) {
            Ok(Answer { verdict, reasons, obligations }) => Decision {
                id,
                verdict,
                reasons,
                obligations,
                policy: POLICY.to_owned(),
                revision: snapshot.revision.clone(),
            },
            Err(failure) => self.denied(id, ctx, failure, snapshot.revision.clone()),
        }
    }

    /// The evaluator's own words are left out: they may quote the input.
    fn denied(&self, id: DecisionId, ctx: &ExecutionContext, failure: Failure, revision: String) -> Decision {
        tracing::warn!(tenant = %ctx.tenant(), decision = %id, reason = failure.reason(), "the policy gave no answer, so the call is denied");
        Decision {
            id,
            verdict: Verdict::Deny,
            reasons: vec![failure.reason().to_owned()],
            obligations: Obligations::default(),
            policy: POLICY.to_owned(),
            revision,
        }
    }

    fn snapshot(&self) -> Option<Arc<Snapshot>> {
        self.0.state.read().unwrap_or_else(PoisonError::into_inner).snapshot.clone()
    }

    async fn build(&self, replacement: Option<Sources>) -> Result<String> {
        let (number, sources) = {
            let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
            state.begun += 1;
            (state.begun, replacement.unwrap_or_else(|| state.sources.clone()))
        };
        let (limits, wanted) = (self.0.limits, sources.clone());
        let built = tokio::task::spawn_blocking(move || Snapshot::build(&wanted, &limits)).await;
        let built = built
            .map_err(|e| Error::unexpected("policy.load", "the policies could not be built").with_source(e))
            .and_then(|built| built);
        let mut state = self.0.state.write().unwrap_or_else(PoisonError::into_inner);
        if built.is_err() && number > state.installed {
            state.stale = true;
        }
        let snapshot = Arc::new(built?);
        let revision = snapshot.revision.clone();
        if number > state.installed {
            state.installed = number;
            state.sources = sources;
            state.stale = false;
            // the old one is freed outside the lock, unless a decision still holds it
            let old = state.snapshot.replace(snapshot);
            drop(state);
            drop(old);
        }
        Ok(revision)
    }
}

#[async_trait]
impl PolicyEngine for RegorusEngine {
    async fn decide(&self, ctx: &ExecutionContext, input: &PolicyInput) -> Result<Decision> {
        Ok(self.decide_now(ctx, input))
    }

    fn capability(&self) -> PolicyCapability {
        PolicyCapability::new(true, true)
    }
}

#[async_trait]
impl HealthCheck for RegorusEngine {
    async fn check(&self, _: Depth) -> Health {
        let state = self.0.state.read().unwrap_or_else(PoisonError::into_inner);
        match (&state.snapshot, state.stale) {
            (None, _) => Health::down("no policies are loaded, so everything is denied"),
            (Some(_), true) => Health {
                status: Status::Degraded,
                detail: "the last reload failed; the policies before it are in force".to_owned(),
            },
            (Some(_), false) => Health::up(),
        }
    }
}

impl fmt::Debug for RegorusEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegorusEngine").field("revision", &self.revision()).finish_non_exhaustive()
    }
}
