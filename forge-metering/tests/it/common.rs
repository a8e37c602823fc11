//! Contexts and events that the tests share.

use forge_core::usage::{Quantity, Resource, UsageEvent, UsageStatus};
use forge_core::{Currency, EventId, ExecutionContext, Money, OperationKey, RunId, Timestamp};
use rust_decimal::Decimal;

pub(crate) fn ctx(tenant: &str, employee: &str) -> ExecutionContext {
    forge_core::testing::context(tenant, employee, "analyst")
}

pub(crate) fn d(text: &str) -> Decimal {
    Decimal::from_str_exact(text).unwrap()
}

pub(crate) fn usd(text: &str) -> Money {
    Money::new(d(text), Currency::USD)
}

/// The `n`-th event: at second `n`, in run `n % 2`, with every field set.
pub(crate) fn event(ctx: &ExecutionContext, n: u64, cost: Option<Money>) -> UsageEvent {
    UsageEvent {
        id: EventId::fixed(n.into()),
        at: Timestamp::from_nanos(i64::try_from(n).unwrap() * 1_000_000_000 + 7),
        tenant: ctx.tenant().clone(),
        employee: ctx.employee().clone(),
        request: ctx.request_id(),
        run: Some(RunId::fixed((n % 2).into())),
        operation: OperationKey::derived(&[b"test", &n.to_be_bytes()]),
        resource: if n.is_multiple_of(2) { Resource::Tool("weather".into()) } else { Resource::Model("gpt-x".into()) },
        quantity: Quantity { tokens_in: n, tokens_out: 2 * n, chars: 3 * n, tool_calls: 1 },
        latency_ms: n + 5,
        cost,
        status: match n % 3 {
            0 => UsageStatus::Ok,
            1 => UsageStatus::Failed,
            _ if n == 8 => UsageStatus::Cached,
            _ => UsageStatus::Cancelled,
        },
    }
}
