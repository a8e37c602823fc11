//! An event as a row of the ledger, and back.

use forge_core::usage::{Quantity, Resource, UsageEvent, UsageStatus};
use forge_core::{
    Currency, EmployeeId, Error, EventId, Money, OperationKey, RequestId, Result, RunId, TenantId, Timestamp,
};
use forge_sqlite::rusqlite::{Connection, Row, params};
use forge_sqlite::{corrupt, error};
use serde::Deserialize;
use serde::de::IntoDeserializer;
use serde::de::value::Error as ValueError;

/// Amounts are exact text; nothing here is summed by SQLite.
pub(super) const SCHEMA: &str = "
CREATE TABLE usage_event (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    at INTEGER NOT NULL,
    employee TEXT NOT NULL,
    request TEXT NOT NULL,
    run TEXT,
    operation TEXT NOT NULL,
    kind TEXT NOT NULL,
    resource TEXT NOT NULL,
    tokens_in INTEGER NOT NULL,
    tokens_out INTEGER NOT NULL,
    chars INTEGER NOT NULL,
    tool_calls INTEGER NOT NULL,
    latency_ms INTEGER NOT NULL,
    amount TEXT,
    currency TEXT,
    status TEXT NOT NULL,
    PRIMARY KEY (tenant, id)
) STRICT;
CREATE INDEX usage_event_by_time ON usage_event (tenant, at);
CREATE INDEX usage_event_by_run ON usage_event (tenant, run, at) WHERE run IS NOT NULL;
";

/// In the order that [`read`] expects.
pub(super) const COLUMNS: &str = "tenant, id, at, employee, request, run, operation, kind, resource, tokens_in, tokens_out, chars, tool_calls, latency_ms, amount, currency, status";

const READ: &str = "usage.events";

/// Inserts one; false if the tenant has an event of this id.
pub(super) fn insert(c: &Connection, e: &UsageEvent) -> Result<bool> {
    let sql = format!(
        "INSERT INTO usage_event ({COLUMNS}) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17)
         ON CONFLICT DO NOTHING"
    );
    // exhaustive on purpose: a new field must be stored or the build fails
    let UsageEvent { id, at, tenant, employee, request, run, operation, resource, quantity, latency_ms, cost, status } =
        e;
    let Quantity { tokens_in, tokens_out, chars, tool_calls } = quantity;
    let (kind, name) = match resource {
        Resource::Tool(name) => ("tool", name),
        Resource::Model(name) => ("model", name),
    };
    let values = params![
        tenant.as_str(),
        id.to_string(),
        at.as_nanos(),
        employee.as_str(),
        request.to_string(),
        run.map(|r| r.to_string()),
        operation.as_str(),
        kind,
        name,
        integer(*tokens_in)?,
        integer(*tokens_out)?,
        integer(*chars)?,
        integer(*tool_calls)?,
        integer(*latency_ms)?,
        cost.map(|m| m.amount.to_string()),
        cost.map(|m| m.currency.to_string()),
        status_text(*status),
    ];
    let changed = c.prepare_cached(&sql).and_then(|mut s| s.execute(values)).map_err(error("usage.record"))?;
    Ok(changed > 0)
}

/// One event, from a row of [`COLUMNS`].
pub(super) fn read(row: &Row<'_>) -> Result<UsageEvent> {
    let text = |i: usize| row.get::<_, String>(i).map_err(error(READ));
    let maybe = |i: usize| row.get::<_, Option<String>>(i).map_err(error(READ));
    let money = maybe(14)?.zip(maybe(15)?);
    Ok(UsageEvent {
        tenant: TenantId::parse(text(0)?).map_err(stored("tenant"))?,
        id: EventId::parse(&text(1)?).map_err(stored("id"))?,
        at: Timestamp::from_nanos(row.get(2).map_err(error(READ))?),
        employee: EmployeeId::parse(text(3)?).map_err(stored("employee"))?,
        request: RequestId::parse(&text(4)?).map_err(stored("request"))?,
        run: maybe(5)?.map(|r| RunId::parse(&r)).transpose().map_err(stored("run"))?,
        operation: operation(text(6)?)?,
        resource: match text(7)?.as_str() {
            "tool" => Resource::Tool(text(8)?),
            "model" => Resource::Model(text(8)?),
            _ => return Err(corrupt(READ, "kind")),
        },
        quantity: Quantity {
            tokens_in: unsigned(row, 9)?,
            tokens_out: unsigned(row, 10)?,
            chars: unsigned(row, 11)?,
            tool_calls: unsigned(row, 12)?,
        },
        latency_ms: unsigned(row, 13)?,
        cost: match money {
            Some((amount, currency)) => Some(Money::new(
                super::decimal(READ, &amount)?,
                Currency::parse(&currency).map_err(stored("currency"))?,
            )),
            None => None,
        },
        status: parse_status(&text(16)?)?,
    })
}

fn stored(what: &'static str) -> impl Fn(Error) -> Error {
    move |e| corrupt(READ, what).with_source(e)
}

pub(super) fn operation(text: String) -> Result<OperationKey> {
    let text = IntoDeserializer::<ValueError>::into_deserializer(text);
    OperationKey::deserialize(text).map_err(|e| corrupt(READ, "operation").with_source(e))
}

/// SQLite has signed integers only; no call uses 2^63 of anything.
fn integer(n: u64) -> Result<i64> {
    i64::try_from(n).map_err(|_| Error::invalid("usage.record", "a quantity of 2^63 or more cannot be stored"))
}

fn unsigned(row: &Row<'_>, i: usize) -> Result<u64> {
    let n: i64 = row.get(i).map_err(error(READ))?;
    u64::try_from(n).map_err(|_| corrupt(READ, "quantity"))
}

fn status_text(status: UsageStatus) -> &'static str {
    match status {
        UsageStatus::Ok => "ok",
        UsageStatus::Failed => "failed",
        UsageStatus::Cancelled => "cancelled",
        UsageStatus::Cached => "cached",
    }
}

fn parse_status(text: &str) -> Result<UsageStatus> {
    match text {
        "ok" => Ok(UsageStatus::Ok),
        "failed" => Ok(UsageStatus::Failed),
        "cancelled" => Ok(UsageStatus::Cancelled),
        "cached" => Ok(UsageStatus::Cached),
        _ => Err(corrupt(READ, "status")),
    }
}
