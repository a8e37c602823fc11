//! Ticks that are due are tasks that are queued: many hosts, catching up, clocks that jump.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use forge_core::queue::TaskQueue;
use forge_core::{Clock, Result, Slug, SystemClock, TenantId, Timestamp};
use forge_queue::schedule::{CatchUp, Due, Recurrence, Schedule, ScheduleStore, Scheduler, StoredSchedule};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::world::{ALL, DAY, HOUR, MINUTE, World, cron, ctx, index, minutely, slug};

on_each_backend!(
    many_hosts_queue_each_tick_once,
    what_was_missed_is_caught_up_on_as_asked,
    a_clock_put_back_ticks_nothing_again,
    a_clock_put_forward_misses_what_is_between,
    a_paused_schedule_does_not_tick_and_makes_nothing_up,
    putting_it_again_goes_on_counting,
    an_unfinished_task_with_a_unique_key_takes_the_next_tick,
);

/// The ledger: ticks of a recurrence between two times, the second included.
fn ticks(every: &Recurrence, start: Timestamp, to: Timestamp) -> usize {
    let next = |after: &Timestamp| every.next(start, *after).filter(|t| *t <= to);
    std::iter::successors(next(&start), next).count()
}

async fn many_hosts_queue_each_tick_once(w: &World) {
    let start = w.now();
    let mut expected = Vec::new();
    for tenant in ["acme", "globex", "initech"] {
        for (name, every) in [
            ("cron", cron("*/2 * * * *")),
            ("night", Recurrence::cron("*/7 22-3 * * *", "Europe/Berlin").unwrap()),
            ("every", Recurrence::Every(Duration::from_secs(97))),
        ] {
            let schedule = Schedule::new(slug(name), every.clone(), index(json!(name))).with_catch_up(ALL);
            w.put(tenant, schedule).await;
            expected.push((tenant, name, every));
        }
    }
    for step in [1, 59, 60, 61, 200, 3, 600, 119, 1, 1800, 7] {
        w.clock.advance(Duration::from_secs(step));
        let beats = (0..4).map(|n| w.beat_over(w.stores[n % 2].clone(), w.queue.clone()));
        futures::future::join_all(beats).await;
    }
    // whoever lost a race has left the rest to who won it
    w.beat().await;
    let (end, done) = (w.now(), w.drain().await);
    for (tenant, name, every) in expected {
        let due = ticks(&every, start, end);
        assert!(due > 5);
        let queued = done.get(&(tenant.to_owned(), json!(name).to_string())).copied().unwrap_or(0);
        assert_eq!(queued, due, "{tenant} {name}: 0 lost, 0 doubled");
    }
}

async fn what_was_missed_is_caught_up_on_as_asked(w: &World) {
    let named =
        |name: &str, catch_up| Schedule::new(slug(name), cron("0 * * * *"), index(json!(name))).with_catch_up(catch_up);
    w.put("acme", named("skip", CatchUp::Skip)).await;
    w.put("acme", named("last", CatchUp::Last)).await;
    w.put("acme", named("all", CatchUp::All { at_most: 3 })).await;
    let queued = async || {
        let done = w.drain().await;
        ["skip", "last", "all"].map(|n| done.get(&("acme".to_owned(), json!(n).to_string())).copied().unwrap_or(0))
    };
    w.clock.advance(HOUR);
    w.beat().await;
    assert_eq!(queued().await, [1, 1, 1], "what is on time is queued by all");
    w.clock.advance(HOUR * 7 + MINUTE / 2);
    w.beat().await;
    assert_eq!(queued().await, [1, 1, 3], "half a minute late is on time; of what was missed, 0, the last, 3");
    w.clock.advance(HOUR * 2 + MINUTE * 20);
    w.beat().await;
    assert_eq!(queued().await, [0, 1, 2], "twenty minutes are not");
    w.beat().await;
    assert_eq!(queued().await, [0, 0, 0]);
    let all = w.schedules().list(&ctx("acme")).await.unwrap();
    assert_eq!(all.iter().map(|s| s.name.as_str()).collect::<Vec<_>>(), ["all", "last", "skip"]);
    assert!(all.iter().all(|s| s.next.unwrap().since(w.now()) < HOUR));
}

async fn a_clock_put_back_ticks_nothing_again(w: &World) {
    w.put("acme", minutely(ALL)).await;
    w.clock.advance(MINUTE * 3);
    w.beat().await;
    assert_eq!(w.drained().await, 3);
    let (next, back) = (w.one("acme").await.next, w.now());
    w.clock.jump(-86_400);
    w.clock.advance(MINUTE * 5);
    w.beat().await;
    assert_eq!((w.drained().await, w.one("acme").await.next), (0, next), "the day before has ticked");
    // put again meanwhile, and so planned anew: the queue still knows the ticks
    w.schedules().remove(&ctx("acme"), &slug("s")).await.unwrap();
    w.clock.jump(86_400 - 480);
    assert!(w.now() < back, "again before the first tick");
    w.put("acme", minutely(ALL)).await;
    w.clock.advance(MINUTE * 4);
    w.beat().await;
    assert_eq!(w.drained().await, 1, "of four ticks three are known");
}

