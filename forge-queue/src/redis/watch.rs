//! Waking up without polling: Redis says when somebody pushes to a list that was empty.
//!
//! A connection of its own has client-side caching switched on (`CLIENT TRACKING`, Redis 6). Whoever reads a key is told once when it
//! changes; so the lists that are drained are read (`EXISTS`), and a push to one of them, by Python or by us, is announced. A list that is
//! not drained needs no announcement. At 1,000 tenants that are idle this costs nothing until somebody pushes. What was missed, because the
//! connection broke or the server forgot, is found by a look at everything from time to time.

use std::collections::{BTreeSet, HashSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use forge_core::{Clock, Result, TenantId, Timestamp};
use forge_redis::redis::{FromRedisValue, PushInfo, PushKind, Value, cmd};
use forge_redis::{Pushes, Redis};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::held::HeldTasks;
use super::queues::{Queues, own};
use super::{Shared, restore};
use crate::celery::{PRIORITY_SEPARATOR, queues as lists};

const OP: &str = "queue.wait";
/// Where the ids of tasks are announced whose leases were taken away.
const LOST: &str = "forge:lost";
/// How long a push may go unnoticed that was not announced.
const SWEEP: Duration = Duration::from_secs(30);
/// Between two attempts to connect.
const PAUSE: Duration = Duration::from_millis(500);
/// Keys of one `EXISTS`: a longer one would keep Redis from everybody else.
const KEYS: usize = 1024;

/// Which tenants may have something, and when to look. Dropped, it stops to listen.
pub(super) struct Watch {
    inner: Arc<Inner>,
    shared: Arc<Shared>,
    begun: AtomicBool,
    end: DropGuard,
}

struct Inner {
    redis: Redis,
    queues: Queues,
    clock: Arc<dyn Clock>,
    held: Arc<HeldTasks>,
    state: Mutex<State>,
    /// There is something to look for.
    wake: Notify,
    /// There are lists to read.
    arm: Notify,
}

#[derive(Default)]
struct State {
    /// Tenants to whose lists somebody pushed, perhaps.
    pushed: BTreeSet<String>,
    /// Tenants whose lists are to be read, so that a push is announced.
    to_read: HashSet<String>,
    /// When a delayed task or a lost lease is due.
    due: Option<Timestamp>,
    /// Every tenant that has a queue.
    known: HashSet<String>,
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let (state, wake, arm) = (Mutex::default(), Notify::new(), Notify::new());
        let (redis, queues, clock) = (shared.redis.clone(), shared.queues.clone(), shared.clock.clone());
        let inner = Arc::new(Inner { redis, queues, clock, held: shared.held.clone(), state, wake, arm });
        Self { inner, shared, begun: AtomicBool::new(false), end: CancellationToken::new().drop_guard() }
    }

    /// Begins to listen, once.
    pub(super) fn begin(&self) {
        if self.begun.swap(true, Ordering::Relaxed) {
            return;
        }
        let inner = self.inner.clone();
        inner.state().pushed.extend(inner.queues.beside().map(|(tenant, _)| tenant.to_string()));
        let (ended, shared) = (self.end.token().clone(), self.shared.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = inner.listen() => {}
                () = restore::run(shared) => {}
                () = ended.cancelled() => {}
            }
        });
    }

    /// The tenants to whose lists somebody may have pushed; they are looked at now.
    pub(super) fn pushed(&self) -> BTreeSet<String> {
        std::mem::take(&mut self.inner.state().pushed)
    }

    /// They are to be looked at after all.
    pub(super) fn push(&self, tenants: BTreeSet<String>) {
        self.inner.state().pushed.extend(tenants);
    }

    /// These have nothing more, and something is due so long from now.
    pub(super) fn drained(&self, tenants: &[String], soonest: Option<Duration>) {
        let now = self.inner.clock.now();
        let mut state = self.inner.state();
        state.due = soonest.map(|left| now.after(left));
        if !tenants.is_empty() {
            state.to_read.extend(tenants.iter().cloned());
            self.inner.arm.notify_one();
        }
    }

    /// Tenants that have a queue, as far as they were seen.
    pub(super) fn known(&self) -> Vec<TenantId> {
        self.inner.state().known.iter().filter_map(|tenant| TenantId::parse(tenant).ok()).collect()
    }

    pub(super) fn wake(&self) {
        self.inner.wake.notify_one();
    }

    /// Until there may be something, at most so long.
    pub(super) async fn wait(&self, at_most: Duration) {
        self.begin();
        let due = self.inner.state().due.map(|t| t.since(self.inner.clock.now()));
        let pause = due.map_or(at_most, |due| due.min(at_most));
        tokio::select! {
            () = self.inner.wake.notified() => {}
            () = self.inner.clock.sleep(pause) => {}
        }
    }
}

