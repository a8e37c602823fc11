//! The suite of [`Journal`].

use std::sync::Arc;
use std::time::Duration;

use super::context;
use super::fixture::{Fixture, prints_no_secret};
use super::spy::{Called, Spy, spy};
use crate::audit::{AuditEvent, AuditRecord};
use crate::fake::FakeKeyring;
use crate::journal::{
    Claim, Intent, Journal, NewRun, Outbox, Owed, RunEvent, RunRecord, RunState, StepRecord, StepState, Transition,
};
use crate::{
    Depth, Digest, Error, ErrorKind, OperationKey, Result, RunId, SealedContext, SealedFor, Slug, Status, TenantId,
    Timestamp,
};

spy! { Journal:
    async fn create(&self, run: NewRun) -> Result<RunRecord>;
    async fn run(&self, tenant: &TenantId, run: RunId) -> Result<RunRecord>;
    async fn steps(&self, tenant: &TenantId, run: RunId) -> Result<Vec<StepRecord>>;
    async fn events(&self, tenant: &TenantId, run: RunId, from_seq: u64) -> Result<Vec<RunEvent>>;
    async fn runs(&self, tenant: &TenantId, state: Option<RunState>, limit: usize) -> Result<Vec<RunRecord>>;
    async fn resumable(&self, owner: &str, now: Timestamp, limit: usize) -> Result<Vec<(TenantId, RunId)>>;
    async fn claim(&self, tenant: &TenantId, run: RunId, owner: &str, now: Timestamp, until: Timestamp) -> Result<Claim>;
    async fn extend(&self, claim: &Claim, until: Timestamp) -> Result<()>;
    async fn release(&self, claim: &Claim) -> Result<()>;
    async fn apply(&self, claim: &Claim, now: Timestamp, changes: Vec<Transition>) -> Result<bool>;
    async fn replay(&self, tenant: &TenantId, run: RunId, now: Timestamp) -> Result<bool>;
    async fn request_cancel(&self, tenant: &TenantId, run: RunId) -> Result<bool>;
    async fn owed(&self, after: u64, limit: usize) -> Result<Vec<Owed>>;
    async fn paid(&self, ids: &[u64]) -> Result<()>;
}

/// Runs every scenario on fresh journals that `fresh` makes; a journal is durable, so the fixture must say how to open it again
/// unless it is a fake.
///
/// # Panics
/// With the scenario's name, where the journal does not keep the [contract](Journal).
pub async fn journal(fresh: impl AsyncFn() -> Fixture<dyn Journal>) {
    let called = Called::default();
    let made = async || fresh().await.map(|journal| Arc::new(Spy::new(journal, &called)));
    keeps_a_run_as_it_was_created(&made().await).await;
    lets_one_owner_change_a_run(&made().await).await;
    takes_a_step_from_its_start_to_its_end(&made().await).await;
    changes_a_run_whole_or_not_at_all(&made().await).await;
    remembers_an_intent_until_its_outcome(&made().await).await;
    keeps_a_gapless_history(&made().await).await;
    owes_until_it_is_paid(&made().await).await;
    replays_what_failed(&made().await).await;
    cancels_what_is_open(&made().await).await;
    lists_what_can_go_on(&made().await).await;
    keeps_tenants_apart(&made().await).await;
    goes_on_after_a_restart(made().await).await;
    let f = made().await;
    prints_no_secret(f.adapter.as_ref(), &f.secrets);
    assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
    called.complete::<dyn Journal>();
}

const RUN: RunId = RunId::fixed(7);
const STEP: &str = "stage/step";

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).expect("a tenant")
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

fn new_run(owner: &str, id: RunId, created: i64) -> NewRun {
    let name = "review".to_owned();
    let bound = SealedFor { id: id.to_string(), name, queue: "journal".into(), body: Digest::of(b"input") };
    let ctx = context(owner, "ana", "analyst");
    NewRun {
        tenant: tenant(owner),
        id,
        workflow: Slug::parse("review").expect("a slug"),
        version: 1,
        definition: Digest::of(b"definition"),
        context: SealedContext::seal(&ctx, bound, &FakeKeyring, at(0), at(3600)).expect("a seal"),
        input: vec![0, 255, 7],
        created: at(created),
    }
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|e| e.kind())
}

