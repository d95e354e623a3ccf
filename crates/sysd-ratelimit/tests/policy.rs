//! A policy on a store.
#![cfg(feature = "policy")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sysd_core::{Effect, ErasedProcedure, Error, ErrorKind, Key, ManualClock, OutputBytes, Store, Timestamp};
use sysd_ratelimit::Outcome;
use sysd_ratelimit::policy::{Listing, Policy, PolicyLimiter, Reason, RequestView, Ruling};
use sysd_storage::Memory;
use sysd_testkit::sim::{Faults, Node, Simulation};
use sysd_testkit::{Overridden, Overrides};

mod common;

fn policy(text: &str) -> Policy {
    Policy::from_toml("limits.toml", text).unwrap()
}

const LIMITS: &str = r#"
    name = "api"
    deny = "ip:203.0.113.0/24"
    allow = "user:root"

    [[rules]]
    name = "each address"
    key = "ip"
    algorithm = "fixed_window"
    rate = "3/h"

    [[rules]]
    name = "logins"
    route = "/login"
    methods = ["POST"]
    key = "global"
    algorithm = "fixed_window"
    rate = "4/h"

    [[rules]]
    name = "a tighter one, perhaps"
    key = "ip"
    algorithm = "fixed_window"
    rate = "2/h"
    shadow = true
"#;

fn limiter(text: &str) -> (PolicyLimiter<Memory<ManualClock>>, ManualClock) {
    let clock = common::clock();
    (common::limiter(text, &clock), clock)
}

async fn ask<S: Store>(limiter: &PolicyLimiter<S>, method: &str, path: &str, peer: &str) -> Ruling {
    let headers: [(&str, &str); 0] = [];
    let peer = Some(peer.parse().unwrap());
    limiter.check(&RequestView { method, path, peer, user: None, headers: &headers }).await
}

fn remaining(ruling: &Ruling) -> Vec<u32> {
    ruling.each().iter().map(|(_, decision)| decision.remaining()).collect()
}

#[tokio::test]
async fn rules_of_several_keys_are_all_or_nothing() {
    let (limiter, clock) = limiter(LIMITS);
    for at in 0..4 {
        let ruling = ask(&limiter, "POST", "/login", &format!("192.0.2.{}", at / 2)).await;
        assert!(ruling.is_allowed());
        assert_eq!(remaining(&ruling), [2 - at % 2, 3 - at]);
    }
    let denied = ask(&limiter, "POST", "/login", "192.0.2.1").await;
    assert_eq!((denied.is_allowed(), denied.reason()), (false, &Reason::Rules));
    assert_eq!(denied.rule().unwrap().rule().name(), "logins");
    let Outcome::Denied { retry_after } = denied.decision().unwrap().outcome() else { panic!("{denied:?}") };
    // The address has its last one still: what the first rule took was given back.
    let other = ask(&limiter, "GET", "/", "192.0.2.1").await;
    assert_eq!((other.is_allowed(), remaining(&other)), (true, vec![0]));
    clock.advance(retry_after);
    assert!(ask(&limiter, "POST", "/login", "192.0.2.1").await.is_allowed());
}

#[tokio::test]
async fn shadow_rules_count_and_refuse_nothing() {
    let (limiter, _) = limiter(LIMITS);
    for (at, would_deny) in [vec![], vec![], vec![2]].into_iter().enumerate() {
        let ruling = ask(&limiter, "GET", "/", "192.0.2.1").await;
        assert!(ruling.is_allowed(), "{at}");
        assert_eq!(ruling.would_deny(), would_deny, "{at}");
    }
    // Refused by a rule in force: shadows are not asked.
    let denied = ask(&limiter, "GET", "/", "192.0.2.1").await;
    assert_eq!((denied.is_allowed(), denied.would_deny()), (false, &[][..]));
}

#[tokio::test]
async fn lists_ask_nothing() {
    let (limiter, _) = limiter(LIMITS);
    for _ in 0..9 {
        let denied = ask(&limiter, "GET", "/", "203.0.113.9").await;
        assert_eq!((denied.is_allowed(), denied.reason()), (false, &Reason::Listed(Listing::Deny)));
        assert!(denied.decision().is_none() && denied.rule().is_none());
        let headers: [(&str, &str); 0] = [];
        let peer = Some("192.0.2.7".parse().unwrap());
        let root = RequestView { method: "GET", path: "/", peer, user: Some("root"), headers: &headers };
        assert!(limiter.check(&root).await.is_allowed());
    }
    assert_eq!(remaining(&ask(&limiter, "GET", "/", "192.0.2.7").await), [2]);
}

