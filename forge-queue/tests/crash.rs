//! `kill -9` in the middle of the work, five times over the same file: what was acknowledged is there, once.
#![cfg(feature = "sqlite")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "helpers of tests")]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::{claimed, ctx, lease, open, task, tenant};
use forge_core::audit::{AuditEvent, AuditRecord};
use forge_core::fake::ManualClock;
use forge_core::journal::{Journal, Outbox, StepState, Transition};
use forge_core::queue::{Broker, TaskQueue, TaskState};
use forge_core::{Clock, OperationKey, RunId, SystemClock, TaskId};
use serde_json::json;

const DIR: &str = "FORGE_TEST_CRASH_DIR";
const RUN: RunId = RunId::fixed(1);
const ROUNDS: usize = 5;

/// The child: works until it is killed and says what was acknowledged. Without its directory it is no child.
#[tokio::test(flavor = "multi_thread")]
async fn child() {
    #[expect(clippy::disallowed_methods, reason = "how the parent tells the child where to work")]
    let Ok(dir) = std::env::var(DIR) else { return };
    let store = open(Path::new(&dir), Arc::new(SystemClock)).await;
    let producer = tokio::spawn({
        let store = store.clone();
        async move {
            loop {
                let id = store.enqueue(&ctx("acme"), task("index", json!("x"))).await.unwrap();
                println!("queued {id}");
            }
        }
    });
    let worker = tokio::spawn({
        let store = store.clone();
        async move {
            loop {
                for one in lease(&store, 4).await {
                    store.ack(&one, json!(one.attempt)).await.unwrap();
                    println!("acked {}", one.id);
                }
            }
        }
    });
    let owner = tokio::spawn(async move {
        let claim = claimed(&store, "acme", RUN, SystemClock.now()).await;
        let begun = store.steps(&claim.tenant, RUN).await.unwrap().len();
        for n in begun.. {
            let (path, now) = (format!("s/{n}"), SystemClock.now());
            store.apply(&claim, now, vec![Transition::StepStarted { path: path.clone(), attempt: 1 }]).await.unwrap();
            let done =
                Transition::StepCompleted { path: path.clone(), output: path.clone().into(), outbox: owes(&path) };
            store.apply(&claim, now, vec![done]).await.unwrap();
            println!("completed {path}");
        }
    });
    let _ = tokio::join!(producer, worker, owner);
}

fn owes(path: &str) -> Outbox {
    let event = AuditEvent::Admin { what: path.to_owned() };
    let key = OperationKey::derived(&[path.as_bytes()]);
    let record = AuditRecord::new(&ctx("acme"), forge_core::Timestamp::from_nanos(1), key, 1, "a", "b", event);
    Outbox { usage: Vec::new(), audit: vec![record] }
}

/// What the children said, before they died.
#[derive(Default)]
struct Said {
    queued: Vec<TaskId>,
    acked: Vec<TaskId>,
    completed: Vec<String>,
}

impl Said {
    fn len(&self) -> usize {
        self.queued.len() + self.acked.len() + self.completed.len()
    }

    /// Lets one child work, kills it after so many acknowledgements, and takes down every whole line.
    fn listen(&mut self, dir: &Path, acknowledgements: usize) {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child", "--nocapture", "--test-threads=1"])
            .env(DIR, dir)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut out = BufReader::new(child.stdout.take().unwrap());
        let (mut line, enough) = (String::new(), self.len() + acknowledgements);
        while out.read_line(&mut line).unwrap() > 0 {
            let whole = line.ends_with('\n');
            // the first line may stand behind the test's own name
            let words: Vec<_> = line.split_whitespace().collect();
            if let ([.., what, which], true) = (words.as_slice(), whole) {
                match *what {
                    "queued" => self.queued.push(TaskId::parse(which).unwrap()),
                    "acked" => self.acked.push(TaskId::parse(which).unwrap()),
                    "completed" => self.completed.push((*which).to_owned()),
                    _ => {}
                }
            }
            line.clear();
            if self.len() == enough {
                child.kill().unwrap();
            }
        }
        assert!(!child.wait().unwrap().success(), "the child must have been killed");
    }
}

