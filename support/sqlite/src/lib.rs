//! Opening SQLite the one way that Forge trusts: pragmas, lock, migrations.
