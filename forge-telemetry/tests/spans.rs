//! Spans have their real parents, survive a crash and hold nothing personal.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Write;
use std::sync::Arc;

use forge_core::SystemClock;
use forge_core::context::{derived_span, span};
use forge_core::fake::FakeRedactor;
use forge_core::testing::context;
use forge_telemetry::{RedactingWriter, SpanRecorder, check_trace, otlp_json, read_spans};
use tracing::Instrument;
use tracing_subscriber::prelude::*;

fn recorder(path: &std::path::Path) -> SpanRecorder {
    SpanRecorder::to_file(path, Arc::new(SystemClock), Arc::new(FakeRedactor)).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn interleaved_tasks_keep_their_real_parents() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spans.jsonl");
    let spans = recorder(&path);
    let guard = tracing::subscriber::set_default(tracing_subscriber::registry().with(spans.clone()));
    let dispatch = tracing::dispatcher::get_default(Clone::clone);
    let ctx = context("acme", "ana", "analyst");
    let (root_ctx, root) = span(&ctx, "root");
    let children = (0..20).map(|n| {
        let (ctx, dispatch) = (root_ctx.clone(), dispatch.clone());
        tokio::spawn(async move {
            let _guard = tracing::dispatcher::set_default(&dispatch);
            let (inner, child) = span(&ctx, &format!("child {n}"));
            drop(_guard);
            async {
                tokio::task::yield_now().await;
                let (_, leaf) = tracing::dispatcher::with_default(&dispatch, || span(&inner, &format!("leaf {n}")));
                leaf.record("error", "timeout");
                tokio::task::yield_now().await;
            }
            .instrument(child)
            .await;
        })
    });
    for c in children.collect::<Vec<_>>() {
        c.await.unwrap();
    }
    drop(root);
    spans.flush();
    drop(guard);
    let recorded = read_spans(&path).unwrap();
    let report = check_trace(&recorded);
    assert_eq!((report.spans, report.roots, report.problems.len()), (41, 1, 0), "{report:?}");
    for n in 0..20 {
        let named = |name: String| recorded.iter().find(|s| s.name == name).unwrap();
        assert_eq!(named(format!("leaf {n}")).parent_span_id, named(format!("child {n}")).span_id);
    }
    let otlp = otlp_json(&recorded, "test");
    let first = &otlp["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert!(first["traceId"].as_str().unwrap().len() == 32 && first["startTimeUnixNano"].is_string(), "{first}");
    let failed = otlp.to_string().matches(r#""code":2"#).count();
    assert_eq!(failed, 20);
}

#[test]
fn a_crash_tears_at_most_the_last_line_and_a_reopened_span_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spans.jsonl");
    let ctx = context("acme", "ana", "analyst");
    for process in 0..2 {
        let spans = recorder(&path);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(spans.clone()), || {
            let (run, run_span) = derived_span(&ctx, "run", &[b"run", b"7"]);
            let (step, step_span) = span(&run, &format!("step {process}"));
            let (_, leaf) = span(&step, "leaf");
            drop(leaf);
            if process == 0 {
                // the first process is killed inside its step
                std::mem::forget(step_span);
                std::mem::forget(run_span);
            }
        });
        spans.flush();
    }
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"trace_id\":\"ab").unwrap();
    let recorded = read_spans(&path).unwrap();
    let report = check_trace(&recorded);
    assert_eq!((report.spans, report.problems.len()), (5, 0), "{report:?}");
    let interrupted: Vec<_> = recorded.iter().filter(|s| !s.closed).map(|s| s.name.as_str()).collect();
    assert_eq!(interrupted, ["step 0"], "the run was closed by the second process");
}

#[test]
fn no_personal_datum_reaches_the_files_and_tenants_can_be_told_apart() {
    let dir = tempfile::tempdir().unwrap();
    let (path, log) = (dir.path().join("spans.jsonl"), dir.path().join("host.log"));
    let spans = recorder(&path);
    let writer = RedactingWriter::to_file(&log, Arc::new(FakeRedactor)).unwrap();
    let subscriber = tracing_subscriber::registry()
        .with(spans.clone())
        .with(tracing_subscriber::fmt::layer().with_ansi(false).with_writer(writer));
    tracing::subscriber::with_default(subscriber, || {
        for tenant in ["acme", "globex"] {
            let (_, s) = span(&context(tenant, "ana", "analyst"), "call");
            s.record("resource", "mail ana@example.com now");
            s.in_scope(|| tracing::info!(to = "ana@example.com", "the word is hunter2 today"));
        }
    });
    spans.flush();
    for file in [&path, &log] {
        let raw = std::fs::read_to_string(file).unwrap();
        assert!(!raw.contains("example.com") && !raw.contains("hunter2") && raw.contains("[EMAIL]"), "{raw}");
    }
    let recorded = read_spans(&path).unwrap();
    let of = |t: &str| recorded.iter().filter(|s| s.is_of(&forge_core::TenantId::parse(t).unwrap())).count();
    assert_eq!((of("acme"), of("globex")), (1, 1));
}
