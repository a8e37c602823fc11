//! What the run leaves behind, and the lines that prove it.

use std::io::BufReader;
use std::path::Path;
use std::sync::Arc;

use forge::core::audit::AuditEvent;
use forge::core::redact::{EntityKind, Redactor, Text};
use forge::core::usage::UsageQuery;
use forge::core::{TenantId, TraceContext};
use forge::metering::report::{events_jsonl, reconcile, usage_csv};
use forge::policy::verify_jsonl;
use forge::prelude::*;
use forge::telemetry::{PrometheusMetrics, check_trace, otlp_json, read_spans};
use serde_json::Value;

use crate::document::Document;
use crate::house::{FIRM, STRANGER, StandIns, act_as};
use crate::proof::{Proof, canary};
use crate::review;
use crate::tools::Parsed;
use crate::workflow::Composed;
use crate::{Failure, Reviewed};

/// The address that the case register's task carries.
pub const CONTACT: &str = "register.contact@hartwell.example";
/// The ten metrics of the catalogue.
const METRICS: [&str; 10] = [
    "forge_guard_decisions",
    "forge_tool_calls",
    "forge_tool_call_duration_seconds",
    "forge_guard_attempts",
    "forge_model_calls",
    "forge_dlp_findings",
    "forge_usage_events",
    "forge_workflow_runs",
    "forge_workflow_step_duration_seconds",
    "forge_queue_tasks",
];

/// Writes every file and adds every line.
///
/// # Errors
/// If a file cannot be written or a store cannot be read.
pub async fn write(
    out: &Path,
    forge: &Forge,
    standins: &StandIns,
    metrics: &Arc<PrometheusMetrics>,
    reviewed: &[Reviewed],
    proof: &mut Proof,
) -> Result<(), Failure> {
    let mut planted = vec![CONTACT.to_owned()];
    for one in reviewed {
        document(out, forge, standins, one, proof, &mut planted).await?;
    }
    faults(standins, proof);
    books(out, forge, proof).await?;
    std::fs::write(out.join("metrics.txt"), metrics.encode()?)?;
    let text = std::fs::read_to_string(out.join("metrics.txt"))?;
    let absent: Vec<&str> = METRICS.into_iter().filter(|m| !text.contains(&format!("# TYPE {m} "))).collect();
    proof.line(
        format!("ten metrics are exposed{}", listed(&absent)),
        absent.is_empty() && text.ends_with("# EOF\n"),
        "metrics.txt",
    );
    planted.sort();
    planted.dedup();
    let hits = canary(out, &planted)?;
    let name = format!("{} planted or found values rest nowhere in clear{}", planted.len(), listed(&hits));
    proof.line(
        name,
        hits.is_empty() && planted.len() > 1,
        "data/, host.log, metrics.txt, trace.json, audit.jsonl, usage.csv",
    );
    Ok(())
}

fn listed(what: &[impl AsRef<str>]) -> String {
    if what.is_empty() {
        String::new()
    } else {
        format!(", but: {}", what.iter().map(AsRef::as_ref).collect::<Vec<_>>().join(", "))
    }
}

