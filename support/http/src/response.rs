//! What came back, and what its status means.

use std::fmt;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use forge_core::{Clock, Error, ErrorKind, Result, Retryability, SystemClock};
use reqwest::header::HeaderMap;
use serde::de::DeserializeOwned;

/// A whole answer. `Debug` shows the status and the size only.
pub struct Response {
    status: u16,
    headers: HeaderMap,
    body: Bytes,
    place: String,
}

impl Response {
    pub(crate) fn new(status: u16, headers: HeaderMap, body: Bytes, place: String) -> Self {
        Self { status, headers, body, place }
    }

    /// The status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// A header, if it is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Parses the body.
    ///
    /// # Errors
    /// `Unexpected` if it has another shape; the body is not repeated.
    pub fn json<T: DeserializeOwned>(&self, operation: &'static str) -> Result<T> {
        serde_json::from_slice(&self.body).map_err(|e| {
            Error::unexpected(operation, "the answer is not the JSON that was expected")
                .with("url", self.place.clone())
                .with("status", self.status.to_string())
                .with("line", e.line().to_string())
                .with("column", e.column().to_string())
        })
    }

    /// How long the server asks to wait (RFC 9110, 10.2.3: seconds or a date). A date is read by the server's own clock where it
    /// sent its `Date`, since ours may differ.
    pub fn retry_after(&self) -> Option<Duration> {
        let value = self.header("retry-after")?.trim();
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let ours = || Duration::from_nanos(u64::try_from(SystemClock.now().as_nanos()).unwrap_or(0));
        let now = self.header("date").and_then(since_epoch).unwrap_or_else(ours);
        Some(since_epoch(value)?.saturating_sub(now))
    }

    /// The answer, if its status is a success.
    ///
    /// # Errors
    /// [`Response::error`].
    pub fn success(self, operation: &'static str) -> Result<Self> {
        if (200..300).contains(&self.status) { Ok(self) } else { Err(self.error(operation)) }
    }

    /// What the status means: 401 and 403 `Unauthenticated`, 404 and 410 `NotFound`, 408 `Timeout`, 409 `Conflict`, 429 `RateLimited`, other
    /// 4xx `InvalidInput`, 5xx `Unavailable`, anything else `Unexpected`; with `Retry-After` where the server says it.
    pub fn error(&self, operation: &'static str) -> Error {
        let (kind, what) = match self.status {
            401 | 403 => (ErrorKind::Unauthenticated, "the server does not accept the credentials for this"),
            404 | 410 => (ErrorKind::NotFound, "the server has no such thing"),
            408 => (ErrorKind::Timeout, "the server gave up waiting"),
            409 => (ErrorKind::Conflict, "the server's state is another"),
            429 => (ErrorKind::RateLimited, "the server asks for fewer calls"),
            400..500 => (ErrorKind::InvalidInput, "the server does not accept the request"),
            500..600 => (ErrorKind::Unavailable, "the server failed"),
            _ => (ErrorKind::Unexpected, "the server answered with a status that this call does not have"),
        };
        let e =
            Error::new(kind, operation, what).with("url", self.place.clone()).with("status", self.status.to_string());
        match (e.retry(), self.retry_after()) {
            (Retryability::Transient, Some(d)) => e.with_retry(Retryability::After(d)),
            _ => e,
        }
    }
}

fn since_epoch(date: &str) -> Option<Duration> {
    httpdate::parse_http_date(date).ok()?.duration_since(SystemTime::UNIX_EPOCH).ok()
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Response({}, {} bytes)", self.status, self.body.len())
    }
}
