//! A presence at work: a connection of its own on which it listens and speaks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use forge_core::{Error, ErrorKind, Result, TaskId};
use forge_redis::Pushes;
use forge_redis::redis::{FromRedisValue, PushInfo, PushKind, cmd, pipe};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::OP;
use super::state::State;
use crate::celery::{ControlMessage, PRIORITY_SEPARATOR, Publication, ReplyTo, TaskEvent, WorkerEvent, WorkerLoad};
use crate::redis::{RedisBroker, millis};

/// Between two heartbeats. Monitors give a worker up after two that are missing.
const BEAT: Duration = Duration::from_secs(2);
/// How long an event waits for others to go with it.
const FLUSH: Duration = Duration::from_millis(50);
/// Events of one message, as in Celery.
const TOGETHER: usize = 24;
/// How long an answer waits for who asked, as in Celery.
const ANSWER_STAYS: Duration = Duration::from_secs(10);
/// How long the last word may take.
const LAST_WORD: Duration = Duration::from_secs(1);
/// The first pause after a connection broke; each further one doubles it.
const PAUSE: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

pub(super) struct Serving {
    pub(super) broker: RedisBroker,
    pub(super) state: Arc<State>,
    events: mpsc::Receiver<TaskEvent>,
    batch: Vec<TaskEvent>,
    ended: CancellationToken,
}

impl Serving {
    pub(super) fn new(
        broker: RedisBroker,
        state: Arc<State>,
        events: mpsc::Receiver<TaskEvent>,
        ended: CancellationToken,
    ) -> Self {
        Self { broker, state, events, batch: Vec::with_capacity(TOGETHER), ended }
    }

