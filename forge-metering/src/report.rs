//! Reports that finance reads, and the proof that they equal the events they were made from.

use std::collections::BTreeMap;

use forge_core::usage::UsageEvent;
use forge_core::{Currency, Error, ErrorKind, Result};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

/// A row of the CSV; the columns stand in this order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Row {
    timestamp: String,
    tenant_id: String,
    employee_id: String,
    model: String,
    tokens_in: u64,
    tokens_out: u64,
    latency_ms: u64,
    #[serde(with = "rust_decimal::serde::str_option")]
    cost_estimate: Option<Decimal>,
    tool_calls: u64,
}

impl From<&UsageEvent> for Row {
    fn from(e: &UsageEvent) -> Self {
        Self {
            timestamp: e.at.to_string(),
            tenant_id: e.tenant.to_string(),
            employee_id: e.employee.to_string(),
            model: e.resource.label(),
            tokens_in: e.quantity.tokens_in,
            tokens_out: e.quantity.tokens_out,
            latency_ms: e.latency_ms,
            cost_estimate: e.cost.map(|m| m.amount),
            tool_calls: e.quantity.tool_calls,
        }
    }
}

/// Exact sums of a report.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Sums {
    /// Rows.
    pub rows: u64,
    /// Tokens read by models.
    pub tokens_in: u64,
    /// Tokens written by models.
    pub tokens_out: u64,
    /// Calls of tools.
    pub tool_calls: u64,
    /// Milliseconds of all calls.
    pub latency_ms: u64,
    /// The sum of the costs, in the report's one currency.
    pub cost: Decimal,
    /// Rows without a price.
    pub unpriced: u64,
    /// The sum of the costs by tenant, employee and model.
    #[serde(skip)]
    pub by_payer: BTreeMap<(String, String, String), Decimal>,
}

/// Events as CSV (RFC 4180), with the columns timestamp, tenant_id, employee_id, model, tokens_in, tokens_out, latency_ms,
/// cost_estimate, tool_calls. A tool's row has `tool:<name>` as its model; a row without a price has an empty cost.
///
/// # Errors
/// `InvalidInput` for two currencies: their amounts do not belong in one column.
pub fn usage_csv(events: &[UsageEvent]) -> Result<String> {
    one_currency(events)?;
    let mut out = csv::Writer::from_writer(Vec::new());
    let failed = |e: csv::Error| Error::unexpected("report.csv", "a row cannot be written").with_source(e);
    for event in events {
        out.serialize(Row::from(event)).map_err(failed)?;
    }
    let bytes = out.into_inner().map_err(|_| Error::unexpected("report.csv", "the report cannot be finished"))?;
    String::from_utf8(bytes).map_err(|e| Error::unexpected("report.csv", "the report is not UTF-8").with_source(e))
}

/// Events as JSON, one a line, exact as the ledger holds them.
///
/// # Errors
/// `Unexpected` if an event does not serialise.
pub fn events_jsonl(events: &[UsageEvent]) -> Result<String> {
    let mut out = String::new();
    for event in events {
        out.push_str(
            &serde_json::to_string(event)
                .map_err(|e| Error::unexpected("report.jsonl", "an event does not serialise").with_source(e))?,
        );
        out.push('\n');
    }
    Ok(out)
}

/// Reads both back and proves that they say the same, sum by sum and payer by payer.
///
/// # Errors
/// `Conflict` naming the first sum that differs; `Corrupt` if a line does not parse.
pub fn reconcile(csv: &str, jsonl: &str) -> Result<Sums> {
    let corrupt = |what: &'static str| Error::new(ErrorKind::Corrupt, "report.reconcile", what);
    let mut left = Sums::default();
    for row in csv::Reader::from_reader(csv.as_bytes()).deserialize() {
        let row: Row = row.map_err(|e| corrupt("a line of the CSV does not parse").with_source(e))?;
        left.add(&row)?;
    }
    let mut right = Sums::default();
    let mut events = Vec::new();
    for line in jsonl.lines() {
        let event: UsageEvent =
            serde_json::from_str(line).map_err(|e| corrupt("a line of the events does not parse").with_source(e))?;
        right.add(&Row::from(&event))?;
        events.push(event);
    }
    one_currency(&events)?;
    let pairs = [
        ("rows", left.rows == right.rows),
        ("tokens_in", left.tokens_in == right.tokens_in),
        ("tokens_out", left.tokens_out == right.tokens_out),
        ("tool_calls", left.tool_calls == right.tool_calls),
        ("latency_ms", left.latency_ms == right.latency_ms),
        ("cost_estimate", left.cost == right.cost && left.unpriced == right.unpriced),
        ("by payer", left.by_payer == right.by_payer),
    ];
    match pairs.iter().find(|(_, same)| !same) {
        Some((sum, _)) => {
            Err(Error::new(ErrorKind::Conflict, "report.reconcile", "the report and the events differ")
                .with("sum", *sum))
        }
        None => Ok(left),
    }
}

impl Sums {
    fn add(&mut self, row: &Row) -> Result<()> {
        let overflow = || Error::invalid("report.reconcile", "a sum is too large");
        let more = |a: u64, b: u64| a.checked_add(b).ok_or_else(overflow);
        self.rows = more(self.rows, 1)?;
        self.tokens_in = more(self.tokens_in, row.tokens_in)?;
        self.tokens_out = more(self.tokens_out, row.tokens_out)?;
        self.tool_calls = more(self.tool_calls, row.tool_calls)?;
        self.latency_ms = more(self.latency_ms, row.latency_ms)?;
        let Some(cost) = row.cost_estimate else {
            self.unpriced = more(self.unpriced, 1)?;
            return Ok(());
        };
        self.cost = self.cost.checked_add(cost).ok_or_else(overflow)?;
        let payer = (row.tenant_id.clone(), row.employee_id.clone(), row.model.clone());
        let sum = self.by_payer.entry(payer).or_default();
        *sum = sum.checked_add(cost).ok_or_else(overflow)?;
        Ok(())
    }
}

fn one_currency(events: &[UsageEvent]) -> Result<()> {
    let mut currencies: Vec<Currency> = events.iter().filter_map(|e| e.cost.map(|m| m.currency)).collect();
    currencies.dedup();
    currencies.sort();
    currencies.dedup();
    match currencies.as_slice() {
        [] | [_] => Ok(()),
        [a, b, ..] => Err(Error::invalid("report.csv", "one report has one currency; ask for each by itself")
            .with("first", a.to_string())
            .with("second", b.to_string())),
    }
}
