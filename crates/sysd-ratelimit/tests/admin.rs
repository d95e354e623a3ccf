//! What whoever runs a limiter can ask of it.
#![cfg(feature = "policy")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use futures::executor::block_on;
use sysd_core::{ErrorKind, ManualClock};
use sysd_ratelimit::policy::{ClientKey, MOST_LIMITED_MAX, PolicyLimiter, RequestView, Ruling};
use sysd_ratelimit::{FixedWindow, RateLimitError, SlidingWindow};
use sysd_storage::Memory;

mod common;

const LIMITS: &str = r#"
    name = "api"
    deny = "user:mallory"

    [[rules]]
    name = "each address"
    key = "ip"
    algorithm = "fixed_window"
    rate = "3/h"

    [[rules]]
    name = "each address, a day"
    key = "ip"
    algorithm = "fixed_window"
    rate = "9/d"
    shadow = true

    [[rules]]
    name = "sign in"
    route = ["/login", "/users/{id}/password"]
    key = ["ip", "route", "header:x-tenant"]
    rate = "5/m"
    cost = 2

    [[rules]]
    name = "each key"
    route = "/keyed"
    key = "api_key"
    rate = "5/m"
"#;

type Limiter = PolicyLimiter<Memory<ManualClock>>;

fn limiter(text: &str) -> Limiter {
    let clock = common::clock();
    common::limiter(text, &clock).with_clock(clock)
}

const HEADERS: &[(&str, &str)] = &[("x-api-key", "s3cret"), ("x-tenant", "acme")];

