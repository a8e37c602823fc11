//! Keyrings.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use async_trait::async_trait;
use forge_core::fake::StrictKeyring;
use forge_core::keyring::{Keyring, Seal};
use forge_core::testing::{Fixture, keyring};
use forge_core::{Digest, Result, TenantId};
use futures::FutureExt;

fn fixture<K: Keyring>(wrap: fn(StrictKeyring) -> K) -> Fixture<dyn Keyring> {
    let keys = StrictKeyring::default();
    let again = keys.clone();
    let keys: Arc<dyn Keyring> = Arc::new(wrap(keys));
    Fixture::new(keys).reopening(move |_| async move {
        let keys: Arc<dyn Keyring> = Arc::new(wrap(again.reopened()));
        keys
    })
}

#[tokio::test]
async fn keyrings() {
    keyring(async || fixture(|keys| keys)).await;
}

#[tokio::test]
async fn keyrings_that_forget_the_tenant_are_found() {
    let suite = keyring(async || fixture(Forgetful));
    let panic = AssertUnwindSafe(suite).catch_unwind().await.unwrap_err();
    let message = panic.downcast_ref::<String>().cloned().unwrap();
    assert!(message.contains("isolation"), "{message}");
}

/// Has one set of keys for everybody.
#[derive(Debug)]
struct Forgetful(StrictKeyring);

fn everybody() -> TenantId {
    TenantId::parse("everybody").unwrap()
}

#[async_trait]
impl Keyring for Forgetful {
    async fn load(&self, _: &TenantId) -> Result<()> {
        self.0.load(&everybody()).await
    }

    async fn destroy(&self, _: &TenantId) -> Result<()> {
        self.0.destroy(&everybody()).await
    }

    fn encrypt(&self, _: &TenantId, aad: &[u8], plain: &[u8]) -> Result<Vec<u8>> {
        self.0.encrypt(&everybody(), aad, plain)
    }

    fn decrypt(&self, _: &TenantId, aad: &[u8], blob: &[u8]) -> Result<Vec<u8>> {
        self.0.decrypt(&everybody(), aad, blob)
    }

    fn tokenize(&self, _: &TenantId, plain: &str) -> Result<String> {
        self.0.tokenize(&everybody(), plain)
    }

    fn detokenize(&self, _: &TenantId, token: &str) -> Result<Option<String>> {
        self.0.detokenize(&everybody(), token)
    }

    fn digest(&self, _: &TenantId, bytes: &[u8]) -> Result<Digest> {
        self.0.digest(&everybody(), bytes)
    }

    fn seal(&self, bytes: &[u8]) -> Result<Seal> {
        self.0.seal(bytes)
    }

    fn verify(&self, bytes: &[u8], seal: &Seal) -> Result<()> {
        self.0.verify(bytes, seal)
    }

    fn seal_keys(&self) -> Vec<String> {
        self.0.seal_keys()
    }

    async fn rotate_seal_key(&self) -> Result<String> {
        self.0.rotate_seal_key().await
    }

    async fn retire_seal_key(&self, key_id: &str) -> Result<()> {
        self.0.retire_seal_key(key_id).await
    }
}
