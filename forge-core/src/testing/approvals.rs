//! The suite of [`Approvals`].

use std::sync::Arc;

use super::context;
use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use crate::approvals::{Answer, Approval, ApprovalState, Approvals, ApprovalsCapability};
use crate::{ApprovalId, Depth, Digest, ErrorKind, ExecutionContext, OperationKey, Result, Role, Status, Timestamp};

spy! { Approvals:
    async fn ask(&self, ctx: &ExecutionContext, approval: Approval) -> Result<Approval>;
    async fn find(&self, ctx: &ExecutionContext, id: ApprovalId) -> Result<Approval>;
    async fn pending(&self, ctx: &ExecutionContext, limit: usize) -> Result<Vec<Approval>>;
    async fn answer(&self, ctx: &ExecutionContext, id: ApprovalId, digest: Digest, answer: Answer) -> Result<Approval>;
    async fn consume(&self, ctx: &ExecutionContext, id: ApprovalId, operation: &OperationKey) -> Result<()>;
    fn capability(&self) -> ApprovalsCapability;
}

/// Runs every scenario on fresh stores that `fresh` makes.
///
/// # Panics
/// With the scenario's name, where the store does not keep the [contract](Approvals).
pub async fn approvals(fresh: impl AsyncFn() -> Fixture<dyn Approvals>) {
    let called = Called::default();
    let made = async || fresh().await.map(|store| Arc::new(Spy::new(store, &called)));
    asks_once(&made().await).await;
    is_answered_by_who_may(&made().await).await;
    is_answered_once(&made().await).await;
    is_used_for_its_one_call(&made().await).await;
    keeps_tenants_apart(&made().await).await;
    lists_what_nobody_answered(&made().await).await;
    durability_is_as_declared(made().await).await;
    the_server_goes_away(made().await).await;
    let f = made().await;
    prints_no_secret(f.adapter.as_ref(), &f.secrets);
    assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
    called.complete::<dyn Approvals>();
}

fn ana() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

fn partner() -> ExecutionContext {
    context("acme", "pat", "partner")
}

fn key(n: u8) -> OperationKey {
    OperationKey::derived(&[b"suite", &[n]])
}

/// Asked by `ana`, for a partner to answer; later questions have higher numbers.
fn question(n: u8) -> Approval {
    Approval {
        id: ApprovalId::fixed(n.into()),
        operation: key(n),
        resource: HOSTILE.get(usize::from(n)).copied().unwrap_or("send").to_owned(),
        digest: Digest::of(&[n]),
        asker: ana().employee().clone(),
        approver_roles: vec![Role::parse("partner").expect("a role")],
        asked: Timestamp::from_nanos(n.into()),
        state: ApprovalState::Pending,
        decided: None,
    }
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|e| e.kind())
}

async fn yes(f: &Fixture<dyn Approvals>, by: &ExecutionContext, n: u8) -> Result<Approval> {
    f.adapter.answer(by, question(n).id, question(n).digest, Answer::Approve).await
}

async fn asks_once(f: &Fixture<dyn Approvals>) {
    let asked = f.adapter.ask(&ana(), question(1)).await.unwrap();
    assert_eq!(asked, question(1), "a question is kept as it is asked");
    let changed = Approval { resource: "another".into(), ..question(1) };
    assert_eq!(f.adapter.ask(&ana(), changed).await.unwrap(), question(1), "asking again is the stored question");
    assert_eq!(f.adapter.find(&ana(), question(1).id).await.unwrap(), question(1), "and it is found");
    assert_eq!(kind(f.adapter.find(&ana(), question(2).id).await), Some(ErrorKind::NotFound), "an unknown question");
}

async fn is_answered_by_who_may(f: &Fixture<dyn Approvals>) {
    f.adapter.ask(&ana(), question(1)).await.unwrap();
    let other = f.adapter.answer(&partner(), question(1).id, Digest::of(b"other"), Answer::Approve).await;
    assert_eq!(kind(other), Some(ErrorKind::Conflict), "other arguments are another question");
    let promoted = context("acme", "ana", "partner");
    assert_eq!(kind(yes(f, &promoted, 1).await), Some(ErrorKind::PolicyDenied), "the asker may not answer");
    let clerk = context("acme", "cleo", "clerk");
    assert_eq!(kind(yes(f, &clerk, 1).await), Some(ErrorKind::PolicyDenied), "nor may a role that is not named");
    f.adapter.ask(&ana(), Approval { approver_roles: vec![], ..question(2) }).await.unwrap();
    assert_eq!(kind(yes(f, &partner(), 2).await), Some(ErrorKind::PolicyDenied), "without a role nobody may");
    let state = f.adapter.find(&ana(), question(1).id).await.unwrap().state;
    assert_eq!(state, ApprovalState::Pending, "a refused answer changes nothing");
    let answered = yes(f, &partner(), 1).await.unwrap();
    assert_eq!(answered.state, ApprovalState::Approved, "who may answers");
    assert_eq!(answered.decided.map(|(by, _)| by).as_ref(), Some(partner().employee()), "and is named");
}

