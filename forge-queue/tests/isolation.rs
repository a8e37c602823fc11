//! Two tenants, the same names everywhere: neither finds, changes or reads what is the other's, nor does who has the disk.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use common::{World, claimed, ctx, holds, lease, lease_one, new_run, question, raw, refused, slug, task, tenant};
use forge_core::approvals::{Answer, ApprovalState, Approvals};
use forge_core::blob::BlobStore;
use forge_core::fake::FakeKeyring;
use forge_core::journal::{Claim, Journal, Outbox, Transition};
use forge_core::kv::{KeyValue, PutOptions};
use forge_core::queue::{Broker, Nack, TaskQueue, TaskState};
use forge_core::testing::context;
use forge_core::{Error, ErrorKind, Namespace, OperationKey, RunId, Timestamp};
use forge_queue::blob::FileBlobs;
use forge_queue::dead::{DeadLetters, LetterFilter};
use serde_json::json;

const RUN: RunId = RunId::fixed(7);

#[tokio::test]
async fn the_same_names_in_two_tenants_are_two_things() {
    let w = World::new().await;
    let (acme, globex) = (ctx("acme"), ctx("globex"));
    let notes = |c| Namespace::of(c, slug("notes"));
    for (c, value) in [(&acme, "a"), (&globex, "g")] {
        w.store.put(c, &notes(c), "k", value.into(), PutOptions::default()).await.unwrap();
        w.store.ask(c, question(7)).await.unwrap();
        w.store.create(new_run(c.tenant().as_str(), RUN, w.now())).await.unwrap();
    }
    assert!(w.store.delete(&acme, &notes(&acme), "k").await.unwrap());
    assert_eq!(w.store.get(&globex, &notes(&globex), "k").await.unwrap().unwrap().value, "g");

    let pat = context("acme", "pat", "partner");
    w.store.answer(&pat, question(7).id, question(7).digest, Answer::Approve).await.unwrap();
    assert_eq!(w.store.find(&globex, question(7).id).await.unwrap().state, ApprovalState::Pending);
    refused(w.store.consume(&globex, question(7).id, &question(7).operation).await, ErrorKind::Conflict);

    let claim = claimed(&w.store, "acme", RUN, w.now()).await;
    let begin = Transition::StepStarted { path: "s/a".into(), attempt: 1 };
    w.store.apply(&claim, w.now(), vec![begin.clone()]).await.unwrap();
    assert!(w.store.steps(&tenant("globex"), RUN).await.unwrap().is_empty());
    assert_eq!(w.store.events(&tenant("globex"), RUN, 0).await.unwrap().len(), 1);
    let stolen = Claim { tenant: tenant("globex"), ..claim };
    refused(w.store.apply(&stolen, w.now(), vec![begin]).await, ErrorKind::LeaseLost);
    assert!(w.store.request_cancel(&tenant("acme"), RUN).await.unwrap());
    assert!(!w.store.run(&tenant("globex"), RUN).await.unwrap().cancel_requested);
}

#[tokio::test]
async fn a_foreign_thing_is_not_there() {
    let w = World::new().await;
    let (acme, globex) = (ctx("acme"), ctx("globex"));
    let id = w.store.enqueue(&acme, task("index", json!(1))).await.unwrap();
    refused(w.store.status(&globex, id).await, ErrorKind::NotFound);
    refused(w.store.cancel(&globex, id).await, ErrorKind::NotFound);
    assert_eq!(w.store.depth(&globex).await.unwrap().ready, 0);
    let mut forged = lease_one(&w.store).await;
    forged.tenant = tenant("globex");
    refused(w.store.ack(&forged, json!("x")).await, ErrorKind::LeaseLost);
    assert_eq!(w.store.status(&acme, id).await.unwrap().state, TaskState::Leased);

    w.store.ask(&acme, question(7)).await.unwrap();
    refused(w.store.find(&globex, question(7).id).await, ErrorKind::NotFound);
    let pat = context("globex", "pat", "partner");
    refused(w.store.answer(&pat, question(7).id, question(7).digest, Answer::Approve).await, ErrorKind::NotFound);
    assert!(w.store.pending(&globex, 10).await.unwrap().is_empty());

    let mine = claimed(&w.store, "acme", RUN, w.now()).await;
    let theirs = tenant("globex");
    refused(w.store.run(&theirs, RUN).await, ErrorKind::NotFound);
    refused(w.store.claim(&theirs, RUN, "h", w.now(), w.now()).await, ErrorKind::NotFound);
    refused(w.store.request_cancel(&theirs, RUN).await, ErrorKind::NotFound);
    refused(w.store.extend(&Claim { tenant: theirs.clone(), ..mine }, w.now()).await, ErrorKind::NotFound);
    assert!(w.store.runs(&theirs, None, 10).await.unwrap().is_empty());
    assert!(w.store.events(&theirs, RUN, 0).await.unwrap().is_empty());
}