impl Fixture<dyn Journal> {
    async fn claimed(&self, owner: &str) -> Claim {
        self.adapter.create(new_run(owner, RUN, 1)).await.expect("a run");
        self.adapter.claim(&tenant(owner), RUN, "host-1", at(1), at(61)).await.expect("a claim")
    }

    async fn apply(&self, claim: &Claim, transition: Transition) -> Result<()> {
        self.adapter.apply(claim, at(2), vec![transition]).await.map(drop)
    }

    async fn step(&self) -> StepRecord {
        self.adapter.steps(&tenant("acme"), RUN).await.expect("steps").pop().expect("one step")
    }

    async fn state(&self) -> RunState {
        self.adapter.run(&tenant("acme"), RUN).await.expect("a run").state
    }
}

fn started(attempt: u32) -> Transition {
    Transition::StepStarted { path: STEP.into(), attempt }
}

fn completed(output: &[u8], outbox: Outbox) -> Transition {
    Transition::StepCompleted { path: STEP.into(), output: output.to_vec(), outbox }
}

fn stopped(clear_intent: bool) -> Transition {
    let report = Error::new(ErrorKind::Unavailable, "t", "down").report();
    let state = StepState::Failed { report, next: None };
    Transition::StepStopped { path: STEP.into(), state, outbox: Outbox::default(), clear_intent }
}

fn moved(state: RunState) -> Transition {
    let failed = state == RunState::Failed;
    let error = failed.then(|| Error::new(ErrorKind::Timeout, "t", "late").report());
    Transition::RunMoved { state, error, ran: Duration::from_secs(3) }
}

fn debt(owner: &str, n: i64) -> Outbox {
    let key = OperationKey::derived(&[b"suite", &n.to_be_bytes()]);
    let event = AuditEvent::Admin { what: "x".into() };
    let record = AuditRecord::new(&context(owner, "ana", "analyst"), at(n), key, 1, "a", "r", event);
    Outbox { usage: Vec::new(), audit: vec![record] }
}

async fn keeps_a_run_as_it_was_created(f: &Fixture<dyn Journal>) {
    let made = f.adapter.create(new_run("acme", RUN, 1)).await.unwrap();
    let found = f.adapter.run(&tenant("acme"), RUN).await.unwrap();
    for record in [&made, &found] {
        assert_eq!((record.state, record.cancel_requested), (RunState::Running, false), "a new run is running");
        assert_eq!((record.run.input.as_slice(), record.run.version), (&[0, 255, 7][..], 1), "as it was created");
        assert_eq!(record.run.definition, Digest::of(b"definition"), "as it was created");
    }
    let changed = NewRun { version: 2, input: vec![1], ..new_run("acme", RUN, 9) };
    let again = f.adapter.create(changed).await.unwrap();
    assert_eq!((again.run.version, again.run.created), (1, at(1)), "creating again is the stored run, unchanged");
    assert_eq!(
        kind(f.adapter.run(&tenant("acme"), RunId::fixed(8)).await),
        Some(ErrorKind::NotFound),
        "an unknown run"
    );
}

async fn lets_one_owner_change_a_run(f: &Fixture<dyn Journal>) {
    let first = f.claimed("acme").await;
    let taken = f.adapter.claim(&tenant("acme"), RUN, "host-2", at(60), at(120)).await;
    assert_eq!(kind(taken), Some(ErrorKind::Conflict), "a held run is not taken");
    f.adapter.extend(&first, at(70)).await.expect("the holder holds on");
    let taken = f.adapter.claim(&tenant("acme"), RUN, "host-2", at(65), at(120)).await;
    assert_eq!(kind(taken), Some(ErrorKind::Conflict), "what is held on to is not taken");
    let second = f.adapter.claim(&tenant("acme"), RUN, "host-2", at(71), at(131)).await.expect("its time ran out");
    assert!(second.fence > first.fence, "under a higher fence");
    for (what, outcome) in [
        ("apply", f.apply(&first, started(1)).await),
        ("extend", f.adapter.extend(&first, at(999)).await),
        ("release", f.adapter.release(&first).await),
    ] {
        assert_eq!(kind(outcome), Some(ErrorKind::LeaseLost), "an old fence: {what}");
    }
    assert!(f.adapter.steps(&tenant("acme"), RUN).await.unwrap().is_empty(), "an old fence changes nothing");
    let third = f.adapter.claim(&tenant("acme"), RUN, "host-2", at(72), at(132)).await.expect("its own, after a crash");
    assert!(third.fence > second.fence, "a process that takes its own place has a higher fence");
    f.adapter.release(&third).await.expect("the holder gives it back");
    f.adapter.claim(&tenant("acme"), RUN, "host-3", at(73), at(133)).await.expect("what was given back is free");
}