    /// Serves until it is ended, through however many connections.
    pub(super) async fn run(mut self) {
        let clock = self.broker.shared.clock.clone();
        let ended = self.ended.clone();
        let mut failures = 0;
        while !ended.is_cancelled() {
            let broken = tokio::select! {
                lived = self.live(&mut failures) => lived.err(),
                // it may hang where it cannot look for the end
                () = async { ended.cancelled().await; clock.sleep(LAST_WORD).await } => return,
            };
            let Some(e) = broken else { return };
            if failures == 0 {
                tracing::warn!(error = %e, worker = self.state.options.name, "monitors do not see this worker; connecting again");
            }
            let pause = PAUSE.saturating_mul(1 << failures.min(6)).min(LONGEST_PAUSE);
            failures += 1;
            tokio::select! {
                () = clock.sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)) => {}
                () = ended.cancelled() => {}
            }
        }
    }

    /// One connection's life; `Ok` at the end of the presence.
    async fn live(&mut self, failures: &mut u32) -> Result<()> {
        let (redis, clock) = (self.broker.shared.redis.clone(), self.broker.shared.clock.clone());
        let mut pushes = redis.pushes().await?;
        let channel = self.state.exchanges.control_channel(redis.config().db);
        pushes.subscribe(OP, &[redis.key(channel)]).await?;
        *failures = 0;
        self.say(&pushes, WorkerEvent::Online).await?;
        self.flush(&pushes).await?;
        let mut beat = clock.monotonic() + BEAT;
        let mut flush = None;
        loop {
            let next = flush.map_or(beat, |flush| beat.min(flush)).saturating_sub(clock.monotonic());
            let room = TOGETHER - self.batch.len();
            tokio::select! {
                () = self.ended.cancelled() => {
                    while let Ok(event) = self.events.try_recv() {
                        self.batch.push(event);
                        if self.batch.len() == TOGETHER {
                            self.flush(&pushes).await?;
                        }
                    }
                    self.flush(&pushes).await?;
                    return self.say(&pushes, WorkerEvent::Offline).await;
                }
                pushed = pushes.next() => match pushed {
                    Some(pushed) => self.heard(&pushes, pushed).await?,
                    None => return Err(Error::new(ErrorKind::Unavailable, OP, "the connection to redis broke")),
                },
                _ = self.events.recv_many(&mut self.batch, room) => {
                    flush = flush.or_else(|| Some(clock.monotonic() + FLUSH));
                }
                () = clock.sleep(next) => {}
            }
            let now = clock.monotonic();
            if self.batch.len() == TOGETHER || flush.is_some_and(|due| due <= now) {
                self.flush(&pushes).await?;
                flush = None;
            }
            if beat <= now {
                self.say(&pushes, WorkerEvent::Heartbeat).await?;
                beat = now + BEAT;
            }
        }
    }

    pub(super) async fn say(&self, pushes: &Pushes, event: WorkerEvent) -> Result<()> {
        let dropped = self.state.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            tracing::warn!(
                dropped,
                worker = self.state.options.name,
                "events of tasks were dropped: more came than could be sent"
            );
        }
        let active = u64::try_from(self.active().len()).unwrap_or(u64::MAX);
        let processed = self.state.totals().values().sum();
        let load = WorkerLoad { freq: BEAT.as_secs_f64(), active, processed, loadavg: loadavg().await };
        let stamp = self.broker.shared.presences.stamp();
        self.publish(pushes, self.state.source.worker(event, &load, stamp, &self.tag())).await
    }

    async fn flush(&mut self, pushes: &Pushes) -> Result<()> {
        if !self.batch.is_empty() {
            self.publish(pushes, self.state.source.tasks(&self.batch, &self.tag())).await?;
            self.batch.clear();
        }
        Ok(())
    }

    /// Fails where the connection leads nowhere; what the server refuses is passed over, for the next may be let through.
    async fn publish(&self, pushes: &Pushes, publication: Publication) -> Result<()> {
        let channel = self.broker.shared.redis.key(publication.channel);
        match pushes.query::<i64>(OP, cmd("PUBLISH").arg(channel).arg(publication.message)).await {
            Err(e) if matches!(e.kind(), ErrorKind::Unavailable | ErrorKind::Timeout) => Err(e),
            Err(e) => {
                tracing::debug!(error = %e, "an event is not sent");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    async fn heard(&self, pushes: &Pushes, pushed: PushInfo) -> Result<()> {
        let shared = &self.broker.shared;
        if pushed.kind != PushKind::Message {
            return Ok(());
        }
        let Some(Ok(raw)) = pushed.data.into_iter().nth(1).map(Vec::<u8>::from_redis_value) else { return Ok(()) };
        let message = match ControlMessage::parse(&raw, &shared.options.limits) {
            Ok(message) => message,
            Err(malformed) => {
                tracing::debug!(reason = malformed.reason(), "a control message cannot be understood");
                return Ok(());
            }
        };
        shared.presences.heard(message.clock);
        if !message.is_for(&self.state.options.name) || message.is_expired(shared.clock.now()) {
            return Ok(());
        }
        let answer = self.obey(pushes, message.method).await?;
        if let Some(to) = message.reply_to
            && let Err(e) = self.answer(&to, answer).await
        {
            tracing::debug!(error = %e, "a control message is not answered");
        }
        Ok(())
    }

    /// Answers, to a list that is an asker's and nothing else: a message could name a queue of tasks.
    async fn answer(&self, to: &ReplyTo, answer: Value) -> Result<()> {
        let redis = &self.broker.shared.redis;
        let exchange = self.state.exchanges.reply_exchange();
        let plain = to.routing_key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'@'));
        if to.exchange != exchange || !plain || to.routing_key.is_empty() || to.routing_key.len() > 128 {
            return Err(Error::invalid(OP, "the answer is asked for where no answers go"));
        }
        let queue = format!("{}.{exchange}", to.routing_key);
        let binding = format!("{}{PRIORITY_SEPARATOR}{PRIORITY_SEPARATOR}{queue}", to.routing_key);
        let mut waits = cmd("SISMEMBER");
        waits.arg(redis.key(format_args!("_kombu.binding.{exchange}"))).arg(binding);
        if !redis.query::<bool>(OP, &waits).await? {
            return Err(Error::not_found(OP, "nobody waits for the answer any more"));
        }
        let clock = self.broker.shared.presences.stamp().clock;
        let message = to.message(&self.state.options.name, answer, clock, &self.tag());
        let (key, mut push) = (redis.key(queue), pipe());
        push.atomic().cmd("LPUSH").arg(&key).arg(message);
        push.cmd("PEXPIRE").arg(&key).arg(millis(ANSWER_STAYS));
        redis.pipeline::<(i64, i64)>(OP, &push).await.map(|_| ())
    }

    /// A fresh id for a message.
    fn tag(&self) -> String {
        TaskId::random(self.broker.shared.clock.now()).to_string()
    }
}

/// The machine's load over 1, 5 and 15 minutes; 0 where it is not Linux.
async fn loadavg() -> [f64; 3] {
    let text = tokio::fs::read_to_string("/proc/loadavg").await.unwrap_or_default();
    let mut numbers = text.split(' ').map(|n| n.parse().unwrap_or(0.0));
    [(); 3].map(|()| numbers.next().unwrap_or(0.0))
}
