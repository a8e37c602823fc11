//! An NDA review, end to end, through the whole guard.
//!
//! A law firm's intake clerk starts the review of an NDA that lies in the firm's Drive. The lawyer's stage fetches it, reads it, asks
//! the firm's playbook, composes the review and posts it to Slack, once a partner has approved exactly that message; the research
//! stage checks every quotation. A second tenant tries to reach in and cannot. Google and Slack are stand-in servers that speak the
//! real protocols, faults included.
//!
//! ```sh
//! cargo run --release --example nda_review
//! cargo run --release --example nda_review -- --input my_nda.pdf --out target/mine
//! cargo run --release --example nda_review -- --kill-after compose     # then the same without it: it goes on
//! ```

#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::missing_errors_doc,
    reason = "a command-line program, not an interface"
)]
#![cfg_attr(test, allow(dead_code, reason = "the tests are of the modules"))]

pub mod args;
#[cfg(all(test, feature = "memory-openai"))]
mod asked;
pub mod clients;
pub mod document;
#[cfg(test)]
mod faults;
#[cfg(test)]
mod hostile;
pub mod house;
pub mod negatives;
pub mod outputs;
pub mod proof;
pub mod register;
pub mod review;
pub mod tools;
pub mod workflow;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use forge::core::queue::{NewTask, TaskState};
use forge::core::usage::UsageQuery;
use forge::core::{Slug, SystemClock, TaskId};
use forge::memory::Passage;
use forge::prelude::*;
use forge::telemetry::{PrometheusMetrics, RedactingWriter, SpanRecorder};
use futures::StreamExt;
use serde_json::json;
use tracing_subscriber::prelude::*;

use args::Args;
use house::{FIRM, FOLDER, StandIns, act_as};
use negatives::Targets;
use proof::Proof;
use workflow::NdaRequest;

type Failure = Box<dyn std::error::Error>;

#[tokio::main]
async fn main() -> ExitCode {
    let args = match Args::read() {
        Ok(args) => args,
        Err(usage) => {
            eprintln!("{usage}");
            return ExitCode::from(2);
        }
    };
    match run(&args).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(e) => {
            eprintln!("error: {e}");
            ExitCode::FAILURE
        }
    }
}

async fn run(args: &Args) -> Result<bool, Failure> {
    let inputs = inputs(&args.input)?;
    let out = args.out.as_path();
    std::fs::create_dir_all(out)?;
    let standins = StandIns::start(out).await?;
    let metrics = Arc::new(PrometheusMetrics::new());
    let spans = record(out)?;
    let forge =
        house::build(out, &standins, metrics.clone(), killer(args.kill_after.clone()), args.model.clone()).await?;
    println!("the house is open: state in {}", out.join("data").display());
    stock_the_shelf(&forge).await?;

    let mut proof = Proof::default();
    let mut reviewed = Vec::new();
    for input in &inputs {
        let name = input.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let dir = if inputs.len() == 1 { out.to_path_buf() } else { out.join(&name) };
        std::fs::create_dir_all(&dir)?;
        println!("\nreviewing {name}");
        reviewed.push(review_one(&forge, &standins, input, &name, dir).await?);
    }
    println!("\nwhat must not work");
    let targets = Targets::of(&reviewed).ok_or("there is nothing to review")?;
    negatives::attempt(&forge, &standins, &targets, &mut proof).await?;
    forge.shutdown(Duration::from_secs(10)).await?;
    spans.flush();
    println!("\nwhat was promised");
    outputs::write(out, &forge, &standins, &metrics, &reviewed, &mut proof).await?;
    proof.write(out)?;
    println!(
        "\n{}: {}",
        if proof.all_passed() { "all passed" } else { "NOT all passed" },
        out.join("summary.json").display()
    );
    Ok(proof.all_passed())
}

/// One reviewed document.
pub struct Reviewed {
    /// The file's name.
    pub name: String,
    /// Where its outputs go.
    pub dir: PathBuf,
    /// The file's id in Drive.
    pub file: String,
    /// The run.
    pub run: RunHandle,
    /// How it ended.
    pub outcome: Outcome,
    /// The task that notes its contact.
    pub task: TaskId,
}

impl Targets {
    fn of(reviewed: &[Reviewed]) -> Option<Self> {
        let first = reviewed.first()?;
        Some(Self { file: first.file.clone(), run: first.run.reference().clone(), task: first.task })
    }
}

/// The files to review, by name.
fn inputs(path: &Path) -> Result<Vec<PathBuf>, Failure> {
    if path.is_file() {
        return Ok(vec![path.to_path_buf()]);
    }
    let known = |p: &PathBuf| {
        let extension = p.extension().map(|e| e.to_string_lossy().to_lowercase());
        p.is_file() && extension.is_some_and(|e| matches!(e.as_str(), "pdf" | "docx" | "txt"))
    };
    let read = std::fs::read_dir(path)
        .map_err(|e| format!("{}: {e}; give a file or a folder with --input", path.display()))?;
    let mut files: Vec<PathBuf> = read.filter_map(|e| e.ok().map(|e| e.path())).filter(known).collect();
    files.sort();
    if files.is_empty() {
        return Err(format!("{}: no PDF, DOCX or TXT in it", path.display()).into());
    }
    Ok(files)
}

