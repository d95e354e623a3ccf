#![allow(clippy::unwrap_used, reason = "tests")]
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::model::{Decision, Rule, TokenBucket};

const EXCEEDED: Cause<'static> = Cause::Exceeded { rule: "each", retry_after: Duration::from_micros(1_500_001) };

fn rule(name: &str) -> Rule {
    Rule::new(name, TokenBucket::new("1/s".parse().unwrap(), 1).unwrap()).unwrap()
}

fn body(cause: Cause<'_>, style: FieldStyle) -> Value {
    let (each, all) = (rule("each"), rule("all"));
    let decision = Decision::new(Outcome::Denied { retry_after: Duration::from_secs(1) }, 1, 0, 1_000_000);
    let told = [&each, &all].map(|rule| Told { rule, decision: &decision });
    serde_json::from_str(&problem_json(cause, style, &told)).unwrap()
}

#[test]
fn a_problem_says_which_limits_are_reached() {
    let expected = json!({
        "type": "https://iana.org/assignments/http-problem-types#quota-exceeded",
        "title": "Quota Exceeded",
        "status": 429,
        "detail": "the limit \"each\" is reached; come back in 2 s",
        "violated-policies": ["each", "all"],
    });
    assert_eq!(body(EXCEEDED, FieldStyle::RateLimit), expected);
    let secret = json!({ "type": "about:blank", "title": "Too Many Requests", "status": 429 });
    assert_eq!(body(EXCEEDED, FieldStyle::None), secret);
    let away = json!({
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "detail": "limits can't be checked now",
    });
    assert_eq!(body(Cause::Unavailable, FieldStyle::XRateLimit), away);
}

#[test]
fn each_cause_has_its_status() {
    let user = Cause::Missing { rule: "each", part: &KeyPart::User };
    let route = KeyPart::Header("x-tenant".into());
    let header = Cause::Missing { rule: "each", part: &route };
    for (cause, status, grpc_status, pushback) in [
        (EXCEEDED, 429, "8", Some("1501")),
        (Cause::Never { rule: "each" }, 403, "9", Some("-1")),
        (Cause::Listed, 403, "7", Some("-1")),
        (user, 403, "16", Some("-1")),
        (header, 403, "3", Some("-1")),
        (Cause::Unavailable, 503, "14", None),
        (Cause::Failed, 500, "13", None),
    ] {
        assert_eq!(cause.status(), status, "{cause:?}");
        let response = grpc(cause, FieldStyle::XRateLimit, &HeaderValue::from_static("application/grpc+proto"));
        let field = |name| response.headers().get(name).map(|value: &HeaderValue| value.to_str().unwrap());
        assert_eq!((response.status(), field("grpc-status")), (StatusCode::OK, Some(grpc_status)), "{cause:?}");
        assert_eq!(field("grpc-retry-pushback-ms"), pushback, "{cause:?}");
        assert_eq!(field("content-type"), Some("application/grpc+proto"));
    }
}

#[test]
fn grpc_is_known_by_its_content_type_and_by_reading_trailers() {
    let is_grpc = |content_type: &'static str, te: &[&'static str]| {
        let mut request = HeaderMap::new();
        request.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        request.extend(te.iter().map(|te| (header::TE, HeaderValue::from_static(te))));
        grpc_type(&request).is_some()
    };
    for content_type in ["application/grpc", "application/grpc+proto", "Application/gRPC-web"] {
        assert!(is_grpc(content_type, &["trailers"]) && is_grpc(content_type, &["gzip", "deflate, Trailers "]));
        // A plain client would take the 200 for a yes.
        assert!(!is_grpc(content_type, &[]) && !is_grpc(content_type, &["trailersx, deflate"]));
    }
    assert!(!["application/json", "text/application/grpc", ""].into_iter().any(|other| is_grpc(other, &["trailers"])));
    assert!(grpc_type(&HeaderMap::new()).is_none());
}

#[test]
fn no_cache_keeps_a_problem() {
    for cause in [EXCEEDED, Cause::Listed, Cause::Unavailable, Cause::Failed] {
        assert_eq!(problem(cause, FieldStyle::XRateLimit, &[]).headers()["cache-control"], "no-store", "{cause:?}");
    }
}

#[test]
fn messages_are_percent_encoded() {
    assert_eq!(percent_encoded("50% of é\n"), "50%25 of %C3%A9%0A");
}

proptest! {
    #[test]
    fn any_text_is_a_string_of_json(text in ".*") {
        let mut json = String::new();
        push_json(&text, &mut json);
        prop_assert_eq!(serde_json::from_str::<String>(&json).unwrap(), text);
    }
}
