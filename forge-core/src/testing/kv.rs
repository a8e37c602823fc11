//! The suite of [`KeyValue`].

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;

use super::fixture::{Fixture, prints_no_secret};
use super::hostile::HOSTILE;
use super::spy::{Called, Spy, spy};
use super::{context, fake_guard};
use crate::fake::{FakePolicy, ManualClock};
use crate::guard::Guarded;
use crate::kv::{Entry, KeyValue, KeyValueCapability, PutMode, PutOptions};
use crate::time::{Clock, SystemClock};
use crate::{Depth, ErrorKind, ExecutionContext, Namespace, Result, Slug, Status};

spy! { KeyValue:
    async fn get(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<Option<Entry>>;
    async fn put(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str, value: Bytes, options: PutOptions) -> Result<u64>;
    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<bool>;
    fn capability(&self) -> KeyValueCapability;
}

impl<S: KeyValue> From<S> for Fixture<dyn KeyValue> {
    fn from(store: S) -> Self {
        Self::new(Arc::new(store))
    }
}

/// Runs every scenario on fresh stores that `fresh` makes, bare and behind the guard.
///
/// # Panics
/// With the scenario's name, where the store does not keep the [contract](KeyValue).
pub async fn key_value<R: Into<Fixture<dyn KeyValue>>>(fresh: impl AsyncFn() -> R) {
    let called = Called::default();
    for guarded in [false, true] {
        let made = async || {
            let fixture: Fixture<dyn KeyValue> = fresh().await.into();
            fixture.map(|store| wrap(store, &called, guarded))
        };
        reads_what_was_written(&made().await).await;
        writes_as_the_mode_says(&made().await).await;
        forgets_after_its_time(&made().await).await;
        keeps_tenants_apart(&made().await).await;
        keeps_owners_and_types_apart(&made().await).await;
        refuses_a_foreign_namespace(&made().await).await;
        keeps_hostile_keys_apart(&made().await).await;
        refuses_keys_and_values_out_of_bounds(&made().await).await;
        survives_a_call_that_was_dropped(&made().await).await;
        durability_is_as_declared(made().await).await;
        the_server_goes_away(made().await).await;
        let fixture = made().await;
        prints_no_secret(fixture.adapter.as_ref(), &fixture.secrets);
        assert_eq!(fixture.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
    }
    nothing_begins_late(&fresh().await.into()).await;
    called.complete::<dyn KeyValue>();
}

fn wrap(store: Arc<dyn KeyValue>, called: &Called, guarded: bool) -> Arc<dyn KeyValue> {
    let spied: Arc<dyn KeyValue> = Arc::new(Spy::new(store, called));
    if guarded { Arc::new(Guarded::new(spied, guard())) } else { spied }
}

fn guard() -> crate::guard::Guard {
    fake_guard(FakePolicy::allow_all(), Arc::new(SystemClock)).guard
}

fn slug(s: &str) -> Slug {
    Slug::parse(s).expect("a slug")
}

fn notes(ctx: &ExecutionContext) -> Namespace {
    Namespace::of(ctx, slug("notes"))
}

async fn put(store: &dyn KeyValue, ctx: &ExecutionContext, key: &str, value: &'static str) -> Result<u64> {
    store.put(ctx, &notes(ctx), key, Bytes::from_static(value.as_bytes()), PutOptions::default()).await
}

async fn read(store: &dyn KeyValue, ctx: &ExecutionContext, key: &str) -> Option<String> {
    let entry = store.get(ctx, &notes(ctx), key).await.expect("a read");
    entry.map(|e| String::from_utf8(e.value.to_vec()).expect("the text that was written"))
}

async fn reads_what_was_written(f: &Fixture<dyn KeyValue>) {
    let (kv, ana) = (f.adapter.as_ref(), context("acme", "ana", "analyst"));
    assert_eq!(read(kv, &ana, "k").await, None, "nothing is there before it is written");
    let first = put(kv, &ana, "k", "one").await.unwrap();
    let second = put(kv, &ana, "k", "two").await.unwrap();
    assert_ne!(first, second, "the version changes with every write");
    let entry = kv.get(&ana, &notes(&ana), "k").await.unwrap().expect("it is there");
    assert_eq!((&entry.value[..], entry.version), (&b"two"[..], second), "reads what was written last");
    let empty = kv.put(&ana, &notes(&ana), "empty", Bytes::new(), PutOptions::default()).await;
    assert!(empty.is_ok() && read(kv, &ana, "empty").await.as_deref() == Some(""), "an empty value is a value");
    assert!(kv.delete(&ana, &notes(&ana), "k").await.unwrap(), "deletes what is there");
    assert!(!kv.delete(&ana, &notes(&ana), "k").await.unwrap(), "says that nothing was there");
    assert_eq!(read(kv, &ana, "k").await, None, "deleted is gone");
    let third = put(kv, &ana, "k", "three").await.unwrap();
    assert!(third != first && third != second, "a version is not used again after a delete");
}

async fn writes_as_the_mode_says(f: &Fixture<dyn KeyValue>) {
    let (kv, ana) = (f.adapter.as_ref(), context("acme", "ana", "analyst"));
    let with = async |mode, value: &'static [u8]| {
        let options = PutOptions::default().with_mode(mode);
        kv.put(&ana, &notes(&ana), "k", Bytes::from_static(value), options).await.map_err(|e| e.kind())
    };
    assert_eq!(with(PutMode::Match(1), b"x").await, Err(ErrorKind::Conflict), "Match needs an entry");
    let v = with(PutMode::Create, b"one").await.expect("Create where there is nothing");
    assert_eq!(with(PutMode::Create, b"two").await, Err(ErrorKind::Conflict), "Create only once");
    assert_eq!(with(PutMode::Match(v + 1), b"two").await, Err(ErrorKind::Conflict), "Match only over its version");
    assert_eq!(read(kv, &ana, "k").await.as_deref(), Some("one"), "a refused write changes nothing");
    assert!(with(PutMode::Match(v), b"two").await.is_ok(), "Match over its version");
    let (a, b) = futures::join!(with(PutMode::Match(v), b"a"), with(PutMode::Match(v), b"b"));
    assert!(a.is_err() && b.is_err(), "an old version never writes");
}

async fn forgets_after_its_time(f: &Fixture<dyn KeyValue>) {
    let (kv, ana) = (f.adapter.as_ref(), context("acme", "ana", "analyst"));
    let options = PutOptions::default().with_ttl(Duration::from_secs(1));
    kv.put(&ana, &notes(&ana), "k", Bytes::from_static(b"one"), options).await.unwrap();
    assert_eq!(read(kv, &ana, "k").await.as_deref(), Some("one"), "a value is there within its time");
    kv.put(&ana, &notes(&ana), "kept", Bytes::from_static(b"one"), options).await.unwrap();
    put(kv, &ana, "kept", "two").await.unwrap();
    f.pass(Duration::from_millis(1100)).await;
    assert_eq!(read(kv, &ana, "k").await, None, "a value past its time is not there");
    assert_eq!(
        read(kv, &ana, "kept").await.as_deref(),
        Some("two"),
        "a write sets the time anew: without one, it stays"
    );
    assert!(!kv.delete(&ana, &notes(&ana), "k").await.unwrap(), "what is past its time cannot be deleted");
    let created = kv.put(&ana, &notes(&ana), "k", Bytes::new(), PutOptions::default().with_mode(PutMode::Create)).await;
    assert!(created.is_ok(), "what is past its time does not stand in the way of Create");
    let gone = PutOptions::default().with_ttl(Duration::ZERO);
    kv.put(&ana, &notes(&ana), "k", Bytes::from_static(b"two"), gone).await.unwrap();
    assert_eq!(read(kv, &ana, "k").await, None, "a value of no time is not there");
    let long = PutOptions::default().with_ttl(Duration::MAX);
    kv.put(&ana, &notes(&ana), "k", Bytes::from_static(b"three"), long).await.unwrap();
    assert_eq!(read(kv, &ana, "k").await.as_deref(), Some("three"), "no time is too long");
}

async fn keeps_tenants_apart(f: &Fixture<dyn KeyValue>) {
    let kv = f.adapter.as_ref();
    // the same employee, type and key in two tenants, one name the beginning of the other
    let (acme, other) = (context("acme", "ana", "analyst"), context("acme-2", "ana", "analyst"));
    put(kv, &acme, "k", "acme's").await.unwrap();
    assert_eq!(read(kv, &other, "k").await, None, "isolation: a tenant reads another's value");
    put(kv, &other, "k", "other's").await.unwrap();
    assert_eq!(read(kv, &acme, "k").await.as_deref(), Some("acme's"), "isolation: a tenant overwrites another's value");
    let first = PutOptions::default().with_mode(PutMode::Create);
    put(kv, &acme, "mine", "acme's").await.unwrap();
    let made = kv.put(&other, &notes(&other), "mine", "other's".into(), first).await;
    assert!(made.is_ok(), "isolation: what is there for one tenant is not there for another: {made:?}");
    assert!(kv.delete(&other, &notes(&other), "k").await.unwrap());
    assert_eq!(read(kv, &acme, "k").await.as_deref(), Some("acme's"), "isolation: a tenant deletes another's value");
}

async fn keeps_owners_and_types_apart(f: &Fixture<dyn KeyValue>) {
    let (kv, ana) = (f.adapter.as_ref(), context("acme", "ana", "analyst"));
    let spaces = [
        notes(&ana),
        Namespace::of(&ana, slug("drafts")),
        Namespace::shared(&ana, slug("ana"), slug("notes")),
        Namespace::of_employee(&ana, crate::EmployeeId::parse("an").unwrap(), slug("anotes")),
    ];
    for (n, space) in spaces.iter().enumerate() {
        kv.put(&ana, space, "k", Bytes::from(n.to_string()), PutOptions::default()).await.unwrap();
    }
    for (n, space) in spaces.iter().enumerate() {
        let entry = kv.get(&ana, space, "k").await.unwrap().expect("it is there");
        assert_eq!(entry.value, n.to_string(), "namespaces of one tenant are apart: {space}");
    }
}

async fn refuses_a_foreign_namespace(f: &Fixture<dyn KeyValue>) {
    let kv = f.adapter.as_ref();
    let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "ana", "analyst"));
    put(kv, &acme, "k", "acme's").await.unwrap();
    let theirs = notes(&acme);
    let got = kv.get(&globex, &theirs, "k").await.map(|_| ()).map_err(|e| e.kind());
    let put_ =
        kv.put(&globex, &theirs, "k", Bytes::new(), PutOptions::default()).await.map(|_| ()).map_err(|e| e.kind());
    let gone = kv.delete(&globex, &theirs, "k").await.map(|_| ()).map_err(|e| e.kind());
    for (what, result) in [("get", got), ("put", put_), ("delete", gone)] {
        assert_eq!(result, Err(ErrorKind::TenantMismatch), "isolation: {what} in another tenant's namespace");
    }
    assert_eq!(read(kv, &acme, "k").await.as_deref(), Some("acme's"), "isolation: refused and unchanged");
}

