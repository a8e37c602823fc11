//! The host: a law firm and a stranger, their policies, their accounts, and the stand-in servers.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forge::core::secret::{Secret, SecretRef, StaticSecrets};
use forge::core::{SystemClock, TenantId};
use forge::memory::ExtractiveModel;
use forge::memory::openai::OpenAiConfig;
use forge::prelude::*;
use forge::queue::workflow::Observer;
use forge::telemetry::PrometheusMetrics;
use forge_http::{HttpClient, HttpOptions};
use forge_testkit::{Fault, GoogleStandIn, Play, SlackStandIn};
use serde_json::{Value, json};

use crate::clients::{DriveAccount, DriveFetch, SlackPost, SlackWorkspace};
use crate::register::CaseRegister;
use crate::tools::{DocumentParser, KbSearch};
use crate::workflow::{CHANNEL, workflow};

/// The law firm.
pub const FIRM: &str = "hartwell";
/// The stranger.
pub const STRANGER: &str = "globex";
/// The firm's folder in Drive.
pub const FOLDER: &str = "folder-hartwell-ndas";
/// The tag of what lies in it.
const MATTER: &str = "matter";
/// The stranger's.
const OTHER_FOLDER: &str = "folder-globex";

/// Everybody: tenant, employee, role.
pub const PEOPLE: [(&str, &str, &str); 6] = [
    (FIRM, "intake_001", "intake"),
    (FIRM, "lawyer_001", "lawyer"),
    (FIRM, "research_001", "research"),
    (FIRM, "hr_001", "hr"),
    (FIRM, "partner_001", "partner"),
    (STRANGER, "lawyer_001", "lawyer"),
];

/// The servers that stand in for Google and Slack; dropping them ends them.
pub struct StandIns {
    /// Drive and the token endpoint.
    pub google: GoogleStandIn,
    /// Slack.
    pub slack: SlackStandIn,
    /// How patient the clients are.
    pub http: HttpOptions,
}

impl StandIns {
    /// Starts them, with the faults of an ordinary bad day: Drive is busy, then limits the rate; Slack limits the rate, then takes a
    /// message and loses its answer.
    pub async fn start(out: &Path) -> std::io::Result<Self> {
        let second = Some(Duration::from_secs(1));
        let drive = vec![
            Fault::new("files.get", 1, Play::Status(503, None)),
            Fault::new("files.download", 1, Play::Status(429, second)),
        ];
        let slack = vec![
            Fault::new("chat.postMessage", 1, Play::Status(429, second)),
            Fault::new("chat.postMessage", 2, Play::LoseAnswer),
        ];
        Self::with_faults(out, drive, slack).await
    }

    /// Starts them with faults of one's own.
    pub async fn with_faults(out: &Path, drive: Vec<Fault>, slack: Vec<Fault>) -> std::io::Result<Self> {
        let google = GoogleStandIn::start(out.join("standins/google.jsonl"), drive).await?;
        let slack = SlackStandIn::start(out.join("standins/slack.jsonl"), slack).await?;
        Ok(Self { google, slack, http: HttpOptions::default() })
    }

    /// The tenants' accounts. The firm's folder was shared with the stranger's account too, by mistake: Drive would let it read.
    fn accounts(&self, secrets: StaticSecrets) -> Result<(StaticSecrets, DriveFetch, SlackPost)> {
        let mut secrets = secrets;
        let (mut drives, mut workspaces) = (HashMap::new(), HashMap::new());
        let failed = |e: std::io::Error| {
            Error::new(ErrorKind::Unavailable, "standins.accounts", "an account cannot be made").with_source(e)
        };
        for (tenant, folder) in [(FIRM, FOLDER), (STRANGER, OTHER_FOLDER)] {
            let email = format!("forge@{tenant}.example");
            let key_file = self.google.service_account(&email).map_err(failed)?;
            self.google.share(folder, &email);
            self.google.share(FOLDER, &email);
            let token = format!("bot-{}", forge::core::RequestId::random(forge::core::Clock::now(&SystemClock)));
            self.slack.install(tenant, &token, &[CHANNEL]);
            secrets = secrets
                .with(format!("{tenant}.drive"), Secret::new(key_file))
                .with(format!("{tenant}.slack"), Secret::new(token));
            let secret = |name: &str| -> Result<SecretRef> { format!("mem:{tenant}.{name}").parse() };
            let id = TenantId::parse(tenant)?;
            drives.insert(
                id.clone(),
                DriveAccount {
                    key_file: secret("drive")?,
                    folders: [(folder.to_owned(), vec![MATTER.to_owned()])].into(),
                },
            );
            workspaces.insert(id, SlackWorkspace { token: secret("slack")? });
        }
        let http = HttpClient::new(self.http.clone())?;
        let drive = DriveFetch::new(http.clone(), self.google.base_url(), drives);
        Ok((secrets, drive, SlackPost::new(http, self.slack.base_url(), workspaces)))
    }
}

