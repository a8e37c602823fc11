//! Personal data and secrets: found, replaced, and the keys that make it reversible.
//!
//! ```
//! use std::sync::Arc;
//! use forge_core::{TenantId, redact::{RedactOptions, Redactor}};
//! use forge_dlp::{FileKeyring, StandardRedactor};
//! # tokio::runtime::Runtime::new().unwrap().block_on(async {
//! # let dir = tempfile::tempdir().unwrap();
//! use forge_core::keyring::Keyring;
//! let keys = Arc::new(FileKeyring::open(dir.path(), None).await?);
//! let acme = TenantId::parse("acme")?;
//! keys.load(&acme).await?;
//! let redactor = StandardRedactor::new(keys);
//!
//! let text = "write to ana@example.com, password: hunter2!";
//! assert_eq!(redactor.redact(&acme, text.into(), &RedactOptions::mask_all())?, "write to [EMAIL], password: [SECRET]");
//! let tokens = redactor.redact(&acme, text.into(), &RedactOptions::tokenize_all())?;
//! assert_eq!(redactor.reveal(&acme, &tokens)?, text);
//! # Ok::<(), forge_core::Error>(()) }).unwrap();
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

mod detect;
mod keyring;
mod redactor;

pub use keyring::FileKeyring;
pub use redactor::StandardRedactor;
