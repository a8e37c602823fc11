//! What became of every task: the producer's word, the workers' and the queue's, side by side.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use forge_core::queue::{TaskQueue, TaskState};
use forge_core::{ErrorKind, TaskId};
use forge_queue::redis::RedisBroker;
use serde_json::json;

use crate::place::ctx;
use crate::worker::{Kind, Work};

/// What the producer was told of one task; no id where that was an error.
pub(crate) struct Sent {
    pub(crate) work: Work,
    pub(crate) id: Option<TaskId>,
}

/// One try of a task, as its worker wrote it down.
#[derive(Default, Clone)]
struct Try {
    attempt: u32,
    taken: i64,
    effect: bool,
    outcomes: BTreeSet<String>,
}

#[derive(Default)]
pub(crate) struct Ledger {
    pub(crate) accepted: usize,
    pub(crate) done: usize,
    pub(crate) dead: usize,
    pub(crate) lost: usize,
    /// Effects beyond the first of a task, by why its earlier try did not count.
    pub(crate) cut_off: usize,
    pub(crate) lease_lost: usize,
    pub(crate) not_known: usize,
    /// Most tries of one task.
    pub(crate) runs: usize,
    pub(crate) unknown: usize,
    pub(crate) appeared: usize,
    /// Of those, taken by a worker and then gone with a master that no replica had heard it from.
    pub(crate) gone: usize,
    /// Whether a failover may take what was not answered.
    forgets: bool,
    /// What must not be.
    pub(crate) wrong: Vec<String>,
}

impl Ledger {
    pub(crate) async fn of(sent: &[Sent], notes: &Path, broker: &RedisBroker, forgets: bool) -> Self {
        let mut ledger = Self { forgets, ..Self::default() };
        let tries = read(notes);
        let numbers: BTreeMap<u64, &Sent> = sent.iter().map(|s| (s.work.number, s)).collect();
        let mut seen: BTreeMap<u64, BTreeSet<TaskId>> = BTreeMap::new();
        for (number, id) in tries.keys() {
            seen.entry(*number).or_default().insert(*id);
        }
        for (number, sent) in &numbers {
            let mut ids = seen.remove(number).unwrap_or_default();
            match sent.id {
                Some(id) => {
                    ledger.accepted += 1;
                    ids.insert(id);
                }
                None => {
                    ledger.unknown += 1;
                    ledger.appeared += ids.len();
                }
            }
            if ids.len() > 1 {
                ledger.wrong.push(format!("task {number} was queued {} times", ids.len()));
            }
            for id in ids {
                let none = BTreeMap::new();
                let tries = tries.get(&(*number, id)).unwrap_or(&none);
                ledger.tries(*number, tries);
                ledger.ended(sent, id, tries, broker).await;
            }
        }
        ledger.wrong.extend(seen.keys().map(|number| format!("nobody queued {number}")));
        ledger
    }

    /// Fences rise with time, and what was acknowledged did not run again.
    fn tries(&mut self, number: u64, tries: &BTreeMap<u64, Try>) {
        self.runs = self.runs.max(tries.len());
        let all: Vec<(&u64, &Try)> = tries.iter().collect();
        for (i, (fence, one)) in all.iter().enumerate() {
            for (later, other) in &all[i + 1..] {
                if other.taken < one.taken {
                    self.wrong.push(format!("task {number}: fence {fence} was given after {later}"));
                }
                if one.outcomes.contains("acked") {
                    self.wrong.push(format!("task {number} was acknowledged under {fence} and taken under {later}"));
                }
            }
        }
        if all.iter().filter(|(_, t)| t.outcomes.contains("acked")).count() > 1 {
            self.wrong.push(format!("task {number} was acknowledged twice"));
        }
        // of those with an effect one is the last: that it counts is seen from the result
        let counted = all.iter().rposition(|(_, t)| t.effect);
        for (i, (fence, one)) in all.iter().enumerate().filter(|(_, (_, t))| t.effect) {
            if Some(i) == counted {
                continue;
            }
            match one.outcomes.first().map(String::as_str) {
                None => self.cut_off += 1,
                Some("lost") => self.lease_lost += 1,
                Some("unknown") => self.not_known += 1,
                Some(other) => self.wrong.push(format!("task {number}: an effect under {fence} that was {other}")),
            }
        }
    }

