//! The shared suites on the audit log in SQLite and on the engine with the standard policy.
#![cfg(all(feature = "audit-sqlite", feature = "regorus"))]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::sync::Arc;

use forge_core::audit::AuditLog;
use forge_core::policy::PolicyEngine;
use forge_core::testing::{Fixture, audit_log, policy_engine};
use forge_core::{SystemClock, TenantId};
use forge_policy::{RegorusEngine, SqliteAudit, standard};
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_log_keeps_its_contract() {
    audit_log(|| async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let log: Arc<dyn AuditLog> = Arc::new(SqliteAudit::open(&path).unwrap());
        let again = move |old| async move {
            drop(old);
            let log: Arc<dyn AuditLog> = Arc::new(SqliteAudit::open(&path).unwrap());
            log
        };
        Fixture::new(log).reopening(again).keeping(dir)
    })
    .await;
}

#[tokio::test]
async fn the_engine_keeps_its_contract() {
    policy_engine(|| async {
        let tenant = |name| TenantId::parse(name).unwrap();
        let sources = standard()
            .with_tenant_data(tenant("acme"), json!({ "grants": { "analyst": ["tool.call:index"] } }))
            .with_tenant_data(tenant("globex"), json!({ "grants": { "analyst": ["tool.call:other"] } }));
        let engine = RegorusEngine::load(sources, Arc::new(SystemClock)).await.unwrap();
        Fixture::new(Arc::new(engine) as Arc<dyn PolicyEngine>)
    })
    .await;
}
