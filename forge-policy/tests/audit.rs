//! The audit log in SQLite: chain, isolation, durability, and what it must not hold.

#![cfg(feature = "audit-sqlite")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::BufReader;
#[cfg(feature = "regorus")]
use std::path::Path;
use std::sync::Arc;

use forge_core::audit::{AuditEvent, AuditLog, AuditRecord, AuditRow, Durability};
use forge_core::policy::Verdict;
use forge_core::redact::EntityKind;
use forge_core::testing::context;
use forge_core::{Depth, Digest, ErrorKind, ExecutionContext, HealthCheck, OperationKey, Status, Timestamp};
use forge_policy::{SqliteAudit, verify_jsonl};
use forge_sqlite::rusqlite::Connection;

fn ctx(tenant: &str) -> ExecutionContext {
    context(tenant, "ana", "analyst")
}

fn record(ctx: &ExecutionContext, n: u32) -> AuditRecord {
    let event = AuditEvent::Decision {
        phase: "policy".into(),
        verdict: Verdict::Allow,
        reasons: vec!["ok".into()],
        decision: None,
        revision: Some("r1".into()),
        pii_flags: BTreeSet::from([EntityKind::Email]),
        redacted: BTreeSet::new(),
        args_digest: Some(Digest::of(&n.to_be_bytes())),
        resource_fields: BTreeMap::from([("channel".into(), "#légal \"x\"".into())]),
    };
    let key = OperationKey::derived(&[b"op", &n.to_be_bytes()]);
    AuditRecord::new(ctx, Timestamp::from_nanos(i64::from(n)), key, 1, "tool.call", "slack_post", event)
}

async fn fill(log: &SqliteAudit, ctx: &ExecutionContext, count: u32) {
    for n in 1..=count {
        log.append(ctx, record(ctx, n), Durability::Durable).await.unwrap();
    }
}

async fn all(log: &SqliteAudit, ctx: &ExecutionContext) -> Vec<AuditRow> {
    log.read(ctx, 1, 1_000).await.unwrap()
}

#[tokio::test]
async fn rows_are_gapless_chained_and_written_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = SqliteAudit::open(dir.path()).unwrap();
    let c = ctx("acme");
    assert_eq!((all(&log, &c).await.len(), log.verify(&c).await.unwrap().rows), (0, 0));
    assert!(!dir.path().join("acme.db").exists(), "a question makes no file");
    fill(&log, &c, 3).await;
    log.append(&c, record(&c, 2), Durability::Durable).await.unwrap();
    let rows = all(&log, &c).await;
    assert_eq!(rows.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3]);
    assert_eq!(rows[0].prev, Digest::from_bytes([0; 32]));
    assert_eq!((rows[1].prev, rows[2].prev), (rows[0].hash, rows[1].hash));
    assert_eq!(rows[1].record, record(&c, 2));
    let mut other = record(&c, 2);
    other.resource = "payout".into();
    assert_eq!(log.append(&c, other, Durability::Durable).await.unwrap_err().kind(), ErrorKind::Conflict);
    assert_eq!(log.read(&c, 2, 1).await.unwrap(), rows[1..2]);
    let report = log.verify(&c).await.unwrap();
    assert_eq!((report.rows, report.broken, report.head), (3, None, rows[2].hash));
    assert!(log.capability().durable && log.capability().chained);
    assert_eq!(log.check(Depth::Deep).await.status, Status::Up);
}

