//! Who waits `Retry-After` is admitted, whatever the algorithm and the rate.

use std::time::Duration;

use futures::executor::block_on;
use http::HeaderMap;
use proptest::prelude::*;
use sysd_core::ManualClock;
use sysd_ratelimit::http::{FieldStyle, limit_fields};
use sysd_ratelimit::policy::{RequestView, Ruling};

use crate::{Limiter, clock, limiter};

fn ask(limiter: &Limiter) -> Ruling {
    let headers = HeaderMap::new();
    let view = RequestView { method: "GET", path: "/", peer: None, user: Some("ann"), headers: &headers };
    block_on(limiter.check(&view))
}

fn seconds(ruling: &Ruling, style: FieldStyle) -> Option<u64> {
    limit_fields(style, ruling).get("retry-after")?.to_str().unwrap().parse().ok()
}

/// A rule in TOML, and the other of the same client.
fn rule(at: usize) -> impl Strategy<Value = String> {
    let period = prop_oneof![
        (1..5_000_u32).prop_map(|ms| format!("{ms}ms")),
        (1..2_000_000_u32).prop_map(|us| format!("{us}us")),
        Just("h".to_owned()),
        Just("mo".to_owned()),
    ];
    let algorithm = prop_oneof![
        (1..20_u32).prop_map(|burst| format!("algorithm = \"token_bucket\"\nburst = {burst}")),
        (0..5_u32).prop_map(|queue| format!("algorithm = \"leaky_bucket\"\nqueue = {queue}")),
        Just("algorithm = \"fixed_window\"".to_owned()),
        Just("algorithm = \"sliding_window\"".to_owned()),
        Just("algorithm = \"sliding_log\"".to_owned()),
    ];
    (1..20_u32, period, algorithm).prop_map(move |(count, period, algorithm)| {
        format!("[[rules]]\nname = \"rule {at}\"\nkey = \"user\"\nrate = \"{count}/{period}\"\n{algorithm}\n")
    })
}

/// Asks until it is denied, and waits; what `wait` makes of the seconds. Whether it was then admitted, if it was ever denied.
fn waits(text: &str, gaps_us: &[u64], wait: fn(u64) -> Duration) -> Option<bool> {
    let clock: ManualClock = clock();
    let limiter = limiter(text, &clock);
    for gap_us in gaps_us.iter().cycle().take(200) {
        let ruling = ask(&limiter);
        if !ruling.is_allowed() {
            let retry_after = seconds(&ruling, FieldStyle::XRateLimit);
            assert_eq!(retry_after, seconds(&ruling, FieldStyle::RateLimit));
            clock.advance(wait(retry_after?));
            return Some(ask(&limiter).is_allowed());
        }
        clock.advance(Duration::from_micros(*gap_us));
    }
    None
}

proptest! {
    #[test]
    fn who_waits_it_out_is_admitted(
        rules in (rule(0), rule(1)),
        gaps_us in prop::collection::vec(0..2_000_u64, 1..8),
    ) {
        let text = format!("name = \"api\"\n{}{}", rules.0, rules.1);
        prop_assert!(waits(&text, &gaps_us, Duration::from_secs).unwrap_or(true), "{text}");
    }
}

/// A field that is rounded down is found.
#[test]
fn a_second_less_is_not_always_enough() {
    let text = "name = \"api\"\n[[rules]]\nname = \"a\"\nkey = \"user\"\nrate = \"1/1500ms\"\n";
    assert_eq!(waits(text, &[0], Duration::from_secs), Some(true));
    assert_eq!(waits(text, &[0], |seconds| Duration::from_secs(seconds - 1)), Some(false));
}
