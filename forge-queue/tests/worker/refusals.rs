//! Tasks that somebody forged, and what may rest of those that are done.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use forge_core::audit::AuditEvent;
use forge_core::fake::{FakeKeyring, FakeRedactor};
use forge_core::policy::Verdict;
use forge_core::queue::{Lease, NewTask, TaskState};
use forge_core::redact::RedactorExt;
use forge_core::{Digest, ErrorKind, SealedContext, SealedFor, TenantId, Timestamp};
use serde_json::{Value, json};

use crate::bench::{Bench, calm, does, serve, slug};

/// Serves one task of acme's that was tampered with; checks that it is refused, and that the tenant's audit log says so.
async fn refused(tamper: fn(&mut Lease), whose: &str, kind: ErrorKind) {
    let (b, handled) = (Bench::with(|broker| broker.tamper = tamper), Arc::new(AtomicUsize::new(0)));
    let count = handled.clone();
    let worker = b.worker(1).handler(
        &slug("index"),
        does(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            async { Ok(Value::Null) }
        }),
    );
    let id = b.enqueue("acme", "index").await;
    serve(&worker);
    calm().await;
    let TaskState::Dead { report } = b.state(id).await else { panic!("it is tried again") };
    assert_eq!((report.kind, handled.load(Ordering::SeqCst)), (kind, 0));
    let rows = b.fakes.audit.records();
    let [row] = &rows[..] else { panic!("one refusal is one row: {rows:?}") };
    assert_eq!((row.tenant.as_str(), row.employee.as_str()), (whose, "system.worker"), "isolation: of who was asked");
    assert_eq!((row.action.as_str(), row.resource.as_str()), ("task.run", "index"));
    let AuditEvent::Decision { verdict, reasons, .. } = &row.event else { panic!("{row:?}") };
    assert_eq!((*verdict, &reasons[..]), (Verdict::Deny, &[kind.as_str().to_owned()][..]));
}

#[tokio::test]
async fn a_seal_that_does_not_hold_is_a_dead_letter_and_a_row_in_the_audit_log() {
    let forged = |lease: &mut Lease| lease.body = Digest::of(b"another body");
    refused(forged, "acme", ErrorKind::Unauthenticated).await;
    let elsewhere = |lease: &mut Lease| lease.queue = "globex.default".into();
    refused(elsewhere, "acme", ErrorKind::Unauthenticated).await;
    let foreign = |lease: &mut Lease| lease.tenant = TenantId::parse("globex").unwrap();
    refused(foreign, "globex", ErrorKind::TenantMismatch).await;
    let late = |lease: &mut Lease| {
        let (id, name, queue) = (lease.id.to_string(), lease.name.to_string(), lease.queue.clone());
        let bound = SealedFor { id, name, queue, body: lease.body };
        let (from, until) = (Timestamp::from_nanos(1), Timestamp::from_nanos(2));
        lease.context = SealedContext::seal(&crate::bench::ctx("acme"), bound, &FakeKeyring, from, until).unwrap();
    };
    refused(late, "acme", ErrorKind::Unauthenticated).await;
}

#[tokio::test]
async fn a_result_rests_as_tokens_of_its_tenant() {
    let b = Bench::new();
    let worker = b.worker(1).handler(
        &slug("index"),
        does(|_, task| async move {
            assert_eq!(task.payload["to"], "eve@globex.example", "the handler sees its payload in clear");
            Ok(json!({ "sent_to": ["eve@globex.example"], "pages": 3 }))
        }),
    );
    let ctx = crate::bench::ctx("acme");
    let mut payload = json!({ "to": "eve@globex.example" });
    FakeRedactor.redact_json(ctx.tenant(), &mut payload, &forge_core::redact::RedactOptions::tokenize_all()).unwrap();
    let id = b.enqueue_task("acme", NewTask::new(slug("index"), payload)).await;
    serve(&worker);
    calm().await;
    let TaskState::Succeeded { mut result } = b.state(id).await else { panic!("it is done") };
    assert!(!result.to_string().contains("eve@"), "{result}");
    FakeRedactor.reveal_json(ctx.tenant(), &mut result).unwrap();
    assert_eq!(result, json!({ "sent_to": ["eve@globex.example"], "pages": 3 }));
}
