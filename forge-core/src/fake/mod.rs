//! Adapters in memory, for tests: they keep the contracts of the real ones and forget everything at the end.

mod books;
mod clock;
mod journal;
mod keys;
mod metrics;
mod policy;
mod queue;
mod redactor;
mod router;
mod store;

pub use books::{FakeAudit, FakeLedger, FakePricing, FakeQuota};
pub use clock::{ManualClock, SkippingClock};
pub use journal::FakeJournal;
pub use keys::{FakeKeyring, StrictKeyring};
pub use metrics::FakeMetrics;
pub use policy::{FakeApprovals, FakePolicy};
pub use queue::{FakeModel, FakeQueue};
pub use redactor::{FakeRedactor, StrictRedactor};
pub use router::FakeRouter;
pub use store::{FakeBlobs, FakeEmbedder, FakeKeyValue, FakeVectors};
