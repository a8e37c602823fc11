//! What was used, what it costs, and how much is left: the ledger, the prices and the quotas.

use std::fmt;

use async_trait::async_trait;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};

use crate::audit::Durability;
use crate::money::Money;
use crate::slot::Slot;
use crate::{
    Adapter, EmployeeId, EventId, ExecutionContext, OperationKey, RequestId, Result, RunId, TenantId, Timestamp,
};

/// What is paid for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Resource {
    /// A tool, by name.
    Tool(String),
    /// A model, by the name that the provider reports.
    Model(String),
}

impl Resource {
    /// The `model` column of usage reports: the model's name, or `tool:<name>`.
    pub fn label(&self) -> String {
        match self {
            Self::Tool(name) => format!("tool:{name}"),
            Self::Model(name) => name.clone(),
        }
    }
}

/// How much of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Quantity {
    /// Tokens read by a model, as its provider counts them.
    pub tokens_in: u64,
    /// Tokens written by a model, as its provider counts them.
    pub tokens_out: u64,
    /// Characters read and written where there are no tokens.
    pub chars: u64,
    /// Calls of a tool.
    pub tool_calls: u64,
}

impl Quantity {
    /// One call of a tool.
    pub const TOOL_CALL: Self = Self { tokens_in: 0, tokens_out: 0, chars: 0, tool_calls: 1 };
}

/// How the call that used it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageStatus {
    /// Answered.
    Ok,
    /// Failed after it was begun.
    Failed,
    /// Dropped or cancelled after it was begun.
    Cancelled,
    /// Answered from a cache: nothing was used.
    Cached,
}

/// One entry of the ledger. No payload and no personal data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageEvent {
    /// Derived from the operation and what makes it billable: recorded twice, it counts once.
    pub id: EventId,
    /// When the call ended.
    pub at: Timestamp,
    /// Who pays.
    pub tenant: TenantId,
    /// Who caused it.
    pub employee: EmployeeId,
    /// In which request.
    pub request: RequestId,
    /// In which run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run: Option<RunId>,
    /// Which call.
    pub operation: OperationKey,
    /// Of what.
    pub resource: Resource,
    /// How much.
    pub quantity: Quantity,
    /// How long it took.
    pub latency_ms: u64,
    /// At the price of that time; `None` where the price book has none, which is an error event, not a zero.
    pub cost: Option<Money>,
    /// How it ended.
    pub status: UsageStatus,
}

/// Sums of a set of events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageTotals {
    /// How many events.
    pub events: u64,
    /// The sum of what they used.
    pub quantity: Quantity,
    /// The sum of their costs, one entry a currency, sorted.
    pub cost: Vec<Money>,
    /// How many have no price.
    pub unpriced: u64,
}

/// Which events.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct UsageQuery {
    /// From this time on.
    pub from: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
    /// Of this employee.
    pub employee: Option<EmployeeId>,
    /// Of this run.
    pub run: Option<RunId>,
}

impl UsageQuery {
    /// Of one run.
    #[must_use]
    pub fn with_run(mut self, run: RunId) -> Self {
        self.run = Some(run);
        self
    }

    /// Of one employee.
    #[must_use]
    pub fn with_employee(mut self, employee: EmployeeId) -> Self {
        self.employee = Some(employee);
        self
    }

    /// In `from <= at < until`.
    #[must_use]
    pub fn with_time(mut self, from: Timestamp, until: Timestamp) -> Self {
        (self.from, self.until) = (Some(from), Some(until));
        self
    }
}

/// What a ledger can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct LedgerCapability {
    /// Events survive a crash.
    pub durable: bool,
}

impl LedgerCapability {
    /// The ability, named.
    pub const fn new(durable: bool) -> Self {
        Self { durable }
    }
}

/// The durable record of usage.
///
/// # Contract
/// An event with the id of a stored one is not counted again; with the same id and other contents it is a `Conflict`. An
/// event's tenant must be the context's (`TenantMismatch`). Queries see the context's tenant only. Sums are exact decimals.
#[async_trait]
pub trait UsageLedger: Adapter {
    /// Room for the events of one call, which a drop may fill later.
    ///
    /// # Errors
    /// `Unavailable` if the ledger cannot take more; the call must not be made.
    async fn reserve(&self, ctx: &ExecutionContext) -> Result<Slot<Vec<UsageEvent>>>;