/// The outputs of one document.
async fn document(
    out: &Path,
    forge: &Forge,
    standins: &StandIns,
    one: &Reviewed,
    proof: &mut Proof,
    planted: &mut Vec<String>,
) -> Result<(), Failure> {
    let at = |file: &str| {
        one.dir.join(file).strip_prefix(out).map(|p| p.display().to_string()).unwrap_or_else(|_| file.to_owned())
    };
    trace(one, out, &at("trace.json"), proof)?;
    if let Outcome::Ended(report) = &one.outcome {
        std::fs::write(one.dir.join("error.json"), serde_json::to_string_pretty(report)? + "\n")?;
        println!("  {}: {} {:?}", one.name, report.message, report.context);
    }
    proof.line(format!("{} is reviewed", one.name), matches!(one.outcome, Outcome::Completed), at("review.json"));
    if !matches!(one.outcome, Outcome::Completed) {
        return Ok(());
    }
    let composed: Composed = one.run.output("lawyer/compose").await?;
    let parsed: Parsed = one.run.output("lawyer/document_parser").await?;
    let lawyer = act_as(forge, FIRM, "lawyer_001")?;
    let document: Document = serde_json::from_slice(&forge.blobs().get(&lawyer, &parsed.document).await?)?;
    std::fs::write(one.dir.join("document.txt"), &document.text)?;
    std::fs::write(one.dir.join("review.json"), serde_json::to_string_pretty(&composed.review)? + "\n")?;
    let mut markdown = review::markdown(&composed.review, &document);
    markdown.push_str(&key_sentences(&composed));
    std::fs::write(one.dir.join("review.md"), &markdown)?;
    std::fs::write(one.dir.join("review.html"), review::html(&composed.review, &document))?;

    let quotes = one.run.output::<Value>("research/verify_quotes").await?;
    let checked = quotes.get("quotes").and_then(Value::as_u64).unwrap_or(0);
    proof.line(format!("{checked} quotations stand in {} word for word", one.name), checked > 0, at("review.json"));
    let (what, words) = if composed.review.model.is_language_model {
        ("the review says that a language model answered", "Answered by the language model".to_owned())
    } else {
        ("the review says that no language model was used", "No language model was used".to_owned())
    };
    proof.line(what, markdown.contains(&words), at("review.md"));

    let run = one.run.reference().run;
    let key = forge::core::OperationKey::derived(&[
        b"step",
        FIRM.as_bytes(),
        run.as_bytes(),
        b"lawyer/slack_post",
        &0_u32.to_be_bytes(),
    ]);
    let is_ours = |m: &Value| m.pointer("/metadata/event_payload/key").and_then(Value::as_str) == Some(key.as_str());
    let received = standins.slack.received().into_iter().filter(|r| r.effect.is_some() && is_ours(&r.request));
    let ours: Vec<Value> = received.map(|r| r.request).collect();
    if let Some(message) = ours.first() {
        std::fs::write(one.dir.join("slack.json"), serde_json::to_string_pretty(message)? + "\n")?;
    }
    proof.line(
        format!("one Slack message in all for {}, found {}", one.name, ours.len()),
        ours.len() == 1,
        at("slack.json"),
    );

    let found = values(forge.redactor().as_ref(), &document.text)?;
    let posted = ours.first().map(Value::to_string).unwrap_or_default();
    let through: Vec<&str> = found.iter().map(String::as_str).filter(|v| posted.contains(*v)).collect();
    let name = format!("Slack got none of the document's {} addresses, numbers and secrets", found.len());
    proof.line(name, through.is_empty() && !posted.is_empty(), at("slack.json"));
    planted.extend(found);
    planted.extend(of_samples(&one.name));
    Ok(())
}

fn key_sentences(composed: &Composed) -> String {
    let mut text =
        format!("\n## Key sentences\n\nChosen by `{}`, word for word from the document.\n", composed.review.model.name);
    for q in &composed.summary {
        let line = q.text.split_whitespace().collect::<Vec<_>>().join(" ");
        text.push_str(&format!("\n> {}\n>\n> characters {} to {}\n", line.replace('<', "&lt;"), q.start, q.end));
    }
    text
}

/// What the detectors find in a text, long enough not to stand anywhere by chance.
fn values(redactor: &dyn Redactor, text: &str) -> Result<Vec<String>> {
    let found = redactor.inspect(Text::from(text))?;
    let values = found.iter().filter_map(|f| text.get(f.start..f.end)).filter(|v| v.len() >= 8);
    Ok(values.map(str::to_owned).collect())
}

/// What was planted in the samples of this example, of the kinds that detectors know.
fn of_samples(name: &str) -> Vec<String> {
    let all: Value = serde_json::from_str(include_str!("samples/planted.json")).unwrap_or_default();
    let known = |kind: &str| EntityKind::parse(kind).is_ok();
    let planted = all.pointer(&format!("/files/{name}")).and_then(Value::as_array).cloned().unwrap_or_default();
    let kind_is_known = |p: &&Value| p.get("type").and_then(Value::as_str).is_some_and(known);
    planted.iter().filter(kind_is_known).filter_map(|p| p.get("value")?.as_str().map(str::to_owned)).collect()
}

