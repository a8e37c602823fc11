//! What is used, what it costs, and how much is left.
//!
//! [`SqliteLedger`] is the durable record, exact to the last decimal; [`PriceBook`] knows what things cost and when that changed;
//! [`SqliteQuota`] holds limits by tenant and employee; [`report`] makes the CSV that finance reads and proves that it equals the events.
//!
//! ```
//! use forge_core::Timestamp;
//! # use forge_core::usage::Pricing as _;
//! use forge_core::usage::{Quantity, Resource};
//! use forge_metering::PriceBook;
//! let book = PriceBook::parse(r#"
//!     [[price]]
//!     resource = "tool:slack_post"
//!     currency = "USD"
//!     per_call = "0.0005"
//! "#)?;
//! let cost = book.quote(&Resource::Tool("slack_post".into()), &Quantity::TOOL_CALL, Timestamp::from_nanos(0))?;
//! assert_eq!(cost.unwrap().to_string(), "0.0005 USD");
//! # Ok::<(), forge_core::Error>(())
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

mod limits;
mod prices;
pub mod report;
#[cfg(feature = "sqlite")]
mod sqlite;

pub use limits::{Limit, Limits, Window};
pub use prices::PriceBook;
#[cfg(feature = "sqlite")]
pub use sqlite::{SqliteLedger, SqliteQuota};
