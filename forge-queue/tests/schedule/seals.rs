//! A schedule goes on as the one who put it: not for ever, not changed, not as anybody else.

use forge_core::keyring::Keyring;
use forge_core::testing::context;
use forge_core::{ErrorKind, TenantId};
use forge_queue::schedule::{CatchUp, Schedule, ScheduleState, StoredSchedule};
use serde_json::json;

use crate::world::{DAY, MINUTE, World, cron, ctx, index, minutely, slug};

on_each_backend!(
    a_retired_key_stops_it_until_it_is_resumed,
    a_year_on_it_stops_until_it_is_put_again,
    what_was_changed_in_the_store_does_not_tick,
    nothing_of_the_payload_rests_in_clear,
);

fn stopped(state: &ScheduleState) -> &str {
    match state {
        ScheduleState::Stopped { reason } => reason,
        other => panic!("{other:?}"),
    }
}

async fn a_retired_key_stops_it_until_it_is_resumed(w: &World) {
    w.put("acme", minutely(CatchUp::Last)).await;
    let old = w.keys.seal_keys().remove(0);
    w.keys.rotate_seal_key().await.unwrap();
    w.clock.advance(MINUTE);
    w.beat().await;
    assert_eq!(w.drained().await, 1, "an older key is as good");
    w.keys.retire_seal_key(&old).await.unwrap();
    w.clock.advance(MINUTE);
    w.beat().await;
    let status = w.one("acme").await;
    assert_eq!((stopped(&status.state), status.next), ("the seal's key is retired", None));
    w.clock.advance(MINUTE * 5);
    w.beat().await;
    assert_eq!(w.drained().await, 0);
    w.schedules().pause(&ctx("acme"), &slug("s")).await.unwrap();
    stopped(&w.one("acme").await.state);

    let bo = context("acme", "bo", "operator");
    w.schedules().resume(&bo, &slug("s")).await.unwrap();
    w.clock.advance(MINUTE);
    w.beat().await;
    assert_eq!(w.drained().await, 1);
    let status = w.one("acme").await;
    assert_eq!((status.state, status.runs_as.as_str()), (ScheduleState::Active, "bo"), "as who resumed it");
}

async fn a_year_on_it_stops_until_it_is_put_again(w: &World) {
    let daily = || Schedule::new(slug("s"), cron("0 3 * * *"), index(json!("tick")));
    w.put("acme", daily()).await;
    assert_eq!(w.one("acme").await.sealed_until, w.now().after(DAY * 366));
    w.clock.advance(DAY * 365);
    w.beat().await;
    assert_eq!(w.drained().await, 1);
    w.clock.advance(DAY * 2);
    w.beat().await;
    let status = w.one("acme").await;
    assert_eq!((stopped(&status.state), w.drained().await), ("the seal is past its time", 0));
    w.put("acme", daily()).await;
    w.clock.advance(DAY);
    w.beat().await;
    assert_eq!((w.one("acme").await.state, w.drained().await), (ScheduleState::Active, 1));
}

async fn what_was_changed_in_the_store_does_not_tick(w: &World) {
    let store = &w.stores[0];
    w.put("acme", minutely(CatchUp::Last)).await;
    let good = store.schedule(&TenantId::parse("acme").unwrap(), &slug("s")).await.unwrap().unwrap();
    let forgeries = [
        ("globex", "s", "", ""),
        ("acme", "copy", "", ""),
        ("acme", "s", "\\\"task\\\":\\\"index\\\"", "\\\"task\\\":\\\"payout\\\""),
        ("acme", "s", "* * * * *", "*/9 * * * *"),
    ];
    for (tenant, name, from, to) in forgeries {
        assert!(good.record.contains(from));
        let (tenant, name) = (TenantId::parse(tenant).unwrap(), slug(name));
        let (record, version) = (good.record.replace(from, to), "forged".to_owned());
        store.remove(&tenant, &name).await.unwrap();
        store.remove(&good.tenant, &good.name).await.unwrap();
        let row = StoredSchedule { tenant, name, version, record };
        assert!(store.write(&row, Some(w.now()), None).await.unwrap());
        w.clock.advance(MINUTE);
        w.beat().await;
        let row = store.schedule(&row.tenant, &row.name).await.unwrap().unwrap();
        assert!(row.record.contains("\"stopped\""), "{} {} {to}", row.tenant, row.name);
        assert_eq!(w.drained().await, 0);
    }
    let broken = StoredSchedule { record: "[".to_owned(), version: "broken".to_owned(), ..good };
    store.remove(&broken.tenant, &broken.name).await.unwrap();
    assert!(store.write(&broken, Some(w.now()), None).await.unwrap());
    w.beat().await;
    let due = store.due(10).await.unwrap();
    assert!(due.schedules.is_empty() && due.next.is_none(), "the broken one is not looked at for ever");
    assert_eq!(w.schedules().list(&ctx("acme")).await.unwrap_err().kind(), ErrorKind::Corrupt);
}

async fn nothing_of_the_payload_rests_in_clear(w: &World) {
    const CANARY: &str = "canary-4929-1234";
    w.put("acme", Schedule::new(slug("s"), cron("0 3 * * *"), index(json!({ "name": CANARY })))).await;
    let row = w.stores[1].schedule(&TenantId::parse("acme").unwrap(), &slug("s")).await.unwrap().unwrap();
    assert!(row.record.contains("index") && !row.record.contains(CANARY));
    w.clock.advance(DAY);
    w.beat().await;
    assert_eq!(w.drain().await.keys().next().unwrap().1, json!({ "name": CANARY }).to_string());
}
