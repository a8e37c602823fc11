//! The suite of [`BlobStore`].

use std::sync::Arc;

use bytes::Bytes;
use futures::FutureExt;

use super::fixture::{Fixture, prints_no_secret};
use super::spy::{Called, Spy, spy};
use super::{context, fake_guard};
use crate::blob::{BlobCapability, BlobRef, BlobStore};
use crate::fake::{FakePolicy, ManualClock};
use crate::guard::Guarded;
use crate::time::{Clock, SystemClock};
use crate::{Depth, ErrorKind, ExecutionContext, Result, Status};

spy! { BlobStore:
    async fn put(&self, ctx: &ExecutionContext, contents: Bytes) -> Result<BlobRef>;
    async fn get(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<Bytes>;
    async fn delete(&self, ctx: &ExecutionContext, blob: &BlobRef) -> Result<bool>;
    fn capability(&self) -> BlobCapability;
}

/// Runs every scenario on fresh stores that `fresh` makes, bare and behind the guard.
///
/// # Panics
/// With the scenario's name, where the store does not keep the [contract](BlobStore).
pub async fn blob_store(fresh: impl AsyncFn() -> Fixture<dyn BlobStore>) {
    let called = Called::default();
    for guarded in [false, true] {
        let made = async || fresh().await.map(|store| wrap(store, &called, guarded));
        reads_what_was_put(&made().await).await;
        keeps_tenants_apart(&made().await).await;
        refuses_what_it_never_gave(&made().await).await;
        refuses_what_is_too_large(&made().await).await;
        survives_a_call_that_was_dropped(&made().await).await;
        durability_is_as_declared(made().await).await;
        the_server_goes_away(made().await).await;
        let f = made().await;
        prints_no_secret(f.adapter.as_ref(), &f.secrets);
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Up, "healthy when fresh");
        if guarded {
            nothing_begins_late(&f).await;
        }
    }
    called.complete::<dyn BlobStore>();
}

fn wrap(store: Arc<dyn BlobStore>, called: &Called, guarded: bool) -> Arc<dyn BlobStore> {
    let spied: Arc<dyn BlobStore> = Arc::new(Spy::new(store, called));
    let guard = || fake_guard(FakePolicy::allow_all(), Arc::new(SystemClock)).guard;
    if guarded { Arc::new(Guarded::new(spied, guard())) } else { spied }
}

fn ana() -> ExecutionContext {
    context("acme", "ana", "analyst")
}

fn kind<T>(outcome: Result<T>) -> Option<ErrorKind> {
    outcome.err().map(|e| e.kind())
}

async fn put(f: &Fixture<dyn BlobStore>, ctx: &ExecutionContext, contents: &'static [u8]) -> Result<BlobRef> {
    f.adapter.put(ctx, Bytes::from_static(contents)).await
}

async fn reads_what_was_put(f: &Fixture<dyn BlobStore>) {
    for contents in [b"".as_slice(), b"contract", &[0, 255, 0], b"../../etc/passwd"] {
        let blob = put(f, &ana(), contents).await.unwrap();
        assert_eq!(blob.size, u64::try_from(contents.len()).expect("small"), "a reference knows the size");
        assert_eq!(f.adapter.get(&ana(), &blob).await.unwrap(), contents, "reads what was put");
        assert_eq!(put(f, &ana(), contents).await.unwrap(), blob, "the same contents are the same blob");
        assert!(f.adapter.delete(&ana(), &blob).await.unwrap(), "deletes what is there, once for all its puts");
        assert!(!f.adapter.delete(&ana(), &blob).await.unwrap(), "says that nothing was there");
        assert_eq!(kind(f.adapter.get(&ana(), &blob).await), Some(ErrorKind::NotFound), "deleted is gone");
    }
    let (a, b) = (put(f, &ana(), b"a").await.unwrap(), put(f, &ana(), b"b").await.unwrap());
    assert_ne!(a.digest, b.digest, "other contents are another blob");
}