#[tokio::test]
async fn a_tenant_sees_its_own_rows_only() {
    let dir = tempfile::tempdir().unwrap();
    let log = SqliteAudit::open(dir.path()).unwrap();
    let (a, b) = (ctx("acme"), ctx("globex"));
    fill(&log, &a, 5).await;
    assert_eq!(all(&log, &b).await, []);
    assert_eq!(log.verify(&b).await.unwrap().rows, 0);
    assert_eq!(log.export_jsonl(&b, dir.path().join("b.jsonl")).await.unwrap(), 0);
    assert_eq!(fs::read(dir.path().join("b.jsonl")).unwrap(), b"");
    for durability in [Durability::Durable, Durability::Enqueued] {
        let e = log.append(&b, record(&a, 9), durability).await.unwrap_err();
        assert_eq!(e.kind(), ErrorKind::TenantMismatch);
    }
    // a slot of one tenant does not take another's record
    log.reserve(&b).await.unwrap().fill(record(&a, 9));
    // the same id in two tenants is two rows
    let mut twin = record(&b, 1);
    twin.id = record(&a, 1).id;
    log.append(&b, twin, Durability::Durable).await.unwrap();
    assert_eq!((all(&log, &a).await.len(), all(&log, &b).await.len()), (5, 1));
    drop(log);
    // one tenant's file under another's name is not read as the other's
    let copy = format!("VACUUM INTO '{}'", dir.path().join("initech.db").display());
    Connection::open(dir.path().join("acme.db")).unwrap().execute_batch(&copy).unwrap();
    let log = SqliteAudit::open(dir.path()).unwrap();
    assert_eq!(log.read(&ctx("initech"), 1, 10).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(
        log.verify(&ctx("initech")).await.unwrap().broken,
        Some((1, "the record belongs to another tenant".into()))
    );
}

#[tokio::test]
async fn tampering_is_named_by_its_first_row() {
    for (how, sql, row, why) in [
        ("edit", "UPDATE rows SET record = replace(record, 'slack_post', 'drive_post') WHERE seq = 3", 3, "changed"),
        (
            "one bit",
            "UPDATE rows SET record = replace(record, '00:00:00.000000003', '00:00:00.000000002') WHERE seq = 3",
            3,
            "changed",
        ),
        ("white space", "UPDATE rows SET record = ' ' || record WHERE seq = 3", 3, "changed"),
        ("hash", "UPDATE rows SET hash = zeroblob(32) WHERE seq = 3", 3, "changed"),
        ("prev", "UPDATE rows SET prev = zeroblob(32) WHERE seq = 3", 3, "does not follow"),
        ("id", "UPDATE rows SET id = zeroblob(16) WHERE seq = 3", 3, "another id"),
        ("drop", "DELETE FROM rows WHERE seq = 3", 3, "missing"),
        ("first", "DELETE FROM rows WHERE seq = 1", 1, "missing"),
        (
            "close the gap",
            "DELETE FROM rows WHERE seq = 3; UPDATE rows SET seq = seq - 1 WHERE seq > 3",
            3,
            "does not follow",
        ),
        (
            "reorder",
            "UPDATE rows SET seq = 100 WHERE seq = 3; UPDATE rows SET seq = 3 WHERE seq = 4; UPDATE rows SET seq = 4 WHERE seq = 100",
            3,
            "does not follow",
        ),
        ("truncate", "DELETE FROM rows WHERE seq > 4", 5, "the rows end before"),
        ("all", "DELETE FROM rows", 1, "the rows end before"),
        ("types", "UPDATE rows SET hash = x'00' WHERE seq = 3", 3, "changed"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let log = SqliteAudit::open(dir.path()).unwrap();
        let c = ctx("acme");
        fill(&log, &c, 6).await;
        let good = all(&log, &c).await;
        Connection::open(dir.path().join("acme.db")).unwrap().execute_batch(sql).unwrap();
        let report = log.verify(&c).await.unwrap();
        let (at, reason) = report.broken.unwrap_or_else(|| panic!("{how} was not seen"));
        assert!(at == row && reason.contains(why), "{how}: row {at}, {reason}");
        if row > 1 && how != "id" {
            assert_eq!(
                report.head,
                good[usize::try_from(row).unwrap() - 2].hash,
                "{how}: the head is the last good row's"
            );
        }
    }
}

#[tokio::test]
async fn an_export_is_verified_by_the_rule_alone() {
    let dir = tempfile::tempdir().unwrap();
    let log = SqliteAudit::open(dir.path()).unwrap();
    let c = ctx("acme");
    fill(&log, &c, 6).await;
    let path = dir.path().join("acme.jsonl");
    assert_eq!(log.export_jsonl(&c, &path).await.unwrap(), 6);
    let text = fs::read_to_string(&path).unwrap();
    let check = |text: &str| verify_jsonl(BufReader::new(text.as_bytes())).unwrap();
    let report = check(&text);
    assert_eq!((report.rows, &report.broken, report.head), (6, &None, log.verify(&c).await.unwrap().head));
    let first: AuditRow = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!(first, all(&log, &c).await[0]);

    let lines: Vec<&str> = text.lines().collect();
    let joined = |lines: &[&str]| lines.iter().map(|l| format!("{l}\n")).collect::<String>();
    let broken = |lines: &[&str]| check(&joined(lines)).broken.map(|(row, _)| row);
    let with = |line: &str| {
        let mut l = lines.clone();
        l[2] = line;
        broken(&l)
    };
    assert_eq!(with(&lines[2].replace("slack_post", "drive_post")), Some(3));
    assert_eq!(with(&lines[2].replace("\"role\":", "\"role\": ")), Some(3), "not canonical");
    assert_eq!(with(&lines[2].replacen('{', "{\"role\":\"root\",", 1)), Some(3), "a key given twice");
    assert_eq!(with(&lines[2].replacen('{', "{\"Extra\":1,", 1)), Some(3));
    assert_eq!(with("rubbish"), Some(3));
    assert_eq!(broken(&[lines[0], lines[2]]), Some(2));
    assert_eq!(broken(&[lines[1], lines[0]]), Some(1));
    assert_eq!(check(text.trim_end()).broken.map(|(row, _)| row), Some(6), "a line that was cut off");
    let cut = check(&joined(&lines[..4]));
    assert!(cut.broken.is_none() && cut.head != report.head, "a missing end shows in the head");
    #[cfg(unix)]
    assert_eq!(std::os::unix::fs::PermissionsExt::mode(&fs::metadata(&path).unwrap().permissions()) & 0o777, 0o600);
    assert!(!dir.path().join("acme.jsonl.part").exists());
}

/// A stranger's implementation: Python and its standard library, the rule read from the documentation.
#[tokio::test]
async fn a_stranger_comes_to_the_same_hashes() {
    let dir = tempfile::tempdir().unwrap();
    let log = SqliteAudit::open(dir.path()).unwrap();
    let c = ctx("acme");
    fill(&log, &c, 3).await;
    let path = dir.path().join("acme.jsonl");
    log.export_jsonl(&c, &path).await.unwrap();
    let script = "import hashlib,json,sys\nprev=bytes(32)\nfor n,line in enumerate(open(sys.argv[1],encoding='utf-8'),1):\n r=json.loads(line);seq,p,h=r.pop('seq'),r.pop('prev'),r.pop('hash')\n text=json.dumps({'record':r,'seq':seq},sort_keys=True,separators=(',',':'),ensure_ascii=False)\n prev=hashlib.sha256(bytes.fromhex(p)+text.encode()).digest() if bytes.fromhex(p)==prev and seq==n else sys.exit('chain')\n if prev.hex()!=h: sys.exit('hash')\nprint(prev.hex())";
    let Ok(out) = std::process::Command::new("python3").args(["-c", script]).arg(&path).output() else {
        eprintln!("python3 is not there: the stranger's implementation was left out");
        return;
    };
    assert_eq!(String::from_utf8(out.stdout).unwrap().trim(), log.verify(&c).await.unwrap().head.to_string());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sixty_four_tasks_append_to_two_chains() {
    let dir = tempfile::tempdir().unwrap();
    let log = Arc::new(SqliteAudit::open(dir.path()).unwrap());
    let tasks: Vec<_> = (0..64)
        .map(|t| {
            let log = log.clone();
            tokio::spawn(async move {
                let c = ctx(if t % 2 == 0 { "acme" } else { "globex" });
                for i in 0..10 {
                    let r = record(&c, t * 100 + i);
                    match i % 3 {
                        0 => log.append(&c, r, Durability::Durable).await.unwrap(),
                        1 => log.append(&c, r, Durability::Enqueued).await.unwrap(),
                        _ => log.reserve(&c).await.unwrap().fill(r),
                    }
                }
            })
        })
        .collect();
    for t in tasks {
        t.await.unwrap();
    }
    log.flush(None).await.unwrap();
    for tenant in ["acme", "globex"] {
        let report = log.verify(&ctx(tenant)).await.unwrap();
        assert_eq!((report.rows, report.broken), (320, None));
    }
}

#[tokio::test]
async fn a_closed_file_loses_nothing_and_the_chain_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let log = SqliteAudit::open_bounded(dir.path(), 1).unwrap();
    let tenants: Vec<_> = (0..8).map(|n| ctx(&format!("t{n}"))).collect();
    let held = log.reserve(&tenants[0]).await.unwrap();
    for round in 1..=3 {
        for c in &tenants {
            log.append(c, record(c, round), Durability::Enqueued).await.unwrap();
        }
    }
    held.fill(record(&tenants[0], 99));
    drop(log.reserve(&tenants[1]).await.unwrap());
    log.flush(None).await.unwrap();
    drop(log);
    let log = SqliteAudit::open_bounded(dir.path(), 2).unwrap();
    for (n, c) in tenants.iter().enumerate() {
        log.append(c, record(c, 4), Durability::Durable).await.unwrap();
        let report = log.verify(c).await.unwrap();
        assert_eq!((report.rows, report.broken), (if n == 0 { 5 } else { 4 }, None), "tenant {n}");
    }
}

#[tokio::test]
async fn the_directory_has_one_owner() {
    let dir = tempfile::tempdir().unwrap();
    let log = SqliteAudit::open(dir.path()).unwrap();
    assert_eq!(SqliteAudit::open(dir.path()).unwrap_err().kind(), ErrorKind::Config);
    drop(log);
    SqliteAudit::open(dir.path()).unwrap();
}

const CRASH: &str = "FORGE_POLICY_CRASH_DIR";

/// The child of the next test: appends until it is killed, saying what was acknowledged.
#[test]
#[expect(clippy::disallowed_methods, reason = "the parent test hands over its directory")]
fn crash_child() {
    let Ok(dir) = std::env::var(CRASH) else { return };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let (log, c) = (SqliteAudit::open(dir).unwrap(), ctx("acme"));
        for n in 1.. {
            log.append(&c, record(&c, n), Durability::Durable).await.unwrap();
            println!("ack {n}");
        }
    });
}

