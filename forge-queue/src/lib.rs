//! Tasks that survive a crash, the workflow engine and its journal.

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod worker;
pub mod workflow;
