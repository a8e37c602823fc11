//! A web service: the principal comes from a checked token, its context goes with the request, and without one there is a 401.
//!
//! ```sh
//! cargo run --example axum_host
//! ```

#![allow(clippy::print_stdout, reason = "a program that prints what it shows")]

use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Extension, Json, Router};
use forge::prelude::*;
use serde_json::{Value, json};

#[derive(Debug)]
struct Weather;

#[async_trait]
impl Tool for Weather {
    fn spec(&self) -> ToolSpec {
        ToolSpec::new("weather", "current weather of a city").input::<Value>().effect(Effect::Read)
    }

    async fn call(&self, _: &ExecutionContext, call: ToolCall) -> Result<ToolOutput> {
        Ok(json!({ "city": call.args::<Value>()?.get("city"), "sky": "clear" }).into())
    }
}

/// Where a real host checks a session or a signed token. Nothing else of the request may choose the tenant.
fn authenticate(headers: &HeaderMap) -> Option<Principal> {
    match headers.get("authorization")?.to_str().ok()? {
        "Bearer ana-of-acme" => Principal::employee("acme", "ana", "analyst").ok(),
        "Bearer bo-of-acme" => Principal::employee("acme", "bo", "visitor").ok(),
        _ => None,
    }
}

async fn with_context(State(forge): State<Forge>, mut request: Request, next: Next) -> Response {
    let Some(principal) = authenticate(request.headers()) else { return StatusCode::UNAUTHORIZED.into_response() };
    request.extensions_mut().insert(forge.context(principal));
    next.run(request).await
}

async fn call(
    State(forge): State<Forge>,
    Extension(ctx): Extension<ExecutionContext>,
    Path(tool): Path<String>,
    Json(args): Json<Value>,
) -> Response {
    match forge.scope(&ctx).call(&tool, args).await {
        Ok(out) => Json(out.content().clone()).into_response(),
        Err(e) => {
            let status = match e.kind() {
                ErrorKind::PolicyDenied | ErrorKind::ApprovalRequired | ErrorKind::TenantMismatch => {
                    StatusCode::FORBIDDEN
                }
                ErrorKind::NotFound => StatusCode::NOT_FOUND,
                ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
                ErrorKind::QuotaExceeded | ErrorKind::RateLimited => StatusCode::TOO_MANY_REQUESTS,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            (status, Json(json!({ "error": e.kind().as_str() }))).into_response()
        }
    }
}

#[tokio::main]
async fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    let grants = json!({ "grants": { "analyst": ["tool.call:weather"] } });
    let forge =
        Forge::builder().config(Config::in_dir(dir.path())).tenant("acme", grants).tool(Weather).build().await?;
    let app = Router::new()
        .route("/tools/{tool}", post(call))
        .layer(middleware::from_fn_with_state(forge.clone(), with_context))
        .with_state(forge.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}/tools/weather", listener.local_addr()?);
    let serving = tokio::spawn(async move { axum::serve(listener, app).await });

    let http = forge_http::HttpClient::new(forge_http::HttpOptions::default())?;
    let me = forge.context(Principal::employee("acme", "client", "analyst")?);
    for (token, expected) in [("ana-of-acme", 200), ("bo-of-acme", 403), ("nobody", 401)] {
        let request = forge_http::Request::post(&url)?.bearer(forge::core::secret::Secret::new(token));
        let answer = http.send(&me, "example.call", request.json(&json!({ "city": "Lisbon" }))?).await?;
        println!("{token}: {} {}", answer.status(), String::from_utf8_lossy(answer.body()));
        assert_eq!(answer.status(), expected);
    }
    serving.abort();
    forge.shutdown(Duration::from_secs(5)).await?;
    Ok(())
}
