//! Random limits, random work: whatever happens in whatever order, no cap is passed, no task is lost or with two workers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use forge_core::queue::{Lease, Priority, TaskState};
use forge_core::{Clock as _, TaskId};
use forge_queue::limits::QueueLimits;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::json;

use super::{Sides, broken, ctx, id, task};

const TENANTS: [&str; 3] = ["a", "b", "c"];
const CASES: u32 = 12;

/// What somebody does.
#[derive(Debug, Clone)]
enum Step {
    Enqueue(usize, Priority),
    Lease(usize),
    Ack(usize),
    Nack(usize),
    /// The worker is gone without a word.
    Lose(usize),
    Pause(usize),
    Resume(usize),
    Pass(u64),
}

#[derive(Debug, Clone)]
struct Plan {
    limits: Vec<QueueLimits>,
    steps: Vec<Step>,
}

fn plan() -> impl Strategy<Value = Plan> {
    let weight = prop::sample::select(vec![0.5, 1.0, 3.0]);
    let limits = (weight, prop::option::of(1_u32..4), prop::option::of((5_u32..50, 1_u32..6)));
    let limits = limits.prop_map(|(weight, running, rate)| {
        let mut limits = QueueLimits::default().with_weight(weight);
        limits.running = running;
        if let Some((rate, burst)) = rate {
            limits = limits.with_rate(f64::from(rate)).with_burst(burst);
        }
        limits
    });
    let step = prop_oneof![
        4 => (0..TENANTS.len(), prop::sample::select(Priority::ALL.to_vec())).prop_map(|(t, p)| Step::Enqueue(t, p)),
        4 => (1_usize..8).prop_map(Step::Lease),
        3 => (0_usize..64).prop_map(Step::Ack),
        1 => (0_usize..64).prop_map(Step::Nack),
        1 => (0_usize..64).prop_map(Step::Lose),
        1 => (0..TENANTS.len()).prop_map(Step::Pause),
        1 => (0..TENANTS.len()).prop_map(Step::Resume),
        1 => (1_u64..20_000).prop_map(Step::Pass),
    ];
    let limits = prop::collection::vec(limits, TENANTS.len());
    (limits, prop::collection::vec(step, 20..80)).prop_map(|(limits, steps)| Plan { limits, steps })
}

/// Runs random plans on queues that `fresh` makes; the same ones every time.
///
/// # Panics
/// With the smallest plan that goes wrong.
pub(crate) fn in_any_order(runtime: &tokio::runtime::Runtime, fresh: impl AsyncFn() -> Sides) {
    let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let outcome = TestRunner::new_with_rng(config, rng).run(&plan(), |plan| {
        runtime.block_on(async { Run::new(fresh().await, &plan).await.all(&plan.steps).await });
        Ok(())
    });
    outcome.unwrap();
}

struct Run {
    sides: Sides,
    limits: BTreeMap<&'static str, QueueLimits>,
    queued: Vec<(&'static str, TaskId)>,
    /// With a worker that still works.
    held: Vec<Lease>,
    /// With one that is gone.
    lost: Vec<Lease>,
    acked: BTreeSet<TaskId>,
}

impl Run {
    async fn new(sides: Sides, plan: &Plan) -> Self {
        let limits: BTreeMap<_, _> = TENANTS.into_iter().zip(plan.limits.iter().cloned()).collect();
        for (tenant, limits) in &limits {
            sides.limit(tenant, limits.clone()).await;
        }
        Self { sides, limits, queued: Vec::new(), held: Vec::new(), lost: Vec::new(), acked: BTreeSet::new() }
    }

    async fn all(mut self, steps: &[Step]) {
        for step in steps {
            self.step(step).await;
            self.pass(Duration::ZERO);
        }
        self.finish().await;
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Enqueue(tenant, priority) => {
                let (tenant, n) = (TENANTS[tenant], self.queued.len());
                let task = task(n).with_priority(priority).with_max_retries(1_000);
                self.queued.push((tenant, self.sides.queue.enqueue(&ctx(tenant), task).await.unwrap()));
            }
            Step::Lease(max) => self.lease(max).await,
            Step::Ack(n) => {
                if let Some(lease) = self.some_held(n) {
                    self.sides.broker.ack(&lease, json!(null)).await.unwrap();
                    assert!(self.acked.insert(lease.id), "done once is done once");
                }
            }
            Step::Nack(n) => {
                if let Some(lease) = self.some_held(n) {
                    self.sides.broker.nack(&lease, broken()).await.unwrap();
                }
            }
            Step::Lose(n) => {
                let lost = self.some_held(n);
                self.lost.extend(lost);
            }
            Step::Pause(tenant) => self.sides.control.pause(&id(TENANTS[tenant])).await.unwrap(),
            Step::Resume(tenant) => self.sides.control.resume(&id(TENANTS[tenant])).await.unwrap(),
            Step::Pass(ms) => self.pass(Duration::from_millis(ms)),
        }
    }

    fn some_held(&mut self, n: usize) -> Option<Lease> {
        (!self.held.is_empty()).then(|| self.held.swap_remove(n % self.held.len()))
    }

    /// Lets time pass; who had something for too long is gone like the others.
    fn pass(&mut self, time: Duration) {
        self.sides.clock.advance(time);
        let now = self.sides.clock.now();
        self.held.retain(|l| l.until > now);
        self.lost.retain(|l| l.until > now);
    }

    async fn lease(&mut self, max: usize) {
        for lease in self.sides.lease(max).await {
            let mut all = self.held.iter().chain(&self.lost);
            assert!(all.all(|l| l.id != lease.id), "a task is with one worker at a time");
            assert!(!self.acked.contains(&lease.id), "what is done is not given again");
            self.held.push(lease);
        }
        for tenant in TENANTS {
            let running = self.held.iter().chain(&self.lost).filter(|l| l.tenant == tenant).count();
            let cap = self.limits[tenant].running.map_or(usize::MAX, |cap| usize::try_from(cap).unwrap());
            assert!(running <= cap, "{tenant} has {running} tasks with workers, and {cap} slots");
        }
    }

    /// Nothing new, no pauses: everything ends.
    async fn finish(mut self) {
        for tenant in TENANTS {
            self.sides.control.resume(&id(tenant)).await.unwrap();
        }
        for _ in 0..200 {
            if self.acked.len() == self.queued.len() {
                break;
            }
            self.pass(Duration::from_secs(5));
            self.lease(64).await;
            while !self.held.is_empty() {
                self.step(&Step::Ack(0)).await;
            }
        }
        for (tenant, id) in &self.queued {
            let state = self.sides.queue.status(&ctx(tenant), *id).await.unwrap().state;
            assert!(matches!(state, TaskState::Succeeded { .. }), "every task is done at the end: {state:?}");
        }
    }
}
