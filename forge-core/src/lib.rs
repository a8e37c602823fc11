//! The words, the adapter traits and the guard of Forge.
//!
//! Read in this order: [`context`] (who, for whom, until when), [`error`] (the one error), [`kv`] (the smallest adapter),
//! its fake, [`guard`] (the only place where cross-cutting concerns live). Every other adapter is the same shape.
//!
//! This crate has no driver, no HTTP client and no policy engine in its tree; a test of the root package proves it.
//!
//! | module | adapter traits |
//! |---|---|
//! | [`tool`] | `Tool`, `Probe` |
//! | [`model`], [`route`], [`embed`], [`vector`] | `LanguageModel`, `ModelRouter`, `Embedder`, `VectorStore` |
//! | [`policy`], [`approvals`], [`audit`] | `PolicyEngine`, `Approvals`, `AuditLog` |
//! | [`usage`] | `UsageLedger`, `Quota`, `Pricing` |
//! | [`redact`], [`keyring`], [`secret`] | `Redactor`, `Keyring`, `SecretProvider` |
//! | [`queue`], [`journal`], [`kv`], [`blob`] | `TaskQueue`, `Broker`, `TaskHandler`, `Journal`, `KeyValue`, `BlobStore` |
//! | [`metrics`], [`health`], [`time`] | `Metrics`, `HealthCheck`, `Clock` |
//!
//! # Features
//! `testing`: in-memory [`fake`]s, a manual clock and the conformance suites. A fail-open fake has no place in a production build.
//! `mock`: a [mock](mod@mock) of every adapter trait, by mockall.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod approvals;
pub mod audit;
pub mod blob;
pub mod context;
pub mod embed;
pub mod error;
#[cfg(any(test, feature = "testing"))]
pub mod fake;
pub mod guard;
pub mod health;
mod id;
pub mod journal;
pub mod keyring;
pub mod kv;
pub mod metrics;
#[cfg(feature = "mock")]
pub mod mock;
pub mod model;
mod money;
mod namespace;
pub mod policy;
pub mod queue;
pub mod redact;
pub mod route;
pub mod secret;
mod single_flight;
mod slot;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod tool;
pub mod usage;
pub mod vector;

pub use context::{
    ContextRecord, Directory, ExecutionContext, Principal, PrincipalResolver, SealedContext, SealedFor, SecurityLevel,
    TraceContext,
};
pub use error::{Error, ErrorKind, ErrorReport, Result, Retryability};
pub use health::{Adapter, Depth, Health, HealthCheck, Status};
pub use id::{
    ApprovalId, CaseId, DecisionId, Digest, EmployeeId, EventId, OperationKey, RequestId, Role, RunId, SessionId, Slug,
    TaskId, TenantId, ToolName, UserId,
};
pub use money::{Currency, Money};
pub use namespace::{Namespace, Owner};
pub use slot::Slot;
pub use time::{Clock, SystemClock, Timestamp};
