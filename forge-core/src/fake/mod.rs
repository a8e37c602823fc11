//! Adapters in memory, for tests: they keep the contracts of the real ones and forget everything at the end.

mod clock;
mod keys;
mod store;

pub use clock::{ManualClock, SkippingClock};
pub use keys::{FakeKeyring, FakeRedactor};
pub use store::{FakeBlobs, FakeEmbedder, FakeKeyValue, FakeVectors};
