#![doc = include_str!("../README.md")]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod detect;
mod keyring;
mod redactor;

pub use keyring::FileKeyring;
pub use redactor::StandardRedactor;
