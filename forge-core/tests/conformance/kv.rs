//! Key-values.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use forge_core::fake::{FakeKeyValue, ManualClock};
use forge_core::kv::{Entry, KeyValue, KeyValueCapability, PutOptions, same_tenant};
use forge_core::testing::{Fixture, context, key_value};
use forge_core::{Depth, ExecutionContext, Health, HealthCheck, Namespace, Owner, Result};

use crate::finds_the_leak;

fn fixture(store: impl FnOnce(FakeKeyValue) -> Arc<dyn KeyValue>) -> Fixture<dyn KeyValue> {
    let clock = Arc::new(ManualClock::default());
    Fixture::new(store(FakeKeyValue::new(clock.clone()))).with_clock(clock)
}

#[tokio::test]
async fn key_values() {
    key_value(|| async { fixture(|store| Arc::new(store)) }).await;
}

#[tokio::test]
async fn key_values_that_forget_the_tenant_are_found() {
    finds_the_leak(key_value(|| async { fixture(|store| Arc::new(Forgetful(store))) })).await;
}

/// Checks the tenant at the door and then keeps everybody's values in one place.
#[derive(Debug)]
struct Forgetful(FakeKeyValue);

fn one_for_all(namespace: &Namespace) -> (ExecutionContext, Namespace) {
    let ctx = context("everybody", "ana", "analyst");
    let kind = namespace.memory_type().clone();
    let namespace = match namespace.owner() {
        Owner::Employee(employee) => Namespace::of_employee(&ctx, employee.clone(), kind),
        Owner::Shared(slug) => Namespace::shared(&ctx, slug.clone(), kind),
    };
    (ctx, namespace)
}

#[async_trait]
impl HealthCheck for Forgetful {
    async fn check(&self, depth: Depth) -> Health {
        self.0.check(depth).await
    }
}

#[async_trait]
impl KeyValue for Forgetful {
    async fn get(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<Option<Entry>> {
        same_tenant("kv.get", ctx, namespace)?;
        let (ctx, namespace) = one_for_all(namespace);
        self.0.get(&ctx, &namespace, key).await
    }

    async fn put(
        &self,
        ctx: &ExecutionContext,
        namespace: &Namespace,
        key: &str,
        value: Bytes,
        options: PutOptions,
    ) -> Result<u64> {
        same_tenant("kv.put", ctx, namespace)?;
        let (ctx, namespace) = one_for_all(namespace);
        self.0.put(&ctx, &namespace, key, value, options).await
    }

    async fn delete(&self, ctx: &ExecutionContext, namespace: &Namespace, key: &str) -> Result<bool> {
        same_tenant("kv.delete", ctx, namespace)?;
        let (ctx, namespace) = one_for_all(namespace);
        self.0.delete(&ctx, &namespace, key).await
    }

    fn capability(&self) -> KeyValueCapability {
        self.0.capability()
    }
}
