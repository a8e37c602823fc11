//! The suite of [`AuditLog`].

use std::sync::Arc;

use futures::FutureExt;

use super::context;
use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use crate::audit::{AuditCapability, AuditEvent, AuditLog, AuditRecord, AuditRow, ChainReport, Durability};
use crate::{Depth, ErrorKind, ExecutionContext, OperationKey, Result, Slot, Status, TenantId, Timestamp};

spy! { AuditLog:
    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<AuditRecord>>;
    async fn append(&self, ctx: &ExecutionContext, record: AuditRecord, durability: Durability) -> Result<()>;
    async fn read(&self, ctx: &ExecutionContext, from_seq: u64, limit: usize) -> Result<Vec<AuditRow>>;
    async fn verify(&self, ctx: &ExecutionContext) -> Result<ChainReport>;
    async fn flush(&self, tenant: Option<&TenantId>) -> Result<()>;
    fn capability(&self) -> AuditCapability;
}

/// Runs every scenario on fresh logs that `fresh` makes.
///
/// # Panics
/// With the scenario's name, where the log does not keep the [contract](AuditLog).
pub async fn audit_log(fresh: impl AsyncFn() -> Fixture<dyn AuditLog>) {
    let called = Called::default();
    let made = async || fresh().await.map(|log| Arc::new(Spy::new(log, &called)));
    keeps_what_was_written_in_its_order(&made().await).await;
    writes_a_record_once(&made().await).await;
    fills_a_slot_without_waiting(&made().await).await;
    keeps_tenants_apart(&made().await).await;
    keeps_hostile_names_as_they_are(&made().await).await;
    loses_nothing_under_many_writers(&made().await).await;
    survives_a_call_that_was_dropped(&made().await).await;
    durability_is_as_declared(made().await).await;
    the_server_goes_away(made().await).await;
    let f = made().await;
    prints_no_secret(f.adapter.as_ref(), &f.secrets);
    assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
    called.complete::<dyn AuditLog>();
}

fn ana() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

fn record(ctx: &ExecutionContext, n: i64, what: &str) -> AuditRecord {
    let key = OperationKey::derived(&[b"suite", &n.to_be_bytes()]);
    let event = AuditEvent::Admin { what: what.to_owned() };
    AuditRecord::new(ctx, Timestamp::from_nanos(n), key, 1, "tool.call", "slack_post", event)
}

async fn all(log: &dyn AuditLog, ctx: &ExecutionContext) -> Vec<AuditRow> {
    log.flush(Some(ctx.tenant())).await.expect("a flush");
    log.read(ctx, 1, 10_000).await.expect("a read")
}

async fn append(log: &dyn AuditLog, ctx: &ExecutionContext, n: i64) -> Result<()> {
    log.append(ctx, record(ctx, n, "x"), Durability::Durable).await
}

async fn keeps_what_was_written_in_its_order(f: &Fixture<dyn AuditLog>) {
    let (log, ana) = (f.adapter.as_ref(), ana());
    assert!(all(log, &ana).await.is_empty(), "nothing is there before it is written");
    for (n, durability) in [(1, Durability::Durable), (2, Durability::Enqueued), (3, Durability::Durable)] {
        log.append(&ana, record(&ana, n, "x"), durability).await.unwrap();
    }
    let rows = all(log, &ana).await;
    assert_eq!(rows.iter().map(|r| r.seq).collect::<Vec<_>>(), [1, 2, 3], "numbers from 1, without gaps");
    assert_eq!(rows.iter().map(|r| r.record.at.as_nanos()).collect::<Vec<_>>(), [1, 2, 3], "in the order of writing");
    assert_eq!(rows.first().map(|r| &r.record), Some(&record(&ana, 1, "x")), "a record comes back whole");
    let page = log.read(&ana, 2, 1).await.unwrap();
    assert_eq!(page.iter().map(|r| r.seq).collect::<Vec<_>>(), [2], "reads from a number on, so many");
    if log.capability().chained {
        let linked = rows.windows(2).all(|w| matches!(w, [a, b] if b.prev == a.hash));
        assert!(linked, "capability: `chained` rows name the one before");
        let report = log.verify(&ana).await.unwrap();
        assert_eq!((report.rows, report.broken), (3, None), "the chain is whole");
        assert_eq!(Some(report.head), rows.last().map(|r| r.hash), "and ends where the rows do");
    }
}

async fn writes_a_record_once(f: &Fixture<dyn AuditLog>) {
    let (log, ana) = (f.adapter.as_ref(), ana());
    for _ in 0..2 {
        append(log, &ana, 1).await.expect("the same record again is no error");
    }
    let other = log.append(&ana, record(&ana, 1, "another"), Durability::Durable).await;
    assert_eq!(other.map_err(|e| e.kind()), Err(ErrorKind::Conflict), "another record with the same id");
    let rows = all(log, &ana).await;
    assert_eq!(rows.iter().map(|r| &r.record).collect::<Vec<_>>(), [&record(&ana, 1, "x")], "the first stands, once");
}

