//! One round: load, faults by the seed, then silence and the ledger.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fastrand::Rng;
use forge_core::TenantId;
use forge_core::queue::{NewTask, TaskQueue};
use forge_queue::limits::{QueueControl, QueueLimits};
use forge_queue::redis::RedisBroker;
use forge_redis::redis::{Pipeline, cmd};
use tokio::task::JoinSet;

use crate::ground::{Crew, Ground};
use crate::ledger::{Ledger, Sent};
use crate::place::{PREFIX, Place, TENANTS, ctx, name_of, until};
use crate::worker::{Kind, Work};

/// Tasks of each tenant, at least; a producer goes on until the faults are over.
const AT_LEAST: usize = 30;
const IN_THE_END: Duration = Duration::from_secs(60);

pub(crate) struct Round {
    pub(crate) ground: Ground,
    pub(crate) seed: u64,
}

impl Round {
    /// Breaks things; the ledger, and a line that says what was done.
    pub(crate) async fn run(self) -> (Ledger, String) {
        let Self { mut ground, seed } = self;
        let dir = tempfile::tempdir().unwrap();
        let notes = dir.path().join("notes");
        let place = ground.place();
        let mut rng = Rng::with_seed(seed);
        let mut faults = vec![ground.first(seed)];
        faults.extend((0..rng.usize(1..4)).map(|_| ground.faults()[rng.usize(..ground.faults().len())]));
        if !matches!(ground, Ground::Single(_)) {
            faults.truncate(2);
        }
        let what = format!("{ground}, seed {seed}, {faults:?}");

        let broker = place.broker();
        // one that waits for its own tasks to end, one that waits for a token
        broker.set_limits(&tenant("globex"), QueueLimits::default().with_running(3)).await.unwrap();
        broker.set_limits(&tenant("acme"), QueueLimits::default().with_rate(150.0)).await.unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let numbers = Arc::new(AtomicU64::new(0));
        let mut producers = JoinSet::new();
        for tenant in TENANTS {
            let rng = rng.fork();
            producers.spawn(produce(broker.clone(), tenant, rng, over.clone(), numbers.clone()));
        }
        let breaking = {
            let (place, notes, faults) = (place.clone(), notes.clone(), faults.clone());
            move || {
                let mut crew = Crew::start(place, notes);
                for fault in faults {
                    std::thread::sleep(Duration::from_millis(rng.u64(100..500)));
                    ground.strike(fault, &mut crew, &mut rng);
                }
                (ground, crew)
            }
        };
        let (ground, crew) = tokio::task::spawn_blocking(breaking).await.unwrap();
        over.store(true, Ordering::Relaxed);
        let sent: Vec<Sent> = producers.join_all().await.into_iter().flatten().collect();

        until(&format!("{what}: an empty queue"), IN_THE_END, async || is_empty(&broker).await).await;
        tokio::task::spawn_blocking(move || crew.workers.into_iter().for_each(crate::worker::Worker::end))
            .await
            .unwrap();
        let mut ledger = Ledger::of(&sent, &notes, &broker, place.replicas.is_some()).await;
        ledger.wrong.extend(left(&place).await);
        drop(ground);
        (ledger, what)
    }
}

fn tenant(id: &str) -> TenantId {
    TenantId::parse(id).unwrap()
}

/// Queues tasks of one tenant, one after the other.
async fn produce(
    broker: RedisBroker,
    tenant: &'static str,
    mut rng: Rng,
    over: Arc<AtomicBool>,
    numbers: Arc<AtomicU64>,
) -> Vec<Sent> {
    let mut sent = Vec::new();
    while sent.len() < AT_LEAST || !over.load(Ordering::Relaxed) {
        let number = numbers.fetch_add(1, Ordering::Relaxed);
        let kind = match rng.u8(..10) {
            0 => Kind::Doomed,
            1 => Kind::Flaky,
            _ => Kind::Good,
        };
        let mut ms = rng.u64(..50);
        if rng.u8(..60) == 0 {
            // longer than its first lease
            ms = 2500;
        }
        let work = Work { number, tenant: tenant.to_owned(), kind, ms };
        let mut task = NewTask::new(name_of(tenant), serde_json::to_value(&work).unwrap());
        task = task.with_max_retries(if kind == Kind::Doomed { 2 } else { 25 });
        if rng.u8(..6) == 0 {
            task = task.with_delay(Duration::from_millis(rng.u64(1..800)));
        }
        let id = broker.enqueue(&ctx(tenant), task).await.ok();
        let pause = if id.is_some() { rng.u64(5..45) } else { 30 };
        sent.push(Sent { work, id });
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
    sent
}

async fn is_empty(broker: &RedisBroker) -> bool {
    for tenant in TENANTS {
        match broker.depth(&ctx(tenant)).await {
            Ok(depth) if depth.ready + depth.leased == 0 => {}
            _ => return false,
        }
    }
    true
}

/// Keys of an empty queue that are not empty.
async fn left(place: &Place) -> Vec<String> {
    let redis = place.redis();
    let mut keys: Vec<String> =
        ["forge:leases", "forge:held", "forge:due", "unacked", "unacked_index"].map(|k| redis.key(k)).into();
    for tenant in TENANTS {
        keys.extend(["open", "run", "delayed"].map(|what| redis.key(format_args!("forge:{tenant}:{what}"))));
    }
    let mut there = Pipeline::new();
    for key in &keys {
        there.add_command(cmd("EXISTS").arg(key).clone());
    }
    let there: Vec<bool> = redis.pipeline("test.left", &there).await.unwrap();
    let left = keys.iter().zip(there).filter(|(_, there)| *there);
    left.map(|(key, _)| format!("{} is left", key.trim_start_matches(PREFIX))).collect()
}
