//! Key-values and approvals.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::time::Duration;

use bytes::Bytes;
use common::{World, ctx, question, refused, slug};
use forge_core::approvals::{Answer, Approval, ApprovalState, Approvals};
use forge_core::kv::{Entry, KeyValue, PutMode, PutOptions};
use forge_core::testing::context;
use forge_core::{Digest, ErrorKind, Namespace, Principal};

fn notes(tenant: &str) -> Namespace {
    Namespace::of(&ctx(tenant), slug("notes"))
}

fn within(seconds: u64) -> PutOptions {
    PutOptions::default().with_ttl(Duration::from_secs(seconds))
}

#[tokio::test]
async fn a_value_is_there_until_its_time_is_over() {
    let w = World::new().await;
    let (acme, ns) = (ctx("acme"), notes("acme"));
    let version = w.store.put(&acme, &ns, "k", "v".into(), within(10)).await.unwrap();
    assert_eq!(w.store.get(&acme, &ns, "k").await.unwrap(), Some(Entry { value: "v".into(), version }));
    w.clock.advance(Duration::from_secs(10));
    assert_eq!(w.store.get(&acme, &ns, "k").await.unwrap(), None);
    assert!(!w.store.delete(&acme, &ns, "k").await.unwrap());
    let create = PutOptions::default().with_mode(PutMode::Create);
    w.store.put(&acme, &ns, "k", "w".into(), create).await.unwrap();
    refused(w.store.put(&acme, &ns, "k", "x".into(), create).await, ErrorKind::Conflict);
    w.clock.advance(Duration::from_secs(1_000_000));
    assert!(w.store.delete(&acme, &ns, "k").await.unwrap());
    let old = PutOptions::default().with_mode(PutMode::Match(version));
    w.store.put(&acme, &ns, "k", "y".into(), PutOptions::default()).await.unwrap();
    refused(w.store.put(&acme, &ns, "k", "z".into(), old).await, ErrorKind::Conflict);
}

#[tokio::test]
async fn keys_and_values_have_limits_and_foreign_namespaces_are_refused() {
    let w = World::new().await;
    let (acme, ns) = (ctx("acme"), notes("acme"));
    for key in [String::new(), "k".repeat(513)] {
        refused(w.store.put(&acme, &ns, &key, "v".into(), PutOptions::default()).await, ErrorKind::InvalidInput);
    }
    let huge = Bytes::from(vec![0; w.store_max() + 1]);
    refused(w.store.put(&acme, &ns, "k", huge, PutOptions::default()).await, ErrorKind::InvalidInput);
    refused(w.store.get(&acme, &notes("globex"), "k").await, ErrorKind::TenantMismatch);
    refused(
        w.store.put(&acme, &notes("globex"), "k", "v".into(), PutOptions::default()).await,
        ErrorKind::TenantMismatch,
    );
    refused(w.store.delete(&acme, &notes("globex"), "k").await, ErrorKind::TenantMismatch);
    for hostile in ["../k", "k' OR 1=1 --", "a:b", "ä\0"] {
        w.store.put(&acme, &ns, hostile, hostile.to_owned().into(), PutOptions::default()).await.unwrap();
        assert_eq!(w.store.get(&acme, &ns, hostile).await.unwrap().unwrap().value, hostile);
    }
}