#[tokio::test]
async fn another_policy_keeps_the_counts() {
    let (limiter, _) = limiter(LIMITS);
    for _ in 0..2 {
        assert!(ask(&limiter, "GET", "/", "192.0.2.1").await.is_allowed());
    }
    let changes = limiter.replace(policy(&LIMITS.replace("3/h", "5/h"))).unwrap();
    assert!(changes.to_string().contains("each address"), "{changes}");
    let ruling = ask(&limiter, "GET", "/", "192.0.2.1").await;
    assert_eq!(remaining(&ruling), [2], "five less the two before and this one");
    limiter.replace(policy(&LIMITS.replace("3/h", "2/h"))).unwrap();
    assert!(!ask(&limiter, "GET", "/", "192.0.2.1").await.is_allowed());
    assert_eq!(limiter.policy().rules()[0].rule().limit(), limiter.policy().rules()[2].rule().limit());
    // A shadow that goes live has counted.
    limiter.replace(policy(&LIMITS.replace("shadow = true", "").replace("3/h", "9/h"))).unwrap();
    let denied = ask(&limiter, "GET", "/", "192.0.2.1").await;
    assert_eq!(denied.rule().unwrap().rule().name(), "a tighter one, perhaps");
}

#[test]
fn a_store_that_is_down_opens_or_closes_as_each_rule_says() {
    for (on_error, is_open) in [("allow", true), ("deny", false)] {
        let simulation = Simulation::new(7);
        let text = LIMITS.replace("name = \"logins\"", &format!("name = \"logins\"\n    on_error = \"{on_error}\""));
        let limiter = PolicyLimiter::new(simulation.store(Node(0)), policy(&text)).unwrap();
        let limiter = Arc::new(limiter.with_clock(simulation.clock()).with_deadline(Duration::from_secs(1)));
        let rulings = Arc::new(Mutex::new(Vec::new()));
        let run = |count: usize| {
            for _ in 0..count {
                let (limiter, rulings) = (Arc::clone(&limiter), Arc::clone(&rulings));
                simulation.spawn(Node(0), async move {
                    let ruling = ask(&*limiter, "POST", "/login", "192.0.2.1").await;
                    rulings.lock().unwrap().push(ruling);
                });
            }
            simulation.run().unwrap();
            std::mem::take(&mut *rulings.lock().unwrap())
        };
        simulation.set_faults(Faults { refused: 1_000, ..Faults::NONE });
        for ruling in run(3) {
            assert_eq!(ruling.is_allowed(), is_open);
            assert!(!ruling.errors().is_empty() && ruling.decision().is_none());
            assert_eq!(*ruling.reason() == Reason::Unavailable, !is_open);
        }
        // Back again: nothing was counted of what was refused before the wire.
        simulation.set_faults(Faults::NONE);
        assert_eq!(run(1)[0].each().iter().map(|(_, decision)| decision.remaining()).collect::<Vec<_>>(), [2, 3]);
    }
}

#[tokio::test]
async fn requests_under_way_end_under_the_policy_they_began_with() {
    let (limiter, clock) = limiter(LIMITS);
    let headers: [(&str, &str); 0] = [];
    let peer = Some("192.0.2.1".parse().unwrap());
    let request = RequestView { method: "GET", path: "/", peer, user: None, headers: &headers };
    let ruling = limiter.check(&request);
    limiter.replace(policy("name = \"other\"\n")).unwrap();
    // A future does nothing before it is polled: this one begins now.
    assert!(ruling.await.each().is_empty());
    clock.advance(Duration::from_secs(1));
    assert_eq!(limiter.policy().name(), "other");
}