/// Who may do what at the firm. A message needs a partner's yes.
fn firm() -> Value {
    json!({
        "employees": {
            "intake_001": { "role": "intake" }, "lawyer_001": { "role": "lawyer" }, "research_001": { "role": "research" },
            "hr_001": { "role": "hr" }, "partner_001": { "role": "partner" },
        },
        "grants": {
            "intake": ["workflow.start:nda_review", "run.read:run", "tool.call:kb_search", "tool.call:drive_fetch", "task.enqueue:case_register",
                       "task.run:case_register", "task.read:task"],
            "lawyer": ["tool.call:*", "model.complete:local/*", "model.complete:openai/*", "memory.read:playbook", "memory.write:playbook"],
            "research": ["tool.call:kb_search", "tool.call:drive_fetch", "tool.call:document_parser", "model.complete:local/*"],
            "hr": ["tool.call:kb_search", "tool.call:slack_post"],
            "partner": ["approval.read:*", "approval.decide:slack_post", "run.read:run", "run.replay:run", "usage.read:usage", "audit.read:audit"],
        },
        "doc_access": { MATTER: ["lawyer", "research"] },
        "always_approve": ["slack_post"],
        "approvers": ["partner"],
        "send_allow": { "slack_post": [CHANNEL] },
    })
}

/// The stranger may do everything, in its own house.
fn stranger() -> Value {
    json!({
        "grants": { "lawyer": ["tool.call:*", "model.complete:*", "workflow.start:*", "run.read:*", "task.read:*", "memory.read:*", "usage.read:*", "audit.read:*"] },
        "send_allow": { "slack_post": [CHANNEL] },
    })
}

/// Builds the host on `out/data`.
pub async fn build(
    out: &Path,
    standins: &StandIns,
    metrics: Arc<PrometheusMetrics>,
    observer: Observer,
    model: Option<OpenAiConfig>,
) -> Result<Forge, Box<dyn std::error::Error>> {
    let (secrets, drive, slack) = standins.accounts(StaticSecrets::default())?;
    let mut config = Config::in_dir(out.join("data"));
    config.memory.openai = model;
    let mut builder = Forge::builder()
        .config(config)
        .tenant(FIRM, firm())
        .tenant(STRANGER, stranger())
        .secrets(secrets)
        .metrics(metrics)
        .tools(ToolSet::new().tool(drive).tool(DocumentParser).tool(KbSearch).probed(slack))
        .task("case_register", CaseRegister)
        .model(Arc::new(ExtractiveModel))
        .workflow(workflow())
        .observe_runs(observer);
    for (tenant, employee, role) in PEOPLE {
        builder = builder.employee(Principal::employee(tenant, employee, role)?);
    }
    Ok(builder.build().await?)
}

/// A context of one of the people.
pub fn act_as(forge: &Forge, tenant: &str, employee: &str) -> Result<ExecutionContext> {
    let person = PEOPLE.iter().find(|(t, e, _)| *t == tenant && *e == employee);
    let (tenant, employee, role) = person.ok_or_else(|| Error::not_found("house.act_as", "nobody by this name"))?;
    Ok(forge.context(Principal::employee(tenant, employee, role)?))
}
