//! Finding and replacing personal data and secrets, and the keys that make it reversible.
