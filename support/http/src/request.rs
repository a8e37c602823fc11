//! What is asked.

use std::fmt;

use bytes::Bytes;
use forge_core::secret::Secret;
use forge_core::{Error, ExecutionContext, Result};
use reqwest::{Method, Url};
use serde::Serialize;

/// A request. `Debug` shows method, host and path only.
pub struct Request {
    method: Method,
    url: Url,
    headers: Vec<(&'static str, String)>,
    bearer: Option<Secret>,
    body: Option<(&'static str, Bytes)>,
    max_body: Option<usize>,
}

impl Request {
    /// A GET.
    ///
    /// # Errors
    /// `InvalidInput` if it is no absolute http or https URL.
    pub fn get(url: impl AsRef<str>) -> Result<Self> {
        Self::new(Method::GET, url.as_ref())
    }

    /// A POST.
    ///
    /// # Errors
    /// `InvalidInput` if it is no absolute http or https URL.
    pub fn post(url: impl AsRef<str>) -> Result<Self> {
        Self::new(Method::POST, url.as_ref())
    }

    fn new(method: Method, url: &str) -> Result<Self> {
        let wrong =
            || Error::invalid("http.request", "expected an absolute http or https URL without user and password");
        let url = Url::parse(url).map_err(|_| wrong())?;
        let plain = url.username().is_empty() && url.password().is_none();
        if !matches!(url.scheme(), "http" | "https") || !url.has_host() || !plain {
            return Err(wrong());
        }
        Ok(Self { method, url, headers: Vec::new(), bearer: None, body: None, max_body: None })
    }

    /// Appends a segment to the path, encoded: nothing in it can leave its place.
    #[must_use]
    pub fn segment(mut self, segment: &str) -> Self {
        if let Ok(mut path) = self.url.path_segments_mut() {
            path.pop_if_empty().push(segment);
        }
        self
    }

    /// Adds a query parameter, encoded.
    #[must_use]
    pub fn query(mut self, key: &str, value: &str) -> Self {
        self.url.query_pairs_mut().append_pair(key, value);
        self
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Authenticates by a bearer token.
    #[must_use]
    pub fn bearer(mut self, token: Secret) -> Self {
        self.bearer = Some(token);
        self
    }

    /// Sends JSON.
    ///
    /// # Errors
    /// `InvalidInput` if it does not serialise.
    pub fn json(mut self, body: &impl Serialize) -> Result<Self> {
        let bytes = serde_json::to_vec(body)
            .map_err(|e| Error::invalid("http.request", "the body does not serialise").with_source(e))?;
        self.body = Some(("application/json; charset=utf-8", bytes.into()));
        Ok(self)
    }

    /// Sends a form.
    #[must_use]
    pub fn form(mut self, pairs: &[(&str, &str)]) -> Self {
        // the URL library's own encoder of pairs
        let mut url = self.url.clone();
        url.query_pairs_mut().clear().extend_pairs(pairs);
        let body = url.query().unwrap_or_default().to_owned();
        self.body = Some(("application/x-www-form-urlencoded", body.into()));
        self
    }

    /// Reads at most this many bytes of the answer, where that is less than the client's own limit.
    #[must_use]
    pub fn max_body(mut self, bytes: usize) -> Self {
        self.max_body = Some(bytes);
        self
    }

    pub(crate) fn limit(&self, most: usize) -> usize {
        self.max_body.map_or(most, |n| n.min(most))
    }

    /// Host and path, for errors.
    pub(crate) fn place(&self) -> String {
        format!("{}{}", self.url.host_str().unwrap_or_default(), self.url.path())
    }

    pub(crate) fn build(self, client: &reqwest::Client, ctx: &ExecutionContext) -> Result<reqwest::Request> {
        let mut request = client.request(self.method, self.url);
        // W3C trace context: a parent of zeros is no parent
        if ctx.trace().span_id != 0 {
            request = request.header("traceparent", ctx.trace().traceparent());
        }
        for (name, value) in self.headers {
            request = request.header(name, value);
        }
        if let Some(token) = self.bearer {
            request = request.bearer_auth(token.expose());
        }
        if let Some((content_type, body)) = self.body {
            request = request.header("content-type", content_type).body(body);
        }
        request.build().map_err(|e| {
            Error::invalid("http.request", "a header or the URL is not valid").with_source(e.without_url())
        })
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.place())
    }
}