#[tokio::test]
async fn results_reports_and_values_do_not_rest_in_clear() {
    const CANARY: &str = "canary-4929-1234";
    let w = World::new().await;
    let acme = ctx("acme");
    let good = w.store.enqueue(&acme, task("index", json!("[tok:abc]"))).await.unwrap();
    w.store.ack(&lease_one(&w.store).await, json!({ "name": CANARY })).await.unwrap();
    w.store.enqueue(&acme, task("index", json!(2))).await.unwrap();
    let report = Error::unexpected("t", "failed").with_source(std::io::Error::other(CANARY)).report();
    w.store.nack(&lease_one(&w.store).await, Nack::Dead { report: report.clone() }).await.unwrap();
    let notes = Namespace::of(&acme, slug("notes"));
    w.store.put(&acme, &notes, "k", CANARY.into(), PutOptions::default()).await.unwrap();
    let blobs = FileBlobs::open(w.dir.path().join("blobs"), Arc::new(FakeKeyring), w.clock.clone()).await.unwrap();
    blobs.put(&acme, CANARY.into()).await.unwrap();

    let bytes = raw(w.dir.path());
    assert!(holds(&bytes, "[tok:abc]"), "the search itself works");
    assert!(!holds(&bytes, CANARY));
    assert!(!holds(format!("{:?} {blobs:?}", w.store).as_bytes(), "queue.db/"), "no path and no key in Debug");
    let state = w.store.status(&acme, good).await.unwrap().state;
    assert_eq!(state, TaskState::Succeeded { result: json!({ "name": CANARY }) });
    assert_eq!(w.store.dead_letters(&acme, &LetterFilter::default(), 1).await.unwrap()[0].report, report);
}

#[tokio::test]
async fn a_purge_takes_one_tenant_and_leaves_what_it_owes() {
    let w = World::new().await;
    let (acme, globex) = (ctx("acme"), ctx("globex"));
    for c in [&acme, &globex] {
        let name = c.tenant().as_str();
        w.store.enqueue(c, task("index", json!(name))).await.unwrap();
        w.store.ask(c, question(7)).await.unwrap();
        w.store.put(c, &Namespace::of(c, slug("n")), "k", "v".into(), PutOptions::default()).await.unwrap();
        let claim = claimed(&w.store, name, RUN, w.now()).await;
        w.store.apply(&claim, w.now(), vec![Transition::StepStarted { path: "s/a".into(), attempt: 1 }]).await.unwrap();
        let owes = AuditOf(c).outbox();
        let done = Transition::StepCompleted { path: "s/a".into(), output: vec![1], outbox: owes };
        w.store.apply(&claim, w.now(), vec![done]).await.unwrap();
    }
    let export = w.store.export(&acme).await.unwrap();
    let counts: Vec<_> = export.counts.iter().map(|(t, n)| (t.as_str(), *n)).collect();
    let expected =
        [("approvals", 1), ("events", 3), ("key_values", 1), ("runs", 1), ("schedules", 0), ("steps", 1), ("tasks", 1)];
    assert_eq!(counts, expected);
    assert!(export.rows.iter().all(|r| r["tenant"] == "acme"));
    assert_eq!(export.rows.len(), 8);

    assert_eq!(w.store.purge(&acme).await.unwrap(), 8);
    assert!(w.store.export(&acme).await.unwrap().rows.is_empty());
    assert_eq!(w.store.export(&globex).await.unwrap().rows.len(), 8);
    assert_eq!(w.store.owed(0, 10).await.unwrap().len(), 2, "the books must balance");
    assert_eq!(lease(&w.store, 10).await.len(), 1);
}

#[tokio::test]
async fn pruning_takes_what_ended_well_and_keeps_dead_letters() {
    let w = World::new().await;
    let acme = ctx("acme");
    for n in 0..3 {
        w.store.enqueue(&acme, task("index", json!(n))).await.unwrap();
    }
    let leases = lease(&w.store, 2).await;
    w.store.ack(&leases[0], json!(null)).await.unwrap();
    w.store.nack(&leases[1], Nack::Dead { report: Error::unexpected("t", "x").report() }).await.unwrap();
    assert_eq!(w.store.prune(&acme, w.now(), 10).await.unwrap(), 0);
    w.clock.advance(Duration::from_secs(1));
    assert_eq!(w.store.prune(&ctx("globex"), w.now(), 10).await.unwrap(), 0);
    assert_eq!(w.store.prune(&acme, w.now(), 10).await.unwrap(), 1);
    let depth = w.store.depth(&acme).await.unwrap();
    assert_eq!((depth.ready, depth.dead), (1, 1));
}

struct AuditOf<'a>(&'a forge_core::ExecutionContext);

impl AuditOf<'_> {
    fn outbox(&self) -> Outbox {
        let event = forge_core::audit::AuditEvent::Admin { what: "test".into() };
        let key = OperationKey::derived(&[b"test"]);
        let record = forge_core::audit::AuditRecord::new(self.0, Timestamp::from_nanos(1), key, 1, "a", "b", event);
        Outbox { usage: Vec::new(), audit: vec![record] }
    }
}