async fn keeps_hostile_keys_apart(f: &Fixture<dyn KeyValue>) {
    let kv = f.adapter.as_ref();
    let (acme, globex) = (context("acme", "ana", "analyst"), context("globex", "bo", "analyst"));
    put(kv, &globex, "key", "globex's").await.unwrap();
    let mut kept = Vec::new();
    for (n, key) in HOSTILE.iter().enumerate() {
        match kv.put(&acme, &notes(&acme), key, Bytes::from(n.to_string()), PutOptions::default()).await {
            Ok(_) => kept.push((n, key)),
            Err(e) => assert_eq!(e.kind(), ErrorKind::InvalidInput, "hostile ids: {key:?} is kept or refused"),
        }
    }
    for (n, key) in kept {
        assert_eq!(read(kv, &acme, key).await, Some(n.to_string()), "hostile ids: {key:?} is not another key");
        assert!(kv.delete(&acme, &notes(&acme), key).await.unwrap(), "hostile ids: {key:?} can be deleted");
    }
    assert_eq!(read(kv, &globex, "key").await.as_deref(), Some("globex's"), "hostile ids: they stay in their tenant");
}

async fn refuses_keys_and_values_out_of_bounds(f: &Fixture<dyn KeyValue>) {
    let (kv, ana) = (f.adapter.as_ref(), context("acme", "ana", "analyst"));
    let (longest, too_long) = ("k".repeat(512), "k".repeat(513));
    put(kv, &ana, &longest, "x").await.expect("a key of 512 bytes");
    for key in ["", too_long.as_str()] {
        let kind = put(kv, &ana, key, "x").await.map_err(|e| e.kind());
        assert_eq!(kind, Err(ErrorKind::InvalidInput), "a key of {} bytes is refused", key.len());
    }
    let max = kv.capability().value_max_size;
    // a store that takes more than this is not filled up to see whether it means it
    if max <= 64 * 1024 * 1024 {
        let fits = kv.put(&ana, &notes(&ana), "k", Bytes::from(vec![b'x'; max]), PutOptions::default()).await;
        assert!(fits.is_ok(), "a value of the declared size: {:?}", fits.err());
        let over = kv.put(&ana, &notes(&ana), "k", Bytes::from(vec![b'x'; max + 1]), PutOptions::default()).await;
        assert_eq!(over.map_err(|e| e.kind()), Err(ErrorKind::InvalidInput), "a value over the declared size");
    }
}

