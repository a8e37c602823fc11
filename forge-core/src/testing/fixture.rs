//! What a suite is given: a fresh backend, and what only its test knows how to do to it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::fake::ManualClock;
use crate::time::{Clock, SystemClock};

/// One fresh backend under test.
pub struct Fixture<T: ?Sized> {
    pub(super) adapter: Arc<T>,
    clock: Option<Arc<ManualClock>>,
    reopen: Option<Reopen<T>>,
    server_gone: Option<Box<dyn FnOnce() -> BoxFuture<'static, ()> + Send + Sync>>,
    pub(super) secrets: Vec<String>,
    keep: Vec<Box<dyn Send + Sync>>,
}

type Reopen<T> = Box<dyn FnOnce(Arc<T>) -> BoxFuture<'static, Arc<T>> + Send + Sync>;

impl<T: ?Sized> Fixture<T> {
    /// A backend about which nothing more is known.
    pub fn new(adapter: Arc<T>) -> Self {
        Self { adapter, clock: None, reopen: None, server_gone: None, secrets: Vec::new(), keep: Vec::new() }
    }

    /// The backend's clock; without it the suite waits in real time where a contract speaks of time.
    #[must_use]
    pub fn with_clock(mut self, clock: Arc<ManualClock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// How to open the same store again, after the old one was dropped: required of a backend that declares `durable`.
    #[must_use]
    pub fn reopening<F>(mut self, reopen: impl FnOnce(Arc<T>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Arc<T>> + Send + 'static,
    {
        self.reopen = Some(Box::new(move |old| Box::pin(reopen(old))));
        self
    }

    /// How to take the server away: required of a backend that has one. Every call must then fail as `Unavailable` or `Timeout`.
    #[must_use]
    pub fn server_gone<F>(mut self, gone: impl FnOnce() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.server_gone = Some(Box::new(move || Box::pin(gone())));
        self
    }

    /// A credential or key that it was made with: no `Debug` may show it.
    #[must_use]
    pub fn with_secret(mut self, secret: impl Into<String>) -> Self {
        self.secrets.push(secret.into());
        self
    }

    /// Something that must live as long as the backend, such as its directory.
    #[must_use]
    pub fn keeping(mut self, thing: impl Send + Sync + 'static) -> Self {
        self.keep.push(Box::new(thing));
        self
    }

    /// The same fixture around a wrapper of its backend, now and after it was opened again.
    pub(super) fn map(mut self, wrap: impl Fn(Arc<T>) -> Arc<T>) -> Self {
        self.adapter = wrap(self.adapter);
        self
    }

    /// Lets time pass for the backend.
    pub(super) async fn pass(&self, time: Duration) {
        match &self.clock {
            Some(clock) => clock.advance(time),
            None => SystemClock.sleep(time).await,
        }
    }

    /// The same store, opened again once nobody holds the old one: `None` where there is no way to.
    pub(super) async fn reopened(self) -> Option<Self> {
        let Self { adapter, clock, reopen, server_gone, secrets, keep } = self;
        let adapter = reopen?(adapter).await;
        Some(Self { adapter, clock, reopen: None, server_gone, secrets, keep })
    }

    /// Takes the server away; false where there is none.
    pub(super) async fn lose_server(&mut self) -> bool {
        match self.server_gone.take() {
            Some(gone) => {
                gone().await;
                true
            }
            None => false,
        }
    }
}

impl<T: ?Sized> fmt::Debug for Fixture<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fixture")
    }
}

/// No `Debug` of a backend shows what it was trusted with.
///
/// # Panics
/// If it does.
pub(super) fn prints_no_secret<T: fmt::Debug + ?Sized>(adapter: &T, secrets: &[String]) {
    for text in [format!("{adapter:?}"), format!("{adapter:#?}")] {
        assert!(!secrets.iter().any(|s| text.contains(s)), "secret absent from `Debug`: it prints a secret");
    }
}
