//! Whether a suite calls every method of its trait: adapters that note what is called.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;

use crate::{Depth, Health, HealthCheck};

/// What was called so far; shared by all spies of one run of a suite.
#[derive(Debug, Clone, Default)]
pub(super) struct Called(Arc<Mutex<BTreeSet<&'static str>>>);

impl Called {
    pub(super) fn note(&self, method: &'static str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(method);
    }

    /// How many different methods; rises when something reached the backend for the first time.
    pub(super) fn missing(&self, methods: &[&'static str]) -> Vec<&'static str> {
        let called = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        methods.iter().filter(|m| !called.contains(*m)).copied().collect()
    }

    /// Fails for a method that no scenario called: the trait has grown and its suite has not.
    pub(super) fn complete<T: Methods + ?Sized>(&self) {
        let missing = self.missing(T::METHODS);
        assert!(missing.is_empty(), "completeness: no scenario of the suite calls {missing:?}");
    }
}

/// The names of a trait's methods. Written by [`spy!`], which does not compile if one is left out.
pub(super) trait Methods {
    const METHODS: &'static [&'static str];
}

/// An adapter that notes which of its methods are called.
pub(super) struct Spy<T: ?Sized> {
    pub(super) inner: Arc<T>,
    pub(super) called: Called,
}

impl<T: ?Sized> Spy<T> {
    pub(super) fn new(inner: Arc<T>, called: &Called) -> Self {
        Self { inner, called: called.clone() }
    }
}

impl<T: fmt::Debug + ?Sized> fmt::Debug for Spy<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt(f)
    }
}

#[async_trait]
impl<T: HealthCheck + ?Sized> HealthCheck for Spy<T> {
    async fn check(&self, depth: Depth) -> Health {
        self.called.note("check");
        self.inner.check(depth).await
    }
}

/// Implements a trait for its spy. The compiler sees to it that every method is listed.
macro_rules! spy {
    ($name:ident: $($(async $(@$a:tt)?)? fn $method:ident$(<$life:lifetime>)?(&self $(, $arg:ident: $ty:ty)*) $(-> $ret:ty)?;)*) => {
        spy!(@munch $name [] [] $({ $(async $(@$a)?)? $($life)? } $method ($($arg: $ty),*) [$($ret)?];)*);
    };
    (@munch $name:ident [$($names:expr),*] [$($body:tt)*] {async} $method:ident ($($arg:ident: $ty:ty),*) [$($ret:ty)?]; $($rest:tt)*) => {
        spy!(@munch $name [$($names,)* stringify!($method)] [$($body)*
            async fn $method(&self $(, $arg: $ty)*) $(-> $ret)? {
                self.called.note(stringify!($method));
                self.inner.$method($($arg),*).await
            }
        ] $($rest)*);
    };
    (@munch $name:ident [$($names:expr),*] [$($body:tt)*] {$($life:lifetime)?} $method:ident ($($arg:ident: $ty:ty),*) [$($ret:ty)?]; $($rest:tt)*) => {
        spy!(@munch $name [$($names,)* stringify!($method)] [$($body)*
            fn $method$(<$life>)?(&self $(, $arg: $ty)*) $(-> $ret)? {
                self.called.note(stringify!($method));
                self.inner.$method($($arg),*)
            }
        ] $($rest)*);
    };
    (@munch $name:ident [$($names:expr),*] [$($body:tt)*]) => {
        #[async_trait::async_trait]
        impl $name for $crate::testing::spy::Spy<dyn $name> {
            $($body)*
        }
        impl $crate::testing::spy::Methods for dyn $name {
            const METHODS: &'static [&'static str] = &[$($names),*];
        }
    };
}
pub(super) use spy;
