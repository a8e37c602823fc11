#![cfg_attr(docsrs, feature(doc_cfg))]
#![cfg_attr(feature = "sqlite", doc = include_str!("../README.md"))]
#![cfg_attr(not(feature = "sqlite"), doc = "Tasks that survive a crash, the workflow engine and its journal.")]

pub mod blob;
#[cfg(feature = "redis")]
pub mod celery;
pub mod dead;
pub mod limits;
#[cfg(feature = "redis")]
pub mod redis;
pub mod schedule;
#[cfg(feature = "sqlite")]
pub mod sqlite;
pub mod worker;
pub mod workflow;
