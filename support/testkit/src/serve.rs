//! Serving a router, with answers that can be lost.

use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::response::Parts;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tower::ServiceExt;

use crate::fault::Play;

/// Marks an answer that must not be sent.
#[derive(Clone, Copy)]
struct Lost;

/// Ends the server when it is dropped.
pub(crate) struct Serving {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(crate) async fn serve(app: Router) -> std::io::Result<Serving> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let address = listener.local_addr()?;
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let app = app.clone();
            let service = hyper::service::service_fn(move |request| {
                let app = app.clone();
                async move {
                    let Ok(answer) = app.oneshot(request).await;
                    if answer.extensions().get::<Lost>().is_some() {
                        // hyper closes the connection without a byte
                        return Err(std::io::Error::other("the answer is lost"));
                    }
                    Ok(answer)
                }
            });
            connections.spawn(async move {
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(socket), service).await;
            });
        }
    });
    Ok(Serving { address, task })
}

/// Why a request is refused, for the protocol's own words.
#[derive(Clone, Copy)]
pub(crate) enum Refusal {
    Status(u16),
    Named(&'static str),
}

/// A fault that keeps a request from being done. `body` says it in the protocol's words, and with which status.
pub(crate) fn refusal(play: Option<Play>, body: impl FnOnce(Refusal) -> (u16, Value)) -> Option<Response> {
    let (why, retry_after) = match play? {
        Play::Status(code, retry_after) => (Refusal::Status(code), retry_after),
        Play::Refuse(name) => (Refusal::Named(name), None),
        Play::Throttle(name, wait) => (Refusal::Named(name), Some(wait)),
        _ => return None,
    };
    let (code, body) = body(why);
    let status = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = (status, axum::Json(body)).into_response();
    if let Some(wait) = retry_after {
        answer.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(wait.as_secs()));
    }
    Some(answer)
}

/// A fault of the answer of a request that was done.
pub(crate) async fn faulty(play: Option<Play>, answer: Response) -> Response {
    match play {
        Some(Play::LoseAnswer) => {
            let mut lost = answer;
            lost.extensions_mut().insert(Lost);
            lost
        }
        Some(Play::Truncate) => {
            let (parts, half) = half(answer).await;
            let broken = futures::stream::iter([Ok(half), Err(std::io::Error::other("cut off"))]);
            Response::from_parts(parts, Body::from_stream(broken))
        }
        Some(Play::Shorten) => {
            let (parts, half) = half(answer).await;
            Response::from_parts(parts, half.into())
        }
        Some(Play::Delay(d)) => {
            tokio::time::sleep(d).await;
            answer
        }
        _ => answer,
    }
}

async fn half(answer: Response) -> (Parts, Bytes) {
    let (mut parts, body) = answer.into_parts();
    parts.headers.remove(header::CONTENT_LENGTH);
    let whole = axum::body::to_bytes(body, usize::MAX).await.unwrap_or_default();
    (parts, whole.slice(..whole.len() / 2))
}
