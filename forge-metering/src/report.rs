//! Usage as files: a CSV for people, JSON lines for programs, and the proof that both say the same.
//!
//! ```
//! use forge_metering::report;
//! let events: [forge_core::usage::UsageEvent; 0] = []; // from a ledger
//! let (csv, jsonl) = (report::usage_csv(&events)?, report::events_jsonl(&events)?);
//! assert_eq!(report::reconcile(&csv, &jsonl)?.rows, 0);
//! # Ok::<(), forge_core::Error>(())
//! ```

use std::collections::BTreeMap;

use csv::{ReaderBuilder, Terminator, WriterBuilder};
use forge_core::usage::UsageEvent;
use forge_core::{Currency, EmployeeId, Error, ErrorKind, Money, Result, TenantId, Timestamp};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::exact;

const COLUMNS: [&str; 9] = [
    "timestamp",
    "tenant_id",
    "employee_id",
    "model",
    "tokens_in",
    "tokens_out",
    "latency_ms",
    "cost_estimate",
    "tool_calls",
];

/// One row of the CSV. The cost is text: a typed field would be guessed to be a float.
#[derive(Serialize, Deserialize)]
struct Row {
    timestamp: Timestamp,
    tenant_id: TenantId,
    employee_id: EmployeeId,
    model: String,
    tokens_in: u64,
    tokens_out: u64,
    latency_ms: u64,
    cost_estimate: Option<String>,
    tool_calls: u64,
}

/// One row an event, in the order given: RFC 4180 with a header, a tool as `tool:<name>` in the column `model`, costs
/// exact and empty where there is no price. A text that a spreadsheet would run as a formula begins with an apostrophe.
///
/// The columns name no currency, so a file has one.
///
/// # Errors
/// `InvalidInput` for two currencies.
pub fn usage_csv(events: &[UsageEvent]) -> Result<String> {
    one_currency(events)?;
    let broken = |e: csv::Error| Error::unexpected("report.usage_csv", "the rows do not serialise").with_source(e);
    let mut out = WriterBuilder::new().has_headers(false).terminator(Terminator::CRLF).from_writer(Vec::new());
    out.write_record(COLUMNS).map_err(broken)?;
    for e in events {
        let row = Row {
            timestamp: e.at,
            tenant_id: e.tenant.clone(),
            employee_id: e.employee.clone(),
            model: defused(e.resource.label()),
            tokens_in: e.quantity.tokens_in,
            tokens_out: e.quantity.tokens_out,
            latency_ms: e.latency_ms,
            cost_estimate: e.cost.map(|c| c.amount.to_string()),
            tool_calls: e.quantity.tool_calls,
        };
        out.serialize(row).map_err(broken)?;
    }
    let bytes = out.into_inner().map_err(|e| broken(e.into_error().into()))?;
    String::from_utf8(bytes).map_err(|e| Error::unexpected("report.usage_csv", "the rows are not UTF-8").with_source(e))
}

/// One JSON object a line, with every field of the event.
///
/// # Errors
/// `Unexpected` if an event does not serialise.
pub fn events_jsonl(events: &[UsageEvent]) -> Result<String> {
    let mut out = String::new();
    for e in events {
        let line = serde_json::to_string(e)
            .map_err(|e| Error::unexpected("report.events_jsonl", "an event does not serialise").with_source(e))?;
        out.push_str(&line);
        out.push('\n');
    }
    Ok(out)
}

/// What a CSV and its JSON lines agree on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Reconciliation {
    /// Rows, which is events.
    pub rows: u64,
    /// Tokens read.
    pub tokens_in: u64,
    /// Tokens written.
    pub tokens_out: u64,
    /// Calls of tools.
    pub tool_calls: u64,
    /// The exact sum of the costs; `None` where nothing has a price.
    pub cost: Option<Money>,
    /// Rows without a price.
    pub unpriced: u64,
}

/// Reads both files back and proves that they agree to the last digit, for each tenant and employee and in sum.
///
/// # Errors
/// `Conflict` if they differ, with the first figure that does; `InvalidInput` if one does not parse.
pub fn reconcile(csv: &str, jsonl: &str) -> Result<Reconciliation> {
    let events = parse_jsonl(jsonl)?;
    let currency = one_currency(&events)?;
    let (left, right) = (Sums::of_csv(csv)?, Sums::of_events(&events)?);
    for (employee, (a, b)) in pairs(&left, &right) {
        for (name, a, b) in a.figures(&b) {
            if a != b {
                return Err(Error::new(ErrorKind::Conflict, "report.reconcile", "the two reports differ")
                    .with("figure", name)
                    .with("tenant", employee.0.to_string())
                    .with("csv", a)
                    .with("jsonl", b));
            }
        }
    }
    let mut all = Sums::default();
    for sums in left.values() {
        all.join(sums)?;
    }
    Ok(Reconciliation {
        rows: all.rows,
        tokens_in: all.tokens_in,
        tokens_out: all.tokens_out,
        tool_calls: all.tool_calls,
        cost: currency.map(|c| Money::new(all.cost, c)),
        unpriced: all.unpriced,
    })
}

type Who = (TenantId, EmployeeId);

