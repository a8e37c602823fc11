//! The embedded books: the ledger in `ledger.db`, the quotas in `quota.db`, each with one writer and group commit.

mod amount;
mod book;
mod ledger;
mod quota;
mod row;
mod rows;
mod span;

pub use ledger::SqliteLedger;
pub use quota::SqliteQuota;

use forge_core::Error;
use rust_decimal::Decimal;

/// A stored decimal.
fn decimal(operation: &'static str, text: &str) -> Result<Decimal, Error> {
    Decimal::from_str_exact(text).map_err(|e| forge_sqlite::corrupt(operation, "amount").with_source(e))
}

fn too_large(operation: &'static str) -> Error {
    Error::invalid(operation, "the sum is too large to be exact")
}