    /// What the queue says of it in the end.
    async fn ended(&mut self, sent: &Sent, id: TaskId, tries: &BTreeMap<u64, Try>, broker: &RedisBroker) {
        let (number, accepted) = (sent.work.number, sent.id.is_some());
        let acked = tries.iter().find(|(_, t)| t.outcomes.contains("acked")).map(|(fence, _)| json!(fence));
        let state = match broker.status(&ctx(&sent.work.tenant), id).await {
            Ok(status) => status.state,
            Err(e) if e.kind() == ErrorKind::NotFound && accepted => {
                self.lost += 1;
                self.wrong.push(format!("task {number} ({id}) is lost; tries: {}", tries.len()));
                return;
            }
            Err(e) if e.kind() == ErrorKind::NotFound && self.forgets && acked.is_none() => return self.gone += 1,
            Err(e) => return self.wrong.push(format!("task {number}: {e}")),
        };
        if accepted && matches!(state, TaskState::Ready | TaskState::Leased) {
            // the queue is empty: only its record is left
            self.lost += 1;
        }
        let expected = match sent.work.kind {
            Kind::Doomed => matches!(state, TaskState::Dead { .. }),
            Kind::Good | Kind::Flaky => matches!(state, TaskState::Succeeded { .. }),
        };
        if !expected {
            let attempts = tries.values().map(|t| t.attempt).max();
            self.wrong.push(format!("task {number} ({:?}, {attempts:?}) ended as {state:?}", sent.work.kind));
        }
        if let TaskState::Succeeded { result } = &state {
            if acked.is_some_and(|acked| acked != *result) {
                self.wrong.push(format!("task {number}: its result is not the one that was acknowledged"));
            }
            if !tries.iter().any(|(fence, t)| t.effect && json!(fence) == *result) {
                self.wrong.push(format!("task {number}: a result without an effect"));
            }
        }
        if accepted {
            self.done += usize::from(matches!(state, TaskState::Succeeded { .. }));
            self.dead += usize::from(matches!(state, TaskState::Dead { .. }));
        }
    }

    pub(crate) fn duplicates(&self) -> usize {
        self.cut_off + self.lease_lost + self.not_known
    }

    pub(crate) fn add(&mut self, other: Self) {
        let Self {
            accepted,
            done,
            dead,
            lost,
            cut_off,
            lease_lost,
            not_known,
            runs,
            unknown,
            appeared,
            gone,
            forgets: _,
            wrong,
        } = other;
        self.accepted += accepted;
        self.done += done;
        self.dead += dead;
        self.lost += lost;
        self.cut_off += cut_off;
        self.lease_lost += lease_lost;
        self.not_known += not_known;
        self.runs = self.runs.max(runs);
        self.unknown += unknown;
        self.appeared += appeared;
        self.gone += gone;
        self.wrong.extend(wrong);
    }
}

impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "accepted {}, done {}, dead {}, lost {}, duplicates {} (cut off {}, lease lost {}, outcome unknown {}), most runs of one task {}, unknown enqueues {} of which {} appeared and {} were gone again",
            self.accepted,
            self.done,
            self.dead,
            self.lost,
            self.duplicates(),
            self.cut_off,
            self.lease_lost,
            self.not_known,
            self.runs,
            self.unknown,
            self.appeared,
            self.gone
        )
    }
}

/// By number and id, the tries by fence.
fn read(notes: &Path) -> BTreeMap<(u64, TaskId), BTreeMap<u64, Try>> {
    let mut tries = BTreeMap::<_, BTreeMap<u64, Try>>::new();
    for line in std::fs::read_to_string(notes).unwrap_or_default().lines() {
        let words: Vec<&str> = line.split(' ').collect();
        let [what, number, id, attempt, fence, taken] = words[..] else { panic!("a torn line: {line}") };
        let key = (number.parse().unwrap(), TaskId::parse(id).unwrap());
        let one = tries.entry(key).or_default().entry(fence.parse().unwrap()).or_default();
        (one.attempt, one.taken) = (attempt.parse().unwrap(), taken.parse().unwrap());
        match what {
            "begun" => {}
            "effect" => one.effect = true,
            _ => {
                one.outcomes.insert(what.to_owned());
            }
        }
    }
    tries
}