#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Sums {
    rows: u64,
    tokens_in: u64,
    tokens_out: u64,
    latency_ms: u64,
    tool_calls: u64,
    cost: Decimal,
    unpriced: u64,
}

impl Sums {
    fn of_csv(text: &str) -> Result<BTreeMap<Who, Self>> {
        let wrong = |e: csv::Error| Error::invalid("report.reconcile", "the CSV does not parse").with_source(e);
        let mut reader = ReaderBuilder::new().from_reader(text.as_bytes());
        if reader.headers().map_err(wrong)? != COLUMNS.as_slice() {
            return Err(Error::invalid("report.reconcile", "the CSV has other columns than a usage report"));
        }
        let mut sums = BTreeMap::<Who, Self>::new();
        for row in reader.deserialize() {
            let row: Row = row.map_err(wrong)?;
            let cost = row.cost_estimate.map(|c| Decimal::from_str_exact(&c)).transpose();
            let cost = cost.map_err(|_| Error::invalid("report.reconcile", "a cost_estimate is not a decimal"))?;
            sums.entry((row.tenant_id, row.employee_id)).or_default().join(&Self {
                rows: 1,
                tokens_in: row.tokens_in,
                tokens_out: row.tokens_out,
                latency_ms: row.latency_ms,
                tool_calls: row.tool_calls,
                cost: cost.unwrap_or_default(),
                unpriced: u64::from(cost.is_none()),
            })?;
        }
        Ok(sums)
    }

    fn of_events(events: &[UsageEvent]) -> Result<BTreeMap<Who, Self>> {
        let mut sums = BTreeMap::<Who, Self>::new();
        for e in events {
            sums.entry((e.tenant.clone(), e.employee.clone())).or_default().join(&Self {
                rows: 1,
                tokens_in: e.quantity.tokens_in,
                tokens_out: e.quantity.tokens_out,
                latency_ms: e.latency_ms,
                tool_calls: e.quantity.tool_calls,
                cost: e.cost.map_or(Decimal::ZERO, |c| c.amount),
                unpriced: u64::from(e.cost.is_none()),
            })?;
        }
        Ok(sums)
    }

    fn join(&mut self, other: &Self) -> Result<()> {
        let joined = || {
            Some(Self {
                rows: self.rows.checked_add(other.rows)?,
                tokens_in: self.tokens_in.checked_add(other.tokens_in)?,
                tokens_out: self.tokens_out.checked_add(other.tokens_out)?,
                latency_ms: self.latency_ms.checked_add(other.latency_ms)?,
                tool_calls: self.tool_calls.checked_add(other.tool_calls)?,
                cost: exact::add(self.cost, other.cost)?,
                unpriced: self.unpriced.checked_add(other.unpriced)?,
            })
        };
        *self = joined().ok_or_else(|| Error::invalid("report.reconcile", "a sum is too large to be exact"))?;
        Ok(())
    }

    fn figures(&self, other: &Self) -> [(&'static str, String, String); 7] {
        [
            ("rows", self.rows.to_string(), other.rows.to_string()),
            ("tokens_in", self.tokens_in.to_string(), other.tokens_in.to_string()),
            ("tokens_out", self.tokens_out.to_string(), other.tokens_out.to_string()),
            ("latency_ms", self.latency_ms.to_string(), other.latency_ms.to_string()),
            ("tool_calls", self.tool_calls.to_string(), other.tool_calls.to_string()),
            ("cost", self.cost.to_string(), other.cost.to_string()),
            ("unpriced", self.unpriced.to_string(), other.unpriced.to_string()),
        ]
    }
}

fn pairs(left: &BTreeMap<Who, Sums>, right: &BTreeMap<Who, Sums>) -> BTreeMap<Who, (Sums, Sums)> {
    let mut pairs = BTreeMap::<Who, (Sums, Sums)>::new();
    for (who, sums) in left {
        pairs.entry(who.clone()).or_default().0 = sums.clone();
    }
    for (who, sums) in right {
        pairs.entry(who.clone()).or_default().1 = sums.clone();
    }
    pairs
}

fn parse_jsonl(text: &str) -> Result<Vec<UsageEvent>> {
    let parse = |(n, line): (usize, &str)| {
        serde_json::from_str(line).map_err(|e| {
            Error::invalid("report.reconcile", "the JSON lines do not parse")
                .with("line", (n + 1).to_string())
                .with_source(e)
        })
    };
    text.lines().enumerate().map(parse).collect()
}

fn one_currency(events: &[UsageEvent]) -> Result<Option<Currency>> {
    let mut found = None;
    for currency in events.iter().filter_map(|e| e.cost.map(|c| c.currency)) {
        if *found.get_or_insert(currency) != currency {
            return Err(Error::invalid("report.usage_csv", "two currencies in one file; make one file for each"));
        }
    }
    Ok(found)
}

/// A model's name comes from its provider: a spreadsheet must not run it.
fn defused(text: String) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']) { format!("'{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_defused_and_names_are_not() {
        for bad in ["=1+1", "+1", "-1", "@sum", "\t=1", "\r=1"] {
            assert_eq!(defused(bad.into()), format!("'{bad}"));
        }
        assert_eq!(defused("tool:a-b".into()), "tool:a-b");
    }
}
