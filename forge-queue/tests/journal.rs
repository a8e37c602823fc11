//! The journal's promises: one owner, whole changes, gapless history, books that balance.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use common::{World, claimed, ctx, new_run, refused, slug, tenant};
use forge_core::audit::{AuditEvent, AuditRecord};
use forge_core::journal::{Claim, Intent, Journal, Outbox, RunState, StepState, Transition};
use forge_core::{Digest, Error, ErrorKind, OperationKey, RunId};

const RUN: RunId = RunId::fixed(1);

fn started(attempt: u32) -> Transition {
    Transition::StepStarted { path: "s/a".into(), attempt }
}

fn completed(output: &str) -> Transition {
    Transition::StepCompleted { path: "s/a".into(), output: output.into(), outbox: owes("acme", 1) }
}

fn stopped(state: StepState, clear_intent: bool) -> Transition {
    Transition::StepStopped { path: "s/a".into(), state, outbox: Outbox::default(), clear_intent }
}

fn failure() -> Error {
    Error::new(ErrorKind::Unavailable, "tool.call", "the far side is down")
}

fn owes(tenant: &str, n: u32) -> Outbox {
    let event = AuditEvent::Admin { what: "test".into() };
    let key = OperationKey::derived(&[b"test"]);
    let record = AuditRecord::new(&ctx(tenant), forge_core::Timestamp::from_nanos(1), key, n, "a", "b", event);
    Outbox { usage: Vec::new(), audit: vec![record] }
}

#[tokio::test]
async fn a_run_is_kept_as_it_was_created_and_created_once() {
    let w = World::new().await;
    let run = new_run("acme", RUN, w.now());
    let kept = w.store.create(run.clone()).await.unwrap();
    assert_eq!((kept.state, kept.updated, kept.cancel_requested), (RunState::Running, w.now(), false));
    let again =
        w.store.create(forge_core::journal::NewRun { version: 2, input: b"x".to_vec(), ..run.clone() }).await.unwrap();
    assert_eq!((again.run.version, again.run.input), (1, b"input".to_vec()));
    let read = w.store.run(&tenant("acme"), RUN).await.unwrap().run;
    assert_eq!((read.context, read.definition, read.created), (run.context, run.definition, run.created));
    let events = w.store.events(&tenant("acme"), RUN, 0).await.unwrap();
    assert_eq!(events.iter().map(|e| (e.seq, e.what.as_str())).collect::<Vec<_>>(), [(1, "started")]);
}

#[tokio::test]
async fn one_owner_at_a_time_and_an_old_fence_changes_nothing() {
    let w = World::new().await;
    let (acme, minute) = (tenant("acme"), Duration::from_secs(60));
    let first = claimed(&w.store, "acme", RUN, w.now()).await;
    refused(w.store.claim(&acme, RUN, "host-2", w.now(), w.now().after(minute)).await, ErrorKind::Conflict);
    assert!(w.store.resumable("host-2", w.now(), 10).await.unwrap().is_empty());
    assert_eq!(w.store.resumable("host-1", w.now(), 10).await.unwrap(), [(acme.clone(), RUN)]);

    w.store.extend(&first, w.now().after(minute * 2)).await.unwrap();
    w.clock.advance(minute);
    refused(w.store.claim(&acme, RUN, "host-2", w.now(), w.now().after(minute)).await, ErrorKind::Conflict);
    w.clock.advance(minute);
    let second = w.store.claim(&acme, RUN, "host-2", w.now(), w.now().after(minute)).await.unwrap();
    assert!(second.fence > first.fence);
    refused(w.store.apply(&first, w.now(), vec![started(1)]).await, ErrorKind::LeaseLost);
    refused(w.store.extend(&first, w.now()).await, ErrorKind::LeaseLost);
    refused(w.store.release(&first).await, ErrorKind::LeaseLost);
    assert!(w.store.steps(&acme, RUN).await.unwrap().is_empty());

    w.store.release(&second).await.unwrap();
    refused(w.store.apply(&second, w.now(), vec![started(1)]).await, ErrorKind::LeaseLost);
    let third = w.store.claim(&acme, RUN, "host-1", w.now(), w.now().after(minute)).await.unwrap();
    // the same owner is a process that took its own place
    let fourth = w.store.claim(&acme, RUN, "host-1", w.now(), w.now().after(minute)).await.unwrap();
    assert!(fourth.fence > third.fence);
    refused(w.store.apply(&third, w.now(), vec![started(1)]).await, ErrorKind::LeaseLost);
    w.store.apply(&fourth, w.now(), vec![started(1)]).await.unwrap();
}

