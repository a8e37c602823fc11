//! A tenant's way out: everything of it as JSON, everything of it gone.

use std::collections::BTreeMap;

use data_encoding::BASE64;
use forge_core::{ExecutionContext, Result, Timestamp};
use forge_sqlite::error;
use forge_sqlite::rusqlite::types::ValueRef;
use forge_sqlite::rusqlite::{Connection, Row, Transaction, params};
use serde_json::{Map, Value};

use super::SqliteStore;
use super::row::{signed, unsigned};
use super::schema::TABLES;

/// A tenant's rows.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Export {
    /// Rows of each table.
    pub counts: BTreeMap<String, u64>,
    /// One object a row: `table`, and its columns. Bodies are as they rest, tokenised or encrypted (base64).
    pub rows: Vec<Value>,
}

impl SqliteStore {
    /// Everything of the tenant, in one consistent view.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn export(&self, ctx: &ExecutionContext) -> Result<Export> {
        const OP: &str = "store.export";
        let tenant = ctx.tenant().to_string();
        let export = move |c: &Connection| {
            let view = c.unchecked_transaction().map_err(error(OP))?;
            let (mut counts, mut rows) = (BTreeMap::new(), Vec::new());
            for table in TABLES {
                let before = rows.len();
                let mut statement =
                    view.prepare(&format!("SELECT * FROM {table} WHERE tenant = ?1")).map_err(error(OP))?;
                let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
                let found = statement.query_map([&tenant], |r| object(table, &names, r)).map_err(error(OP))?;
                for row in found {
                    rows.push(row.map_err(error(OP))?);
                }
                counts.insert(table.to_owned(), unsigned(signed(rows.len() - before)));
            }
            Ok(Export { counts, rows })
        };
        self.db.read(OP, export).await
    }

    /// Deletes everything of the tenant and returns how many rows there were. What its runs still owe to ledger and audit log
    /// stays until it is relayed: it holds no body, and the books must balance. Workers and owners that hold something of it
    /// lose it (`LeaseLost`, `NotFound`). What the operator set for it in the queue (limits, a pause) stays: a tenant does not get
    /// rid of them by this. Pages are overwritten; destroying the tenant's keys reaches backups too.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn purge(&self, ctx: &ExecutionContext) -> Result<u64> {
        const OP: &str = "store.purge";
        let tenant = ctx.tenant().to_string();
        let purge = move |tx: &Transaction<'_>| {
            let mut rows = 0;
            for table in TABLES {
                rows += tx.execute(&format!("DELETE FROM {table} WHERE tenant = ?1"), [&tenant]).map_err(error(OP))?;
            }
            tx.execute("DELETE FROM tenants WHERE tenant = ?1", [&tenant]).map_err(error(OP))?;
            let sql = "DELETE FROM queues WHERE tenant = ?1 AND blocked <> 1 AND weight = 1
                       AND coalesce(running, rate, burst, length) IS NULL";
            tx.execute(sql, [&tenant]).map_err(error(OP))?;
            Ok(unsigned(signed(rows)))
        };
        self.db.write(OP, purge).await
    }

    /// Deletes the tenant's tasks that ended well or were cancelled before `before`, at most `limit`, and returns how many.
    /// Dead letters stay until they are replayed or purged.
    ///
    /// # Errors
    /// `Unavailable`.
    pub async fn prune(&self, ctx: &ExecutionContext, before: Timestamp, limit: usize) -> Result<u64> {
        const OP: &str = "store.prune";
        let tenant = ctx.tenant().to_string();
        // the sign keeps the outer statement off the tenant's index: it goes by the few rows found
        let sql = "DELETE FROM tasks WHERE +tenant = ?1 AND rowid IN (SELECT rowid FROM tasks WHERE tenant = ?1
                   AND state IN (2, 4) AND updated < ?2 ORDER BY updated LIMIT ?3)";
        let prune = move |tx: &Transaction<'_>| {
            let rows = tx.execute(sql, params![tenant, before.as_nanos(), signed(limit)]).map_err(error(OP))?;
            Ok(unsigned(signed(rows)))
        };
        self.db.write(OP, prune).await
    }
}

fn object(table: &str, names: &[String], r: &Row<'_>) -> forge_sqlite::rusqlite::Result<Value> {
    let mut object = Map::from_iter([("table".to_owned(), Value::from(table))]);
    for (i, name) in names.iter().enumerate() {
        let value = match r.get_ref(i)? {
            ValueRef::Null => Value::Null,
            ValueRef::Integer(n) => n.into(),
            ValueRef::Real(f) => f.into(),
            ValueRef::Text(t) => String::from_utf8_lossy(t).into(),
            ValueRef::Blob(b) => BASE64.encode(b).into(),
        };
        object.insert(name.clone(), value);
    }
    Ok(object.into())
}