async fn takes_a_step_from_its_start_to_its_end(f: &Fixture<dyn Journal>) {
    let claim = f.claimed("acme").await;
    assert_eq!(kind(f.apply(&claim, completed(b"x", Outbox::default())).await), Some(ErrorKind::Conflict), "not begun");
    assert_eq!(kind(f.apply(&claim, started(2)).await), Some(ErrorKind::Conflict), "tries count from 1");
    f.apply(&claim, started(1)).await.unwrap();
    assert_eq!(kind(f.apply(&claim, started(1)).await), Some(ErrorKind::Conflict), "a try begins once");
    f.apply(&claim, stopped(true)).await.unwrap();
    assert!(matches!(f.step().await.state, StepState::Failed { next: None, .. }), "a try that failed says so");
    f.apply(&claim, started(2)).await.unwrap();
    f.apply(&claim, completed(&[0, 255], Outbox::default())).await.unwrap();
    let step = f.step().await;
    assert_eq!((step.path.as_str(), step.attempt, step.state), (STEP, 2, StepState::Completed), "done");
    assert_eq!(step.output.as_deref(), Some(&[0, 255][..]), "with its answer");
    for late in [completed(b"y", Outbox::default()), started(3), stopped(true)] {
        assert_eq!(kind(f.apply(&claim, late).await), Some(ErrorKind::Conflict), "done once is done once");
    }
    assert_eq!(f.step().await.output.as_deref(), Some(&[0, 255][..]), "and stays as it is");
    f.apply(&claim, moved(RunState::Completed)).await.unwrap();
    let record = f.adapter.run(&tenant("acme"), RUN).await.unwrap();
    assert_eq!((record.state, record.running), (RunState::Completed, Duration::from_secs(3)), "the run has ended");
    assert_eq!(kind(f.apply(&claim, moved(RunState::Running)).await), Some(ErrorKind::Conflict), "an end is an end");
}

async fn changes_a_run_whole_or_not_at_all(f: &Fixture<dyn Journal>) {
    let claim = f.claimed("acme").await;
    let next = |attempt| Transition::StepStarted { path: "stage/next".into(), attempt };
    let both = vec![started(1), completed(b"x", debt("acme", 1)), next(2)];
    assert_eq!(kind(f.adapter.apply(&claim, at(2), both).await), Some(ErrorKind::Conflict), "tries count from 1");
    let nothing = f.adapter.steps(&tenant("acme"), RUN).await.unwrap();
    assert!(nothing.is_empty() && f.adapter.owed(0, 10).await.unwrap().is_empty(), "the last is refused, so is all");
    let both = vec![started(1), completed(b"x", debt("acme", 1)), next(1)];
    assert!(!f.adapter.apply(&claim, at(2), both).await.unwrap(), "nobody asked to cancel");
    let steps = f.adapter.steps(&tenant("acme"), RUN).await.unwrap();
    let states: Vec<_> = steps.iter().map(|s| (s.path.as_str(), &s.state)).collect();
    assert_eq!(states, [(STEP, &StepState::Completed), ("stage/next", &StepState::Running)], "in their order");
    assert_eq!(f.adapter.owed(0, 10).await.unwrap().len(), 1, "and what one of them owes");
    let after_the_end = vec![moved(RunState::Completed), next(2)];
    assert_eq!(
        kind(f.adapter.apply(&claim, at(2), after_the_end).await),
        Some(ErrorKind::Conflict),
        "an end is an end"
    );
    assert_eq!(f.state().await, RunState::Running, "and was not reached");
}

