//! Statuses, limits and lost connections, over real sockets.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::time::Duration;

use axum::Router;
use axum::http::StatusCode;
use axum::routing::get;
use forge_core::secret::Secret;
use forge_core::testing::context;
use forge_core::{ErrorKind, Retryability};
use forge_http::{HttpClient, HttpOptions, Request, may_have_been_sent};

async fn serve(app: Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, app).await });
    base
}

fn client() -> HttpClient {
    let mut options = HttpOptions::default();
    options.max_body = 1000;
    options.timeout = Duration::from_millis(500);
    HttpClient::new(options).unwrap()
}

#[tokio::test]
async fn a_status_is_a_kind_and_retry_after_is_heard() {
    let app = Router::new()
        .route("/429", get(|| async { (StatusCode::TOO_MANY_REQUESTS, [("retry-after", "7")], "") }))
        .route(
            "/503",
            get(|| async { (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "Fri, 31 Dec 2100 23:59:59 GMT")], "") }),
        )
        .route("/401", get(|| async { StatusCode::UNAUTHORIZED }))
        .route("/302", get(|| async { (StatusCode::FOUND, [("location", "/429")], "") }));
    let base = serve(app).await;
    let error = |path: &'static str| {
        let base = base.clone();
        async move {
            client()
                .send(&context("acme", "ana", "a"), "t", Request::get(format!("{base}{path}")).unwrap())
                .await
                .unwrap()
                .error("t")
        }
    };
    let e = error("/429").await;
    assert_eq!((e.kind(), e.retry()), (ErrorKind::RateLimited, Retryability::After(Duration::from_secs(7))));
    assert!(matches!(error("/503").await.retry(), Retryability::After(d) if d > Duration::from_secs(3600)));
    assert_eq!(error("/401").await.kind(), ErrorKind::Unauthenticated);
    assert_eq!(error("/404").await.kind(), ErrorKind::NotFound);
    assert_eq!(error("/302").await.kind(), ErrorKind::Unexpected, "a redirect is not followed");
}

#[tokio::test]
async fn errors_tell_whether_it_was_sent_and_nothing_secret() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        loop {
            // takes the request and hangs up
            let (socket, _) = listener.accept().await.unwrap();
            let mut buffer = [0; 4096];
            socket.readable().await.unwrap();
            let _ = socket.try_read(&mut buffer);
        }
    });
    let request = |base: &str| Request::get(format!("{base}/p?key=hunter2")).unwrap().bearer(Secret::new("hunter2"));
    let ctx = context("acme", "ana", "a");
    let lost = client().send(&ctx, "t", request(&base)).await.unwrap_err();
    assert!(lost.kind() == ErrorKind::Unavailable && may_have_been_sent(&lost), "{lost}");
    let nobody = client().send(&ctx, "t", request("http://127.0.0.1:1")).await.unwrap_err();
    assert!(nobody.kind() == ErrorKind::Unavailable && !may_have_been_sent(&nobody), "{nobody}");
    for text in [format!("{lost:?}"), format!("{nobody:?}"), format!("{:?}", request(&base))] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn a_slow_or_endless_answer_is_cut_off() {
    let app = Router::new()
        .route("/big", get(|| async { "x".repeat(1001) }))
        .route("/slow", get(|| async { std::future::pending::<&str>().await }));
    let base = serve(app).await;
    let ctx = context("acme", "ana", "a");
    let big = client().send(&ctx, "t", Request::get(format!("{base}/big")).unwrap()).await.unwrap_err();
    assert_eq!(big.kind(), ErrorKind::InvalidInput);
    let slow = client().send(&ctx, "t", Request::get(format!("{base}/slow")).unwrap()).await.unwrap_err();
    assert!(slow.kind() == ErrorKind::Timeout && may_have_been_sent(&slow), "{slow}");
}

#[test]
fn a_segment_cannot_leave_its_place() {
    let r = Request::get("https://api.example.com/v3/files").unwrap().segment("../../admin?x");
    assert_eq!(format!("{r:?}"), "GET api.example.com/v3/files/..%2F..%2Fadmin%3Fx");
    for bad in ["file:///etc/passwd", "/relative", "http://user:pw@host/"] {
        assert!(Request::get(bad).is_err(), "{bad}");
    }
}
