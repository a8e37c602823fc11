//! What Google and Slack can do to a review: each fault, and where the run, its tries, its effects and its dead letter stand then.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use forge::prelude::*;
use forge::telemetry::PrometheusMetrics;
use forge_testkit::{Fault, GOOGLE_DOC, GoogleStandIn, PDF, Play};
use tokio::sync::OnceCell;

use crate::house::{self, FIRM, FOLDER, STRANGER, StandIns, act_as};
use crate::workflow::NdaRequest;

const SAMPLE: &[u8] = include_bytes!("samples/hartwell_mutual_nda.pdf");
const FETCH: &str = "lawyer/drive_fetch";
const POST: &str = "lawyer/slack_post";
const SECOND: Duration = Duration::from_secs(1);

/// One fault and what becomes of it.
struct Row {
    name: &'static str,
    drive: Vec<Fault>,
    slack: Vec<Fault>,
    file: fn(&StandIns) -> String,
    /// How the run ends first: `None` is completed.
    ends: Option<ErrorKind>,
    /// The step that the fault concerns, and its tries until then.
    step: (&'static str, u32),
    /// Requests to a route until then.
    requests: (&'static str, usize),
    /// Makes a replay succeed; without it a replay ends in the same way.
    mended: Option<fn(&StandIns)>,
}

fn sample(s: &StandIns) -> String {
    s.google.add_file(FOLDER, "nda.pdf", PDF, SAMPLE)
}

/// A row in which the run completes.
fn passes(name: &'static str, step: (&'static str, u32), requests: (&'static str, usize)) -> Row {
    Row { name, drive: vec![], slack: vec![], file: sample, ends: None, step, requests, mended: None }
}

/// A row in which the run is given up.
fn fails(name: &'static str, kind: ErrorKind, step: (&'static str, u32), requests: (&'static str, usize)) -> Row {
    Row { ends: Some(kind), ..passes(name, step, requests) }
}

/// By itself, once the fault is over.
fn by_itself(_: &StandIns) {}

fn get(nth: std::ops::RangeInclusive<u64>, play: Play) -> Vec<Fault> {
    vec![Fault::range("files.get", nth, play)]
}

fn download(play: Play) -> Vec<Fault> {
    vec![Fault::new("files.download", 1, play)]
}

fn post(nth: u64, play: Play) -> Vec<Fault> {
    vec![Fault::new("chat.postMessage", nth, play)]
}

fn token() -> Vec<Row> {
    let busy = Fault::new("token", 1, Play::Status(503, None));
    let refused = Fault::new("token", 1, Play::Refuse("invalid_grant"));
    vec![
        Row { drive: vec![busy], ..passes("the token endpoint is busy once", (FETCH, 2), ("token", 2)) },
        Row {
            drive: vec![refused],
            mended: Some(by_itself),
            ..fails("the account is not accepted", ErrorKind::Unauthenticated, (FETCH, 1), ("token", 1))
        },
        Row {
            drive: get(1..=1, Play::Status(401, None)),
            ..passes("the token ends in the middle", (FETCH, 1), ("token", 2))
        },
    ]
}

fn drive() -> Vec<Row> {
    let limited = "userRateLimitExceeded";
    vec![
        Row { drive: get(1..=2, Play::Status(503, None)), ..passes("503 twice", (FETCH, 3), ("files.get", 3)) },
        Row {
            drive: get(1..=3, Play::Status(503, None)),
            mended: Some(by_itself),
            ..fails("503 three times", ErrorKind::Unavailable, (FETCH, 3), ("files.get", 3))
        },
        Row {
            drive: get(1..=1, Play::Throttle(limited, SECOND)),
            ..passes("403 with a rate limit", (FETCH, 2), ("files.get", 2))
        },
        Row { drive: download(Play::Status(429, Some(SECOND))), ..passes("429", (FETCH, 2), ("files.download", 2)) },
        Row { drive: download(Play::Truncate), ..passes("a body that breaks off", (FETCH, 2), ("files.download", 2)) },
        Row { drive: download(Play::Shorten), ..passes("a body that is half", (FETCH, 2), ("files.download", 2)) },
        Row {
            drive: download(Play::Delay(SECOND * 4)),
            ..passes("a body that drips", (FETCH, 2), ("files.download", 2))
        },
        Row {
            file: |s| {
                let file = sample(s);
                s.google.spoil_digest(&file);
                file
            },
            mended: Some(|s| drop(sample(s))),
            ..fails("another digest than the bytes", ErrorKind::Corrupt, (FETCH, 3), ("files.download", 3))
        },
        Row {
            drive: get(1..=1, Play::Status(302, None)),
            mended: Some(by_itself),
            ..fails("a redirect is not followed", ErrorKind::Unexpected, (FETCH, 1), ("files.get", 1))
        },
        Row {
            file: |s| {
                let file = sample(s);
                s.google.trash(&file);
                file
            },
            mended: Some(|s| drop(sample(s))),
            ..fails("in the trash", ErrorKind::NotFound, (FETCH, 1), ("files.get", 1))
        },
        Row {
            file: |s| {
                s.google.add_file(FOLDER, "nda.pdf", PDF, &b"%PDF-1.7 another file of the same name"[..]);
                sample(s)
            },
            ..passes("two files of one name", (FETCH, 1), ("files.get", 1))
        },
        Row {
            file: |s| {
                // by mistake: Drive itself would let it read
                s.google.share("folder-globex", "forge@hartwell.example");
                let theirs = s.google.add_file("folder-globex", "theirs.pdf", PDF, SAMPLE);
                s.google.add_shortcut(FOLDER, "nda.pdf", &theirs)
            },
            ..fails("a shortcut to another tenant's file", ErrorKind::TenantMismatch, (FETCH, 1), ("files.download", 0))
        },
        Row {
            file: |_| "no-such-file".into(),
            ..fails("no such file", ErrorKind::NotFound, (FETCH, 1), ("files.get", 1))
        },
        Row {
            file: |s| s.google.add_file(FOLDER, "huge", GOOGLE_DOC, vec![b'x'; 10_000_001]),
            ..fails("an export over ten megabytes", ErrorKind::InvalidInput, (FETCH, 1), ("files.export", 1))
        },
    ]
}

fn slack() -> Vec<Row> {
    // the first try of the step is the question to the partner
    let refused = |name, error, kind| Row {
        slack: post(1, Play::Refuse(error)),
        mended: Some(by_itself as fn(&StandIns)),
        ..fails(name, kind, (POST, 2), ("chat.postMessage", 1))
    };
    vec![
        Row {
            slack: post(1, Play::Status(429, Some(SECOND))),
            ..passes("429, then ok", (POST, 3), ("chat.postMessage", 2))
        },
        refused("not in the channel", "not_in_channel", ErrorKind::InvalidInput),
        refused("a token that ended", "invalid_auth", ErrorKind::Unauthenticated),
        refused("blocks that are too long", "msg_blocks_too_long", ErrorKind::InvalidInput),
        Row {
            slack: post(1, Play::LoseAnswer),
            ..passes("accepted, and the answer lost", (POST, 2), ("chat.postMessage", 1))
        },
        Row {
            slack: [
                post(1, Play::LoseAnswer),
                vec![Fault::range("conversations.history", 1..=2, Play::Status(503, None))],
            ]
            .concat(),
            ..passes("the answer lost, and the history busy", (POST, 2), ("conversations.history", 3))
        },
        Row { slack: post(1, Play::Truncate), ..passes("half an answer", (POST, 2), ("chat.postMessage", 1)) },
    ]
}

/// Making RSA keys is slow: they are made once and copied, since every stand-in of Google keeps them beside its record.
pub(crate) async fn keys(out: &Path) {
    static MADE: OnceCell<tempfile::TempDir> = OnceCell::const_new();
    let make = || async {
        let dir = tempfile::tempdir().unwrap();
        let google = GoogleStandIn::start(dir.path().join("google.jsonl"), vec![]).await.unwrap();
        for tenant in [FIRM, STRANGER] {
            google.service_account(&format!("forge@{tenant}.example")).unwrap();
        }
        dir
    };
    let from = MADE.get_or_init(make).await.path().join("google.keys");
    let to = out.join("standins/google.keys");
    std::fs::create_dir_all(&to).unwrap();
    for key in std::fs::read_dir(from).unwrap() {
        let key = key.unwrap();
        std::fs::copy(key.path(), to.join(key.file_name())).unwrap();
    }
}

/// Until the run ends; the partner approves what it waits for.
pub(crate) async fn until_the_end(forge: &Forge, run: &RunHandle) -> Outcome {
    loop {
        match (run.wait().await.unwrap(), run.status().await.unwrap().approval().cloned()) {
            (Outcome::Parked, Some(asked)) => {
                let partner = act_as(forge, FIRM, "partner_001").unwrap();
                forge.scope(&partner).approve(asked.id, asked.digest).await.unwrap();
            }
            (outcome, _) => return outcome,
        }
    }
}

fn ended(outcome: &Outcome) -> Option<ErrorKind> {
    match outcome {
        Outcome::Completed => None,
        Outcome::Ended(report) => Some(report.kind),
        Outcome::Parked => panic!("it waits for a person"),
    }
}

async fn plays(row: Row) {
    let name = row.name;
    let dir = tempfile::tempdir().unwrap();
    keys(dir.path()).await;
    let mut standins = StandIns::with_faults(dir.path(), row.drive, row.slack).await.unwrap();
    standins.http.timeout = SECOND * 2;
    let forge = house::build(dir.path(), &standins, Arc::new(PrometheusMetrics::new()), Arc::new(|_, _| {}), None)
        .await
        .unwrap();
    let file = (row.file)(&standins);
    let intake = act_as(&forge, FIRM, "intake_001").unwrap();
    let request = NdaRequest { file, case: "nda-1".into() };
    let run = forge.scope(&intake).start_once(name, "nda_review", &request).await.unwrap();
    let outcome = until_the_end(&forge, &run).await;
    assert_eq!(ended(&outcome), row.ends, "{name}: {outcome:?}");

    let status = run.status().await.unwrap();
    let tries = status.steps.iter().find(|s| s.path == row.step.0).map_or(0, |s| s.attempt);
    assert_eq!(tries, row.step.1, "{name}: tries of {}", row.step.0);
    let (route, wanted) = row.requests;
    assert_eq!(standins.google.requests(route) + standins.slack.requests(route), wanted, "{name}: requests of {route}");
    let messages = || standins.slack.messages().len();
    assert_eq!(messages(), usize::from(row.ends.is_none()), "{name}: messages");

    let partner = act_as(&forge, FIRM, "partner_001").unwrap();
    let stranger = act_as(&forge, STRANGER, "lawyer_001").unwrap();
    let dead = async || forge.scope(&partner).failed_runs(partner.tenant(), 10).await.unwrap();
    assert_eq!(dead().await.first().and_then(|d| d.error.as_ref()).map(|e| e.kind), row.ends, "{name}: dead letter");
    if row.ends.is_some() {
        let theirs = forge.scope(&stranger).replay(run.reference()).await.unwrap_err();
        assert_eq!(theirs.kind(), ErrorKind::TenantMismatch, "isolation: {name}");
        if let Some(mend) = row.mended {
            mend(&standins);
        }
        let again = forge.scope(&partner).replay(run.reference()).await.unwrap();
        let expected = if row.mended.is_some() { None } else { row.ends };
        assert_eq!(ended(&until_the_end(&forge, &again).await), expected, "{name}: replayed");
        assert_eq!(messages(), usize::from(expected.is_none()), "{name}: messages after the replay");
        assert_eq!(dead().await.len(), usize::from(expected.is_some()), "{name}: dead letters after the replay");
    }
    forge.shutdown(Duration::from_secs(5)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn of_the_token_endpoint() {
    futures::future::join_all(token().into_iter().map(plays)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_drive() {
    futures::future::join_all(drive().into_iter().map(plays)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_slack() {
    futures::future::join_all(slack().into_iter().map(plays)).await;
}
