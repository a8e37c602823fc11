//! A worker on a queue in memory whose faults and whose time are the test's.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use forge_core::fake::{FakeKeyring, FakePolicy, FakeQueue, FakeRedactor, ManualClock};
use forge_core::metrics::NoMetrics;
use forge_core::queue::{Broker, Lease, LeaseRequest, Nack, NewTask, TaskHandler, TaskQueue, TaskState, TaskStatus};
use forge_core::testing::{FakeGuard, context, fake_guard};
use forge_core::{Depth, Error, ErrorKind, ExecutionContext, Health, HealthCheck, Result, Slug, TaskId, Timestamp};
use forge_queue::worker::{Worker, WorkerParts};
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::Semaphore;

pub(crate) const VISIBILITY: Duration = Duration::from_secs(30);

/// A queue that can be told to fail, and that remembers what it was told.
#[derive(Debug)]
pub(crate) struct Flaky {
    pub(crate) queue: FakeQueue,
    /// So many acknowledgements and refusals fail as `Unavailable`.
    pub(crate) deaf: AtomicUsize,
    pub(crate) told: AtomicUsize,
    /// Acknowledgements fail as this.
    pub(crate) refuses: Mutex<Option<ErrorKind>>,
    /// Renewals fail as this.
    pub(crate) renewal: Mutex<Option<ErrorKind>>,
    pub(crate) renewed: AtomicUsize,
    pub(crate) requests: Mutex<Vec<LeaseRequest>>,
    pub(crate) nacks: Mutex<Vec<Nack>>,
    /// Ignores what the worker has room for.
    pub(crate) generous: bool,
    /// What somebody does to leases on their way.
    pub(crate) tamper: fn(&mut Lease),
    /// Answers of `lease` that may leave.
    pub(crate) gate: Semaphore,
}

impl Flaky {
    pub(crate) fn new(clock: Arc<ManualClock>) -> Self {
        Self {
            queue: FakeQueue::new(clock),
            deaf: AtomicUsize::new(0),
            told: AtomicUsize::new(0),
            refuses: Mutex::default(),
            renewal: Mutex::default(),
            renewed: AtomicUsize::new(0),
            requests: Mutex::default(),
            nacks: Mutex::default(),
            generous: false,
            tamper: |_| {},
            gate: Semaphore::new(Semaphore::MAX_PERMITS),
        }
    }

    fn hears(&self) -> Result<()> {
        self.told.fetch_add(1, Ordering::SeqCst);
        let left = self.deaf.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1));
        left.map_or(Ok(()), |_| Err(down()))
    }
}

#[async_trait]
impl HealthCheck for Flaky {
    async fn check(&self, depth: Depth) -> Health {
        self.queue.check(depth).await
    }
}

#[async_trait]
impl Broker for Flaky {
    async fn lease(&self, request: &LeaseRequest) -> Result<Vec<Lease>> {
        self.requests.lock().unwrap().push(request.clone());
        let mut request = request.clone();
        if self.generous {
            request.room = Default::default();
        }
        let mut leases = self.queue.lease(&request).await?;
        leases.iter_mut().for_each(self.tamper);
        self.gate.acquire().await.unwrap().forget();
        Ok(leases)
    }

    async fn renew(&self, lease: &Lease, visibility: Duration) -> Result<Timestamp> {
        let fails = *self.renewal.lock().unwrap();
        if let Some(kind) = fails {
            return Err(Error::new(kind, "queue.renew", "no"));
        }
        self.renewed.fetch_add(1, Ordering::SeqCst);
        self.queue.renew(lease, visibility).await
    }

    async fn ack(&self, lease: &Lease, result: Value) -> Result<()> {
        self.hears()?;
        if let Some(kind) = *self.refuses.lock().unwrap() {
            return Err(Error::new(kind, "queue.ack", "no"));
        }
        self.queue.ack(lease, result).await
    }

