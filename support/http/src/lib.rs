//! The one HTTP client of Forge: deadlines, `Retry-After`, bounded bodies, redacted errors, single attempts.
//!
//! It never retries (the guard does), never follows a redirect, and tells whether a failed request may have reached the far side:
//! for an effect that cannot be repeated that is the difference between trying again and asking what happened.
//!
//! ```no_run
//! use forge_core::{Principal, ExecutionContext, RequestId};
//! use forge_http::{HttpClient, HttpOptions, Request};
//! # async fn example(ctx: &ExecutionContext) -> forge_core::Result<()> {
//! let http = HttpClient::new(HttpOptions::default())?;
//! let answer = http.send(ctx, "weather.get", Request::get("https://api.example.com/v1/now")?.query("city", "Lisbon")).await?;
//! let body: serde_json::Value = answer.success("weather.get")?.json("weather.get")?;
//! # drop(body); Ok(()) }
//! ```

mod request;
mod response;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use forge_core::{Error, ErrorKind, ExecutionContext, Result};

pub use request::Request;
pub use response::Response;

/// How to connect and how much to read.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct HttpOptions {
    /// Time to connect; 5 seconds by default.
    pub connect_timeout: Duration,
    /// Time for the whole attempt; 30 seconds by default. The guard's limit may be shorter.
    pub timeout: Duration,
    /// Largest body of an answer; 32 MiB by default.
    pub max_body: usize,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self { connect_timeout: Duration::from_secs(5), timeout: Duration::from_secs(30), max_body: 32 * 1024 * 1024 }
    }
}

/// A pool of connections. Cheap to clone.
#[derive(Clone)]
pub struct HttpClient {
    inner: reqwest::Client,
    max_body: usize,
}

impl HttpClient {
    /// A client with TLS by rustls on ring, trusting Mozilla's roots.
    ///
    /// # Errors
    /// `Config` if TLS cannot be set up.
    pub fn new(options: HttpOptions) -> Result<Self> {
        let config = |e: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(ErrorKind::Config, "http.new", "the HTTP client cannot be set up").with_source(e)
        };
        let roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| config(e.into()))?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let inner = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            .user_agent(concat!("forge/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|e| config(e.into()))?;
        Ok(Self { inner, max_body: options.max_body })
    }

    /// Makes one attempt. The answer comes back whatever its status; see [`Response::success`].
    ///
    /// Dropping the future closes the connection; the far side may have acted all the same.
    ///
    /// # Errors
    /// `Unavailable` if it could not be sent, with the fact `sent=no`; `Unavailable` or `Timeout` with `sent=unknown` if it was
    /// and no whole answer came; `InvalidInput` if the answer is too large.
    pub async fn send(&self, ctx: &ExecutionContext, operation: &'static str, request: Request) -> Result<Response> {
        let place = request.place();
        let at = |e: Error| e.with("url", place.clone());
        let request = request.build(&self.inner, ctx)?;
        let answer = self.inner.execute(request).await.map_err(|e| at(lost(operation, e)))?;
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        let mut body = Vec::new();
        let mut answer = answer;
        while let Some(part) = answer.chunk().await.map_err(|e| at(lost(operation, e)))? {
            if body.len() + part.len() > self.max_body {
                return Err(at(
                    Error::invalid(operation, "the answer is too large").with("limit", self.max_body.to_string())
                ));
            }
            body.extend_from_slice(&part);
        }
        Ok(Response::new(status, headers, body.into(), place))
    }
}

/// Whether an error says that the request may have reached the far side.
pub fn may_have_been_sent(error: &Error) -> bool {
    error.context().any(|(k, v)| k == "sent" && v == "unknown")
}

/// A transport's error; its URL goes, because a query may hold a secret.
fn lost(operation: &'static str, e: reqwest::Error) -> Error {
    let sent = if e.is_connect() || e.is_builder() || e.is_request() && !e.is_timeout() && never_sent(&e) {
        "no"
    } else {
        "unknown"
    };
    let (kind, what) = match (e.is_timeout(), sent) {
        (true, _) => (ErrorKind::Timeout, "no answer in time"),
        (false, "no") => (ErrorKind::Unavailable, "the server cannot be reached"),
        (false, _) => (ErrorKind::Unavailable, "the connection broke before the answer was complete"),
    };
    Error::new(kind, operation, what).with("sent", sent).with_source(e.without_url())
}

/// Hyper says so when a connection was closed before any byte of the request was written.
fn never_sent(e: &reqwest::Error) -> bool {
    let mut source = std::error::Error::source(e);
    while let Some(s) = source {
        if s.to_string().contains("connection was not ready") {
            return true;
        }
        source = s.source();
    }
    false
}

impl fmt::Debug for HttpClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpClient")
    }
}
