//! Directories of employees.

use std::panic::AssertUnwindSafe;

use async_trait::async_trait;
use forge_core::testing::{context, principal_resolver};
use forge_core::{Directory, EmployeeId, ExecutionContext, Principal, PrincipalResolver, Result};
use futures::FutureExt;

fn directory(employees: Vec<Principal>) -> Directory {
    employees.into_iter().fold(Directory::default(), Directory::with)
}

#[tokio::test]
async fn directories() {
    principal_resolver(async |employees| directory(employees)).await;
}

#[tokio::test]
async fn directories_that_forget_the_tenant_are_found() {
    let suite = principal_resolver(async |employees| Forgetful(directory(employees)));
    let panic = AssertUnwindSafe(suite).catch_unwind().await.unwrap_err();
    let message = panic.downcast_ref::<String>().cloned().unwrap();
    assert!(message.contains("isolation"), "{message}");
}

/// Looks in every tenant for somebody of this name.
#[derive(Debug)]
struct Forgetful(Directory);

#[async_trait]
impl PrincipalResolver for Forgetful {
    async fn resolve(&self, ctx: &ExecutionContext, employee: &EmployeeId) -> Result<Principal> {
        let found = self.0.resolve(ctx, employee).await;
        let elsewhere = context("acme-2", "ana", "partner");
        if found.is_err() { self.0.resolve(&elsewhere, employee).await } else { found }
    }
}
