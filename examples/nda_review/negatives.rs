//! What must not work: colleagues beyond their role, and a stranger reaching into the house.

use forge::core::usage::UsageQuery;
use forge::core::{TaskId, TenantId};
use forge::prelude::*;
use forge::queue::workflow::RunRef;
use serde_json::json;

use crate::house::{FIRM, STRANGER, StandIns, act_as};
use crate::proof::Proof;
use crate::tools::playbook;
use crate::workflow::CHANNEL;

/// What the stranger reaches for.
pub struct Targets {
    /// A file of the firm's Drive.
    pub file: String,
    /// A run of the firm's.
    pub run: RunRef,
    /// A task of the firm's.
    pub task: TaskId,
}

/// Tries each; a line of proof for every one.
pub async fn attempt(forge: &Forge, standins: &StandIns, targets: &Targets, proof: &mut Proof) -> Result<()> {
    let firm = TenantId::parse(FIRM)?;
    let posts = standins.slack.messages().len();
    let hr = act_as(forge, FIRM, "hr_001")?;
    let intake = act_as(forge, FIRM, "intake_001")?;
    let lawyer = act_as(forge, FIRM, "lawyer_001")?;
    let fetch = forge.scope(&hr).call("drive_fetch", json!({ "file": targets.file })).await;
    refused(forge, proof, "hr_001 may not fetch", &hr, fetch.err()).await?;
    let read = forge.scope(&intake).call("drive_fetch", json!({ "file": targets.file })).await;
    refused(forge, proof, "intake_001 may fetch, but not read a matter", &intake, read.err()).await?;
    let intake = act_as(forge, FIRM, "intake_001")?;
    let post = forge.scope(&intake).call("slack_post", json!({ "channel": CHANNEL, "text": "hello" })).await;
    refused(forge, proof, "intake_001 may not post", &intake, post.err()).await?;

    let shelf = playbook(&lawyer)?;
    let stranger = || act_as(forge, STRANGER, "lawyer_001");
    let gus = stranger()?;
    let file = forge.scope(&gus).call("drive_fetch", json!({ "file": targets.file })).await;
    refused(forge, proof, "globex may not read hartwell's file", &gus, file.err()).await?;
    let gus = stranger()?;
    let memory = forge.scope(&gus).recall(&shelf, "term", 3).await;
    refused(forge, proof, "globex may not read hartwell's memory", &gus, memory.err()).await?;
    let gus = stranger()?;
    let task = forge.scope(&gus).task(&firm, targets.task).await;
    refused(forge, proof, "globex may not read hartwell's task", &gus, task.err()).await?;
    let gus = stranger()?;
    let run = forge.scope(&gus).run(&targets.run).await;
    refused(forge, proof, "globex may not read hartwell's run", &gus, run.err()).await?;
    let gus = stranger()?;
    let usage = forge.scope(&gus).usage(&firm, &UsageQuery::default(), 10).await;
    refused(forge, proof, "globex may not read hartwell's usage", &gus, usage.err()).await?;
    let gus = stranger()?;
    let audit = forge.scope(&gus).audit(&firm, 1, 10).await;
    refused(forge, proof, "globex may not read hartwell's audit rows", &gus, audit.err()).await?;
    proof.line("the refused attempts posted nothing", standins.slack.messages().len() == posts, "standins/slack.jsonl");
    Ok(())
}

/// A refusal of the class of HTTP 403, with a row in the chain of the one who tried.
async fn refused(
    forge: &Forge,
    proof: &mut Proof,
    name: &str,
    who: &ExecutionContext,
    error: Option<Error>,
) -> Result<()> {
    let refusal = error.as_ref().is_some_and(|e| e.kind().is_refusal());
    let (overseer, file) = if who.tenant().as_str() == FIRM {
        ("partner_001", "audit.jsonl")
    } else {
        ("lawyer_001", "audit.globex.jsonl")
    };
    let reader = act_as(forge, who.tenant().as_str(), overseer)?;
    let rows = forge.scope(&reader).audit(who.tenant(), 1, 100_000).await?;
    let row = rows.iter().rev().find(|r| r.record.request == who.request_id());
    let what = error.map_or("nothing refused it".to_owned(), |e| e.kind().to_string());
    let place = row.map_or("no row".to_owned(), |r| format!("seq {}", r.seq));
    proof.line(format!("{name}: {what}"), refusal && row.is_some(), format!("{file}, {place}"));
    Ok(())
}
