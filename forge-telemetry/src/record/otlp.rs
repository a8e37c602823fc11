//! OTLP's JSON encoding (<https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding>): ids in hex, 64-bit numbers as strings.

use serde_json::{Value, json};

use super::RecordedSpan;

/// SPAN_KIND_INTERNAL.
const INTERNAL: u8 = 1;
/// STATUS_CODE_OK and STATUS_CODE_ERROR.
const OK: u8 = 1;
const ERROR: u8 = 2;

/// Spans as an `ExportTraceServiceRequest`.
pub fn otlp_json(spans: &[RecordedSpan], service_name: &str) -> Value {
    let text = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    json!({
        "resourceSpans": [{
            "resource": { "attributes": [text("service.name", service_name)] },
            "scopeSpans": [{
                "scope": { "name": "forge", "version": env!("CARGO_PKG_VERSION") },
                "spans": spans.iter().map(|s| span(s, &text)).collect::<Vec<_>>(),
            }],
        }],
    })
}

fn span(s: &RecordedSpan, text: &dyn Fn(&str, &str) -> Value) -> Value {
    let attributes: Vec<Value> = s
        .attributes
        .iter()
        .map(|(key, value)| match (key.as_str(), value.parse::<i64>()) {
            ("forge.attempt", Ok(n)) => json!({ "key": key, "value": { "intValue": n.to_string() } }),
            _ => text(key, value),
        })
        .collect();
    let failed = s.attributes.get("error.type");
    let mut out = json!({
        "traceId": s.trace_id,
        "spanId": s.span_id,
        "name": s.name,
        "kind": INTERNAL,
        "startTimeUnixNano": s.start.to_string(),
        "endTimeUnixNano": s.end.to_string(),
        "attributes": attributes,
        "status": failed.map_or_else(|| json!({ "code": OK }), |e| json!({ "code": ERROR, "message": e })),
    });
    let root = s.parent_span_id.bytes().all(|b| b == b'0');
    if let (false, Some(fields)) = (root, out.as_object_mut()) {
        fields.insert("parentSpanId".into(), json!(s.parent_span_id));
    }
    out
}