async fn remembers_an_intent_until_its_outcome(f: &Fixture<dyn Journal>) {
    let claim = f.claimed("acme").await;
    let intent = Intent { key: OperationKey::derived(&[b"send"]), digest: Digest::of(b"args") };
    let intended = || Transition::Intended { path: STEP.into(), intent: intent.clone() };
    assert_eq!(kind(f.apply(&claim, intended()).await), Some(ErrorKind::Conflict), "an intent belongs to a step begun");
    f.apply(&claim, started(1)).await.unwrap();
    f.apply(&claim, intended()).await.unwrap();
    f.apply(&claim, stopped(false)).await.unwrap();
    assert_eq!(f.step().await.intent.as_ref(), Some(&intent), "an effect whose outcome is not known is not forgotten");
    f.apply(&claim, started(2)).await.unwrap();
    assert_eq!(f.step().await.intent.as_ref(), Some(&intent), "nor by the next try");
    f.apply(&claim, stopped(true)).await.unwrap();
    assert_eq!(f.step().await.intent, None, "known not to have happened");
    f.apply(&claim, started(3)).await.unwrap();
    f.apply(&claim, intended()).await.unwrap();
    f.apply(&claim, completed(b"x", Outbox::default())).await.unwrap();
    assert_eq!(f.step().await.intent, None, "or known to have");
}

async fn keeps_a_gapless_history(f: &Fixture<dyn Journal>) {
    let claim = f.claimed("acme").await;
    f.apply(&claim, started(1)).await.unwrap();
    f.apply(&claim, completed(b"x", Outbox::default())).await.unwrap();
    f.apply(&claim, moved(RunState::Failed)).await.unwrap();
    let events = f.adapter.events(&tenant("acme"), RUN, 0).await.unwrap();
    let told: Vec<_> = events.iter().map(|e| (e.seq, e.path.as_str(), e.what.as_str())).collect();
    let expected = [(1, "run", "started"), (2, STEP, "started"), (3, STEP, "completed"), (4, "run", "failed")];
    assert_eq!(told, expected, "the history tells what happened, numbered without gaps");
    assert_eq!(events.last().and_then(|e| e.error.as_deref()), Some(ErrorKind::Timeout.as_str()), "and why");
    assert_eq!(f.adapter.events(&tenant("acme"), RUN, 3).await.unwrap().len(), 2, "from a number on");
}

async fn owes_until_it_is_paid(f: &Fixture<dyn Journal>) {
    let claim = f.claimed("acme").await;
    f.apply(&claim, started(1)).await.unwrap();
    f.apply(&claim, completed(b"x", debt("acme", 1))).await.unwrap();
    assert!(f.apply(&claim, completed(b"x", debt("acme", 2))).await.is_err());
    let owed = f.adapter.owed(0, 10).await.unwrap();
    let [row] = owed.as_slice() else { panic!("what is done is owed, and what is refused is not: {owed:?}") };
    assert_eq!((&row.tenant, row.run, &row.outbox), (&claim.tenant, RUN, &debt("acme", 1)), "to whom, for what");
    assert!(f.adapter.owed(row.id, 10).await.unwrap().is_empty(), "rows behind one that cannot be paid can be read");
    f.adapter.paid(&[row.id]).await.unwrap();
    assert!(f.adapter.owed(0, 10).await.unwrap().is_empty(), "paid is paid");
    f.adapter.paid(&[row.id]).await.expect("paying again is no error");
}

async fn replays_what_failed(f: &Fixture<dyn Journal>) {
    let claim = f.claimed("acme").await;
    assert!(!f.adapter.replay(&tenant("acme"), RUN, at(3)).await.unwrap(), "a running run is not replayed");
    f.apply(&claim, started(1)).await.unwrap();
    f.apply(&claim, stopped(true)).await.unwrap();
    f.apply(&claim, moved(RunState::Failed)).await.unwrap();
    f.adapter.release(&claim).await.unwrap();
    assert!(f.adapter.replay(&tenant("acme"), RUN, at(4)).await.unwrap(), "a failed one is");
    let record = f.adapter.run(&tenant("acme"), RUN).await.unwrap();
    assert_eq!((record.state, record.error), (RunState::Running, None), "it runs again, without its error");
    assert_eq!(record.running, Duration::ZERO, "with its time anew");
    assert_eq!(f.step().await.attempt, 1, "its steps are as they were");
    let told = f.adapter.events(&tenant("acme"), RUN, 0).await.unwrap();
    assert_eq!(told.last().map(|e| e.what.as_str()), Some("replayed"), "the history says so");
    assert!(!f.adapter.replay(&tenant("acme"), RUN, at(5)).await.unwrap(), "once");
    let unknown = f.adapter.replay(&tenant("acme"), RunId::fixed(8), at(5)).await;
    assert_eq!(kind(unknown), Some(ErrorKind::NotFound), "an unknown run");
}