/// A future that is dropped wherever it stands leaves the old value or the new one.
async fn survives_a_call_that_was_dropped(f: &Fixture<dyn KeyValue>) {
    let (kv, ana) = (f.adapter.as_ref(), context("acme", "ana", "analyst"));
    put(kv, &ana, "k", "old").await.unwrap();
    for _ in 0..8 {
        let _dropped = put(kv, &ana, "k", "new").now_or_never();
    }
    let value = read(kv, &ana, "k").await;
    assert!(matches!(value.as_deref(), Some("old" | "new")), "cancelled in the middle: {value:?}");
    put(kv, &ana, "k", "after").await.expect("cancelled in the middle: the store goes on");
    assert_eq!(read(kv, &ana, "k").await.as_deref(), Some("after"), "cancelled in the middle: the last write wins");
}

async fn durability_is_as_declared(f: Fixture<dyn KeyValue>) {
    let ana = context("acme", "ana", "analyst");
    put(f.adapter.as_ref(), &ana, "k", "one").await.unwrap();
    let durable = f.adapter.capability().durable;
    match f.reopened().await {
        Some(f) => {
            let survived = read(f.adapter.as_ref(), &ana, "k").await.is_some();
            assert_eq!(survived, durable, "capability: `durable` says what happens at a restart");
        }
        None => assert!(!durable, "capability: the fixture of a durable store says how to open it again"),
    }
}

