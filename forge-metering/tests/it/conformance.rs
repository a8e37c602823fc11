//! The shared suites on the SQLite ledger and quotas.

use std::sync::Arc;

use forge_core::fake::ManualClock;
use forge_core::testing::{Fixture, pricing, quota, usage_ledger};
use forge_core::usage::{Pricing, Quota, UsageLedger};
use forge_metering::{Limit, Limits, PriceBook, SqliteLedger, SqliteQuota, TenantLimits, Window};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ledger_keeps_its_contract() {
    usage_ledger(|| async {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_owned();
        let ledger: Arc<dyn UsageLedger> = Arc::new(SqliteLedger::open(&path).await.unwrap());
        let again = move |old| async move {
            drop(old);
            let ledger: Arc<dyn UsageLedger> = Arc::new(SqliteLedger::open(&path).await.unwrap());
            ledger
        };
        Fixture::new(ledger).reopening(again).keeping(dir)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_quotas_keep_their_contract() {
    quota(|calls| async move {
        let (dir, clock) = (tempfile::tempdir().unwrap(), Arc::new(ManualClock::default()));
        let limit = Limit::default().with_calls(calls);
        let limits = Limits::default().with_default(TenantLimits::default().with_window(Window::Day).with_total(limit));
        let open = {
            let (path, clock, limits) = (dir.path().to_owned(), clock.clone(), limits);
            move || async move { SqliteQuota::open(&path, limits, clock).await.unwrap() }
        };
        let quota: Arc<dyn Quota> = Arc::new(open.clone()().await);
        let again = move |old| async move {
            drop(old);
            let quota: Arc<dyn Quota> = Arc::new(open().await);
            quota
        };
        Fixture::new(quota).with_clock(clock).reopening(again).keeping(dir)
    })
    .await;
}

#[tokio::test]
async fn the_prices_keep_their_contract() {
    let text = "[[price]]\nresource = \"tool:index\"\ncurrency = \"USD\"\nper_call = \"0.0003\"\n";
    pricing(|| async { Fixture::new(Arc::new(PriceBook::parse(text).unwrap()) as Arc<dyn Pricing>) }).await;
}