impl Inner {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doubt_all(&self) {
        let State { pushed, known, .. } = &mut *self.state();
        pushed.extend(known.iter().cloned());
    }

    async fn listen(&self) {
        loop {
            if let Err(e) = self.serve().await {
                tracing::debug!(error = %e, "pushes are not announced; looking from time to time");
            }
            // what was pushed meanwhile was not announced
            self.doubt_all();
            self.wake.notify_one();
            self.clock.sleep(PAUSE.mul_f64(0.5 + fastrand::f64())).await;
        }
    }

    fn keys_of(&self, tenant: &str) -> Vec<String> {
        let Ok(tenant) = TenantId::parse(tenant) else { return Vec::new() };
        let own = own(&tenant);
        let theirs = self.queues.served().filter(|(t, queue)| **t == tenant && *queue != own).map(|(_, queue)| queue);
        let lists = std::iter::once(own.as_str()).chain(theirs).flat_map(lists);
        lists.map(|list| self.redis.key(list)).collect()
    }

    /// Whose list it is.
    fn owner(&self, key: &str) -> Option<String> {
        let list = key.strip_prefix(self.redis.config().prefix.as_str())?;
        let queue = list.split_once(PRIORITY_SEPARATOR).map_or(list, |(queue, _)| queue);
        let bound = self.queues.beside().find(|(_, q)| *q == queue).map(|(tenant, _)| tenant.to_string());
        bound.or_else(|| queue.strip_suffix(".default").map(str::to_owned))
    }

    /// One connection's life.
    async fn serve(&self) -> Result<()> {
        let mut pushes = self.redis.pushes().await?;
        pushes.query::<()>(OP, cmd("CLIENT").arg("TRACKING").arg("ON")).await?;
        pushes.subscribe(OP, &[self.redis.key(LOST)]).await?;
        self.look_at_everything(&pushes).await?;
        loop {
            tokio::select! {
                pushed = pushes.next() => match pushed {
                    Some(pushed) => self.heard(&pushes, pushed).await?,
                    None => return Ok(()),
                },
                () = self.arm.notified() => {
                    let tenants: Vec<String> = self.state().to_read.drain().collect();
                    self.read(&pushes, tenants).await?;
                }
                () = self.clock.sleep(SWEEP) => self.look_at_everything(&pushes).await?,
            }
        }
    }

    async fn heard(&self, pushes: &Pushes, pushed: PushInfo) -> Result<()> {
        match pushed.kind {
            PushKind::Invalidate => {}
            PushKind::Message => {
                if let Some(Ok(id)) = pushed.data.into_iter().nth(1).map(String::from_redis_value) {
                    self.held.lose(&id);
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        let keys = match pushed.data.into_iter().next() {
            Some(Value::Array(keys)) => keys,
            // the server flushed, or forgot whom to tell
            _ => return self.look_at_everything(pushes).await,
        };
        let registry = self.redis.key("forge:tenants");
        for key in keys {
            let Ok(key) = String::from_redis_value(key) else { continue };
            if key == registry {
                self.look_at_everything(pushes).await?;
            } else if let Some(tenant) = self.owner(&key) {
                self.state().pushed.insert(tenant);
                self.wake.notify_one();
            }
        }
        Ok(())
    }

    /// Reads who has a queue, and whether there is something in it.
    async fn look_at_everything(&self, pushes: &Pushes) -> Result<()> {
        let registered: Vec<String> = pushes.query(OP, cmd("SMEMBERS").arg(self.redis.key("forge:tenants"))).await?;
        let tenants: HashSet<String> =
            registered.into_iter().chain(self.queues.beside().map(|(t, _)| t.to_string())).collect();
        self.state().known.clone_from(&tenants);
        self.read(pushes, tenants.into_iter().collect()).await
    }

    /// Reads lists that should be empty: a push to them is announced from now on. Where one is not, its tenants are looked at.
    async fn read(&self, pushes: &Pushes, tenants: Vec<String>) -> Result<()> {
        for some in tenants.chunks(KEYS / 4) {
            let keys: Vec<String> = some.iter().flat_map(|t| self.keys_of(t)).collect();
            if pushes.query::<usize>(OP, cmd("EXISTS").arg(&keys)).await? > 0 {
                self.state().pushed.extend(some.iter().cloned());
                self.wake.notify_one();
            }
        }
        Ok(())
    }
}
