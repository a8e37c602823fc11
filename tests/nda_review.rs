//! The NDA review as a user runs it: a process, killed after each of its steps, on documents of every kind.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "helpers of tests, which print their ledger"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;

const STEPS: [&str; 7] =
    ["validate", "drive_fetch", "document_parser", "kb_search", "compose", "slack_post", "verify_quotes"];

/// The example's program, built once.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let build = Command::new(env!("CARGO"))
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .args(["build", "--example", "nda_review", "--message-format=json"])
            .output()
            .unwrap();
        assert!(build.status.success(), "{}", String::from_utf8_lossy(&build.stderr));
        let messages = String::from_utf8(build.stdout).unwrap();
        let of = |line: &str| serde_json::from_str::<Value>(line).ok()?["executable"].as_str().map(PathBuf::from);
        messages.lines().rev().find_map(of).unwrap()
    })
}

fn run(out: &Path, args: &[&str]) -> Output {
    Command::new(program()).current_dir(env!("CARGO_MANIFEST_DIR")).arg("--out").arg(out).args(args).output().unwrap()
}

fn finished(out: &Path, args: &[&str]) {
    let done = run(out, args);
    let said = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success(), "{said}\n{}", String::from_utf8_lossy(&done.stderr));
    let lines: Vec<Value> = serde_json::from_slice(&std::fs::read(out.join("summary.json")).unwrap()).unwrap();
    assert!(
        lines.len() > 20 && lines.iter().all(|l| l["passed"] == true && !l["proof"].as_str().unwrap().is_empty()),
        "{said}"
    );
}

fn lines(path: &Path) -> Vec<Value> {
    std::fs::read_to_string(path).unwrap().lines().map(|l| serde_json::from_str(l).unwrap()).collect()
}

fn samples() -> String {
    format!("{}/examples/nda_review/samples", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn killed_after_each_step_it_goes_on_and_posts_one_message() {
    let mut ledger = String::from("killed after      messages  lost  doubled  steps run again\n");
    for step in STEPS {
        let dir = tempfile::tempdir().unwrap();
        let first = run(dir.path(), &["--kill-after", step]);
        assert!(!first.status.success(), "{step}");
        let before = lines(&dir.path().join("standins/google.jsonl")).len();
        finished(dir.path(), &[]);
        let slack = lines(&dir.path().join("standins/slack.jsonl"));
        let messages = slack.iter().filter(|r| r.get("effect").is_some()).count();
        // five requests of the second process reach Drive anyway: intake's token, look and download of what it may not read, and the
        // stranger's token and refused look
        let again = if step == "validate" {
            0
        } else {
            lines(&dir.path().join("standins/google.jsonl")).len().saturating_sub(before + 5)
        };
        ledger += &format!(
            "{step:<17} {messages:>8}  {:>4}  {:>7}  {again:>15}\n",
            1_usize.saturating_sub(messages),
            messages.saturating_sub(1)
        );
        assert_eq!((messages, again), (1, 0), "\n{ledger}");
    }
    println!("{ledger}");
}

/// `FORGE_SOAK_ROUNDS` (20) and `FORGE_SOAK_SEED` (1): `scripts/soak.sh` sets them.
fn of_environment(name: &str, default: u64) -> u64 {
    #[expect(clippy::disallowed_methods, reason = "how long to soak is the caller's to say")]
    let said = std::env::var(name);
    said.map_or(default, |v| v.parse().unwrap_or_else(|_| panic!("{name} is a whole number")))
}

/// What one round of random kills left.
struct Round {
    kills: usize,
    messages: usize,
    passed: bool,
}

/// Kills the program up to three times, each at a moment that the seed says, then lets it end.
fn round(seed: u64, keys: &Path) -> Round {
    let dir = tempfile::tempdir().unwrap();
    let own = dir.path().join("standins/google.keys");
    std::fs::create_dir_all(&own).unwrap();
    for key in std::fs::read_dir(keys).unwrap() {
        let key = key.unwrap();
        std::fs::copy(key.path(), own.join(key.file_name())).unwrap();
    }
    let mut kills = 0;
    let mut random = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    for _ in 0..3 {
        // xorshift: the same seed, the same moments
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let mut child = Command::new(program())
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .arg("--out")
            .arg(dir.path())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .unwrap();
        #[expect(clippy::disallowed_methods, reason = "the moment of a power cut is real time")]
        std::thread::sleep(std::time::Duration::from_millis(20 + random % 2500));
        let ended = child.try_wait().unwrap().is_some();
        child.kill().unwrap();
        child.wait().unwrap();
        if ended {
            break;
        }
        kills += 1;
    }
    let done = run(dir.path(), &[]);
    let messages = std::fs::read_to_string(dir.path().join("standins/slack.jsonl")).unwrap_or_default();
    let messages = messages.lines().filter(|l| l.contains("\"effect\"")).count();
    if !done.status.success() {
        println!("seed {seed}: {}", String::from_utf8_lossy(&done.stdout));
    }
    Round { kills, messages, passed: done.status.success() }
}

/// Journal, ledger, audit and stand-ins agree after each round: the program's own last lines prove it, and it ends with an error
/// where one of them fails.
#[test]
fn killed_at_random_moments_nothing_is_lost_and_nothing_doubled() {
    let (rounds, first) = (of_environment("FORGE_SOAK_ROUNDS", 20), of_environment("FORGE_SOAK_SEED", 1));
    let template = tempfile::tempdir().unwrap();
    finished(template.path(), &[]);
    let keys = template.path().join("standins/google.keys");
    let next = std::sync::atomic::AtomicU64::new(0);
    let done = std::sync::Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                    if n >= rounds {
                        return;
                    }
                    let seed = first + n;
                    let round = round(seed, &keys);
                    done.lock().unwrap().push((seed, round));
                }
            });
        }
    });
    let done = done.into_inner().unwrap();
    let sum = |of: fn(&Round) -> usize| done.iter().map(|(_, r)| of(r)).sum::<usize>();
    println!(
        "{rounds} rounds from seed {first}: {} kills, {} messages, {} lost, {} doubled, {} rounds whose books do not agree",
        sum(|r| r.kills),
        sum(|r| r.messages),
        sum(|r| 1_usize.saturating_sub(r.messages)),
        sum(|r| r.messages.saturating_sub(1)),
        sum(|r| usize::from(!r.passed)),
    );
    let bad: Vec<u64> = done.iter().filter(|(_, r)| r.messages != 1 || !r.passed).map(|(seed, _)| *seed).collect();
    assert!(bad.is_empty(), "rounds that went wrong, by their seeds: {bad:?}");
    assert!(u64::try_from(sum(|r| r.kills)).unwrap() >= rounds / 2, "the kills hit the program while it works");
}

