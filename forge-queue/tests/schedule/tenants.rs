//! What the store promises, and that a tenant has its own schedules and no other.

use std::time::Duration;

use forge_core::{ErrorKind, OperationKey, Result, TenantId};
use forge_queue::schedule::{CatchUp, Recurrence, Schedule};
use serde_json::json;

use crate::world::{ALL, MINUTE, World, cron, ctx, index, minutely, slug};

on_each_backend!(another_tenants_schedule_is_not_there, what_cannot_tick_is_refused, of_many_writers_one_is_done,);

#[track_caller]
fn refused<T: std::fmt::Debug>(outcome: Result<T>, kind: ErrorKind) {
    assert_eq!(outcome.unwrap_err().kind(), kind);
}

async fn another_tenants_schedule_is_not_there(w: &World) {
    let (schedules, globex, name) = (w.schedules(), ctx("globex"), slug("s"));
    w.put("acme", minutely(CatchUp::Last)).await;
    refused(schedules.pause(&globex, &name).await, ErrorKind::NotFound);
    refused(schedules.resume(&globex, &name).await, ErrorKind::NotFound);
    refused(schedules.remove(&globex, &name).await, ErrorKind::NotFound);
    assert!(schedules.list(&globex).await.unwrap().is_empty());
    let theirs = Schedule::new(name.clone(), cron("* * * * *"), index(json!("globex's")));
    w.put("globex", theirs).await;
    schedules.pause(&globex, &name).await.unwrap();
    w.clock.advance(MINUTE);
    w.beat().await;
    let done: Vec<_> = w.drain().await.into_keys().collect();
    assert_eq!(done, [("acme".to_owned(), json!("tick").to_string())], "isolation: the name is each tenant's own");
    schedules.remove(&globex, &name).await.unwrap();
    assert_eq!(w.one("acme").await.name, name);
}

async fn what_cannot_tick_is_refused(w: &World) {
    let put = async |schedule| w.schedules().put(&ctx("acme"), schedule).await;
    let every = |d| Schedule::new(slug("s"), Recurrence::Every(d), index(json!(1)));
    refused(put(every(Duration::from_millis(999))).await, ErrorKind::InvalidInput);
    refused(put(every(Duration::MAX)).await, ErrorKind::InvalidInput);
    refused(put(minutely(CatchUp::All { at_most: 0 })).await, ErrorKind::InvalidInput);
    refused(put(minutely(CatchUp::All { at_most: 101 })).await, ErrorKind::InvalidInput);
    let mut own_key = minutely(ALL);
    own_key.task = own_key.task.with_once(OperationKey::derived(&[b"mine"]));
    refused(put(own_key).await, ErrorKind::InvalidInput);
    let mut large = minutely(ALL);
    large.task = index(json!("x".repeat(128 * 1024)));
    refused(put(large).await, ErrorKind::InvalidInput);
    assert!(w.schedules().list(&ctx("acme")).await.unwrap().is_empty());
}

async fn of_many_writers_one_is_done(w: &World) {
    let acme = TenantId::parse("acme").unwrap();
    w.put("acme", minutely(ALL)).await;
    let was = w.stores[0].schedule(&acme, &slug("s")).await.unwrap().unwrap();
    let writes = (0..16).map(|n| {
        let mut row = was.clone();
        row.version = format!("v{n}");
        let (store, version) = (w.stores[n % 2].clone(), was.version.clone());
        async move { store.write(&row, None, Some(&version)).await.unwrap() }
    });
    let written = futures::future::join_all(writes).await;
    assert_eq!(written.iter().filter(|one| **one).count(), 1);
    assert!(!w.stores[0].write(&was, None, None).await.unwrap(), "nor is one put where one is");
    assert!(w.stores[1].remove(&acme, &slug("s")).await.unwrap());
    assert!(!w.stores[0].remove(&acme, &slug("s")).await.unwrap());
    assert!(!w.stores[0].write(&was, None, Some(&was.version)).await.unwrap(), "nor changed where none is");
    assert!(w.stores[0].write(&was, None, None).await.unwrap());
}
