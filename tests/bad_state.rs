//! What a host says when its disk is not what it was: files damaged, cut off, of a newer version, of another user, or no room left. Each is an
//! error that says what and what to do; nothing is written over, and what was acknowledged is there when the disk is well again.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use forge::core::queue::{Lease, NewTask, TaskHandler};
use forge::core::usage::UsageQuery;
use forge::core::{Namespace, Slug, TaskId};
use forge::memory::Passage;
use forge::prelude::*;
use forge::{BuildError, Forge};
use serde_json::{Value, json};

#[derive(Debug)]
struct Change;

#[async_trait]
impl Tool for Change {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("change", "changes").input::<Value>().effect(Effect::Write)
    }

    async fn call(&self, _: &ExecutionContext, _: ToolCall) -> Result<ToolOutput> {
        Ok(json!("x".repeat(2000)).into())
    }
}

#[derive(Debug)]
struct Done;

#[async_trait]
impl TaskHandler for Done {
    async fn handle(&self, _: &ExecutionContext, _: &Lease) -> Result<Value> {
        Ok(json!("done"))
    }
}

async fn host(dir: &Path) -> Result<Forge, BuildError> {
    let grants = [
        "tool.call:*",
        "task.enqueue:*",
        "task.run:*",
        "task.read:*",
        "workflow.start:*",
        "preference.write:*",
        "memory.write:*",
        "memory.read:*",
        "usage.read:*",
        "audit.read:*",
    ];
    Forge::builder()
        .config(Config::in_dir(dir))
        .tenant("acme", json!({ "grants": { "analyst": grants } }))
        .tool(Change)
        .task("done", Done)
        .workflow(Workflow::new("short", 1).stage(stage("only").steps([tool("change").args(|_| Ok(json!({})))])))
        .build()
        .await
}