async fn a_clock_put_forward_misses_what_is_between(w: &World) {
    w.put("acme", Schedule::new(slug("s"), cron("*/5 * * * *"), index(json!("tick")))).await;
    w.clock.jump(86_400);
    w.beat().await;
    assert_eq!(w.drained().await, 1, "the last one");
    assert_eq!(w.one("acme").await.last, Some(w.now()));
    w.clock.jump(-86_400);
    w.clock.advance(HOUR);
    w.beat().await;
    assert_eq!(w.drained().await, 0, "put right again, the day is not ticked twice");
    w.clock.advance(DAY);
    w.beat().await;
    assert_eq!(w.drained().await, 1, "and it goes on from where it was");
}

async fn a_paused_schedule_does_not_tick_and_makes_nothing_up(w: &World) {
    let (schedules, name) = (w.schedules(), slug("s"));
    w.put("acme", minutely(ALL)).await;
    schedules.pause(&ctx("acme"), &name).await.unwrap();
    w.clock.advance(MINUTE * 5);
    w.beat().await;
    assert_eq!((w.drained().await, w.one("acme").await.next), (0, None));
    w.put("acme", minutely(ALL)).await;
    w.beat().await;
    assert_eq!(w.drained().await, 0, "a host that starts does not undo a pause");
    schedules.resume(&ctx("acme"), &name).await.unwrap();
    schedules.resume(&ctx("acme"), &name).await.unwrap();
    w.beat().await;
    assert_eq!(w.drained().await, 0, "the pause is not made up");
    w.clock.advance(MINUTE);
    w.beat().await;
    assert_eq!(w.drained().await, 1);
    schedules.remove(&ctx("acme"), &name).await.unwrap();
    w.clock.advance(HOUR);
    w.beat().await;
    assert_eq!(w.drained().await, 0);
}

async fn putting_it_again_goes_on_counting(w: &World) {
    let every = |minutes: u64, payload: &str| {
        Schedule::new(slug("s"), Recurrence::Every(MINUTE * u32::try_from(minutes).unwrap()), index(json!(payload)))
    };
    let start = w.now();
    w.put("acme", every(60, "old")).await;
    for _ in 0..2 {
        w.clock.advance(MINUTE * 40);
        w.put("acme", every(60, "new")).await;
    }
    w.beat().await;
    let new = ("acme".to_owned(), json!("new").to_string());
    assert_eq!(w.drain().await.get(&new), Some(&1), "a host that starts every 40 minutes does not stop the hour");
    assert_eq!(w.one("acme").await.last, Some(start.after(HOUR)));
    w.put("acme", every(30, "other")).await;
    assert_eq!(w.one("acme").await.next, Some(w.now().after(MINUTE * 30)), "another recurrence begins anew");
}

async fn an_unfinished_task_with_a_unique_key_takes_the_next_tick(w: &World) {
    let mut schedule = minutely(CatchUp::Last);
    schedule.task = schedule.task.with_unique(forge_core::OperationKey::derived(&[b"one at a time"]));
    w.put("acme", schedule).await;
    for _ in 0..3 {
        w.clock.advance(MINUTE);
        w.beat().await;
    }
    assert_eq!(w.drained().await, 1, "one at a time");
    w.clock.advance(MINUTE);
    w.beat().await;
    assert_eq!(w.drained().await, 1, "and the next one after it");
}

/// Counts how often it is looked at.
#[derive(Debug)]
struct Looks(Arc<dyn ScheduleStore>, Arc<AtomicUsize>);

#[async_trait]
impl ScheduleStore for Looks {
    async fn schedules(&self, tenant: &TenantId) -> Result<Vec<StoredSchedule>> {
        self.0.schedules(tenant).await
    }
    async fn schedule(&self, tenant: &TenantId, name: &Slug) -> Result<Option<StoredSchedule>> {
        self.0.schedule(tenant, name).await
    }
    async fn write(&self, schedule: &StoredSchedule, due: Option<Timestamp>, was: Option<&str>) -> Result<bool> {
        self.0.write(schedule, due, was).await
    }
    async fn remove(&self, tenant: &TenantId, name: &Slug) -> Result<bool> {
        self.0.remove(tenant, name).await
    }
    async fn due(&self, limit: usize) -> Result<Due> {
        self.1.fetch_add(1, Ordering::SeqCst);
        self.0.due(limit).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_beat_with_nothing_to_do_looks_once_a_second_and_ends_at_once() {
    let w = World::sqlite().await;
    w.put("acme", Schedule::new(slug("s"), cron("0 0 29 2 *"), index(json!("leap")))).await;
    let (looks, cancel) = (Arc::new(AtomicUsize::new(0)), CancellationToken::new());
    let schedules = w.over(Arc::new(Looks(w.stores[0].clone(), looks.clone())));
    let queue: Arc<dyn TaskQueue> = w.queue.clone();
    let beat = Scheduler::new(schedules, queue, Arc::new(SystemClock));
    let running = tokio::spawn({
        let cancel = cancel.clone();
        async move { beat.run(cancel).await }
    });
    SystemClock.sleep(MINUTE * 10).await;
    cancel.cancel();
    running.await.unwrap();
    let looks = looks.load(Ordering::SeqCst);
    assert!((500..=601).contains(&looks), "{looks} looks in ten minutes");
}