async fn fills_a_slot_without_waiting(f: &Fixture<dyn AuditLog>) {
    let (log, ana) = (f.adapter.as_ref(), ana());
    let (kept, unused) = (log.reserve(&ana).await.unwrap(), log.reserve(&ana).await.unwrap());
    drop(unused);
    kept.fill(record(&ana, 7, "x"));
    assert_eq!(all(log, &ana).await.len(), 1, "a filled slot is one row, an unused one is none");
}

async fn keeps_tenants_apart(f: &Fixture<dyn AuditLog>) {
    let (log, acme, other) = (f.adapter.as_ref(), ana(), context("acme-2", "ana", "analyst"));
    append(log, &acme, 1).await.unwrap();
    assert!(all(log, &other).await.is_empty(), "isolation: a tenant reads another's rows");
    log.append(&other, record(&other, 1, "other's"), Durability::Durable)
        .await
        .expect("isolation: ids are a tenant's own");
    assert_eq!(all(log, &acme).await.len(), 1, "isolation: a tenant's chain holds another's rows");
    assert_eq!(log.verify(&other).await.unwrap().rows, 1, "isolation: each chain is verified by itself");
    let foreign = log.append(&other, record(&acme, 2, "x"), Durability::Durable).await;
    assert_eq!(foreign.map_err(|e| e.kind()), Err(ErrorKind::TenantMismatch), "isolation: a row for another tenant");
    assert_eq!(all(log, &acme).await.len(), 1, "isolation: refused and unchanged");
}

async fn keeps_hostile_names_as_they_are(f: &Fixture<dyn AuditLog>) {
    let (log, ana) = (f.adapter.as_ref(), ana());
    for (n, name) in (0..).zip(HOSTILE) {
        let mut one = record(&ana, n, name);
        one.resource = name.to_owned();
        log.append(&ana, one, Durability::Durable).await.expect("hostile ids: a name is only a name");
    }
    let names: Vec<String> = all(log, &ana).await.into_iter().map(|r| r.record.resource).collect();
    assert_eq!(names, HOSTILE, "hostile ids: kept as they are");
    assert_eq!(log.verify(&ana).await.unwrap().broken, None, "hostile ids: the chain holds");
}

async fn loses_nothing_under_many_writers(f: &Fixture<dyn AuditLog>) {
    let (log, ana) = (f.adapter.as_ref(), ana());
    let writes = (0..64).map(|n| {
        let (ana, durability) = (&ana, if n % 2 == 0 { Durability::Durable } else { Durability::Enqueued });
        async move { log.append(ana, record(ana, n, "x"), durability).await }
    });
    assert!(futures::future::join_all(writes).await.iter().all(Result::is_ok), "64 writers at once");
    let rows = all(log, &ana).await;
    assert!(rows.iter().map(|r| r.seq).eq(1..=64), "64 writers at once: every row, once, without gaps");
    assert_eq!(log.verify(&ana).await.unwrap().broken, None, "64 writers at once: one chain");
}

async fn survives_a_call_that_was_dropped(f: &Fixture<dyn AuditLog>) {
    let (log, ana) = (f.adapter.as_ref(), ana());
    for n in 0..8 {
        let _dropped = append(log, &ana, n).now_or_never();
    }
    append(log, &ana, 8).await.expect("cancelled in the middle: the log goes on");
    let rows = all(log, &ana).await;
    assert!(rows.iter().any(|r| r.record.at.as_nanos() == 8), "cancelled in the middle: the last row is there");
    assert_eq!(log.verify(&ana).await.unwrap().broken, None, "cancelled in the middle: the chain is whole");
}

async fn durability_is_as_declared(f: Fixture<dyn AuditLog>) {
    let ana = ana();
    append(f.adapter.as_ref(), &ana, 1).await.unwrap();
    let durable = f.adapter.capability().durable;
    match f.reopened().await {
        Some(f) => {
            let rows = all(f.adapter.as_ref(), &ana).await.len();
            assert_eq!(rows == 1, durable, "capability: `durable` says what happens at a restart");
            append(f.adapter.as_ref(), &ana, 2).await.unwrap();
            let report = f.adapter.verify(&ana).await.unwrap();
            assert_eq!(report.broken, None, "a chain goes on after a restart");
        }
        None => assert!(!durable, "capability: the fixture of a durable log says how to open it again"),
    }
}

async fn the_server_goes_away(mut f: Fixture<dyn AuditLog>) {
    if f.lose_server().await {
        let kind = append(f.adapter.as_ref(), &ana(), 1).await.map_err(|e| e.kind());
        assert!(matches!(kind, Err(ErrorKind::Unavailable | ErrorKind::Timeout)), "server gone: {kind:?}");
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Down, "server gone: health says so");
    }
}
