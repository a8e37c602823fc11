//! The one HTTP client of Forge: deadlines, Retry-After, redacted errors, single attempts.