async fn the_server_goes_away(mut f: Fixture<dyn KeyValue>) {
    let ana = context("acme", "ana", "analyst");
    if f.lose_server().await {
        let kind = put(f.adapter.as_ref(), &ana, "k", "one").await.map_err(|e| e.kind());
        assert!(matches!(kind, Err(ErrorKind::Unavailable | ErrorKind::Timeout)), "server gone: {kind:?}");
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Down, "server gone: health says so");
    }
}

/// Behind the guard, a call past its deadline or cancelled does not reach the store at all.
async fn nothing_begins_late(f: &Fixture<dyn KeyValue>) {
    let called = Called::default();
    let kv = wrap(f.adapter.clone(), &called, true);
    let ana = context("acme", "ana", "analyst");
    let late = ana.with_deadline(ManualClock::default().now());
    assert_eq!(
        put(kv.as_ref(), &late, "k", "x").await.map_err(|e| e.kind()),
        Err(ErrorKind::Timeout),
        "passed deadline"
    );
    ana.cancellation().cancel();
    assert_eq!(
        put(kv.as_ref(), &ana, "k", "x").await.map_err(|e| e.kind()),
        Err(ErrorKind::Cancelled),
        "cancelled before"
    );
    assert_eq!(called.missing(&["put"]), ["put"], "passed deadline: the store was called");
}