    async fn nack(&self, lease: &Lease, nack: Nack) -> Result<()> {
        self.nacks.lock().unwrap().push(nack.clone());
        self.hears()?;
        self.queue.nack(lease, nack).await
    }

    async fn wait(&self, at_most: Duration) {
        self.queue.wait(at_most).await;
    }
}

type Work = Box<dyn Fn(ExecutionContext, Lease) -> BoxFuture<'static, Result<Value>> + Send + Sync>;

/// A handler that is a closure.
pub(crate) struct Does(Work);

impl fmt::Debug for Does {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Does")
    }
}

#[async_trait]
impl TaskHandler for Does {
    async fn handle(&self, ctx: &ExecutionContext, task: &Lease) -> Result<Value> {
        (self.0)(ctx.clone(), task.clone()).await
    }
}

pub(crate) fn does<F>(work: impl Fn(ExecutionContext, Lease) -> F + Send + Sync + 'static) -> Arc<dyn TaskHandler>
where
    F: Future<Output = Result<Value>> + Send + 'static,
{
    Arc::new(Does(Box::new(move |ctx, task| Box::pin(work(ctx, task)))))
}

/// One queue and what serves it.
pub(crate) struct Bench {
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) broker: Arc<Flaky>,
    pub(crate) fakes: FakeGuard,
}

impl Bench {
    pub(crate) fn new() -> Self {
        Self::with(|_| {})
    }

    pub(crate) fn with(change: impl FnOnce(&mut Flaky)) -> Self {
        let clock = Arc::new(ManualClock::default());
        let mut broker = Flaky::new(clock.clone());
        change(&mut broker);
        let fakes = fake_guard(FakePolicy::allow_all(), clock.clone());
        Self { broker: Arc::new(broker), fakes, clock }
    }

    pub(crate) fn worker(&self, concurrency: usize) -> Worker {
        Worker::new(WorkerParts {
            broker: self.broker.clone(),
            guard: self.fakes.guard.clone(),
            redactor: Arc::new(FakeRedactor),
            keyring: Arc::new(FakeKeyring),
            metrics: Arc::new(NoMetrics),
            clock: self.clock.clone(),
            concurrency,
            visibility: VISIBILITY,
        })
    }

    pub(crate) async fn enqueue(&self, tenant: &str, name: &str) -> TaskId {
        self.enqueue_task(tenant, NewTask::new(slug(name), json!({ "tenant": tenant }))).await
    }

    pub(crate) async fn enqueue_task(&self, tenant: &str, task: NewTask) -> TaskId {
        self.broker.queue.enqueue(&ctx(tenant), task).await.unwrap()
    }

    pub(crate) async fn status(&self, tenant: &str, id: TaskId) -> TaskStatus {
        self.broker.queue.status(&ctx(tenant), id).await.unwrap()
    }

    pub(crate) async fn state(&self, id: TaskId) -> TaskState {
        self.status("acme", id).await.state
    }

    /// Lets time pass, second by second, with everybody at work in between.
    pub(crate) async fn pass(&self, seconds: u64) {
        for _ in 0..seconds {
            self.clock.advance(Duration::from_secs(1));
            calm().await;
        }
    }

    pub(crate) fn nacks(&self) -> Vec<Nack> {
        self.broker.nacks.lock().unwrap().clone()
    }
}

pub(crate) fn serve(worker: &Worker) -> tokio::task::JoinHandle<()> {
    let worker = worker.clone();
    tokio::spawn(async move { worker.run().await })
}

/// Lets everybody do what they can do without time.
pub(crate) async fn calm() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn slug(name: &str) -> Slug {
    Slug::parse(name).unwrap()
}

pub(crate) fn ctx(tenant: &str) -> ExecutionContext {
    context(tenant, "ana", "analyst")
}

pub(crate) fn down() -> Error {
    Error::new(ErrorKind::Unavailable, "t", "down")
}

pub(crate) fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// Counts one up when it is dropped.
pub(crate) struct OnDrop(pub(crate) Arc<AtomicUsize>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}
