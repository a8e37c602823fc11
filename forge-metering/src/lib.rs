//! The usage ledger, the price book and quotas.
