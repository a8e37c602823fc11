//! The fakes keep the contracts of the real backends: every suite runs on them.

use std::sync::Arc;

use forge_core::fake::{FakeKeyValue, ManualClock};
use forge_core::kv::KeyValue;
use forge_core::testing::{self, Fixture};

#[tokio::test]
async fn key_value() {
    testing::key_value(|| async {
        let clock = Arc::new(ManualClock::default());
        let store: Arc<dyn KeyValue> = Arc::new(FakeKeyValue::new(clock.clone()));
        Fixture::new(store).with_clock(clock)
    })
    .await;
}