/// Spans and logs go to files, masked.
fn record(out: &Path) -> Result<SpanRecorder, Failure> {
    let mask: Arc<dyn forge::core::redact::Redactor> = Arc::new(forge::dlp::StandardRedactor::masking());
    let spans = SpanRecorder::to_file(out.join("spans.jsonl"), Arc::new(SystemClock), mask.clone())?;
    let log = RedactingWriter::to_file(out.join("host.log"), mask)?;
    tracing_subscriber::registry()
        .with(spans.clone())
        .with(
            tracing_subscriber::fmt::layer()
                .with_ansi(false)
                .with_writer(log)
                .with_filter(tracing_subscriber::filter::LevelFilter::INFO),
        )
        .try_init()?;
    Ok(spans)
}

/// Ends the process after a step, as a power cut would.
fn killer(after: Option<String>) -> forge::queue::workflow::Observer {
    Arc::new(move |_, event| {
        let step = event.path.rsplit('/').next().unwrap_or_default();
        if event.what == "completed" && after.as_deref() == Some(step) {
            println!("killed after {step}");
            let _ = std::process::Command::new("kill").args(["-9", &std::process::id().to_string()]).status();
            // where there is no `kill`
            std::process::abort();
        }
    })
}

/// The firm's playbook, remembered passage by passage.
async fn stock_the_shelf(forge: &Forge) -> Result<(), Failure> {
    let text = include_str!("samples/playbook.md");
    let passages = text.split("\n## ").skip(1).enumerate().map(|(n, part)| {
        let (title, body) = part.split_once('\n').unwrap_or((part, ""));
        Passage::new(format!("playbook-{:02}", n + 1), title.trim(), body.trim())
    });
    let lawyer = act_as(forge, FIRM, "lawyer_001")?;
    forge.scope(&lawyer).remember(&tools::playbook(&lawyer)?, passages.collect()).await?;
    Ok(())
}

/// Puts the file into the firm's Drive, starts its review, shows its progress, and has the partner approve what waits for it.
async fn review_one(
    forge: &Forge,
    standins: &StandIns,
    input: &Path,
    name: &str,
    dir: PathBuf,
) -> Result<Reviewed, Failure> {
    let bytes = std::fs::read(input)?;
    let mime = match input.extension().and_then(|e| e.to_str()) {
        Some("pdf") => forge_testkit::PDF,
        Some("docx") => forge_testkit::DOCX,
        _ => forge_testkit::TEXT,
    };
    let file = standins.google.add_file(FOLDER, name, mime, bytes);
    let intake = act_as(forge, FIRM, "intake_001")?;
    let request = NdaRequest { file: file.clone(), case: format!("nda-{}", file.chars().take(8).collect::<String>()) };
    let run = forge.scope(&intake).start_once(&file, "nda_review", &request).await?;
    let mut seen = 0;
    let outcome = loop {
        let mut progress = run.progress_after(seen);
        while let Some(line) = progress.next().await {
            let line = line?;
            println!("  {line}");
            seen = line.0.seq;
        }
        match (run.wait().await?, run.status().await?.approval().cloned()) {
            (Outcome::Parked, Some(asked)) => {
                let partner = act_as(forge, FIRM, "partner_001")?;
                println!("  partner_001 approves the message with the digest {:.16}…", asked.digest.to_string());
                forge.scope(&partner).approve(asked.id, asked.digest).await?;
            }
            (outcome, _) => break outcome,
        }
    };
    println!("  {}", cost(forge, &run).await?);
    let task = note_contact(forge, &intake, &request).await?;
    Ok(Reviewed { name: name.to_owned(), dir, file, run, outcome, task })
}

/// What the run used, in words.
async fn cost(forge: &Forge, run: &RunHandle) -> Result<String, Failure> {
    let partner = act_as(forge, FIRM, "partner_001")?;
    let query = UsageQuery::default().with_run(run.reference().run);
    let used = forge.scope(&partner).usage_totals(partner.tenant(), &query).await?;
    let cost: Vec<String> = used.cost.iter().map(|m| format!("{} {}", m.amount, m.currency.as_str())).collect();
    let q = used.quantity;
    Ok(format!(
        "it used {} calls of tools, {} tokens in and {} out: {}",
        q.tool_calls,
        q.tokens_in,
        q.tokens_out,
        cost.join(", ")
    ))
}

/// A queued task with a person's address in it.
async fn note_contact(forge: &Forge, intake: &ExecutionContext, request: &NdaRequest) -> Result<TaskId, Failure> {
    let payload = json!({ "case": request.case, "contact": outputs::CONTACT });
    let id = forge.scope(intake).enqueue(NewTask::new(Slug::parse("case_register")?, payload)).await?;
    loop {
        match forge.scope(intake).task(intake.tenant(), id).await?.state {
            TaskState::Ready | TaskState::Leased => tokio::time::sleep(Duration::from_millis(20)).await,
            TaskState::Succeeded { result } if result.get("contact_is_an_address") == Some(&json!(true)) => {
                return Ok(id);
            }
            other => return Err(format!("the case register's task ended otherwise: {other:?}").into()),
        }
    }
}
