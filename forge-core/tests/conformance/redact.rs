//! Redactors.

use std::borrow::Cow;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use forge_core::fake::{StrictKeyring, StrictRedactor};
use forge_core::keyring::Keyring;
use forge_core::redact::{Finding, RedactOptions, Redactor, Text};
use forge_core::testing::redactor;
use forge_core::{Result, TenantId};
use futures::FutureExt;

fn tenant(name: &str) -> TenantId {
    TenantId::parse(name).unwrap()
}

async fn fake() -> StrictRedactor {
    let keys = StrictKeyring::default();
    for t in ["acme", "acme-2", "globex", "everybody"] {
        keys.load(&tenant(t)).await.unwrap();
    }
    StrictRedactor::new(Arc::new(keys))
}

#[tokio::test]
async fn redactors() {
    redactor(fake).await;
}

#[tokio::test]
async fn redactors_that_forget_the_tenant_are_found() {
    let suite = redactor(async || Forgetful(fake().await));
    let panic = AssertUnwindSafe(suite).catch_unwind().await.unwrap_err();
    let message = panic.downcast_ref::<String>().cloned().unwrap();
    assert!(message.contains("isolation"), "{message}");
}

/// Makes everybody's tokens under one key.
#[derive(Debug)]
struct Forgetful(StrictRedactor);

impl Redactor for Forgetful {
    fn inspect(&self, text: Text<'_>) -> Result<Vec<Finding>> {
        self.0.inspect(text)
    }

    fn redact<'a>(&self, _: &TenantId, text: Text<'a>, options: &RedactOptions) -> Result<Cow<'a, str>> {
        self.0.redact(&tenant("everybody"), text, options)
    }

    fn reveal<'a>(&self, _: &TenantId, text: &'a str) -> Result<Cow<'a, str>> {
        self.0.reveal(&tenant("everybody"), text)
    }
}
