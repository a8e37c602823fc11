//! Stand-in servers and launchers for tests and examples.
