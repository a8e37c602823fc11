//! Spans have their real parents, survive a crash and hold nothing personal.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use forge_core::context::{derived_span, span};
use forge_core::fake::{FakeRedactor, ManualClock};
use forge_core::testing::context;
use forge_core::{Clock, SystemClock};
use forge_telemetry::{RecordedSpan, RedactingWriter, SpanRecorder, check_trace, otlp_json, read_spans};
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

/// A fragment that a crash left must not swallow the first line of the process that goes on, nor make the file unreadable.
#[test]
fn a_torn_line_is_left_behind_when_the_next_process_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spans.jsonl");
    let run_in_a_process = |name: &str| {
        let spans = recorder(&path);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(spans.clone()), || {
            drop(span(&context("acme", "ana", "analyst"), name).1);
        });
        assert_eq!(spans.dropped(), 0);
    };
    // inside a name of two bytes a letter: no UTF-8 either
    let whole = "{\"trace_id\":\"ab\",\"name\":\"é".as_bytes();
    run_in_a_process("first");
    for cut in [whole, &whole[..whole.len() - 1]] {
        std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(cut).unwrap();
        run_in_a_process("next");
    }
    let names: Vec<_> = read_spans(&path).unwrap().into_iter().map(|s| s.name).collect();
    assert_eq!(names, ["first", "next", "next"]);
    std::fs::OpenOptions::new().append(true).open(&path).unwrap().write_all(b"{\"trace_id\":7}\n").unwrap();
    run_in_a_process("last");
    let e = read_spans(&path).unwrap_err();
    assert_eq!(e.kind(), forge_core::ErrorKind::Corrupt, "a whole line that is no span was not torn by a crash: {e}");
}

#[test]
fn durations_are_the_clocks_and_fields_may_come_later() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("spans.jsonl");
    let clock = Arc::new(ManualClock::default());
    let spans = SpanRecorder::to_file(&path, clock.clone(), Arc::new(FakeRedactor)).unwrap();
    let ctx = context("acme", "ana", "analyst");
    tracing::subscriber::with_default(tracing_subscriber::registry().with(spans.clone()), || {
        let (_, call) = span(&ctx, "execute_tool weather");
        clock.advance(Duration::from_millis(250));
        for (field, value) in
            [("resource", "weather"), ("operation_key", "op-1"), ("decision", "d-1"), ("verdict", "allow")]
        {
            call.record(field, value);
        }
        call.record("attempt", 2_u64).record("error", "timeout");
        // a span of anybody else is not ours to keep
        drop(tracing::info_span!("other", secret = "x"));
    });
    spans.flush();
    let [call] = read_spans(&path).unwrap().try_into().unwrap();
    assert_eq!(call.start, clock.now().as_nanos() - 250_000_000);
    assert_eq!(call.end, clock.now().as_nanos());
    assert_eq!((call.trace_id.len(), call.span_id.len(), call.parent_span_id.as_str()), (32, 16, "0000000000000000"));
    assert_eq!(call.trace_id, format!("{:032x}", ctx.trace().trace_id));
    let (request, expected) = (
        ctx.request_id().to_string(),
        [
            ("error.type", "timeout"),
            ("forge.attempt", "2"),
            ("forge.decision", "d-1"),
            ("forge.employee", "ana"),
            ("forge.operation_key", "op-1"),
            ("forge.resource", "weather"),
            ("forge.tenant", "acme"),
            ("forge.verdict", "allow"),
        ],
    );
    let mut attributes = call.attributes.clone();
    assert_eq!(attributes.remove("forge.request"), Some(request));
    assert!(attributes.iter().map(|(k, v)| (k.as_str(), v.as_str())).eq(expected), "{attributes:?}");
}

/// Both formats, to the byte: what a file looked like, and the OTLP that it becomes.
#[test]
fn the_golden_file_reads_and_renders_as_ever() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let spans = read_spans(golden.join("spans.jsonl")).unwrap();
    let mut otlp = otlp_json(&spans, "nda_review");
    otlp["resourceSpans"][0]["scopeSpans"][0]["scope"]["version"] = "0.0.0".into();
    let rendered = serde_json::to_string_pretty(&otlp).unwrap() + "\n";
    assert_eq!(rendered, std::fs::read_to_string(golden.join("trace.json")).unwrap());
    let report = check_trace(&spans);
    assert_eq!((report.spans, report.roots, report.interrupted, report.outlived), (4, 1, 1, 1), "{report:?}");
    assert!(report.problems.is_empty(), "{report:?}");
}

#[test]
fn a_trace_that_does_not_hold_together_is_told() {
    let golden = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/spans.jsonl");
    let good = read_spans(golden).unwrap();
    let problem = |change: fn(&mut Vec<RecordedSpan>)| {
        let mut spans = good.clone();
        change(&mut spans);
        check_trace(&spans).problems.join("; ")
    };
    assert!(problem(|s| s[1].trace_id = "f".repeat(32)).contains("2 trace ids"));
    assert!(problem(|s| s[1].parent_span_id = "f".repeat(16)).contains("a parent that was not recorded"));
    assert!(problem(|s| s[1].parent_span_id = "0".repeat(16)).contains("2 roots"));
    assert!(problem(|s| s[1].end = s[1].start).contains("no duration"));
    assert!(problem(|s| s[1].start = s[0].start - 1).contains("begins before its parent"));
    assert!(problem(|s| s[1].span_id = s[0].span_id.clone()).contains("shares its id"));
    assert!(problem(Vec::clear).contains("0 trace ids"));
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