#[test]
fn a_folder_is_reviewed_file_by_file_and_a_text_stays_as_it_is() {
    let (dir, input) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let text = std::fs::read_to_string(format!("{}/northwind_nda.md", samples())).unwrap().replace("# ", "");
    std::fs::write(input.path().join("plain.txt"), &text).unwrap();
    for name in ["hartwell_mutual_nda.pdf", "northwind_nda.docx"] {
        std::fs::copy(format!("{}/{name}", samples()), input.path().join(name)).unwrap();
    }
    finished(dir.path(), &["--input", input.path().to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(dir.path().join("plain.txt/document.txt")).unwrap(), text);
    for name in ["hartwell_mutual_nda.pdf", "northwind_nda.docx", "plain.txt"] {
        let at = dir.path().join(name);
        let review: Value = serde_json::from_slice(&std::fs::read(at.join("review.json")).unwrap()).unwrap();
        let document: Vec<char> = std::fs::read_to_string(at.join("document.txt")).unwrap().chars().collect();
        assert_eq!(review["clauses"].as_array().unwrap().len(), 17, "{name}");
        assert!(review["fields"]["parties"].as_array().unwrap().len() >= 2, "{name}: {}", review["fields"]);
        for quote in review["quotes"].as_array().unwrap() {
            let span = |k: &str| usize::try_from(quote[k].as_u64().unwrap()).unwrap();
            let there: String = document[span("start")..span("end")].iter().collect();
            assert_eq!(there, quote["text"].as_str().unwrap(), "{name}: offsets are code points of document.txt");
        }
        assert!(at.join("slack.json").exists() && at.join("review.md").exists());
    }
}

#[test]
fn what_cannot_be_read_fails_with_the_reason_and_posts_nothing() {
    let cases: [(&str, &[u8]); 3] =
        [("empty.txt", b""), ("broken.pdf", b"%PDF-1.7\nnothing"), ("zip.docx", b"PK\x03\x04broken")];
    for (name, bytes) in cases {
        let (dir, input) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(input.path().join(name), bytes).unwrap();
        let done = run(dir.path(), &["--input", input.path().join(name).to_str().unwrap()]);
        assert!(!done.status.success(), "{name}");
        let report: Value = serde_json::from_slice(&std::fs::read(dir.path().join("error.json")).unwrap()).unwrap();
        assert_eq!(report["kind"], "invalid_input", "{name}: {report}");
        let posts = lines_or_none(&dir.path().join("standins/slack.jsonl"));
        assert_eq!(posts, 0, "{name}");
    }
}

fn lines_or_none(path: &Path) -> usize {
    std::fs::read_to_string(path).map_or(0, |t| t.lines().count())
}

#[test]
fn wrong_arguments_are_explained() {
    let dir = tempfile::tempdir().unwrap();
    let help = run(dir.path(), &["--inptu", "x"]);
    assert!(help.status.code() == Some(2) && String::from_utf8_lossy(&help.stderr).contains("usage:"));
    let nothing = run(dir.path(), &["--input", "/does/not/exist"]);
    assert!(!nothing.status.success() && String::from_utf8_lossy(&nothing.stderr).contains("--input"));
}

/// Public NDAs, where the host has them: `FORGE_TEST_DATA` names the folder; `FORGE_REQUIRE_TEST_DATA=1` makes it a must.
#[test]
fn public_documents_are_reviewed() {
    #[expect(clippy::disallowed_methods, reason = "where the data are is the environment's to say")]
    let (data, must) = (std::env::var("FORGE_TEST_DATA"), std::env::var("FORGE_REQUIRE_TEST_DATA"));
    let Ok(data) = data else {
        assert!(must.is_err(), "FORGE_REQUIRE_TEST_DATA is set and FORGE_TEST_DATA is not");
        println!("left out: the public NDAs, because FORGE_TEST_DATA is not set");
        return;
    };
    let (dir, input) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(format!("{data}/nda/kleister")).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    files.retain(|p| p.extension().is_some_and(|e| e == "pdf"));
    files.truncate(6);
    files.push(format!("{data}/nda/bonterms/Bonterms-Mutual-NDA-Version-1.pdf").into());
    files.push(format!("{data}/nda/bonterms/Example-Cover-Page-for-Bonterms-Mutual-NDA.docx").into());
    for file in &files {
        std::fs::copy(file, input.path().join(file.file_name().unwrap())).unwrap();
    }
    finished(dir.path(), &["--input", input.path().to_str().unwrap()]);
    println!("{} public documents reviewed", files.len());
}
