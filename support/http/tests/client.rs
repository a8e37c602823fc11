//! Statuses, limits and lost connections, over real sockets.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::convert::Infallible;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::get;
use forge_core::secret::Secret;
use forge_core::testing::context;
use forge_core::{ErrorKind, Retryability, TraceContext};
use forge_http::{HttpClient, HttpOptions, Request, may_have_been_sent};
use futures::StreamExt;

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
        .route(
            "/skew",
            get(|| async {
                // by our clock this is long ago
                let dates =
                    [("date", "Sat, 01 Jan 2000 00:00:00 GMT"), ("retry-after", "Sat, 01 Jan 2000 00:00:09 GMT")];
                (StatusCode::SERVICE_UNAVAILABLE, dates, "")
            }),
        )
        .route("/nonsense", get(|| async { (StatusCode::SERVICE_UNAVAILABLE, [("retry-after", "soon")], "") }))
        .route("/401", get(|| async { StatusCode::UNAUTHORIZED }))
        .route("/403", get(|| async { (StatusCode::FORBIDDEN, [("retry-after", "7")], "") }))
        .route("/408", get(|| async { StatusCode::REQUEST_TIMEOUT }))
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
    assert_eq!(error("/skew").await.retry(), Retryability::After(Duration::from_secs(9)), "by the server's clock");
    let e = error("/nonsense").await;
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Unavailable, Retryability::Transient));
    assert_eq!(error("/401").await.kind(), ErrorKind::Unauthenticated);
    let e = error("/403").await;
    assert_eq!((e.kind(), e.retry()), (ErrorKind::Unauthenticated, Retryability::Never), "waiting does not help");
    assert_eq!(error("/408").await.kind(), ErrorKind::Timeout);
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
    let refused = Request::get("http://hunter2:hunter2@host/").unwrap_err();
    let header = Request::get(format!("{base}/?hunter2")).unwrap().header("x", "hunter2\n");
    let header = client().send(&ctx, "t", header).await.unwrap_err();
    let mut options = HttpOptions::default();
    options.proxy = Some(Secret::new("http://hunter2:hunter2@[/"));
    let proxy = HttpClient::new(options.clone()).unwrap_err();
    assert_eq!(proxy.kind(), ErrorKind::Config);
    for e in [&lost, &nobody, &refused, &header, &proxy] {
        for text in [format!("{e}"), format!("{e:?}"), serde_json::to_string(&e.report()).unwrap()] {
            assert!(!text.contains("hunter2"), "{text}");
        }
    }
    for text in [format!("{:?}", request(&base)), format!("{options:?}")] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn what_the_server_said_is_in_no_error() {
    let app = Router::new().route("/p", get(|| async { (StatusCode::BAD_REQUEST, [("x-key", "hunter2")], "hunter2") }));
    let base = serve(app).await;
    let ctx = context("acme", "ana", "a");
    let request = Request::get(format!("{base}/p?hunter2")).unwrap();
    let answer = client().send(&ctx, "t", request).await.unwrap();
    let (json, shown) = (answer.json::<u32>("t").unwrap_err(), format!("{answer:?}"));
    for text in [shown, format!("{json:?}"), format!("{:?}", answer.error("t"))] {
        assert!(!text.contains("hunter2"), "{text}");
    }
}

#[tokio::test]
async fn nothing_of_one_tenants_request_rides_on_anothers() {
    let echo = |headers: HeaderMap| async move {
        let names = headers.iter().map(|(k, v)| format!("{k}: {}", v.to_str().unwrap())).collect::<Vec<_>>().join("\n");
        ([("set-cookie", "sid=acme-session; Path=/")], names)
    };
    let base = serve(Router::new().route("/", get(echo))).await;
    let client = client();
    let acme = context("acme", "ana", "a").with_trace(TraceContext { trace_id: 7, span_id: 9 });
    let request = Request::get(&base).unwrap().bearer(Secret::new("acme-token"));
    let answer = client.send(&acme, "t", request).await.unwrap();
    let first = String::from_utf8(answer.body().to_vec()).unwrap();
    assert!(first.contains("authorization: Bearer acme-token"), "{first}");
    assert!(first.contains("traceparent: 00-00000000000000000000000000000007-0000000000000009-01"), "{first}");
    // the same pool of connections
    let answer = client.send(&context("globex", "bo", "a"), "t", Request::get(&base).unwrap()).await.unwrap();
    let second = String::from_utf8(answer.body().to_vec()).unwrap();
    assert!(!second.contains("acme"), "{second}");
    assert!(!second.contains("traceparent"), "a context without a span has no parent to tell: {second}");
}

#[tokio::test]
async fn a_slow_or_endless_answer_is_cut_off() {
    let app = Router::new()
        .route("/big", get(|| async { "x".repeat(1001) }))
        .route("/fits", get(|| async { "x".repeat(1000) }))
        .route(
            "/endless",
            get(|| async { Body::from_stream(futures::stream::repeat_with(|| Ok::<_, Infallible>("x".repeat(100)))) }),
        )
        .route(
            "/drip",
            get(|| async {
                // one byte, and no other
                let drip = futures::stream::iter([Ok::<_, Infallible>("x")]).chain(futures::stream::pending());
                Body::from_stream(drip)
            }),
        )
        .route("/slow", get(|| async { std::future::pending::<&str>().await }));
    let base = serve(app).await;
    let ctx = context("acme", "ana", "a");
    let ask = |path: &str| Request::get(format!("{base}{path}")).unwrap();
    for path in ["/big", "/endless"] {
        let big = client().send(&ctx, "t", ask(path)).await.unwrap_err();
        assert!(big.kind() == ErrorKind::InvalidInput && may_have_been_sent(&big), "{big}");
    }
    assert_eq!(client().send(&ctx, "t", ask("/fits")).await.unwrap().body().len(), 1000);
    assert!(client().send(&ctx, "t", ask("/fits").max_body(999)).await.is_err(), "a request may ask for less");
    assert!(client().send(&ctx, "t", ask("/big").max_body(2000)).await.is_err(), "and not for more");
    for path in ["/slow", "/drip"] {
        let slow = client().send(&ctx, "t", ask(path)).await.unwrap_err();
        assert!(slow.kind() == ErrorKind::Timeout && may_have_been_sent(&slow), "{slow}");
    }
}

#[test]
fn a_segment_cannot_leave_its_place() {
    let r = Request::get("https://api.example.com/v3/files").unwrap().segment("../../admin?x");
    assert_eq!(format!("{r:?}"), "GET api.example.com/v3/files/..%2F..%2Fadmin%3Fx");
    for bad in ["file:///etc/passwd", "/relative", "http://user:pw@host/"] {
        assert!(Request::get(bad).is_err(), "{bad}");
    }
}