    /// Records events; durable when it returns. All or none.
    ///
    /// # Errors
    /// `Unavailable`, `TenantMismatch`, `Conflict`.
    async fn record(&self, ctx: &ExecutionContext, events: Vec<UsageEvent>) -> Result<()>;

    /// Events, oldest first, at most `limit`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn events(&self, ctx: &ExecutionContext, query: &UsageQuery, limit: usize) -> Result<Vec<UsageEvent>>;

    /// Exact sums over all events that the query matches.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn totals(&self, ctx: &ExecutionContext, query: &UsageQuery) -> Result<UsageTotals>;

    /// Waits until everything filled into slots so far is on the disk: a tenant's, or everybody's with `None`.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn flush(&self, tenant: Option<&TenantId>) -> Result<()>;

    /// What it can do.
    fn capability(&self) -> LedgerCapability;
}

/// What things cost.
///
/// # Contract
/// Exact decimals; the price that held at `at`. `None` where there is no price, never zero instead.
pub trait Pricing: fmt::Debug + Send + Sync + 'static {
    /// The cost of so much of a resource at a time.
    ///
    /// # Errors
    /// `InvalidInput` if the product does not fit in 28 digits.
    fn quote(&self, resource: &Resource, quantity: &Quantity, at: Timestamp) -> Result<Option<Money>>;
}

/// What a call asks to be allowed to use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotaRequest {
    /// Which call; reserving again for the same one, while it is held, takes nothing more.
    pub operation: OperationKey,
    /// Of what.
    pub resource: Resource,
    /// At most how much.
    pub quantity: Quantity,
    /// At most at this cost, where a price is known.
    pub cost: Option<Money>,
    /// `Durable` for an effect: what it holds is on the disk before it is made. `Enqueued` for a read: a crash forgets it.
    pub durability: Durability,
}

/// What is left of the limit that binds first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QuotaState {
    /// Calls left in the window; `None` without a limit.
    pub calls_left: Option<u64>,
    /// Tokens left in the window.
    pub tokens_left: Option<u64>,
    /// Money left in the window.
    pub money_left: Option<Decimal>,
    /// When the window begins anew.
    pub resets: Option<Timestamp>,
}

/// What was really used, to settle a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Actual {
    /// How much.
    pub quantity: Quantity,
    /// At what cost.
    pub cost: Option<Money>,
}

/// A reservation. Dropped unsettled, it gives everything back.
#[derive(Debug)]
pub struct Permit(Option<Slot<Actual>>);

impl Permit {
    /// A permit that reports to `slot`.
    pub fn new(slot: Slot<Actual>) -> Self {
        Self(Some(slot))
    }

    /// Settles what was really used.
    pub fn settle(mut self, actual: Actual) {
        if let Some(slot) = self.0.take() {
            slot.fill(actual);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(slot) = self.0.take() {
            slot.fill(Actual::default());
        }
    }
}

/// What a quota backend can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct QuotaCapability {
    /// Limits hold over all processes that share the store.
    pub shared: bool,
}

impl QuotaCapability {
    /// The ability, named.
    pub const fn new(shared: bool) -> Self {
        Self { shared }
    }
}

/// Limits by tenant and employee.
///
/// # Contract
/// What is reserved and not yet settled counts as used. A refusal is `QuotaExceeded` and takes nothing. One tenant's use
/// never changes another's state.
#[async_trait]
pub trait Quota: Adapter {
    /// What is left, without taking.
    ///
    /// # Errors
    /// `Unavailable`.
    async fn peek(&self, ctx: &ExecutionContext, resource: &Resource) -> Result<QuotaState>;

    /// Sets the asked amount aside.
    ///
    /// # Errors
    /// `QuotaExceeded`, `Unavailable`.
    async fn reserve(&self, ctx: &ExecutionContext, request: QuotaRequest) -> Result<Permit>;

    /// What it can do.
    fn capability(&self) -> QuotaCapability;
}
