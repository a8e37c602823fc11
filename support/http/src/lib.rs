#![cfg_attr(docsrs, feature(doc_cfg))]
#![doc = include_str!("../README.md")]

mod request;
mod response;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use forge_core::secret::Secret;
use forge_core::{Error, ErrorKind, ExecutionContext, Result};

pub use request::Request;
pub use response::Response;

/// How to connect and how much to read. The environment is not asked: a proxy is named here or there is none.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct HttpOptions {
    /// Time to connect; 5 seconds by default.
    pub connect_timeout: Duration,
    /// Time for the whole attempt; 30 seconds by default. The guard's limit may be shorter.
    pub timeout: Duration,
    /// Largest body of an answer; 32 MiB by default. [`Request::max_body`] may ask for less.
    pub max_body: usize,
    /// The URL of a proxy for every request, with its password if it has one; none by default.
    pub proxy: Option<Secret>,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            timeout: Duration::from_secs(30),
            max_body: 32 * 1024 * 1024,
            proxy: None,
        }
    }
}

/// A pool of connections. Cheap to clone.
#[derive(Clone)]
pub struct HttpClient {
    inner: reqwest::Client,
    max_body: usize,
}

impl HttpClient {
    /// A client with TLS by rustls on ring, trusting Mozilla's roots. Speaks HTTP/1.1, keeps no cookies.
    ///
    /// # Errors
    /// `Config` if TLS cannot be set up or the proxy is no URL.
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
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(options.connect_timeout)
            .timeout(options.timeout)
            .user_agent(concat!("forge/", env!("CARGO_PKG_VERSION")));
        if let Some(proxy) = &options.proxy {
            // the source would repeat the URL
            let wrong = |_| Error::new(ErrorKind::Config, "http.new", "give the proxy as an http or https URL");
            builder = builder.proxy(reqwest::Proxy::all(proxy.expose()).map_err(wrong)?);
        }
        let inner = builder.build().map_err(|e| config(e.into()))?;
        Ok(Self { inner, max_body: options.max_body })
    }

    /// Makes one attempt. The answer comes back whatever its status; see [`Response::success`].
    ///
    /// Carries `traceparent` where the context has a span. Dropping the future closes the connection; the far side may have acted
    /// all the same.
    ///
    /// # Errors
    /// `Unavailable`, or `Timeout` while connecting, with the fact `sent=no` if it could not be sent; the same two with
    /// `sent=unknown` if it may have been and no whole answer came ([`may_have_been_sent`] tells them apart); `InvalidInput`, also
    /// with `sent=unknown`, if the answer is too large; `InvalidInput` if a header or the URL is not valid.
    pub async fn send(&self, ctx: &ExecutionContext, operation: &'static str, request: Request) -> Result<Response> {
        let place = request.place();
        let limit = request.limit(self.max_body);
        let at = |e: Error| e.with("url", place.clone());
        let too_large = || {
            at(Error::invalid(operation, "the answer is too large")
                .with("limit", limit.to_string())
                .with("sent", UNKNOWN))
        };
        let request = request.build(&self.inner, ctx)?;
        let mut answer = self.inner.execute(request).await.map_err(|e| at(lost(operation, e)))?;
        let status = answer.status().as_u16();
        let headers = answer.headers().clone();
        if answer.content_length().is_some_and(|n| usize::try_from(n).map_or(true, |n| n > limit)) {
            return Err(too_large());
        }
        let mut body = Vec::new();
        while let Some(part) = answer.chunk().await.map_err(|e| at(lost(operation, e)))? {
            if body.len() + part.len() > limit {
                return Err(too_large());
            }
            body.extend_from_slice(&part);
        }
        Ok(Response::new(status, headers, body.into(), place))
    }
}

const UNKNOWN: &str = "unknown";

/// Whether an error says that the request may have reached the far side: of an effect that cannot be repeated, its outcome is then
/// unknown.
pub fn may_have_been_sent(error: &Error) -> bool {
    error.context().any(|(k, v)| k == "sent" && v == UNKNOWN)
}

/// A transport's error; its URL goes, because a query may hold a secret.
fn lost(operation: &'static str, e: reqwest::Error) -> Error {
    let sent = if e.is_connect() || e.is_builder() || e.is_request() && !e.is_timeout() && never_sent(&e) {
        "no"
    } else {
        UNKNOWN
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