async fn is_answered_once(f: &Fixture<dyn Approvals>) {
    f.adapter.ask(&ana(), question(1)).await.unwrap();
    let (a, b) = (partner(), context("acme", "paul", "partner"));
    let (first, second) = futures::join!(yes(f, &a, 1), yes(f, &b, 1));
    assert_eq!(usize::from(first.is_ok()) + usize::from(second.is_ok()), 1, "of two answers at once one counts");
    f.adapter.ask(&ana(), question(2)).await.unwrap();
    f.adapter.answer(&a, question(2).id, question(2).digest, Answer::Deny).await.unwrap();
    assert_eq!(kind(yes(f, &b, 2).await), Some(ErrorKind::Conflict), "a no is not turned into a yes");
    assert_eq!(
        kind(f.adapter.consume(&ana(), question(2).id, &key(2)).await),
        Some(ErrorKind::Conflict),
        "a no is no yes"
    );
}

async fn is_used_for_its_one_call(f: &Fixture<dyn Approvals>) {
    f.adapter.ask(&ana(), question(1)).await.unwrap();
    let use_ = async |key: &OperationKey| kind(f.adapter.consume(&ana(), question(1).id, key).await);
    assert_eq!(use_(&key(1)).await, Some(ErrorKind::Conflict), "nothing is used before the answer");
    yes(f, &partner(), 1).await.unwrap();
    assert_eq!(use_(&key(9)).await, Some(ErrorKind::Conflict), "nor for another call");
    assert_eq!(use_(&key(1)).await, None, "it is used for its call");
    assert_eq!(f.adapter.find(&ana(), question(1).id).await.unwrap().state, ApprovalState::Used, "and is used then");
    assert_eq!(use_(&key(1)).await, None, "the same call, repeated, is the same call");
    assert_eq!(use_(&key(9)).await, Some(ErrorKind::Conflict), "still not for another");
}

async fn keeps_tenants_apart(f: &Fixture<dyn Approvals>) {
    f.adapter.ask(&ana(), question(1)).await.unwrap();
    let (them, theirs) = (context("acme-2", "ana", "analyst"), context("acme-2", "pat", "partner"));
    assert_eq!(
        kind(f.adapter.find(&theirs, question(1).id).await),
        Some(ErrorKind::NotFound),
        "isolation: it is not there"
    );
    assert_eq!(kind(yes(f, &theirs, 1).await), Some(ErrorKind::NotFound), "isolation: nor answered by another tenant");
    let used = f.adapter.consume(&theirs, question(1).id, &key(1)).await;
    assert_eq!(kind(used), Some(ErrorKind::NotFound), "isolation: nor used");
    assert!(f.adapter.pending(&theirs, 9).await.unwrap().is_empty(), "isolation: nor listed");
    f.adapter.ask(&them, question(1)).await.expect("isolation: ids are a tenant's own");
    yes(f, &theirs, 1).await.expect("isolation: each is answered by itself");
    let ours = f.adapter.find(&ana(), question(1).id).await.unwrap().state;
    assert_eq!(ours, ApprovalState::Pending, "isolation: untouched");
    yes(f, &partner(), 1).await.unwrap();
    f.adapter.consume(&them, question(1).id, &key(1)).await.unwrap();
    let ours = f.adapter.find(&ana(), question(1).id).await.unwrap().state;
    assert_eq!(ours, ApprovalState::Approved, "isolation: another tenant's is used, and this is not");
}

async fn lists_what_nobody_answered(f: &Fixture<dyn Approvals>) {
    for n in [3, 1, 2] {
        f.adapter.ask(&ana(), question(n)).await.unwrap();
    }
    yes(f, &partner(), 2).await.unwrap();
    let ids = async |limit| -> Vec<_> {
        f.adapter.pending(&partner(), limit).await.unwrap().into_iter().map(|q| q.id).collect()
    };
    assert_eq!(ids(9).await, [question(1).id, question(3).id], "the unanswered ones, oldest first");
    assert_eq!(ids(1).await, [question(1).id], "at most so many");
}

async fn durability_is_as_declared(f: Fixture<dyn Approvals>) {
    f.adapter.ask(&ana(), question(1)).await.unwrap();
    yes(&f, &partner(), 1).await.unwrap();
    let durable = f.adapter.capability().durable;
    match f.reopened().await {
        Some(f) => {
            let there = f.adapter.find(&ana(), question(1).id).await.is_ok_and(|q| q.state == ApprovalState::Approved);
            assert_eq!(there, durable, "capability: `durable` says what happens at a restart");
        }
        None => assert!(!durable, "capability: the fixture of a durable store says how to open it again"),
    }
}

async fn the_server_goes_away(mut f: Fixture<dyn Approvals>) {
    if f.lose_server().await {
        let kind = kind(f.adapter.ask(&ana(), question(1)).await);
        assert!(matches!(kind, Some(ErrorKind::Unavailable | ErrorKind::Timeout)), "server gone: {kind:?}");
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Down, "server gone: health says so");
    }
}