/// What was acknowledged, or why not, by each part of a host.
type Said = Vec<(&'static str, Result<(), String>)>;

/// Uses every store once, reading and writing.
async fn use_everything(forge: &Forge) -> Said {
    let ctx = forge.context(Principal::employee("acme", "ana", "analyst").unwrap());
    let scope = forge.scope(&ctx);
    let (type_, space) = (Slug::parse("firm").unwrap(), Slug::parse("notes").unwrap());
    let shelf = Namespace::shared(&ctx, type_, space);
    let mut said = Said::new();
    let mut say = |part, outcome: Result<()>| said.push((part, outcome.map_err(|e| format!("{}: {e}", e.kind()))));
    say("tool", scope.call("change", json!({})).await.map(drop));
    say("task", scope.enqueue(NewTask::new(Slug::parse("done").unwrap(), json!({}))).await.map(drop));
    say("preference", scope.prefer_models(&["local/extractive-1".to_owned()]).await);
    let blob = async {
        let stored = forge.blobs().put(&ctx, bytes::Bytes::from(vec![7; 3000])).await?;
        forge.blobs().get(&ctx, &stored).await.map(drop)
    };
    say("blob", blob.await);
    say("remember", scope.remember(&shelf, vec![Passage::new("p1", "Term", "The term is two years.")]).await);
    say("recall", scope.recall(&shelf, "term", 3).await.map(drop));
    let run = async {
        let outcome = scope.start("short", json!({})).await?.wait().await?;
        match outcome {
            Outcome::Completed => Ok(()),
            other => Err(Error::unexpected("run", format!("{other:?}"))),
        }
    };
    say(
        "run",
        tokio::time::timeout(Duration::from_secs(20), run)
            .await
            .unwrap_or_else(|_| Err(Error::unexpected("run", "hangs"))),
    );
    say("usage", scope.usage_totals(ctx.tenant(), &UsageQuery::default()).await.map(drop));
    say("audit", scope.verify_audit(ctx.tenant()).await.map(drop));
    said
}

/// Opens the host and uses it; what did not work.
async fn complaints(dir: &Path) -> Vec<String> {
    match host(dir).await {
        Err(e) => e.problems().iter().map(|p| format!("build: {}: {p}", p.kind())).collect(),
        Ok(forge) => {
            let said = use_everything(&forge).await;
            let ended = forge.shutdown(Duration::from_secs(5)).await;
            let mut wrong: Vec<String> =
                said.into_iter().filter_map(|(part, o)| o.err().map(|e| format!("{part}: {e}"))).collect();
            wrong.extend(ended.err().map(|e| format!("shutdown: {}: {e}", e.kind())));
            wrong
        }
    }
}

/// Every file below a directory, by its path in it.
fn files(dir: &Path) -> BTreeSet<PathBuf> {
    fn below(dir: &Path, root: &Path, into: &mut BTreeSet<PathBuf>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                below(&path, root, into);
            } else {
                into.insert(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    let mut found = BTreeSet::new();
    below(dir, dir, &mut found);
    found
}

/// The stores close in threads of their own, each with a last checkpoint.
async fn closed(dir: &Path) {
    let open = || files(dir).iter().any(|f| f.to_string_lossy().ends_with("-wal"));
    for _ in 0..1000 {
        if !open() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("still open: {:?}", files(dir));
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        std::fs::create_dir_all(to.join(&file).parent().unwrap()).unwrap();
        std::fs::copy(from.join(&file), to.join(&file)).unwrap();
    }
}

/// A directory that was used and closed in good order.
async fn used() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    assert_eq!(complaints(dir.path()).await, Vec::<String>::new());
    closed(dir.path()).await;
    dir
}

#[derive(Debug, Clone, Copy)]
enum Damage {
    /// The first page is overwritten.
    Overwritten,
    /// A power cut in the middle of a copy.
    CutOff,
    /// Written by a later version.
    Newer,
}

impl Damage {
    fn make(self, file: &Path) {
        let mut bytes = std::fs::read(file).unwrap();
        match self {
            Self::Overwritten => bytes.iter_mut().take(4096).for_each(|b| *b = 0xa5),
            Self::CutOff if bytes.len() > 8192 => bytes.truncate(bytes.len() / 8192 * 4096 + 100),
            Self::CutOff => bytes.truncate(bytes.len() / 2),
            // `user_version`, in the header of a database
            Self::Newer => bytes.get_mut(60..64).unwrap().copy_from_slice(&99_u32.to_be_bytes()),
        }
        std::fs::write(file, bytes).unwrap();
    }
}

#[tokio::test]
async fn a_damaged_file_is_named_and_nothing_is_written_over_it() {
    let whole = used().await;
    let there = files(whole.path());
    let databases: Vec<&PathBuf> = there.iter().filter(|f| f.extension().is_some_and(|e| e == "db")).collect();
    assert_eq!(databases.len(), 5, "queue, ledger, quota, a tenant's audit and memory: {databases:?}");
    for file in databases {
        for (damage, kind, advice) in [
            (Damage::Overwritten, "corrupt", "restore it from a backup"),
            (Damage::CutOff, "corrupt", "restore it from a backup"),
            (Damage::Newer, "config", "a newer version of Forge wrote this file; update this one"),
        ] {
            let (dir, wrong) = damaged(whole.path(), file, damage).await;
            let named = file.iter().rev().take(2).collect::<Vec<_>>().into_iter().rev().collect::<PathBuf>();
            for said in [kind, advice, &format!("{}", named.display())] {
                assert!(
                    wrong.iter().any(|w| w.contains(said)),
                    "{} {damage:?}: {said} is not in {wrong:#?}",
                    file.display()
                );
            }
            mended(whole.path(), dir.path(), file).await;
        }
    }
    for (file, advice) in [("keys/acme.keys", "restore"), ("keys/master.key", "restore it from a backup")] {
        for damage in [Damage::Overwritten, Damage::CutOff] {
            let (dir, wrong) = damaged(whole.path(), Path::new(file), damage).await;
            assert!(wrong.iter().any(|w| w.contains(advice)), "{file} {damage:?}: {wrong:#?}");
            mended(whole.path(), dir.path(), Path::new(file)).await;
        }
    }
}

/// A copy with one file damaged, after a host tried to work with it.
async fn damaged(whole: &Path, file: &Path, damage: Damage) -> (tempfile::TempDir, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    copy(whole, dir.path());
    damage.make(&dir.path().join(file));
    let before = std::fs::read(dir.path().join(file)).unwrap();
    let wrong = complaints(dir.path()).await;
    closed(dir.path()).await;
    let after = std::fs::read(dir.path().join(file)).unwrap();
    assert!(before == after, "{} {damage:?}: what was damaged was written over", file.display());
    (dir, wrong)
}

/// With the file from the backup all is well again.
async fn mended(whole: &Path, dir: &Path, file: &Path) {
    std::fs::copy(whole.join(file), dir.join(file)).unwrap();
    assert_eq!(complaints(dir).await, Vec::<String>::new(), "{} is restored", file.display());
}

const DIR: &str = "FORGE_TEST_STATE_DIR";
const WORK: &str = "FORGE_TEST_STATE_WORK";

/// The child: uses a host on a directory and says what was acknowledged. Without its directory it is no child.
#[tokio::test(flavor = "multi_thread")]
#[allow(clippy::disallowed_methods, reason = "how the parent tells the child where to work")]
async fn child() {
    let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else { return };
    let Ok(what) = std::env::var(WORK) else {
        return complaints(&dir).await.iter().for_each(|w| println!("\nwrong {w}"));
    };
    let forge = host(&dir).await.unwrap();
    let wrong = loop {
        if let Err(e) = work(&forge, &what).await {
            break e;
        }
    };
    println!("\nwrong {}: {wrong}\nfull", wrong.kind());
    // until the parent has made room
    std::io::stdin().lines().for_each(drop);
    for _ in 0..5 {
        if let Err(e) = work(&forge, &what).await {
            println!("\nwrong {}: {e}", e.kind());
        }
    }
    let ended = forge.shutdown(Duration::from_secs(5)).await;
    println!("\nended {ended:?}");
}

/// Says what was acknowledged, until something is not.
async fn work(forge: &Forge, what: &str) -> Result<()> {
    let ctx = forge.context(Principal::employee("acme", "ana", "analyst")?);
    let scope = forge.scope(&ctx);
    scope.call("change", json!({})).await?;
    println!("\ncalled");
    if what != "calls" {
        let task = NewTask::new(Slug::parse("done")?, json!({ "text": "x".repeat(2000) }));
        println!("\nqueued {}", scope.enqueue(task).await?);
    }
    Ok(())
}

/// What the child said, by its first word.
fn said(output: &Output, word: &str) -> Vec<String> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().filter_map(|l| l.strip_prefix(word)).map(|l| l.trim().to_owned()).collect()
}

/// This test's own program as a child, where anybody may run it.
fn child_program(dir: &Path) -> PathBuf {
    let program = dir.join("child");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    program
}

/// Who runs the child: modes are nothing to root, so it is somebody else where this test is root.
#[cfg(unix)]
const NOBODY: u32 = 65_534;

/// Files that may not be written, by a user to whom modes mean something.
#[cfg(unix)]
#[tokio::test]
async fn what_may_only_be_read_is_an_error_that_says_so() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    use std::os::unix::process::CommandExt;
    let set = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    let whole = used().await;
    let outer = tempfile::tempdir().unwrap();
    set(outer.path(), 0o755);
    let program = child_program(outer.path());
    let is_root = std::fs::metadata(&program).unwrap().uid() == 0;
    for file in [".", "queue.db", "ledger.db", "quota.db", "audit/acme.db", "memory/acme/vectors.db"] {
        let dir = outer.path().join(file.replace(['/', '.'], "-"));
        copy(whole.path(), &dir);
        if is_root {
            for path in files(&dir).iter().flat_map(|f| f.ancestors()) {
                chown(dir.join(path), Some(NOBODY), Some(NOBODY)).unwrap();
            }
            chown(dir.join(file), Some(0), Some(0)).unwrap();
        }
        set(&dir.join(file), if file == "." { 0o555 } else { 0o444 });
        let mut child = Command::new(&program);
        child.args(["--exact", "child", "--nocapture"]).env(DIR, &dir);
        if is_root {
            child.uid(NOBODY).gid(NOBODY);
        }
        let output = child.output().unwrap();
        let wrong = said(&output, "wrong");
        assert!(output.status.success() && !wrong.is_empty(), "{file}: {output:?}");
        assert!(wrong.iter().any(|w| w.contains("owner and mode")), "{file}: {wrong:#?}");
        set(&dir.join(file), if file == "." { 0o755 } else { 0o644 });
        mended(whole.path(), &dir, Path::new("queue.db")).await;
    }
}