/// The records of keys with these bytes can't be had.
struct Without(&'static [u8], ErrorKind);

impl<S: Store> Overrides<S> for Without {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> sysd_core::Result<OutputBytes> {
        if key.partition().windows(self.0.len()).any(|part| part == self.0) {
            return Err(Error::new(self.1, Effect::None, "away"));
        }
        store.update(key, procedure).await
    }
}

#[tokio::test]
async fn a_rule_that_allowed_is_not_named_where_another_could_not_be_asked() {
    let text = LIMITS.replace("name = \"logins\"", "name = \"logins\"\n    on_error = \"deny\"");
    let memory = Memory::with_clock(common::clock());
    // What `global` is in a key.
    let limiter =
        PolicyLimiter::new(Overridden(memory, Without(b"\x0A", ErrorKind::Unavailable)), policy(&text)).unwrap();
    let ruling = ask(&limiter, "POST", "/login", "192.0.2.1").await;
    assert_eq!((ruling.is_allowed(), ruling.reason()), (false, &Reason::Unavailable));
    assert!(ruling.decision().is_none() && ruling.rule().is_none(), "{ruling:?}");
    assert_eq!(remaining(&ask(&limiter, "GET", "/", "192.0.2.1").await), [2], "given back");
}

#[tokio::test]
async fn only_an_outage_opens() {
    for kind in ErrorKind::ALL {
        let is_outage = matches!(
            kind,
            ErrorKind::Unavailable
                | ErrorKind::Timeout
                | ErrorKind::Throttled
                | ErrorKind::Contention
                | ErrorKind::Full
        );
        for on_error in ["allow", "deny"] {
            let text =
                LIMITS.replace("name = \"logins\"", &format!("name = \"logins\"\n    on_error = \"{on_error}\""));
            let memory = Memory::with_clock(common::clock());
            let limiter = PolicyLimiter::new(Overridden(memory, Without(b"\x0A", kind)), policy(&text)).unwrap();
            let ruling = ask(&limiter, "POST", "/login", "192.0.2.1").await;
            assert_eq!(ruling.is_allowed(), is_outage && on_error == "allow", "{kind} {on_error}");
            let reason = match (is_outage, on_error) {
                (true, "allow") => Reason::Rules,
                (true, _) => Reason::Unavailable,
                (false, _) => Reason::Failed,
            };
            assert_eq!((ruling.reason(), ruling.errors().len()), (&reason, 1), "{kind} {on_error}");
            let left = remaining(&ask(&limiter, "GET", "/", "192.0.2.1").await)[0];
            assert_eq!(left, 2 - u32::from(ruling.is_allowed()), "{kind} {on_error}");
        }
    }
}

#[test]
fn a_policy_whose_records_the_store_can_t_hold_is_refused() {
    let text = |limit: u32, key: &str| {
        let rule = |at| {
            format!(
                "[[rules]]\nname = \"log {at}\"\nroute = [\"/{at}\", \"/all\"]\nkey = {key}\nalgorithm = \"sliding_log\"\nrate = \"{limit}/d\"\n"
            )
        };
        policy(&format!("name = \"api\"\n{}", (0..16).map(rule).collect::<String>()))
    };
    let simulation = Simulation::new(7);
    let bytes = 1 + 16 * (14 + 1 + 20 * 11);
    let store = |bytes_max| simulation.store(Node(0)).with_value_bytes_max(bytes_max);
    for key in ["\"ip\"", "[\"ip\", \"route\"]"] {
        let error = PolicyLimiter::new(store(bytes - 1), text(20, key)).unwrap_err();
        assert!(error.to_string().contains("and 15 others of one key may come to 3761 bytes"), "{error}");
        let limiter = PolicyLimiter::new(store(bytes), text(20, key)).unwrap();
        assert!(limiter.replace(text(21, key)).is_err());
        assert_eq!(limiter.policy(), text(20, key), "the old one stays");
        assert!(limiter.replace(text(19, key)).is_ok());
    }
}

#[tokio::test]
async fn a_rule_in_force_keeps_its_count_however_often_others_are_renamed() {
    let named = |name: &str| {
        let other =
            format!("[[rules]]\nname = \"{name}\"\nkey = \"ip\"\nalgorithm = \"fixed_window\"\nrate = \"9/w\"\n");
        let monthly = "[[rules]]\nname = \"downloads\"\nroute = \"/files/*\"\nkey = \"ip\"\nrate = \"3/mo\"\npriority = 1\nfinal = true\n";
        let tried = "[[rules]]\nname = \"tried\"\nkey = \"ip\"\nrate = \"5/mo\"\nshadow = true\n";
        format!("name = \"api\"\n{monthly}{other}{tried}")
    };
    let (limiter, _) = limiter(&named("at first"));
    for path in ["/files/1", "/files/2"] {
        assert!(ask(&limiter, "GET", path, "192.0.2.1").await.is_allowed());
    }
    for at in 0..200 {
        limiter.replace(policy(&named(&format!("renamed {at}")))).unwrap();
        assert!(ask(&limiter, "GET", "/", "192.0.2.1").await.is_allowed());
    }
    assert_eq!(remaining(&ask(&limiter, "GET", "/files/3", "192.0.2.1").await), [0]);
    assert!(!ask(&limiter, "GET", "/files/4", "192.0.2.1").await.is_allowed());
}

#[cfg(feature = "calendar")]
#[tokio::test]
async fn windows_of_the_calendar_begin_where_the_customer_is() {
    let text = "name = \"api\"\n[[rules]]\nname = \"daily\"\nkey = \"ip\"\nalgorithm = \"calendar_window\"\nrate = \"3/d\"\nzone = \"Europe/Berlin\"\n";
    // 2027-01-15, 22:59:58 UTC: two seconds before midnight in Berlin.
    let clock = ManualClock::new(Timestamp::from_micros_saturating(1_800_053_998_000_000));
    let limiter = PolicyLimiter::new(Memory::with_clock(clock.clone()), policy(text).by_clock(&clock)).unwrap();
    for left in [2, 1, 0] {
        assert_eq!(remaining(&ask(&limiter, "GET", "/", "192.0.2.1").await), [left]);
    }
    let denied = ask(&limiter, "GET", "/", "192.0.2.1").await;
    assert_eq!(denied.decision().unwrap().retry_after(), Some(Duration::from_secs(2)));
    clock.advance(Duration::from_secs(2));
    assert_eq!(remaining(&ask(&limiter, "GET", "/", "192.0.2.1").await), [2]);
}