#[tokio::test]
async fn a_killed_process_keeps_what_it_acknowledged() {
    use std::io::BufRead;
    let dir = tempfile::tempdir().unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "crash_child", "--nocapture"])
        .env(CRASH, dir.path())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut acknowledged = 0;
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some(n) = line.unwrap().split("ack ").nth(1) {
            acknowledged = n.parse().unwrap();
            if acknowledged == 40 {
                child.kill().unwrap();
            }
        }
    }
    child.wait().unwrap();
    assert!(acknowledged >= 40);
    let (log, c) = (SqliteAudit::open(dir.path()).unwrap(), ctx("acme"));
    let report = log.verify(&c).await.unwrap();
    assert!(report.rows >= acknowledged && report.broken.is_none(), "{report:?}, acknowledged {acknowledged}");
    log.append(&c, record(&c, 1_000_000), Durability::Durable).await.unwrap();
    assert_eq!(log.verify(&c).await.unwrap().broken, None);
}

/// Whatever a caller's arguments hold, rows and errors hold its digest and the declared fields.
#[cfg(feature = "regorus")]
#[tokio::test]
async fn no_payload_reaches_the_files() {
    use forge_core::policy::PolicyInput;
    use forge_policy::{RegorusEngine, Sources};
    const CANARY: &str = "canary_4111111111111111";
    // a policy that tries: it puts what it sees into its reasons
    let rego = "package forge.tool_access\ndefault decision := {\"verdict\": \"deny\", \"reasons\": [\"no\"], \"obligations\": {}}\n\
        decision := {\"verdict\": \"deny\", \"reasons\": [concat(\" \", [\"text\", input.resource.body])], \"obligations\": {}} if true\n";
    let c = ctx("acme");
    let sources =
        Sources::new().with_policy("p.rego", rego).with_tenant_data(c.tenant().clone(), serde_json::json!({}));
    let engine = RegorusEngine::load(sources, Arc::new(forge_core::SystemClock)).await.unwrap();
    let mut input = PolicyInput::new(&c, "tool.call", "slack_post", "send");
    input.resource.insert("body".into(), CANARY.into());
    input.args_digest = Some(Digest::of(CANARY.as_bytes()));
    let d = engine.decide_now(&c, &input);

    let dir = tempfile::tempdir().unwrap();
    let log = SqliteAudit::open(dir.path()).unwrap();
    let mut r = record(&c, 1);
    let AuditEvent::Decision { reasons, args_digest, .. } = &mut r.event else { unreachable!() };
    (*reasons, *args_digest) = (d.reasons, input.args_digest);
    log.append(&c, r.clone(), Durability::Durable).await.unwrap();
    r.resource = CANARY.into();
    let conflict = log.append(&c, r, Durability::Durable).await.unwrap_err();
    assert!(!format!("{conflict:?} {log:?} {engine:?}").contains(CANARY));
    log.export_jsonl(&c, dir.path().join("x.jsonl")).await.unwrap();
    let digest = Digest::of(CANARY.as_bytes()).to_string();
    let (mut canaries, mut digests) = (0, 0);
    for file in files(dir.path()) {
        let bytes = fs::read(&file).unwrap();
        canaries += usize::from(contains(&bytes, CANARY));
        digests += usize::from(contains(&bytes, &digest));
    }
    assert_eq!(canaries, 0);
    assert!(digests >= 2, "the search does find what is there");
}

#[cfg(feature = "regorus")]
fn files(dir: &Path) -> Vec<std::path::PathBuf> {
    fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect()
}

#[cfg(feature = "regorus")]
fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|w| w == text.as_bytes())
}