/// No file may grow beyond what `RLIMIT_FSIZE` says, which is how a full disk looks to a process.
#[cfg(unix)]
#[tokio::test]
async fn a_full_disk_refuses_loses_nothing_and_is_well_again_once_there_is_room() {
    let outer = tempfile::tempdir().unwrap();
    let program = child_program(outer.path());
    println!("limit    called  queued  lost  doubled");
    for (blocks, what) in [(600, "calls and tasks"), (1400, "calls"), (3000, "calls and tasks"), (6000, "calls")] {
        let dir = outer.path().join(format!("data-{blocks}"));
        let limited = format!("trap '' XFSZ; ulimit -S -f {blocks}; exec \"$0\" --exact child --nocapture");
        let mut child = Command::new("sh");
        child.args(["-c", &limited]).arg(&program).env(DIR, &dir).env(WORK, what);
        let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
        let before: Vec<String> = lines.by_ref().take_while(|l| l != "full").collect();
        let more = Command::new("prlimit").arg(format!("--pid={}", child.id())).arg("--fsize=unlimited:").status();
        assert!(more.expect("`prlimit`, which is part of util-linux").success(), "prlimit gives room");
        drop(child.stdin.take());
        let after: Vec<String> = lines.collect();
        assert!(child.wait().unwrap().success(), "{before:?} {after:?}");
        let of = |lines: &[String], word: &str| -> Vec<String> {
            lines.iter().filter_map(|l| l.strip_prefix(word)).map(|l| l.trim().to_owned()).collect()
        };
        let wrong = of(&before, "wrong");
        assert!(wrong.len() == 1 && wrong.iter().all(|w| w.contains("unavailable") && w.contains("room")), "{wrong:?}");
        assert!(of(&after, "wrong").is_empty() && of(&after, "called").len() == 5, "with room it goes on: {after:?}");

        let said = [before, after].concat();
        let (called, queued) = (of(&said, "called").len(), of(&said, "queued"));
        let forge = host(&dir).await.unwrap();
        let ctx = forge.context(Principal::employee("acme", "ana", "analyst").unwrap());
        let scope = forge.scope(&ctx);
        let totals = scope.usage_totals(ctx.tenant(), &UsageQuery::default()).await.unwrap();
        let paid = usize::try_from(totals.quantity.tool_calls).unwrap();
        // a call whose answer was refused may have been made, and is paid for then
        assert!((called..=called + 1).contains(&paid), "{called} calls were acknowledged, {paid} paid for");
        let mut lost = 0;
        for id in &queued {
            lost += usize::from(scope.task(ctx.tenant(), TaskId::parse(id).unwrap()).await.is_err());
        }
        scope.verify_audit(ctx.tenant()).await.unwrap();
        println!("{blocks:>5}  {called:>8}  {:>6}  {lost:>4}  {:>7}", queued.len(), paid - called.min(paid));
        assert_eq!(lost, 0, "tasks that were acknowledged");
        forge.shutdown(Duration::from_secs(5)).await.unwrap();
    }
}
