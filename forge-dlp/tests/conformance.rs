//! The shared suites on the standard redactor and the keyring in files.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use forge_core::TenantId;
use forge_core::keyring::Keyring;
use forge_core::redact::Redactor;
use forge_core::secret::Secret;
use forge_core::testing::{Fixture, keyring, redactor};
use forge_dlp::{FileKeyring, StandardRedactor};

const MASTER: [u8; 32] = [7; 32];

fn master() -> String {
    data_encoding::BASE64.encode(&MASTER)
}

/// A keyring in a directory of its own, under a given master key or the directory's own.
async fn keys(given: bool) -> Fixture<dyn Keyring> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().to_owned();
    let open = move || {
        let (path, master) = (path.clone(), given.then(|| Secret::new(master())));
        async move {
            let keys: Arc<dyn Keyring> = Arc::new(FileKeyring::open(path, master).await.unwrap());
            keys
        }
    };
    let fixture = Fixture::new(open().await);
    let again = move |old| async move {
        drop(old);
        open().await
    };
    fixture.reopening(again).with_secret(master()).with_secret("7, 7").keeping(dir)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_keyring_keeps_its_contract() {
    for given in [false, true] {
        keyring(async || keys(given).await).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_redactor_keeps_its_contract() {
    redactor(async || {
        let dir = tempfile::tempdir().unwrap();
        let keys = FileKeyring::open(dir.path(), Some(Secret::new(master()))).await.unwrap();
        for tenant in ["acme", "acme-2", "globex"] {
            keys.load(&TenantId::parse(tenant).unwrap()).await.unwrap();
        }
        let redactor: Arc<dyn Redactor> = Arc::new(StandardRedactor::new(Arc::new(keys)));
        Fixture::new(redactor).with_secret(master()).keeping(dir)
    })
    .await;
}
