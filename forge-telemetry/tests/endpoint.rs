//! `/metrics` over a real socket.
#![cfg(feature = "axum")]

use std::sync::Arc;

use forge_core::metrics::{Metric, Metrics};
use forge_telemetry::{CONTENT_TYPE, PrometheusMetrics, router};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[tokio::test]
async fn it_is_served_with_its_content_type() {
    let metrics = Arc::new(PrometheusMetrics::new());
    metrics.add(Metric::Runs, &["acme", "review", "ok"], 1.0);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move { axum::serve(listener, router(metrics)).await });
    let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    server.abort();
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("# EOF\n"), "{answer}");
    assert!(answer.to_lowercase().contains(&format!("\r\ncontent-type: {CONTENT_TYPE}\r\n")), "{answer}");
    assert!(
        answer.contains(r#"forge_workflow_runs_total{tenant="acme",resource="review",result="ok"} 1.0"#),
        "{answer}"
    );
}