fn trace(one: &Reviewed, out: &Path, at: &str, proof: &mut Proof) -> Result<(), Failure> {
    let run = one.run.reference().run;
    let id = format!("{:032x}", TraceContext::derived(&[b"run", run.as_bytes()]).trace_id);
    let spans: Vec<_> = read_spans(out.join("spans.jsonl"))?.into_iter().filter(|s| s.trace_id == id).collect();
    std::fs::write(one.dir.join("trace.json"), serde_json::to_string_pretty(&otlp_json(&spans, "nda_review"))? + "\n")?;
    let report = check_trace(&spans);
    let name = format!(
        "{} spans are one trace with real parents and measured durations{}",
        report.spans,
        listed(&report.problems)
    );
    proof.line(name, report.problems.is_empty() && report.spans > 10, at);
    Ok(())
}

/// The bad day was played, and survived.
fn faults(standins: &StandIns, proof: &mut Proof) {
    let count = |all: &[forge_testkit::Recorded], route: &str, outcome: &str| {
        all.iter().filter(|r| r.route == route && r.outcome == outcome).count()
    };
    let (google, slack) = (standins.google.received(), standins.slack.received());
    let busy = count(&google, "files.get", "fault") + count(&google, "files.download", "fault");
    proof.line("Drive answered 503 and 429, and was asked again", busy == 2, "standins/google.jsonl");
    let limited = count(&slack, "chat.postMessage", "fault");
    let probed = count(&slack, "conversations.history", "ok");
    proof.line(
        "Slack answered 429, then lost an answer, which was looked up",
        limited == 1 && probed >= 1,
        "standins/slack.jsonl",
    );
}

/// Usage and audit of both tenants.
async fn books(out: &Path, forge: &Forge, proof: &mut Proof) -> Result<(), Failure> {
    let firm = TenantId::parse(FIRM)?;
    let partner = act_as(forge, FIRM, "partner_001")?;
    let events = forge.scope(&partner).usage(&firm, &UsageQuery::default(), usize::MAX).await?;
    std::fs::write(out.join("usage.csv"), usage_csv(&events)?)?;
    std::fs::write(out.join("usage-events.jsonl"), events_jsonl(&events)?)?;
    let (csv, jsonl) =
        (std::fs::read_to_string(out.join("usage.csv"))?, std::fs::read_to_string(out.join("usage-events.jsonl"))?);
    let sums = reconcile(&csv, &jsonl);
    let name = format!("the usage report of {} rows equals its events exactly", events.len());
    proof.line(name, sums.is_ok() && !events.is_empty(), "usage.csv, usage-events.jsonl");

    let rows = forge.scope(&partner).audit(&firm, 1, usize::MAX >> 1).await?;
    let outcomes = rows.iter().filter(|r| r.record.event.name() == "outcome").count();
    let approved =
        rows.iter().any(|r| matches!(&r.record.event, AuditEvent::Approval { answer, .. } if answer == "approve"));
    proof.line(
        format!("a partner's approval and {outcomes} outcomes are audited"),
        approved && outcomes > 0,
        "audit.jsonl",
    );
    let stranger = act_as(forge, STRANGER, "lawyer_001")?;
    for (who, tenant, file) in [(&partner, FIRM, "audit.jsonl"), (&stranger, STRANGER, "audit.globex.jsonl")] {
        forge.scope(who).export_audit(&TenantId::parse(tenant)?, out.join(file)).await?;
        let report = verify_jsonl(BufReader::new(std::fs::File::open(out.join(file))?))?;
        let name = format!("the chain of {}'s {} audit rows holds", tenant, report.rows);
        proof.line(name, report.broken.is_none() && report.rows > 0, file);
    }
    Ok(())
}
