//! What the metrics say of decisions, and what they never say.
#![cfg(feature = "metrics")]
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::FutureExt as _;
use sysd_core::breaker::BreakerConfig;
use sysd_core::{Effect, ErasedProcedure, Error, ErrorKind, Key, ManualClock, OutputBytes, Result, Store};
use sysd_ratelimit::policy::{Policy, PolicyLimiter, RequestView};
use sysd_storage::Memory;
use sysd_testkit::{Overridden, Overrides};

mod common;

use common::numbers::Numbers;

/// Answers after a millisecond, or fails.
#[derive(Clone)]
struct Slow {
    clock: ManualClock,
    error: Arc<Mutex<Option<ErrorKind>>>,
}

impl<S: Store> Overrides<S> for Slow {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.clock.advance(Duration::from_millis(1));
        let error = *self.error.lock().unwrap();
        match error {
            Some(kind) => Err(Error::new(kind, Effect::None, "scripted")),
            None => store.update(key, procedure).await,
        }
    }
}

const LIMITS: &str = r#"
    name = "api"
    allow = "user:root"
    deny = "user:mallory"

    [[rules]]
    name = "each"
    key = "user"
    algorithm = "fixed_window"
    rate = "2/h"

    [[rules]]
    name = "files"
    route = "/files/*"
    key = "user"
    algorithm = "fixed_window"
    rate = "1/h"

    [[rules]]
    name = "strict"
    route = "/login"
    methods = "POST"
    key = ["user", "route"]
    algorithm = "fixed_window"
    rate = "9/h"
    on_error = "deny"

    [[rules]]
    name = "tried out"
    key = "user"
    algorithm = "fixed_window"
    rate = "1/h"
    shadow = true
"#;

struct Scene {
    limiter: PolicyLimiter<Overridden<Memory<ManualClock>, Slow>>,
    clock: ManualClock,
    error: Arc<Mutex<Option<ErrorKind>>>,
    stand_in: Memory<ManualClock>,
}

const BREAKER: BreakerConfig = BreakerConfig {
    window: Duration::from_secs(1),
    calls_min: 5,
    failures_percent: 50,
    open_for: Duration::from_secs(1),
    probes: 1,
};

fn scene() -> Scene {
    let clock = common::clock();
    let memory = || Memory::with_clock(clock.clone());
    let (error, stand_in) = (Arc::default(), memory());
    let store = Overridden(memory(), Slow { clock: clock.clone(), error: Arc::clone(&error) });
    let policy = Policy::from_toml("limits.toml", LIMITS).unwrap();
    let limiter = PolicyLimiter::new(store, policy).unwrap().with_clock(clock.clone()).with_breaker(BREAKER);
    Scene { limiter, clock, error, stand_in }
}

impl Scene {
    fn ask(&self, method: &str, path: &str, user: &str) -> bool {
        let headers: [(&str, &str); 0] = [];
        let view = RequestView { method, path, peer: None, user: Some(user), headers: &headers };
        self.limiter.check(&view).now_or_never().unwrap().is_allowed()
    }
}

fn counts(expected: &[(&str, u64)]) -> BTreeMap<String, u64> {
    expected.iter().map(|&(labels, count)| (labels.to_owned(), count)).collect()
}

#[test]
fn decisions_are_counted_by_route_and_outcome() {
    let numbers = Numbers::default();
    metrics::with_local_recorder(&numbers, || {
        let scene = scene();
        for at in 0..3 {
            assert_eq!(scene.ask("GET", &format!("/{at}"), "ann"), at < 2);
        }
        assert!(scene.ask("GET", "/files/1", "bob") && !scene.ask("GET", "/files/2", "bob"));
        // A route is one of the policy's, whatever the method.
        assert!(scene.ask("GET", "/login", "eve") && scene.ask("POST", "/login", "eve"));
        assert!(scene.ask("GET", "/files/3", "root") && !scene.ask("GET", "/files/3", "mallory"));
    });
    let decisions = counts(&[
        ("route=*,outcome=allowed", 2),
        ("route=*,outcome=denied", 1),
        ("route=/files/*,outcome=allowed", 1),
        ("route=/files/*,outcome=denied", 1),
        ("route=/login,outcome=allowed", 2),
        ("route=/files/*,outcome=allow_listed", 1),
        ("route=/files/*,outcome=deny_listed", 1),
    ]);
    assert_eq!(numbers.counts("sysd_ratelimit_decisions_total"), decisions);
    let denials = counts(&[
        ("rule=each,mode=enforced", 1),
        ("rule=files,mode=enforced", 1),
        // Of the requests that passed: ann's second, eve's second.
        ("rule=tried out,mode=shadow", 2),
    ]);
    assert_eq!(numbers.counts("sysd_ratelimit_rule_denials_total"), denials);
    let took = numbers.values("sysd_ratelimit_decision_duration_seconds{policy=api}");
    // A millisecond a call: of a rule and its shadow two, of one that is denied one, of one on a list none.
    assert_eq!((took.len(), took[0], took[2], took[8]), (9, 0.002, 0.001, 0.0));
}

