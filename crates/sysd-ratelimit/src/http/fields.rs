//! The header fields that tell a client about its limits: pure functions of a ruling.

use std::fmt::Write as _;
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::algorithm::Limit;
use crate::model::{Decision, Rule};
use crate::policy::Ruling;

/// The most rules that are told of in one response: fields have little room.
pub const LISTED_MAX: usize = 8;

const X_LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const X_REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const X_RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");
pub(super) const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
pub(super) const SERVICE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");

/// Which header fields tell a client about its limits.
///
/// All numbers of time are whole seconds from now, rounded up: a client that waits `Retry-After` is admitted, if nobody else takes what
/// comes back meanwhile. A limit that all clients share says something about the others' traffic: where that is nobody's business,
/// take [`None`](Self::None).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FieldStyle {
    /// `X-RateLimit-Limit`, `-Remaining` and `-Reset` (seconds until all of the limit is there again) of the rule that bound the request, and
    /// `Retry-After` where it was refused: what most APIs send.
    #[default]
    XRateLimit,
    /// `RateLimit-Policy` and `RateLimit`, as draft-ietf-httpapi-ratelimit-headers-11 has them, and `Retry-After`.
    ///
    /// They are lists in the syntax of RFC 9651, an item for each rule by its name, that which bound the request first, at most
    /// [`LISTED_MAX`]: `"each address";q=200;w=2` and `"each address";r=199;t=1`. Of a request that is allowed all rules that were asked
    /// are listed, of one that is refused those that refuse it.
    ///
    /// | parameter | what it says here |
    /// |---|---|
    /// | `q` | the most that can be taken at once: the burst of a token bucket, the limit of a window |
    /// | `w` | in how many seconds so much comes back; absent for windows of the calendar, which differ in length |
    /// | `r` | what is left |
    /// | `t` | allowed: in how many seconds all of `q` is there again. Refused: when to come back; never later than `Retry-After`, as the draft wants it |
    RateLimit,
    /// None of them, nor `Retry-After`, and no names in bodies.
    None,
}

/// What is told of a rule.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told<'a> {
    pub(super) rule: &'a Rule,
    pub(super) decision: &'a Decision,
}

/// The rules to tell of, that which bound the request first: of a refused one those that refuse it. None if no rule's word was the reason.
pub(super) fn told(ruling: &Ruling) -> Vec<Told<'_>> {
    let (Some(bound), Some(decision)) = (ruling.rule(), ruling.decision()) else { return Vec::new() };
    let first = Told { rule: bound.rule(), decision };
    let rules = ruling.policy().rules();
    let others = ruling.each().iter().filter_map(|(place, decision)| {
        let rule = rules.get(*place)?.rule();
        let is_told = rule.name() != first.rule.name() && decision.is_allowed() == ruling.is_allowed();
        is_told.then_some(Told { rule, decision })
    });
    let others: Vec<_> = others.take(LISTED_MAX - 1).collect();
    [vec![first], others].concat()
}

/// Whole seconds, rounded up.
pub(super) fn ceil_seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

/// In how many seconds the whole limit comes back; at least 1.
fn window_seconds(limit: &Limit) -> Option<u64> {
    let window = match limit {
        Limit::TokenBucket(bucket) => bucket.refill_time(),
        Limit::LeakyBucket(bucket) => bucket.bucket().refill_time(),
        Limit::FixedWindow(window) => window.window(),
        Limit::SlidingWindow(window) => window.window(),
        Limit::SlidingLog(log) => log.window(),
        Limit::Calendar(_) => return None,
    };
    Some(ceil_seconds(window))
}

/// The fields that tell of a ruling; none where no rule's word was the reason, as for clients on a list.
///
/// ```
/// use sysd_ratelimit::http::{FieldStyle, limit_fields};
/// use sysd_ratelimit::policy::{Policy, PolicyLimiter, RequestView};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let policy = Policy::from_toml("limits.toml", r#"
///     name = "api"
///     [[rules]]
///     name = "each address"
///     key = "ip"
///     rate = "5/m"
/// "#)?;
/// let limiter = PolicyLimiter::new(Memory::new(), policy)?;
/// let headers = http::HeaderMap::new();
/// let peer = Some("192.0.2.1".parse()?);
/// let ruling = limiter.check(&RequestView { method: "GET", path: "/", peer, user: None, headers: &headers }).await;
/// let fields = limit_fields(FieldStyle::RateLimit, &ruling);
/// assert_eq!(fields["ratelimit-policy"], r#""each address";q=5;w=60"#);
/// assert_eq!(fields["ratelimit"], r#""each address";r=4;t=12"#);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
pub fn limit_fields(style: FieldStyle, ruling: &Ruling) -> HeaderMap {
    fields_of(style, &told(ruling))
}

/// The same, of the rules themselves, that which bound the request first.
pub(super) fn fields_of(style: FieldStyle, told: &[Told<'_>]) -> HeaderMap {
    let mut fields = HeaderMap::new();
    let Some(Told { decision: bound, .. }) = told.first() else { return fields };
    match style {
        FieldStyle::None => return fields,
        FieldStyle::XRateLimit => {
            fields.insert(X_LIMIT, bound.limit().into());
            fields.insert(X_REMAINING, bound.remaining().into());
            fields.insert(X_RESET, ceil_seconds(bound.reset_after()).into());
        }
        FieldStyle::RateLimit => {
            let (mut policies, mut limits) = (String::new(), String::new());
            for told in told {
                write_item(&mut policies, &mut limits, told);
            }
            // Names are printable ASCII, so these are values.
            let named = [(POLICY, policies), (SERVICE_LIMIT, limits)];
            let values = named.map(|(name, list)| HeaderValue::try_from(list).map(|value| (name, value)));
            fields.extend(values.into_iter().flatten());
        }
    }
    if let Some(retry_after) = bound.retry_after() {
        fields.insert(header::RETRY_AFTER, ceil_seconds(retry_after).into());
    }
    fields
}

/// Adds a rule to both lists. A name has neither `"` nor `\`, so it is a String of RFC 9651 as it is.
fn write_item(policies: &mut String, limits: &mut String, told: &Told<'_>) {
    let Told { rule, decision } = told;
    let separator = if policies.is_empty() { "" } else { ", " };
    // Writing to a text does not fail.
    let _ = write!(policies, "{separator}\"{}\";q={}", rule.name(), decision.limit());
    if let Some(window) = window_seconds(&rule.limit()) {
        let _ = write!(policies, ";w={window}");
    }
    let _ = write!(limits, "{separator}\"{}\";r={}", rule.name(), decision.remaining());
    let window = match decision.outcome() {
        crate::Outcome::Allowed => Some(decision.reset_after()),
        crate::Outcome::Denied { retry_after } => Some(retry_after),
        crate::Outcome::NeverAllowed => None,
    };
    if let Some(window) = window {
        let _ = write!(limits, ";t={}", ceil_seconds(window));
    }
}

#[cfg(test)]
#[path = "fields_tests.rs"]
mod tests;
