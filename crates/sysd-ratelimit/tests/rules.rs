//! Several rules on a store.
#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::sync::Arc;
use std::time::Duration;

use sysd_core::{ErrorKind, Key, Store, StoreExt as _, tuple};
use sysd_ratelimit::schema::RULES;
use sysd_ratelimit::{
    FixedWindow, LeakyBucket, RateLimitError, Rule, RuleLimiter, RuleSet, SlidingLog, SlidingWindow, TokenBucket,
};
use sysd_storage::Memory;
use sysd_testkit::Limited;
use sysd_testkit::sim::{Node, Simulation};

mod common;

use common::{clock, on_redis};

fn rules() -> RuleSet {
    let bucket = TokenBucket::new("40/s".parse().unwrap(), 40).unwrap();
    RuleSet::new([
        Rule::new("a bucket", bucket).unwrap(),
        Rule::new("a queue", LeakyBucket::new("40/s".parse().unwrap(), 70).unwrap()).unwrap(),
        Rule::new("a window", FixedWindow::new("60/s".parse().unwrap())).unwrap(),
        Rule::new("two counters", SlidingWindow::new("50/s".parse().unwrap())).unwrap(),
        Rule::new("a log", SlidingLog::new("45/s".parse().unwrap()).unwrap()).unwrap(),
    ])
    .unwrap()
}

/// However many ask at once, as many are admitted as the tightest rule lets, and the others have taken nothing more.
async fn exactly_the_limit<S: Store + Clone>(store: S) {
    let limiter = Arc::new(RuleLimiter::new(store, "api", rules()).unwrap());
    let tasks: Vec<_> = (0..300)
        .map(|_| {
            let limiter = Arc::clone(&limiter);
            tokio::spawn(async move { limiter.check("ann", 1).await.unwrap() })
        })
        .collect();
    let mut admitted = 0;
    for task in tasks {
        let decision = task.await.unwrap();
        admitted += u32::from(decision.is_allowed());
        assert_eq!(decision.decision().is_allowed(), decision.is_allowed());
    }
    assert_eq!(admitted, 40);
    let look = limiter.check("ann", 0).await.unwrap();
    assert!(look.is_allowed());
    let left: Vec<_> = look.each().iter().map(|decision| decision.limit() - decision.remaining()).collect();
    assert_eq!(left, [40; 5], "each rule has given what was admitted");
    let denied = limiter.check("ann", 1).await.unwrap();
    assert_eq!(limiter.rules().rules()[denied.bound_by()].name(), "a bucket");
    assert!(limiter.check("bob", 40).await.unwrap().is_allowed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_admits_exactly_the_limit() {
    exactly_the_limit(Memory::with_clock(clock())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_admits_exactly_the_limit() {
    exactly_the_limit(on_redis("SYSD_TEST_REDIS_URL", clock()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redis_cluster_admits_exactly_the_limit() {
    exactly_the_limit(on_redis("SYSD_TEST_REDIS_CLUSTER_URL", clock()).await).await;
}

#[tokio::test]
async fn bad_input_is_named() {
    let store = Memory::with_clock(clock());
    let limiter = RuleLimiter::new(store.clone(), "api", rules()).unwrap();
    let too_long = limiter.check(vec![0_u8; 100_000], 1).await.unwrap_err();
    assert_eq!((too_long.kind(), too_long.field()), (ErrorKind::TooLarge, Some("partition")));
    let partition = tuple::encode(&("api", &b"bob"[..]));
    store.put(Key::lone(RULES, &partition), "no state").await.unwrap();
    assert_eq!(limiter.check("bob", 1).await.unwrap_err().kind(), ErrorKind::Corrupt);
    let never = limiter.check("ann", 46).await.unwrap();
    assert_eq!(never.decision().outcome(), sysd_ratelimit::Outcome::NeverAllowed);
    assert!(limiter.check("ann", 40).await.unwrap().is_allowed(), "nothing was taken");
}

#[tokio::test]
async fn rules_that_no_record_of_the_store_holds_are_refused() {
    let rules = |count: usize, limit: u32| {
        let log = SlidingLog::new(format!("{limit}/d").parse().unwrap()).unwrap();
        RuleSet::new((0..count).map(|at| Rule::new(&format!("log {at}"), log).unwrap())).unwrap()
    };
    let simulation = Simulation::new(7);
    // A byte, and for each log a header of 14 bytes, a byte, and 11 for each request.
    let bytes = 1 + 3 * (14 + 1 + 20 * 11);
    let store = |bytes_max| simulation.store(Node(0)).with_value_bytes_max(bytes_max);
    let error = RuleLimiter::new(store(bytes - 1), "api", rules(3, 20)).unwrap_err();
    assert_eq!(
        error,
        RateLimitError::RecordTooLarge { rule: "log 2".to_owned(), others: 2, bytes, bytes_max: bytes - 1 }
    );
    assert!(RuleLimiter::new(store(bytes), "api", rules(3, 20)).is_ok());
    // It is the longest there is.
    let clock = clock();
    let store = Memory::with_clock(clock.clone());
    let limiter = RuleLimiter::new(store.clone(), "api", rules(3, 20)).unwrap();
    for at in 0..20 {
        assert!(limiter.check("ann", 1).await.unwrap().is_allowed(), "{at}");
        clock.advance(Duration::from_secs(1));
    }
    let record = store.get(Key::lone(RULES, &tuple::encode(&("api", &b"ann"[..])))).await.unwrap().unwrap();
    assert_eq!(record.value.len(), bytes);
    // Sixteen of the longest fit wherever DynamoDB's items do.
    assert!(RuleLimiter::new(Limited::new(store, clock), "api", rules(16, 1_000)).is_ok());
}