async fn cancels_what_is_open(f: &Fixture<dyn Journal>) {
    let claim = f.claimed("acme").await;
    assert!(f.adapter.request_cancel(&tenant("acme"), RUN).await.unwrap(), "an open run can be cancelled");
    assert!(f.adapter.run(&tenant("acme"), RUN).await.unwrap().cancel_requested, "its driver is told");
    assert!(f.adapter.apply(&claim, at(2), vec![started(1)]).await.unwrap(), "with each change as well");
    f.apply(&claim, moved(RunState::Cancelled)).await.unwrap();
    assert!(!f.adapter.request_cancel(&tenant("acme"), RUN).await.unwrap(), "one that has ended cannot");
    let unknown = f.adapter.request_cancel(&tenant("acme"), RunId::fixed(8)).await;
    assert_eq!(kind(unknown), Some(ErrorKind::NotFound), "an unknown run");
}

async fn lists_what_can_go_on(f: &Fixture<dyn Journal>) {
    for (n, state) in [(1_i64, Some(RunState::Parked)), (2, None), (3, Some(RunState::Completed)), (4, None)] {
        let id = RunId::fixed(n.unsigned_abs().into());
        f.adapter.create(new_run("acme", id, n)).await.unwrap();
        if let Some(state) = state {
            let claim = f.adapter.claim(&tenant("acme"), id, "host-1", at(5), at(65)).await.unwrap();
            f.apply(&claim, moved(state)).await.unwrap();
            f.adapter.release(&claim).await.unwrap();
        }
    }
    f.adapter.claim(&tenant("acme"), RunId::fixed(4), "host-1", at(5), at(65)).await.unwrap();
    let left = async |owner: &str, now| -> Vec<RunId> {
        let left = f.adapter.resumable(owner, at(now), 10).await.unwrap();
        left.into_iter().map(|(_, run)| run).collect()
    };
    let ids = |of: &[u128]| -> Vec<RunId> { of.iter().map(|n| RunId::fixed(*n)).collect() };
    assert_eq!(left("host-2", 6).await, ids(&[2, 1]), "what is free, running before parked; not what another holds");
    assert_eq!(left("host-1", 6).await, ids(&[2, 4, 1]), "nor what has ended; but one's own");
    assert_eq!(left("host-2", 66).await, ids(&[2, 4, 1]), "and what nobody holds on to any more");
    let newest: Vec<_> =
        f.adapter.runs(&tenant("acme"), None, 2).await.unwrap().into_iter().map(|r| r.run.id).collect();
    assert_eq!(newest, ids(&[4, 3]), "a tenant's runs, newest first, at most so many");
    let parked = f.adapter.runs(&tenant("acme"), Some(RunState::Parked), 9).await.unwrap();
    assert_eq!(parked.iter().map(|r| r.run.id).collect::<Vec<_>>(), ids(&[1]), "of one state");
}

