//! The trace that a context belongs to, and the one place that opens a span.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::ExecutionContext;
use crate::id::Digest;
use crate::{Error, Result};

/// W3C trace context: which trace, and which span is the parent of what comes next. Serialised as its `traceparent`.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TraceContext {
    /// Sixteen bytes.
    pub trace_id: u128,
    /// Eight bytes; zero where the trace has no span yet.
    pub span_id: u64,
}

impl TraceContext {
    /// A trace that is the same for the same parts: a resumed run goes on in its old trace.
    pub fn derived(parts: &[&[u8]]) -> Self {
        let digest = Digest::of_parts(parts);
        let trace_id = digest.as_bytes().first_chunk::<16>().map_or(1, |b| u128::from_be_bytes(*b));
        Self { trace_id: trace_id.max(1), span_id: 0 }
    }

    /// The `traceparent` header, version 00, sampled.
    pub fn traceparent(&self) -> String {
        format!("00-{:032x}-{:016x}-01", self.trace_id, self.span_id)
    }
}

impl From<TraceContext> for String {
    fn from(trace: TraceContext) -> Self {
        trace.traceparent()
    }
}

impl TryFrom<String> for TraceContext {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        let wrong =
            || Error::invalid("trace.parse", "expected a traceparent of version 00: 00-<32 hex>-<16 hex>-<2 hex>");
        let parts: Vec<&str> = text.split('-').collect();
        let ["00", trace, span, flags] = parts.as_slice() else { return Err(wrong()) };
        let hex = |s: &str, digits| s.len() == digits && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !hex(trace, 32) || !hex(span, 16) || !hex(flags, 2) {
            return Err(wrong());
        }
        let trace_id = u128::from_str_radix(trace, 16).map_err(|_| wrong())?;
        let span_id = u64::from_str_radix(span, 16).map_err(|_| wrong())?;
        Ok(Self { trace_id, span_id })
    }
}

impl fmt::Debug for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.traceparent())
    }
}

/// Opens a span of the context's trace and returns the context for what runs inside it.
///
/// Ids travel in the context, not in a thread-local, so that a span has its real parent across tasks and processes. The
/// fields are the fixed set that forge-telemetry records: ids, names and digests, never a payload.
pub fn span(ctx: &ExecutionContext, name: &str) -> (ExecutionContext, tracing::Span) {
    span_with_id(ctx, name, fastrand::u64(1..))
}

/// [`span`] with a span id that is the same for the same parts, for a span that outlives a process (a run, a stage).
pub fn derived_span(ctx: &ExecutionContext, name: &str, parts: &[&[u8]]) -> (ExecutionContext, tracing::Span) {
    let digest = Digest::of_parts(parts);
    let id = digest.as_bytes().first_chunk::<8>().map_or(1, |b| u64::from_be_bytes(*b));
    span_with_id(ctx, name, id.max(1))
}

fn span_with_id(ctx: &ExecutionContext, name: &str, span_id: u64) -> (ExecutionContext, tracing::Span) {
    let parent = ctx.trace();
    let span = tracing::info_span!(
        target: "forge",
        parent: None,
        "forge",
        otel.name = name,
        trace_id = format_args!("{:032x}", parent.trace_id),
        span_id = format_args!("{span_id:016x}"),
        parent_span_id = format_args!("{:016x}", parent.span_id),
        tenant = %ctx.tenant(),
        employee = %ctx.employee(),
        request = %ctx.request_id(),
        resource = tracing::field::Empty,
        operation_key = tracing::field::Empty,
        attempt = tracing::field::Empty,
        decision = tracing::field::Empty,
        verdict = tracing::field::Empty,
        error = tracing::field::Empty,
    );
    (ctx.with_trace(TraceContext { trace_id: parent.trace_id, span_id }), span)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_travels_as_its_traceparent() {
        let trace = TraceContext { trace_id: u128::MAX, span_id: u64::MAX };
        let text = serde_json::to_string(&trace).unwrap();
        assert_eq!(text, "\"00-ffffffffffffffffffffffffffffffff-ffffffffffffffff-01\"");
        assert_eq!(serde_json::from_str::<TraceContext>(&text).unwrap(), trace);
        for wrong in [
            "",
            "00",
            "01-0-0-01",
            "00-FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF-ffffffffffffffff-01",
            "00-+fffffffffffffffffffffffffffffff-ffffffffffffffff-01",
        ] {
            assert!(TraceContext::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }
}
