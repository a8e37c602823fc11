//! The loop that asks for work: as much as can begin now, and nothing that cannot.

use std::sync::Arc;
use std::time::Duration;

use forge_core::guard::{Circuit, Tries};
use forge_core::queue::{Lease, LeaseRequest};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::slots::Place;
use super::{Entry, Worker};

/// How long an idle worker sleeps at most.
const IDLE: Duration = Duration::from_secs(5);

/// What the worker can do now.
enum Ask {
    /// This, and if there is none, to look again after so long.
    For(LeaseRequest, Duration),
    /// Nothing before so long, or before a place is free.
    Nothing(Duration),
}

impl Worker {
    /// Serves until [`shutdown`](Worker::shutdown). An unreachable broker is waited for. Dropped, it takes no more tasks; those that run go
    /// on.
    pub async fn run(&self) {
        let _running = self.state.tasks.token();
        let free = Arc::new(Semaphore::new(self.parts.concurrency.max(1)));
        let mut failures = 0;
        while !self.state.stopping.is_cancelled() {
            let first = tokio::select! {
                permit = free.clone().acquire_owned() => permit,
                () = self.state.stopping.cancelled() => return,
            };
            let Ok(first) = first else { return };
            let (request, idle) = match self.ask(free.available_permits().saturating_add(1)) {
                Ask::For(request, idle) => (request, idle),
                Ask::Nothing(pause) => {
                    self.rest(pause).await;
                    continue;
                }
            };
            let asked = self.parts.clock.monotonic();
            // not cut short by a shutdown: it may have taken tasks, which would be held by nobody
            match self.parts.broker.lease(&request).await {
                Ok(leases) if leases.is_empty() => {
                    failures = 0;
                    drop(first);
                    tokio::select! {
                        () = self.parts.broker.wait(idle) => {}
                        () = self.state.slots.freed.notified() => {}
                        () = self.state.stopping.cancelled() => {}
                    }
                }
                Ok(leases) => {
                    failures = 0;
                    if self.begin(leases, first, &free, asked) == 0 {
                        // more than there is room for, from a queue that does not look
                        self.rest(Duration::from_millis(200)).await;
                    }
                }
                Err(e) => {
                    failures += 1;
                    tracing::warn!(error = %e, "no tasks could be leased; trying again");
                    self.rest(Tries::default().backoff(failures.min(2), &e).unwrap_or(IDLE)).await;
                }
            }
        }
    }

    /// Begins what it can and gives back what it cannot. How many were begun.
    fn begin(&self, leases: Vec<Lease>, first: OwnedSemaphorePermit, free: &Arc<Semaphore>, asked: Duration) -> usize {
        let (mut first, mut begun) = (Some(first), 0);
        for lease in leases {
            let permit = first.take().or_else(|| free.clone().try_acquire_owned().ok());
            let place = permit.filter(|_| !self.state.stopping.is_cancelled()).and_then(|p| self.place(&lease, p));
            let worker = self.clone();
            match place {
                Some(place) => {
                    begun += 1;
                    self.state.tasks.spawn(async move { worker.serve(lease, place, asked).await });
                }
                None => drop(self.state.tasks.spawn(async move { worker.release(lease, asked).await })),
            }
        }
        begun
    }

    fn place(&self, lease: &Lease, permit: OwnedSemaphorePermit) -> Option<Place> {
        let of_name = self.handlers.get(&lease.name).and_then(Entry::most);
        self.state.slots.begin(lease, self.per_tenant(), of_name, permit)
    }

    fn per_tenant(&self) -> Option<usize> {
        self.settings.per_tenant.map(|most| most.max(1))
    }

    /// What can begin now, at most `max`.
    fn ask(&self, max: usize) -> Ask {
        let now = self.parts.clock.monotonic();
        let (mut names, mut most, mut pause) = (Vec::new(), Vec::new(), IDLE);
        for (name, entry) in self.handlers.iter() {
            match self.state.circuits.of(name, now) {
                Circuit::Open(left) => {
                    pause = pause.min(left);
                    continue;
                }
                Circuit::HalfOpen => most.push((name.clone(), 1)),
                Circuit::Closed => most.extend(entry.most().map(|most| (name.clone(), most))),
            }
            names.push(name.clone());
        }
        let room = self.state.slots.room(self.per_tenant(), most.into_iter());
        if names.iter().all(|name| room.names.get(name) == Some(&0)) {
            return Ask::Nothing(pause);
        }
        let visibility = self.parts.visibility;
        Ask::For(LeaseRequest { names, max, visibility, room }, pause)
    }

    async fn rest(&self, d: Duration) {
        tokio::select! {
            () = self.parts.clock.sleep(d) => {}
            () = self.state.slots.freed.notified() => {}
            () = self.state.stopping.cancelled() => {}
        }
    }
}