async fn keeps_tenants_apart(f: &Fixture<dyn Journal>) {
    let claim = f.claimed("acme").await;
    f.apply(&claim, started(1)).await.unwrap();
    let them = tenant("acme-2");
    assert_eq!(kind(f.adapter.run(&them, RUN).await), Some(ErrorKind::NotFound), "isolation: another tenant's run");
    assert!(f.adapter.steps(&them, RUN).await.unwrap().is_empty(), "isolation: another tenant's steps");
    assert!(f.adapter.events(&them, RUN, 0).await.unwrap().is_empty(), "isolation: another tenant's history");
    assert!(f.adapter.runs(&them, None, 9).await.unwrap().is_empty(), "isolation: another tenant's list");
    let foreign = f.adapter.claim(&them, RUN, "host-9", at(999), at(1000)).await;
    assert_eq!(kind(foreign), Some(ErrorKind::NotFound), "isolation: a claim on another tenant's run");
    assert_eq!(
        kind(f.adapter.request_cancel(&them, RUN).await),
        Some(ErrorKind::NotFound),
        "isolation: a cancellation"
    );
    assert_eq!(kind(f.adapter.replay(&them, RUN, at(9)).await), Some(ErrorKind::NotFound), "isolation: a replay");
    let forged = Claim { tenant: them.clone(), ..claim.clone() };
    assert!(f.apply(&forged, started(2)).await.is_err(), "isolation: a claim under another name");
    let theirs = f.claimed("acme-2").await;
    f.apply(&theirs, started(1)).await.expect("isolation: the same id in another tenant is another run");
    assert_eq!((f.state().await, f.step().await.attempt), (RunState::Running, 1), "isolation: untouched");

    let intent = Intent { key: OperationKey::derived(&[b"send"]), digest: Digest::of(b"args") };
    f.apply(&theirs, Transition::Intended { path: STEP.into(), intent }).await.unwrap();
    assert_eq!(f.step().await.intent, None, "isolation: an intent is of one run");
    f.apply(&theirs, stopped(false)).await.unwrap();
    assert_eq!(f.step().await.state, StepState::Running, "isolation: the end of a try is of one run");
    f.apply(&theirs, started(2)).await.unwrap();
    f.apply(&theirs, moved(RunState::Parked)).await.unwrap();
    assert_eq!(f.state().await, RunState::Running, "isolation: a move is of one run");
    f.apply(&theirs, moved(RunState::Running)).await.unwrap();
    let seqs: Vec<u64> = f.adapter.events(&them, RUN, 0).await.unwrap().iter().map(|e| e.seq).collect();
    assert_eq!(
        seqs,
        (1..=seqs.len()).map(|n| u64::try_from(n).unwrap_or(0)).collect::<Vec<_>>(),
        "isolation: a history is numbered by itself"
    );

    // the same id in two tenants: what is done to one leaves the other as it is
    f.adapter.extend(&claim, at(500)).await.unwrap();
    let taken = f.adapter.claim(&them, RUN, "host-2", at(100), at(160)).await;
    let theirs = taken.expect("isolation: holding on to a run holds no other");
    f.adapter.release(&claim).await.unwrap();
    f.apply(&theirs, stopped(true)).await.expect("isolation: giving a run back gives no other back");
    for owner in ["acme", "acme-2"] {
        let claim = f.adapter.claim(&tenant(owner), RUN, "host-2", at(600), at(660)).await.unwrap();
        f.adapter.apply(&claim, at(7), vec![moved(RunState::Failed)]).await.unwrap();
    }
    assert!(f.adapter.replay(&them, RUN, at(9)).await.unwrap());
    let ours = f.adapter.run(&tenant("acme"), RUN).await.unwrap();
    assert_eq!((ours.state, ours.updated), (RunState::Failed, at(7)), "isolation: a replay is of one run");
    let claim = f.adapter.claim(&them, RUN, "host-2", at(600), at(660)).await.unwrap();
    f.adapter.apply(&claim, at(11), vec![moved(RunState::Failed)]).await.unwrap();
    let ours = f.adapter.run(&tenant("acme"), RUN).await.unwrap();
    assert_eq!(ours.updated, at(7), "isolation: a change is of one run");
}

async fn goes_on_after_a_restart(f: Fixture<dyn Journal>) {
    let claim = f.claimed("acme").await;
    f.apply(&claim, started(1)).await.unwrap();
    f.apply(&claim, completed(b"x", debt("acme", 1))).await.unwrap();
    if let Some(f) = f.reopened().await {
        assert_eq!(f.step().await.state, StepState::Completed, "what was applied is there after a restart");
        assert_eq!(f.adapter.owed(0, 9).await.unwrap().len(), 1, "and what it owes");
        assert_eq!(f.apply(&claim, moved(RunState::Completed)).await.err().map(|e| e.kind()), None, "the claim holds");
    }
}