async fn keeps_tenants_apart(f: &Fixture<dyn BlobStore>) {
    let (acme, other) = (ana(), context("acme-2", "ana", "analyst"));
    let ours = put(f, &acme, b"contract").await.unwrap();
    assert_eq!(kind(f.adapter.get(&other, &ours).await), Some(ErrorKind::NotFound), "isolation: another's reference");
    assert!(!f.adapter.delete(&other, &ours).await.unwrap(), "isolation: a tenant deletes another's blob");
    let theirs = put(f, &other, b"contract").await.unwrap();
    assert_ne!(theirs.digest, ours.digest, "isolation: a reference tells what another tenant keeps");
    assert!(f.adapter.delete(&other, &theirs).await.unwrap());
    assert_eq!(f.adapter.get(&acme, &ours).await.unwrap(), "contract", "isolation: the same contents rest apart");
}

async fn refuses_what_it_never_gave(f: &Fixture<dyn BlobStore>) {
    let blob = put(f, &ana(), b"contract").await.unwrap();
    let other = BlobRef { digest: crate::Digest::of(b"never"), ..blob.clone() };
    assert_eq!(kind(f.adapter.get(&ana(), &other).await), Some(ErrorKind::NotFound), "an unknown digest");
    let longer = BlobRef { size: blob.size + 1, ..blob };
    let kind = kind(f.adapter.get(&ana(), &longer).await);
    assert!(matches!(kind, Some(ErrorKind::NotFound | ErrorKind::Corrupt)), "a reference of another size: {kind:?}");
}

async fn refuses_what_is_too_large(f: &Fixture<dyn BlobStore>) {
    let max = f.adapter.capability().max_size;
    // a store that takes more than this is not filled up to see whether it means it
    if let (true, Ok(max)) = (max <= 64 * 1024 * 1024, usize::try_from(max)) {
        assert!(f.adapter.put(&ana(), Bytes::from(vec![7; max])).await.is_ok(), "a blob of the declared size");
        let over = f.adapter.put(&ana(), Bytes::from(vec![7; max + 1])).await;
        assert_eq!(kind(over), Some(ErrorKind::InvalidInput), "a blob over the declared size");
    }
}

async fn survives_a_call_that_was_dropped(f: &Fixture<dyn BlobStore>) {
    for _ in 0..8 {
        let _dropped = put(f, &ana(), b"contract").now_or_never();
    }
    let blob = put(f, &ana(), b"contract").await.expect("cancelled in the middle: the store goes on");
    assert_eq!(f.adapter.get(&ana(), &blob).await.unwrap(), "contract", "cancelled in the middle: whole or not at all");
}

async fn durability_is_as_declared(f: Fixture<dyn BlobStore>) {
    let blob = put(&f, &ana(), b"contract").await.unwrap();
    let durable = f.adapter.capability().durable;
    match f.reopened().await {
        Some(f) => {
            let there = f.adapter.get(&ana(), &blob).await.is_ok();
            assert_eq!(there, durable, "capability: `durable` says what happens at a restart");
        }
        None => assert!(!durable, "capability: the fixture of a durable store says how to open it again"),
    }
}

async fn the_server_goes_away(mut f: Fixture<dyn BlobStore>) {
    if f.lose_server().await {
        let kind = kind(put(&f, &ana(), b"contract").await);
        assert!(matches!(kind, Some(ErrorKind::Unavailable | ErrorKind::Timeout)), "server gone: {kind:?}");
        assert_eq!(f.adapter.check(Depth::Deep).await.status, Status::Down, "server gone: health says so");
    }
}

async fn nothing_begins_late(f: &Fixture<dyn BlobStore>) {
    let late = ana().with_deadline(ManualClock::default().now());
    assert_eq!(kind(put(f, &late, b"late").await), Some(ErrorKind::Timeout), "passed deadline");
    let cancelled = ana();
    cancelled.cancellation().cancel();
    assert_eq!(kind(put(f, &cancelled, b"late").await), Some(ErrorKind::Cancelled), "cancelled before");
}