impl World {
    fn store_max(&self) -> usize {
        KeyValue::capability(&self.store).value_max_size
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_match_the_same_version_one_wins() {
    let w = World::new().await;
    let (acme, ns) = (ctx("acme"), notes("acme"));
    let stores = [w.store.clone(), w.other().await];
    let version = w.store.put(&acme, &ns, "k", "0".into(), PutOptions::default()).await.unwrap();
    let tries: Vec<_> = (0..32)
        .map(|n: usize| {
            let (store, acme, ns) = (stores[n % 2].clone(), acme.clone(), ns.clone());
            let options = PutOptions::default().with_mode(PutMode::Match(version));
            tokio::spawn(
                async move { store.put(&acme, &ns, "k", n.to_string().into(), options).await.ok().map(|v| (n, v)) },
            )
        })
        .collect();
    let mut won = Vec::new();
    for t in tries {
        won.extend(t.await.unwrap());
    }
    assert_eq!(won.len(), 1);
    let expected = Entry { value: won[0].0.to_string().into(), version: won[0].1 };
    assert_eq!(w.store.get(&acme, &ns, "k").await.unwrap(), Some(expected));
}

#[tokio::test]
async fn a_question_is_asked_once_answered_once_by_another_and_used_by_its_call() {
    let w = World::new().await;
    let (ana, pat) = (context("acme", "ana", "partner"), context("acme", "pat", "partner"));
    let q = question(1);
    assert_eq!(w.store.ask(&ana, q.clone()).await.unwrap(), q);
    let other = Approval { resource: "other".into(), approver_roles: Vec::new(), ..q.clone() };
    assert_eq!(w.store.ask(&ana, other).await.unwrap(), q, "asking twice asks once");
    refused(w.store.consume(&ana, q.id, &q.operation).await, ErrorKind::Conflict);

    refused(w.store.answer(&ana, q.id, q.digest, Answer::Approve).await, ErrorKind::PolicyDenied);
    let hand = ana.on_behalf(Principal::employee("acme", "bot", "partner").unwrap()).unwrap();
    refused(w.store.answer(&hand, q.id, q.digest, Answer::Approve).await, ErrorKind::PolicyDenied);
    let clerk = context("acme", "cleo", "clerk");
    refused(w.store.answer(&clerk, q.id, q.digest, Answer::Approve).await, ErrorKind::PolicyDenied);
    refused(w.store.answer(&pat, q.id, Digest::of(b"other"), Answer::Approve).await, ErrorKind::Conflict);
    assert_eq!(w.store.find(&ana, q.id).await.unwrap(), q, "no refusal left a trace");

    w.clock.advance(Duration::from_secs(5));
    let yes = w.store.answer(&pat, q.id, q.digest, Answer::Approve).await.unwrap();
    assert_eq!((yes.state, yes.decided.clone()), (ApprovalState::Approved, Some((pat.employee().clone(), w.now()))));
    assert_eq!(w.store.find(&ana, q.id).await.unwrap(), yes);
    refused(w.store.answer(&pat, q.id, q.digest, Answer::Deny).await, ErrorKind::Conflict);

    refused(w.store.consume(&ana, q.id, &question(2).operation).await, ErrorKind::Conflict);
    w.store.consume(&ana, q.id, &q.operation).await.unwrap();
    w.store.consume(&ana, q.id, &q.operation).await.unwrap();
    refused(w.store.consume(&ana, q.id, &question(2).operation).await, ErrorKind::Conflict);
    assert_eq!(w.store.find(&ana, q.id).await.unwrap().state, ApprovalState::Used);
    refused(w.store.answer(&pat, q.id, q.digest, Answer::Approve).await, ErrorKind::Conflict);
}

#[tokio::test]
async fn a_denied_question_is_no_yes_and_one_without_approvers_is_nobodys() {
    let w = World::new().await;
    let (ana, pat) = (ctx("acme"), context("acme", "pat", "partner"));
    let (q, nobody) = (question(1), Approval { approver_roles: Vec::new(), ..question(2) });
    w.store.ask(&ana, q.clone()).await.unwrap();
    w.store.ask(&ana, nobody.clone()).await.unwrap();
    let open: Vec<_> = w.store.pending(&pat, 10).await.unwrap().into_iter().map(|a| a.id).collect();
    assert_eq!(open, [nobody.id, q.id], "oldest first");
    assert_eq!(w.store.pending(&pat, 1).await.unwrap().len(), 1);
    w.store.answer(&pat, q.id, q.digest, Answer::Deny).await.unwrap();
    refused(w.store.consume(&ana, q.id, &q.operation).await, ErrorKind::Conflict);
    refused(w.store.answer(&pat, nobody.id, nobody.digest, Answer::Approve).await, ErrorKind::PolicyDenied);
    assert_eq!(w.store.pending(&pat, 10).await.unwrap(), [nobody]);
}
