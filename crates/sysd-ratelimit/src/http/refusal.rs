//! The response to a request that is refused.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use http_body_util::Full;

use super::fields::{FieldStyle, Told, ceil_seconds, fields_of, told};
use crate::model::Outcome;
use crate::policy::{KeyPart, Listing, Reason, Ruling};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// How long clients that retry by themselves are to wait, or `-1`: they are not to. See the gRPC proposal A6, "client retries".
const GRPC_PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
/// draft-ietf-httpapi-ratelimit-headers-11, section 5.1.
const QUOTA_EXCEEDED: &str = "https://iana.org/assignments/http-problem-types#quota-exceeded";

/// Why a request is refused, as far as its client is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Cause<'a> {
    Listed,
    Missing { rule: &'a str, part: &'a KeyPart },
    Exceeded { rule: &'a str, retry_after: Duration },
    Never { rule: &'a str },
    Unavailable,
    Failed,
}

impl<'a> Cause<'a> {
    fn of(ruling: &'a Ruling) -> Option<Self> {
        if ruling.is_allowed() {
            return None;
        }
        let rule = ruling.rule().map(|rule| rule.rule().name());
        Some(match (ruling.reason(), rule, ruling.decision().map(crate::Decision::outcome)) {
            (Reason::Listed(Listing::Deny | Listing::Allow), ..) => Self::Listed,
            (Reason::Missing(missing), ..) => Self::Missing { rule: rule.unwrap_or_default(), part: &missing.part },
            (Reason::Rules, Some(rule), Some(Outcome::Denied { retry_after })) => Self::Exceeded { rule, retry_after },
            (Reason::Rules, Some(rule), Some(Outcome::NeverAllowed)) => Self::Never { rule },
            (Reason::Unavailable, ..) => Self::Unavailable,
            // A refusal that no rule's word explains is a mistake too.
            (Reason::Rules | Reason::Failed, ..) => Self::Failed,
        })
    }

    fn status(self) -> StatusCode {
        match self {
            Self::Listed | Self::Missing { .. } | Self::Never { .. } => StatusCode::FORBIDDEN,
            Self::Exceeded { .. } => StatusCode::TOO_MANY_REQUESTS,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Failed => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// By their numbers in gRPC.
    fn grpc_status(self) -> u8 {
        match self {
            Self::Missing { part: KeyPart::User | KeyPart::ApiKey, .. } => 16,
            Self::Missing { .. } => 3,
            Self::Listed => 7,
            Self::Exceeded { .. } => 8,
            Self::Never { .. } => 9,
            Self::Failed => 13,
            Self::Unavailable => 14,
        }
    }

    fn detail(self) -> String {
        match self {
            Self::Listed => "the client is on the deny list".to_owned(),
            Self::Missing { rule, part } => format!("the request lacks what the limit \"{rule}\" counts by: {part}"),
            Self::Exceeded { rule, retry_after } => {
                format!("the limit \"{rule}\" is reached; come back in {} s", ceil_seconds(retry_after))
            }
            Self::Never { rule } => format!("the request costs more than the limit \"{rule}\" ever holds"),
            Self::Unavailable => "limits can't be checked now".to_owned(),
            Self::Failed => "limits can't be checked".to_owned(),
        }
    }
}

/// The response to a request that was refused; `None` if it was not.
///
/// `request` are the request's own header fields: a gRPC call is answered as one. See the [module](super) for which status is which.
///
/// ```
/// use sysd_ratelimit::http::{FieldStyle, refusal};
/// use sysd_ratelimit::policy::{Policy, PolicyLimiter, RequestView};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let policy = Policy::from_toml("limits.toml", "name = \"api\"\ndeny = \"ip:203.0.113.0/24\"")?;
/// let limiter = PolicyLimiter::new(Memory::new(), policy)?;
/// let headers = http::HeaderMap::new();
/// let peer = Some("203.0.113.7".parse()?);
/// let ruling = limiter.check(&RequestView { method: "GET", path: "/", peer, user: None, headers: &headers }).await;
/// let response = refusal(FieldStyle::XRateLimit, &ruling, &headers).ok_or("it was allowed")?;
/// assert_eq!(response.status(), 403);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub fn refusal(style: FieldStyle, ruling: &Ruling, request: &HeaderMap) -> Option<Response<Full<Bytes>>> {
    let cause = Cause::of(ruling)?;
    let told = told(ruling);
    let mut response = match grpc_type(request) {
        Some(content_type) => grpc(cause, style, content_type),
        None => problem(cause, style, &told),
    };
    response.headers_mut().extend(fields_of(style, &told));
    Some(response)
}

/// The content type, if it is that of a gRPC call: who says so must be able to read trailers too (`te: trailers`), as the protocol demands.
/// By its content type alone a plain request would have its refusal taken for a 200.
fn grpc_type(request: &HeaderMap) -> Option<&HeaderValue> {
    let is_trailers = |coding: &[u8]| coding.trim_ascii().eq_ignore_ascii_case(b"trailers");
    let mut codings = request.get_all(header::TE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b','));
    let value = request.get(header::CONTENT_TYPE).filter(|_| codings.any(is_trailers))?;
    value.as_bytes().to_ascii_lowercase().starts_with(b"application/grpc").then_some(value)
}

/// Header fields alone ("Trailers-Only"), with the HTTP status 200.
fn grpc(cause: Cause<'_>, style: FieldStyle, content_type: &HeaderValue) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, content_type.clone());
    fields.insert(GRPC_STATUS, u16::from(cause.grpc_status()).into());
    if style != FieldStyle::None {
        let pushback = match cause {
            Cause::Exceeded { retry_after, .. } => {
                let ms = retry_after.as_micros().div_ceil(1_000);
                // A number of 32 bits.
                Some(HeaderValue::from(i32::try_from(ms).unwrap_or(i32::MAX)))
            }
            Cause::Unavailable | Cause::Failed => None,
            Cause::Listed | Cause::Missing { .. } | Cause::Never { .. } => Some(HeaderValue::from_static("-1")),
        };
        fields.extend(pushback.map(|value| (GRPC_PUSHBACK, value)));
        let message = HeaderValue::try_from(percent_encoded(&cause.detail()));
        fields.extend(message.map(|message| (GRPC_MESSAGE, message)));
    }
    response
}

/// As the protocol of gRPC over HTTP/2 has messages: printable ASCII but `%` as it is, other bytes by `%` and two digits.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn problem(cause: Cause<'_>, style: FieldStyle, told: &[Told<'_>]) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(problem_json(cause, style, told)));
    *response.status_mut() = cause.status();
    let fields = response.headers_mut();
    fields.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    // Of one client, and true for a moment: a cache would tell it to others, and later.
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// RFC 9457. Of `about:blank`, which stands for no type at all, the title is the status' own phrase.
fn problem_json(cause: Cause<'_>, style: FieldStyle, told: &[Told<'_>]) -> String {
    let status = cause.status();
    let is_told = style != FieldStyle::None;
    let is_quota = is_told && matches!(cause, Cause::Exceeded { .. });
    let title = if is_quota { "Quota Exceeded" } else { status.canonical_reason().unwrap_or_default() };
    let mut json = String::from("{\"type\":");
    push_json(if is_quota { QUOTA_EXCEEDED } else { "about:blank" }, &mut json);
    json.push_str(",\"title\":");
    push_json(title, &mut json);
    let _ = write!(json, ",\"status\":{}", status.as_u16());
    if is_told {
        json.push_str(",\"detail\":");
        push_json(&cause.detail(), &mut json);
    }
    if is_quota {
        json.push_str(",\"violated-policies\":[");
        for (at, told) in told.iter().enumerate() {
            json.push_str(if at == 0 { "" } else { "," });
            push_json(told.rule.name(), &mut json);
        }
        json.push(']');
    }
    json.push('}');
    json
}

/// A string of JSON (RFC 8259, section 7).
fn push_json(text: &str, json: &mut String) {
    json.push('"');
    for character in text.chars() {
        match character {
            '"' | '\\' => json.extend(['\\', character]),
            '\0'..' ' => {
                let _ = write!(json, "\\u{:04x}", u32::from(character));
            }
            _ => json.push(character),
        }
    }
    json.push('"');
}

#[cfg(test)]
#[path = "refusal_tests.rs"]
mod tests;