fn view(path: &'static str, peer: &str) -> RequestView<'static> {
    RequestView { method: "GET", path, peer: Some(peer.parse().unwrap()), user: None, headers: &HEADERS }
}

fn ask(limiter: &Limiter, path: &'static str, peer: &str) -> Ruling {
    block_on(limiter.check(&view(path, peer)))
}

/// The rules by their names, and what is left of each.
fn held(limiter: &Limiter, key: &ClientKey) -> Vec<(String, u32)> {
    let held = block_on(limiter.inspect(key)).unwrap();
    let policy = limiter.policy();
    held.iter().map(|held| (policy.rules()[held.rule].rule().name().to_owned(), held.decision.remaining())).collect()
}

fn named(held: &[(&str, u32)]) -> Vec<(String, u32)> {
    held.iter().map(|&(name, left)| (name.to_owned(), left)).collect()
}

#[test]
fn a_key_is_shown_by_its_parts_and_no_secret() {
    let limiter = limiter(LIMITS);
    let shown = |path| limiter.keys_of(&view(path, "2001:db8::7")).iter().map(ToString::to_string).collect::<Vec<_>>();
    assert_eq!(shown("/"), ["ip 2001:db8::/64"]);
    assert_eq!(shown("/login"), ["ip 2001:db8::/64", "ip 2001:db8::/64, header:x-tenant acme, route /login"]);
    // The SHA-256 of `s3cret`.
    assert_eq!(shown("/keyed"), ["ip 2001:db8::/64", "api_key 1ec1c26b…"]);
    let mallory = RequestView { user: Some("mallory"), ..view("/", "192.0.2.1") };
    assert!(limiter.keys_of(&mallory).is_empty());
}

#[test]
fn to_inspect_takes_nothing_and_to_reset_begins_anew() {
    let limiter = limiter(LIMITS);
    for _ in 0..2 {
        assert!(ask(&limiter, "/users/7/password", "192.0.2.1").is_allowed());
    }
    let keys = limiter.keys_of(&view("/users/7/password", "192.0.2.1"));
    for _ in 0..3 {
        assert_eq!(held(&limiter, &keys[0]), named(&[("each address", 1), ("each address, a day", 7)]));
        assert_eq!(held(&limiter, &keys[1]), named(&[("sign in", 1)]));
    }
    // As it was kept somewhere.
    let kept = ClientKey::from(keys[0].as_bytes());
    block_on(limiter.reset(&kept)).unwrap();
    assert_eq!(held(&limiter, &kept), named(&[("each address", 3), ("each address, a day", 9)]));
    assert_eq!(held(&limiter, &keys[1]), named(&[("sign in", 1)]), "another key");
    // Again, and one that never was.
    block_on(limiter.reset(&kept)).unwrap();
    block_on(limiter.reset(&ClientKey::from(&b"nothing"[..]))).unwrap();
}

#[test]
fn a_key_that_says_nothing_is_refused_and_one_that_nobody_counts_by_holds_nothing() {
    let limiter = limiter(LIMITS);
    for bytes in [&b""[..], b"\x63", b"\x03ann", b"\x01\x40\x00\x00\x00\x00", &[255; 33]] {
        let error = block_on(limiter.inspect(&ClientKey::from(bytes))).unwrap_err();
        assert_eq!((error.kind(), error.field()), (ErrorKind::Invalid, Some("key")), "{bytes:?}");
    }
    let user = ClientKey::from(&b"\x03ann\x00\x01"[..]);
    assert_eq!((user.to_string(), block_on(limiter.inspect(&user)).unwrap()), ("user ann".to_owned(), Vec::new()));
}

#[test]
fn who_was_denied_most_comes_first() {
    let limiter = limiter(LIMITS);
    for (peer, times) in [("192.0.2.1", 4), ("192.0.2.2", 10), ("192.0.2.3", 3)] {
        for _ in 0..times {
            ask(&limiter, "/", peer);
        }
    }
    let most = limiter.most_limited(9);
    let most: Vec<_> =
        most.iter().map(|most| (most.rule.as_str(), most.key.to_string(), most.denied, most.over)).collect();
    let address = |last: u8| format!("ip 192.0.2.{last}/32");
    assert_eq!(most, [("each address", address(2), 7, 0), ("each address", address(1), 1, 0)]);
    assert_eq!(limiter.most_limited(1).len(), 1);
    assert_eq!((limiter.forget_denials(), limiter.most_limited(9).len()), (8, 0));
}

#[test]
fn however_many_are_denied_the_list_is_bounded_and_so_is_its_error() {
    let limiter = limiter("name = \"api\"\n[[rules]]\nname = \"each\"\nkey = \"user\"\nrate = \"1/mo\"\n");
    let ask = |user: &str| block_on(limiter.check(&RequestView { user: Some(user), ..view("/", "192.0.2.1") }));
    for round in 0..2 {
        for at in 0..2_000 {
            ask(&format!("user {at}"));
            if round > 0 && at % 10 == 0 {
                ask("flood");
            }
        }
    }
    let most = limiter.most_limited(usize::MAX);
    assert_eq!(most.len(), MOST_LIMITED_MAX);
    // 2,000 of the others, and 199 of this one.
    let bound = 2_199 / MOST_LIMITED_MAX as u64;
    assert!(most.iter().all(|most| most.over <= bound), "{most:?}");
    let first = &most[0];
    assert_eq!(first.key.to_string(), "user flood");
    assert!((199..=199 + first.over).contains(&first.denied), "{first:?}");
}

#[test]
fn a_rule_gets_other_numbers_and_keeps_what_was_taken() {
    let limiter = limiter(LIMITS);
    for _ in 0..3 {
        assert!(ask(&limiter, "/", "192.0.2.1").is_allowed());
    }
    assert!(!ask(&limiter, "/", "192.0.2.1").is_allowed());
    let window = |rate: &str| FixedWindow::new(rate.parse().unwrap());
    let changes = limiter.change_rule("each address", window("5/h")).unwrap();
    assert_eq!(changes.rules.len(), 1, "{changes}");
    let ruling = ask(&limiter, "/", "192.0.2.1");
    assert_eq!((ruling.is_allowed(), ruling.decision().unwrap().remaining()), (true, 1));

    let before = limiter.policy();
    let sliding = SlidingWindow::new("5/h".parse().unwrap());
    let (unknown, other) = (limiter.change_rule("nobody", window("1/h")), limiter.change_rule("each address", sliding));
    let bucket = sysd_ratelimit::TokenBucket::new("1/m".parse().unwrap(), 1).unwrap();
    let cost = limiter.change_rule("sign in", bucket);
    assert_eq!(unknown, Err(RateLimitError::UnknownRule { name: "nobody".to_owned() }));
    assert_eq!(other, Err(RateLimitError::OtherAlgorithm { name: "each address".to_owned() }));
    assert_eq!(cost, Err(RateLimitError::CostAboveLimit { name: "sign in".to_owned(), cost: 2, limit: 1 }));
    assert_eq!(limiter.policy(), before);
}
