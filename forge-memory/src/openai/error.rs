//! What a refusal of the endpoint means to us.

use forge_core::{Error, ErrorKind, Result, Retryability};
use forge_http::Response;
use serde_json::Value;

/// The answer, or its refusal by status and by the code in its body, which is a word of a list; the message is not repeated, it may
/// quote the request.
pub(super) fn accept(operation: &'static str, answer: Response) -> Result<Response> {
    if (200..300).contains(&answer.status()) {
        return Ok(answer);
    }
    let body: Option<Value> = serde_json::from_slice(answer.body()).ok();
    let code = body.as_ref().and_then(|b| b.pointer("/error/code")).and_then(Value::as_str);
    let code =
        code.filter(|c| !c.is_empty() && c.len() <= 64 && c.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
    let refused = |kind, what: &'static str| Error::new(kind, operation, what).with_retry(Retryability::Never);
    let e = match code {
        // said with 429, and no wait helps
        Some("insufficient_quota") => {
            refused(ErrorKind::QuotaExceeded, "the account at the provider has no credit left")
        }
        Some("context_length_exceeded") => refused(
            ErrorKind::InvalidInput,
            "the request is longer than the model reads; send less or choose another model",
        ),
        Some("model_not_found") => refused(ErrorKind::Config, "the endpoint has no such model; look at its name"),
        Some("content_filter") => refused(ErrorKind::InvalidInput, "the provider's filter refused the request"),
        _ => answer.error(operation),
    };
    Err(match code {
        Some(code) => e.with("code", code.to_owned()),
        None => e,
    })
}