#[tokio::test]
async fn a_step_goes_through_its_tries_and_completes_once() {
    let w = World::new().await;
    let (acme, claim) = (tenant("acme"), claimed(&w.store, "acme", RUN, w.now()).await);
    let apply = async |t| w.store.apply(&claim, w.now(), vec![t]).await.map(drop);
    let step = async || w.store.steps(&acme, RUN).await.unwrap().remove(0);
    refused(apply(completed("early")).await, ErrorKind::Conflict);
    refused(apply(started(2)).await, ErrorKind::Conflict);
    apply(started(1)).await.unwrap();
    refused(apply(started(1)).await, ErrorKind::Conflict);
    let intent = Intent { key: OperationKey::derived(&[b"k"]), digest: Digest::of(b"d") };
    apply(Transition::Intended { path: "s/a".into(), intent: intent.clone() }).await.unwrap();
    let failed = StepState::Failed { report: failure().report(), next: Some(w.now()) };
    apply(stopped(failed.clone(), false)).await.unwrap();
    assert_eq!((step().await.intent, step().await.state), (Some(intent), failed));
    w.clock.advance(Duration::from_secs(1));
    apply(started(2)).await.unwrap();
    assert_eq!((step().await.attempt, step().await.started), (2, w.now()));
    apply(stopped(StepState::UnknownOutcome { report: failure().report() }, true)).await.unwrap();
    assert_eq!(step().await.intent, None);
    refused(apply(stopped(StepState::Completed, false)).await, ErrorKind::InvalidInput);
    apply(started(3)).await.unwrap();
    apply(completed("done")).await.unwrap();
    let done = step().await;
    assert_eq!((done.state, done.output.as_deref(), done.attempt), (StepState::Completed, Some(b"done".as_slice()), 3));
    for late in
        [completed("twice"), started(4), stopped(StepState::UnknownOutcome { report: failure().report() }, true)]
    {
        refused(apply(late).await, ErrorKind::Conflict);
    }
    assert_eq!(step().await.output.as_deref(), Some(b"done".as_slice()));
    assert_eq!(w.store.owed(0, 10).await.unwrap().len(), 1, "a refused completion owes nothing");

    let report = failure().report();
    let ran = Duration::from_millis(1500);
    apply(Transition::RunMoved { state: RunState::Parked, error: None, ran }).await.unwrap();
    apply(Transition::RunMoved { state: RunState::Running, error: None, ran: Duration::ZERO }).await.unwrap();
    apply(Transition::RunMoved { state: RunState::Failed, error: Some(report.clone()), ran }).await.unwrap();
    let record = w.store.run(&acme, RUN).await.unwrap();
    assert_eq!((record.state, record.error, record.running), (RunState::Failed, Some(report), ran * 2));
    refused(apply(Transition::RunMoved { state: RunState::Running, error: None, ran }).await, ErrorKind::Conflict);
    assert!(!w.store.request_cancel(&acme, RUN).await.unwrap());

    let events = w.store.events(&acme, RUN, 1).await.unwrap();
    assert!(events.iter().map(|e| e.seq).eq(1..=u64::try_from(events.len()).unwrap()));
    let what: Vec<_> = events.iter().map(|e| e.what.as_str()).collect();
    let expected = [
        "started",
        "started",
        "intended",
        "retrying",
        "started",
        "unknown_outcome",
        "started",
        "completed",
        "parked",
        "resumed",
        "failed",
    ];
    assert_eq!(what, expected);
    assert_eq!((events[3].error.as_deref(), events[3].attempt), (Some("unavailable"), 1));
    assert_eq!(w.store.events(&acme, RUN, 10).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_begin_the_same_try_one_wins_and_the_history_has_no_gap() {
    let w = World::new().await;
    let (acme, claim) = (tenant("acme"), claimed(&w.store, "acme", RUN, w.now()).await);
    let stores = [w.store.clone(), w.other().await];
    let race = async |make: fn() -> Transition| {
        let tries: Vec<_> = (0..64)
            .map(|n| {
                let (store, claim, now): (_, Claim, _) = (stores[n % 2].clone(), claim.clone(), w.now());
                tokio::spawn(async move { store.apply(&claim, now, vec![make()]).await })
            })
            .collect();
        let mut won = 0;
        for t in tries {
            match t.await.unwrap() {
                Ok(_) => won += 1,
                Err(e) => assert_eq!(e.kind(), ErrorKind::Conflict),
            }
        }
        won
    };
    assert_eq!(race(|| started(1)).await, 1);
    assert_eq!(race(|| completed("x")).await, 1);
    let events = w.store.events(&acme, RUN, 0).await.unwrap();
    assert_eq!(events.iter().map(|e| e.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(w.store.owed(0, 100).await.unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_owed_comes_in_order_until_it_is_paid_and_an_id_never_comes_back() {
    let w = World::new().await;
    let claim = claimed(&w.store, "acme", RUN, w.now()).await;
    for n in 0..5_u32 {
        let path = format!("s/{n}");
        w.store.apply(&claim, w.now(), vec![Transition::StepStarted { path: path.clone(), attempt: 1 }]).await.unwrap();
        let done = Transition::StepCompleted { path, output: Vec::new(), outbox: owes("acme", n) };
        w.store.apply(&claim, w.now(), vec![done]).await.unwrap();
    }
    let owed = w.store.owed(0, 3).await.unwrap();
    assert_eq!(owed.iter().map(|o| o.outbox.audit[0].attempt).collect::<Vec<_>>(), [0, 1, 2]);
    assert_eq!((owed[0].run, &owed[0].outbox), (RUN, &owes("acme", 0)));
    w.store.paid(&owed.iter().map(|o| o.id).collect::<Vec<_>>()).await.unwrap();
    let rest = w.store.owed(0, 10).await.unwrap();
    assert_eq!(rest.iter().map(|o| o.outbox.audit[0].attempt).collect::<Vec<_>>(), [3, 4]);
    let paid: Vec<u64> = owed.iter().chain(&rest).map(|o| o.id).collect();
    w.store.paid(&paid).await.unwrap();
    w.store.apply(&claim, w.now(), vec![started(1)]).await.unwrap();
    w.store.apply(&claim, w.now(), vec![completed("x")]).await.unwrap();
    w.store.paid(&paid).await.unwrap();
    assert_eq!(w.store.owed(0, 10).await.unwrap().len(), 1, "a late word of payment hits nothing new");
}

#[tokio::test]
async fn runs_are_listed_newest_first_and_resumed_oldest_first() {
    let w = World::new().await;
    let acme = tenant("acme");
    for n in 1..=3 {
        w.store.create(new_run("acme", RunId::fixed(4 - n), w.now())).await.unwrap();
        w.clock.advance(Duration::from_secs(1));
    }
    let listed: Vec<_> = w.store.runs(&acme, None, 2).await.unwrap().into_iter().map(|r| r.run.id).collect();
    assert_eq!(listed, [RunId::fixed(1), RunId::fixed(2)]);
    let claim =
        w.store.claim(&acme, RunId::fixed(2), "h", w.now(), w.now().after(Duration::from_secs(9))).await.unwrap();
    let end = Transition::RunMoved { state: RunState::Completed, error: None, ran: Duration::ZERO };
    w.store.apply(&claim, w.now(), vec![end]).await.unwrap();
    w.store.release(&claim).await.unwrap();
    let left: Vec<_> = w.store.resumable("h", w.now(), 10).await.unwrap().into_iter().map(|(_, r)| r).collect();
    assert_eq!(left, [RunId::fixed(3), RunId::fixed(1)]);
    assert!(w.store.request_cancel(&acme, RunId::fixed(3)).await.unwrap());
    assert!(w.store.run(&acme, RunId::fixed(3)).await.unwrap().cancel_requested);
    assert_eq!(w.store.runs(&acme, None, 9).await.unwrap()[0].run.workflow, slug("review"));
}
