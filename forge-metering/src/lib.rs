#![cfg_attr(feature = "sqlite", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "sqlite"),
    doc = "Price book, limits and usage reports; the ledger and the quotas need the feature `sqlite`."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

mod exact;
mod limits;
mod prices;
pub mod report;
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
mod sqlite;

pub use limits::{Limit, Limits, TenantLimits, Window};
pub use prices::{Price, PriceBook};
#[cfg(feature = "sqlite")]
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub use sqlite::{SqliteLedger, SqliteQuota};