#[tokio::test]
async fn what_was_acknowledged_before_a_kill_is_there_once() {
    let dir = tempfile::tempdir().unwrap();
    let mut said = Said::default();
    for round in 0..ROUNDS {
        said.listen(dir.path(), 60 + 37 * round);
    }
    let clock = Arc::new(ManualClock::default());
    clock.advance(SystemClock.now().since(clock.now()));
    let store = open(dir.path(), clock.clone()).await;
    let acme = ctx("acme");

    let mut found = 0;
    let mut succeeded = BTreeSet::new();
    for id in &said.queued {
        if let Ok(status) = store.status(&acme, *id).await {
            found += 1;
            if matches!(status.state, TaskState::Succeeded { .. }) {
                succeeded.insert(*id);
            }
        }
    }
    // a task may be acked before the line about its queueing was written
    let mut acked_found = 0;
    for id in &said.acked {
        let state = store.status(&acme, *id).await.unwrap().state;
        acked_found += usize::from(matches!(state, TaskState::Succeeded { .. }));
    }
    // what was leased at a kill comes back; what was acked never does
    clock.advance(common::VISIBILITY);
    let mut delivered: BTreeMap<TaskId, u32> = said.acked.iter().map(|id| (*id, 1)).collect();
    let doubled_acks = said.acked.len() - delivered.len();
    loop {
        let leases = lease(&store, 64).await;
        if leases.is_empty() {
            break;
        }
        for one in leases {
            *delivered.entry(one.id).or_default() += 1;
            store.ack(&one, json!(null)).await.unwrap();
        }
    }
    for id in &said.queued {
        let state = store.status(&acme, *id).await.unwrap().state;
        assert!(matches!(state, TaskState::Succeeded { .. }), "every task ends: {state:?}");
    }
    let doubled = doubled_acks + delivered.values().filter(|n| **n > 1).count();
    println!(
        "tasks: accepted {}, found {found}, lost {}, acked {} of {acked_found} kept, doubled {doubled}",
        said.queued.len(),
        said.queued.len() - found,
        said.acked.len()
    );
    assert_eq!((found, acked_found, doubled), (said.queued.len(), said.acked.len(), 0));

    let steps = store.steps(&tenant("acme"), RUN).await.unwrap();
    let kept: BTreeMap<_, _> = steps.iter().map(|s| (s.path.as_str(), s)).collect();
    let whole = |path: &String| {
        kept.get(path.as_str())
            .is_some_and(|s| s.state == StepState::Completed && s.output.as_deref() == Some(path.as_bytes()))
    };
    let found = said.completed.iter().filter(|p| whole(p)).count();
    let mut owed: BTreeMap<String, u32> = BTreeMap::new();
    for row in store.owed(0, usize::MAX).await.unwrap() {
        for record in row.outbox.audit {
            let AuditEvent::Admin { what } = record.event else { panic!("another event than was owed") };
            *owed.entry(what).or_default() += 1;
        }
    }
    let done = steps.iter().filter(|s| s.state == StepState::Completed).count();
    let doubled = owed.values().filter(|n| **n > 1).count();
    println!(
        "steps: accepted {}, found {found}, lost {}, owed {} for {done} completed, doubled {doubled}",
        said.completed.len(),
        said.completed.len() - found,
        owed.len()
    );
    assert_eq!((found, owed.len(), doubled), (said.completed.len(), done, 0));
    let events = store.events(&tenant("acme"), RUN, 0).await.unwrap();
    assert!(events.iter().map(|e| e.seq).eq(1..=u64::try_from(events.len()).unwrap()), "the history has no gap");
    assert!(said.queued.len() > 50 && said.completed.len() > 50, "the test did something");
}
