//! Blobs: once each, of one tenant each, whole or not at all.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "helpers of tests")]

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use forge_core::blob::{BlobRef, BlobStore};
use forge_core::fake::{FakeKeyring, ManualClock};
use forge_core::testing::context;
use forge_core::{Clock, Depth, ErrorKind, ExecutionContext, HealthCheck, Status, SystemClock};
use forge_queue::blob::FileBlobs;

fn ctx(tenant: &str) -> ExecutionContext {
    context(tenant, "ana", "analyst")
}

async fn open(dir: &tempfile::TempDir) -> FileBlobs {
    FileBlobs::open(dir.path(), Arc::new(FakeKeyring), Arc::new(ManualClock::default())).await.unwrap()
}

fn file(dir: &tempfile::TempDir, tenant: &str, blob: &BlobRef) -> PathBuf {
    dir.path().join(tenant).join(blob.digest.to_string())
}

#[tokio::test]
async fn the_same_contents_rest_once_and_outlive_the_store() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir).await;
    let first = blobs.put(&ctx("acme"), "contract".into()).await.unwrap();
    assert_eq!(blobs.put(&ctx("acme"), "contract".into()).await.unwrap(), first);
    assert_eq!(std::fs::read_dir(dir.path().join("acme")).unwrap().count(), 1);
    drop(blobs);
    let blobs = open(&dir).await;
    assert_eq!(blobs.get(&ctx("acme"), &first).await.unwrap(), "contract");
    assert!(blobs.delete(&ctx("acme"), &first).await.unwrap());
    assert!(!blobs.delete(&ctx("acme"), &first).await.unwrap());
    assert_eq!(blobs.get(&ctx("acme"), &first).await.unwrap_err().kind(), ErrorKind::NotFound);
    let empty = blobs.put(&ctx("acme"), Bytes::new()).await.unwrap();
    assert_eq!(blobs.get(&ctx("acme"), &empty).await.unwrap(), "");
    assert_eq!(blobs.check(Depth::Deep).await.status, Status::Up);
}

#[tokio::test]
async fn a_foreign_reference_is_not_there_and_says_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir).await;
    let mine = blobs.put(&ctx("acme"), "contract".into()).await.unwrap();
    assert_eq!(blobs.get(&ctx("globex"), &mine).await.unwrap_err().kind(), ErrorKind::NotFound);
    assert!(!blobs.delete(&ctx("globex"), &mine).await.unwrap());
    let theirs = blobs.put(&ctx("globex"), "contract".into()).await.unwrap();
    assert_ne!(theirs.digest, mine.digest, "equal contents cannot be recognised across tenants");
    let wrong = BlobRef { size: 1, ..mine.clone() };
    assert_eq!(blobs.get(&ctx("acme"), &wrong).await.unwrap_err().kind(), ErrorKind::NotFound);
    // a file carried over by hand does not open
    std::fs::copy(file(&dir, "acme", &mine), file(&dir, "globex", &mine)).unwrap();
    assert_eq!(blobs.get(&ctx("globex"), &mine).await.unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(blobs.purge(&ctx("globex")).await.unwrap(), 2);
    assert_eq!(blobs.purge(&ctx("nobody")).await.unwrap(), 0);
    assert_eq!(blobs.get(&ctx("acme"), &mine).await.unwrap(), "contract");
}

#[tokio::test]
async fn every_flipped_byte_and_every_cut_is_noticed_and_a_new_put_mends_it() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir).await;
    let acme = ctx("acme");
    let blob = blobs.put(&acme, "contract".into()).await.unwrap();
    let path = file(&dir, "acme", &blob);
    let good = std::fs::read(&path).unwrap();
    for i in 0..good.len() {
        let mut bad = good.clone();
        bad[i] ^= 1;
        std::fs::write(&path, bad).unwrap();
        assert_eq!(blobs.get(&acme, &blob).await.unwrap_err().kind(), ErrorKind::Corrupt, "byte {i}");
        std::fs::write(&path, &good[..i]).unwrap();
        assert_eq!(blobs.get(&acme, &blob).await.unwrap_err().kind(), ErrorKind::Corrupt, "cut at {i}");
    }
    let other = blobs.put(&acme, "CONTRACT".into()).await.unwrap();
    std::fs::copy(file(&dir, "acme", &other), &path).unwrap();
    assert_eq!(blobs.get(&acme, &blob).await.unwrap_err().kind(), ErrorKind::Corrupt, "another blob in its place");
    blobs.put(&acme, "contract".into()).await.unwrap();
    assert_eq!(blobs.get(&acme, &blob).await.unwrap(), "contract");
}

#[tokio::test]
async fn too_large_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let blobs = open(&dir).await;
    let max = usize::try_from(blobs.capability().max_size).unwrap();
    let e = blobs.put(&ctx("acme"), Bytes::from(vec![0; max + 1])).await.unwrap_err();
    assert_eq!(e.kind(), ErrorKind::InvalidInput);
}

#[tokio::test]
async fn what_a_crash_left_half_written_goes_and_a_write_in_flight_stays() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(Ahead(std::sync::Mutex::new(Duration::ZERO)));
    let at = |clock: &Arc<Ahead>| FileBlobs::open(dir.path(), Arc::new(FakeKeyring), clock.clone());
    at(&clock).await.unwrap().put(&ctx("acme"), "x".into()).await.unwrap();
    let half = dir.path().join("acme/half.tmp");
    std::fs::write(&half, b"half").unwrap();
    at(&clock).await.unwrap();
    assert!(half.exists(), "another process may be writing it");
    *clock.0.lock().unwrap() = Duration::from_secs(7200);
    at(&clock).await.unwrap();
    assert!(!half.exists());
    assert_eq!(std::fs::read_dir(dir.path().join("acme")).unwrap().count(), 1);
}

#[cfg(unix)]
#[tokio::test]
async fn only_the_owner_may_read() {
    use std::os::unix::fs::PermissionsExt;
    let dir = tempfile::tempdir().unwrap();
    let blob = open(&dir).await.put(&ctx("acme"), "x".into()).await.unwrap();
    let mode = |path: PathBuf| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(dir.path().join("acme")), mode(file(&dir, "acme", &blob))), (0o700, 0o600));
}

/// The machine's clock, moved on: file times are the machine's.
#[derive(Debug)]
struct Ahead(std::sync::Mutex<Duration>);

#[async_trait::async_trait]
impl Clock for Ahead {
    fn now(&self) -> forge_core::Timestamp {
        SystemClock.now().after(*self.0.lock().unwrap())
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic()
    }

    async fn sleep(&self, duration: Duration) {
        SystemClock.sleep(duration).await;
    }
}
