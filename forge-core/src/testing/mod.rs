//! For tests of backends and hosts (feature `testing`): contexts, guards of fakes, and one **conformance suite** a trait.
//!
//! A suite is a function that takes a way to make a fresh backend, runs every scenario of the trait's `# Contract` on it, and
//! panics with the scenario's name where one does not hold. It runs everything twice, on the bare backend and behind
//! [`Guarded`](crate::guard::Guarded) where the guard wraps the trait, and fails if a method of the trait was called by no scenario.
//!
//! ```
//! # tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
//! use std::sync::Arc;
//! use forge_core::{fake::{FakeKeyValue, ManualClock}, testing::{Fixture, key_value}};
//! key_value(|| async {
//!     let clock = Arc::new(ManualClock::default());
//!     Fixture::new(Arc::new(FakeKeyValue::new(clock.clone())) as Arc<dyn forge_core::kv::KeyValue>).with_clock(clock)
//! })
//! .await;
//! # })
//! ```
//!
//! What a suite cannot do by itself the [`Fixture`] hands over: a clock that it may move, a way to open the store again, a way
//! to take its server away. A capability that is declared must then hold, and one that is not declared must not.

#![expect(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    clippy::future_not_send,
    reason = "a suite says what failed by panicking, as a test does; a test's closure need not be `Send`"
)]

mod approvals;
mod audit;
mod blob;
mod build;
mod clock;
mod embed;
mod fixture;
mod handler;
mod health;
mod hostile;
mod journal;
mod keyring;
mod kv;
mod ledger;
mod metrics;
mod model;
mod policy;
mod pricing;
mod queue;
mod quota;
mod redact;
mod resolver;
mod route;
mod secret;
mod spy;
mod tool;
mod vector;

pub use approvals::approvals;
pub use audit::audit_log;
pub use blob::blob_store;
pub use build::{FakeGuard, context, fake_guard, lease, tool_call, tool_env};
pub use clock::clock;
pub use embed::embedder;
pub use fixture::Fixture;
pub use handler::{HandlerCase, task_handler};
pub use health::health_check;
pub use hostile::HOSTILE;
pub use journal::journal;
pub use keyring::keyring;
pub use kv::key_value;
pub use ledger::usage_ledger;
pub use metrics::{MetricsFixture, metrics};
pub use model::language_model;
pub use policy::policy_engine;
pub use pricing::pricing;
pub use queue::{WholeQueue, task_queue};
pub use quota::quota;
pub use redact::redactor;
pub use resolver::principal_resolver;
pub use route::model_router;
pub use secret::{SecretFixture, secret_provider};
pub use tool::{ToolCase, probe, tool};
pub use vector::vector_store;
