//! Room set aside before a call, so that its end can be recorded even where nothing can be awaited.

use std::fmt;

/// A place for one record, taken before the call and filled after it, in a drop too: filling never waits and never fails.
///
/// A slot that is dropped unfilled gives its room back.
pub struct Slot<T>(Box<dyn FnOnce(T) + Send + Sync>);

impl<T> Slot<T> {
    /// A slot that hands its record to `fill`, which must neither block nor panic.
    pub fn new(fill: impl FnOnce(T) + Send + Sync + 'static) -> Self {
        Self(Box::new(fill))
    }

    /// Fills it.
    pub fn fill(self, record: T) {
        (self.0)(record);
    }
}

impl<T> fmt::Debug for Slot<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Slot")
    }
}
