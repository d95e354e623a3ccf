//! An axum application behind limits, called without a network.

use std::borrow::Cow;
use std::net::SocketAddr;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::ConnectInfo;
use axum::routing::{get, post};
use http::{HeaderMap, Request, Response, StatusCode};
use serde_json::{Value, json};
use sysd_core::ManualClock;
use sysd_ratelimit::{FieldStyle, RateLimitLayer};
use sysd_storage::Memory;
use tower::ServiceExt as _;

use crate::{clock, limiter, peer};

const LIMITS: &str = r#"
    name = "api"
    deny = ["ip:203.0.113.0/24", "user:mallory"]

    [clients]
    trusted_proxies = "10.0.0.0/8"
    forwarded = "x-forwarded-for"

    [[rules]]
    name = "each address"
    key = "ip"
    rate = "3/m"

    [[rules]]
    name = "logins"
    route = "/login"
    methods = "POST"
    key = "global"
    algorithm = "fixed_window"
    rate = "1/h"

    [[rules]]
    name = "each tenant"
    route = "/tenant"
    key = "header:x-tenant"
    missing = "deny"
    rate = "100/s"
"#;

#[derive(Clone)]
struct User(&'static str);

fn layer(clock: &ManualClock) -> RateLimitLayer<Memory<ManualClock>> {
    let layer = RateLimitLayer::new(limiter(LIMITS, clock), peer);
    layer.with_user(|parts| parts.extensions.get().map(|User(name)| Cow::Borrowed(*name)))
}

fn app(layer: RateLimitLayer<Memory<ManualClock>>) -> Router {
    Router::new()
        .route("/", get(async || "hello"))
        .route("/login", post(async || "welcome"))
        .route("/tenant", get(async || [("x-ratelimit-limit", "mine")]))
        .layer(layer)
}

fn request(method: &str, path: &str, peer: &str) -> Request<Body> {
    let peer = SocketAddr::new(peer.parse().unwrap(), 40_000);
    Request::builder().method(method).uri(path).extension(ConnectInfo(peer)).body(Body::empty()).unwrap()
}

async fn ask(app: &Router, request: Request<Body>) -> (StatusCode, HeaderMap, Value) {
    let (parts, body) = app.clone().oneshot(request).await.unwrap().into_parts();
    let body = to_bytes(body, 4_096).await.unwrap();
    let text = || Value::from(String::from_utf8(body.to_vec()).unwrap());
    (parts.status, parts.headers, serde_json::from_slice(&body).unwrap_or_else(|_| text()))
}

#[tokio::test]
async fn requests_pass_until_the_limit_is_reached() {
    let clock = clock();
    let app = app(layer(&clock));
    for left in ["2", "1", "0"] {
        let (status, headers, body) = ask(&app, request("GET", "/", "192.0.2.1")).await;
        assert_eq!((status, body), (StatusCode::OK, json!("hello")));
        assert_eq!(
            (&headers["x-ratelimit-limit"], &headers["x-ratelimit-remaining"]),
            (&"3".parse().unwrap(), &left.parse().unwrap())
        );
        assert!(!headers.contains_key("retry-after"));
    }
    let (status, headers, body) = ask(&app, request("GET", "/", "192.0.2.1")).await;
    assert_eq!((status.as_u16(), &headers["retry-after"]), (429, &"20".parse::<http::HeaderValue>().unwrap()));
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!((&body["status"], &body["violated-policies"]), (&json!(429), &json!(["each address"])));
    // Others are not concerned; nor is this one, after so long.
    assert_eq!(ask(&app, request("GET", "/", "192.0.2.2")).await.0, StatusCode::OK);
    clock.advance(std::time::Duration::from_secs(20));
    assert_eq!(ask(&app, request("GET", "/", "192.0.2.1")).await.0, StatusCode::OK);
}

#[tokio::test]
async fn structured_fields_list_the_rules() {
    let app = app(layer(&clock()).with_fields(FieldStyle::RateLimit));
    let (_, headers, _) = ask(&app, request("POST", "/login", "192.0.2.1")).await;
    assert_eq!(headers["ratelimit-policy"], r#""logins";q=1;w=3600, "each address";q=3;w=60"#);
    assert_eq!(headers["ratelimit"], r#""logins";r=0;t=3600, "each address";r=2;t=20"#);
    let (status, headers, _) = ask(&app, request("POST", "/login", "192.0.2.1")).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(headers["ratelimit"], r#""logins";r=0;t=3600"#);
    assert_eq!(headers["retry-after"], "3600");
}

#[tokio::test]
async fn nothing_is_told_where_nothing_is_to_be() {
    let app = app(layer(&clock()).with_fields(FieldStyle::None));
    let mut last = None;
    for _ in 0..4 {
        let (status, headers, body) = ask(&app, request("GET", "/", "192.0.2.1")).await;
        let is_limit = |name: &http::HeaderName| name.as_str().contains("ratelimit") || name == "retry-after";
        assert!(!headers.keys().any(is_limit), "{headers:?}");
        last = Some((status.as_u16(), body));
    }
    let body = json!({ "type": "about:blank", "title": "Too Many Requests", "status": 429 });
    assert_eq!(last, Some((429, body)));
}

#[tokio::test]
async fn who_it_is_comes_from_the_connection_the_proxy_and_the_application() {
    let app = app(layer(&clock()));
    let (status, headers, body) = ask(&app, request("GET", "/", "203.0.113.9")).await;
    assert_eq!((status.as_u16(), headers.contains_key("retry-after")), (403, false));
    assert_eq!(body["detail"], "the client is on the deny list");
    // What a client writes about itself counts for nothing, what a trusted proxy writes does.
    let forwarded = |peer| {
        let mut request = request("GET", "/", peer);
        request.headers_mut().insert("x-forwarded-for", "203.0.113.9".parse().unwrap());
        request
    };
    assert_eq!(ask(&app, forwarded("192.0.2.1")).await.0, StatusCode::OK);
    assert_eq!(ask(&app, forwarded("10.0.0.1")).await.0, StatusCode::FORBIDDEN);
    let mut signed_in = request("GET", "/", "192.0.2.1");
    signed_in.extensions_mut().insert(User("mallory"));
    assert_eq!(ask(&app, signed_in).await.0, StatusCode::FORBIDDEN);
}

#[tokio::test]
async fn a_part_that_a_rule_demands_is_named_and_what_the_service_says_stays() {
    let app = app(layer(&clock()));
    let (status, _, body) = ask(&app, request("GET", "/tenant", "192.0.2.1")).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(body["detail"], "the request lacks what the limit \"each tenant\" counts by: header:x-tenant");
    let mut named = request("GET", "/tenant", "192.0.2.1");
    named.headers_mut().insert("x-tenant", "acme".parse().unwrap());
    let (status, headers, _) = ask(&app, named).await;
    assert_eq!(
        (status, &headers["x-ratelimit-limit"]),
        (StatusCode::OK, &"mine".parse::<http::HeaderValue>().unwrap())
    );
    assert_eq!(headers.get_all("x-ratelimit-limit").iter().count(), 1);
}

/// Two layers, one within the other: their lists are one, as RFC 9651 (section 3.1) has it.
#[tokio::test]
async fn lists_of_two_layers_stand_side_by_side() {
    let inner = "name = \"inner\"\n[[rules]]\nname = \"inner\"\nkey = \"global\"\nrate = \"9/s\"\n";
    let inner = RateLimitLayer::new(limiter(inner, &clock()), peer).with_fields(FieldStyle::RateLimit);
    let app = Router::new()
        .route("/", get(async || "hello"))
        .layer(inner)
        .layer(layer(&clock()).with_fields(FieldStyle::RateLimit));
    let response: Response<Body> = app.oneshot(request("GET", "/", "192.0.2.1")).await.unwrap();
    let lists: Vec<_> = response.headers().get_all("ratelimit").iter().collect();
    assert_eq!(lists, [r#""inner";r=8;t=1"#, r#""each address";r=2;t=20"#]);
}
