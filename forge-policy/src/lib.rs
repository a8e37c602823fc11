#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc = include_str!("../README.md")]

#[cfg(feature = "audit-sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "audit-sqlite")))]
pub mod audit;
#[cfg(feature = "regorus")]
#[cfg_attr(docsrs, doc(cfg(feature = "regorus")))]
pub mod rego;

#[cfg(feature = "audit-sqlite")]
pub use audit::{SqliteAudit, verify_jsonl};
#[cfg(feature = "regorus")]
pub use rego::{RegorusEngine, Sources, standard};