#[test]
fn outages_are_counted_by_kind_and_the_breaker_is_seen() {
    let numbers = Numbers::default();
    metrics::with_local_recorder(&numbers, || {
        let mut scene = scene();
        *scene.error.lock().unwrap() = Some(ErrorKind::Throttled);
        assert!(scene.ask("GET", "/", "ann") && !scene.ask("POST", "/login", "ann"));
        let open = || numbers.values("sysd_ratelimit_breaker_open{policy=api}");
        assert_eq!(open(), [0.0]);
        scene.limiter = scene.limiter.with_stand_in(scene.stand_in.clone()).unwrap();
        assert!(scene.ask("GET", "/", "ann"));
        assert_eq!(open(), [1.0]);
        *scene.error.lock().unwrap() = Some(ErrorKind::Corrupt);
        scene.clock.advance(BREAKER.open_for);
        assert!(!scene.ask("GET", "/", "ann"));
        assert_eq!(open(), [0.0]);
    });
    let decisions = counts(&[
        ("route=*,outcome=failed_open", 1),
        ("route=/login,outcome=unavailable", 1),
        ("route=*,outcome=allowed", 1),
        ("route=*,outcome=failed", 1),
    ]);
    assert_eq!(numbers.counts("sysd_ratelimit_decisions_total"), decisions);
    let errors = numbers.counts("sysd_ratelimit_store_errors_total");
    assert!(errors["kind=throttled,effect=none"] >= 4 && errors["kind=corrupt,effect=none"] == 1, "{errors:?}");
    assert_eq!(numbers.count("sysd_ratelimit_stand_in_decisions_total{policy=api}"), 1);
}

#[test]
fn customers_have_ranks_and_no_names() {
    let numbers = Numbers::default();
    let most = |rank: usize| numbers.values(&format!("sysd_ratelimit_most_limited_denials{{policy=api,rank={rank}}}"));
    metrics::with_local_recorder(&numbers, || {
        let scene = scene();
        for at in 0..50 {
            for _ in 0..(3 + at % 7) {
                scene.ask("GET", "/", &format!("customer {at}"));
            }
        }
        assert_eq!(scene.limiter.report_most_limited(), 197);
        assert_eq!((most(1), most(10)), (vec![7.0], vec![6.0]));
        // A spike of one, since the last report.
        for _ in 0..100 {
            scene.ask("GET", "/", "customer 3");
        }
        assert_eq!(scene.limiter.report_most_limited(), 100);
        assert_eq!((most(1), most(2)), (vec![100.0], vec![0.0]));
    });
    let names = numbers.names();
    assert!(names.iter().all(|name| name.starts_with("sysd_ratelimit_") && !name.contains("customer")), "{names:?}");
    assert!(names.len() < 30, "{names:?}");
}

/// Those that give back fail.
struct NeverTakesBack;

impl<S: Store> Overrides<S> for NeverTakesBack {
    async fn update(&self, store: &S, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        if procedure.name() == "give" {
            return Err(Error::new(ErrorKind::Denied, Effect::None, "scripted"));
        }
        store.update(key, procedure).await
    }
}

#[test]
fn what_a_policy_could_not_give_back_is_counted_and_told() {
    let numbers = Numbers::default();
    metrics::with_local_recorder(&numbers, || {
        let policy = Policy::from_toml("limits.toml", LIMITS).unwrap();
        let limiter =
            PolicyLimiter::new(Overridden(Memory::with_clock(common::clock()), NeverTakesBack), policy).unwrap();
        let headers: [(&str, &str); 0] = [];
        let ask = || {
            let view = RequestView { method: "POST", path: "/login", peer: None, user: Some("ann"), headers: &headers };
            limiter.check(&view).now_or_never().unwrap()
        };
        assert!(ask().is_allowed() && ask().is_allowed());
        // The first key denies: nothing was taken before it.
        let denied = ask();
        assert!(!denied.is_allowed() && denied.not_given_back().is_empty(), "{denied:?}");
        // Now one that comes behind it does.
        limiter.change_rule("each", sysd_ratelimit::FixedWindow::new("99/h".parse().unwrap())).unwrap();
        for _ in 0..7 {
            assert!(ask().is_allowed());
        }
        let denied = ask();
        assert!(!denied.is_allowed(), "{denied:?}");
        let told: Vec<_> = denied.not_given_back().iter().map(Error::kind).collect();
        assert_eq!(told, [ErrorKind::Denied]);
        assert_eq!(denied.errors().len(), 0);
    });
    let series = "sysd_ratelimit_give_back_errors_total{limiter=api,kind=denied,effect=none}";
    assert_eq!(numbers.count(series), 1);
}
