//! How many bytes records and what lies in the process have, and what the modes of a fleet wait for by default, as the docs say.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use futures::executor::block_on;
use sysd_core::{Key, Store as _, StoreExt as _, tuple};
use sysd_ratelimit::schema::RULES;
use sysd_ratelimit::{
    Algorithm, FixedWindow, GiveAll, JointVerdict, LeakyBucket, LeaseConfig, LocalFirstConfig, Rate, RateLimiter, Rule,
    RuleLimit, RuleLimiter, RuleSet, SlidingLog, SlidingWindow, TakeAll, TokenBucket,
};
use sysd_storage::Memory;

mod common;

use common::clock;

fn rate() -> Rate {
    "1000/h".parse().unwrap()
}

/// All the algorithms, and the bytes of a record with such a rule alone, of which a request was admitted.
fn limits() -> Vec<(RuleLimit, usize)> {
    let limits = vec![
        (TokenBucket::new(rate(), 9).unwrap().into(), 37),
        (LeakyBucket::new(rate(), 9).unwrap().into(), 37),
        (FixedWindow::new(rate()).into(), 26),
        (SlidingWindow::new(rate()).into(), 30),
        (SlidingLog::new(rate()).unwrap().into(), 15 + 11),
    ];
    #[cfg(feature = "calendar")]
    let limits = {
        use sysd_ratelimit::{CalendarUnit, CalendarWindow};
        let window = CalendarWindow::new(9, CalendarUnit::Day, "UTC", sysd_core::SystemClock).unwrap();
        limits.into_iter().chain([(window.into(), 26)]).collect()
    };
    limits
}

fn bytes(store: &Memory) -> usize {
    let partition = tuple::encode(&("api", "ann"));
    block_on(store.get(Key::lone(RULES, &partition))).unwrap().unwrap().value.len()
}

/// Of an algorithm alone, of whose limit so many requests of different moments were admitted.
fn bytes_alone(algorithm: impl Algorithm, requests: u32) -> usize {
    let (clock, space) = (clock(), algorithm.space());
    let store = Memory::with_clock(clock.clone());
    let limiter = RateLimiter::new(store.clone(), "api", algorithm);
    for _ in 0..requests {
        assert!(block_on(limiter.check("ann", 1)).unwrap().is_allowed());
        clock.advance(Duration::from_millis(1));
    }
    block_on(store.get(Key::lone(space, &tuple::encode(&("api", "ann"))))).unwrap().unwrap().value.len()
}

#[test]
fn a_state_alone() {
    assert_eq!(bytes_alone(TokenBucket::new(rate(), 9).unwrap(), 3), 23);
    assert_eq!(bytes_alone(LeakyBucket::new(rate(), 9).unwrap(), 3), 23);
    assert_eq!(bytes_alone(FixedWindow::new(rate()), 3), 12);
    assert_eq!(bytes_alone(SlidingWindow::new(rate()), 3), 16);
    assert_eq!(bytes_alone(SlidingLog::new(rate()).unwrap(), 3), 1 + 3 * 11);
    assert_eq!(bytes_alone(SlidingLog::new(rate()).unwrap(), 1_000), 1 + 1_000 * 11);
    #[cfg(feature = "calendar")]
    {
        use sysd_ratelimit::{CalendarUnit, CalendarWindow};
        assert_eq!(bytes_alone(CalendarWindow::new(9, CalendarUnit::Day, "UTC", clock()).unwrap(), 3), 12);
    }
}

#[test]
fn what_the_modes_of_a_fleet_wait_for() {
    let (leased, local_first) = (LeaseConfig::new(1), LocalFirstConfig::default());
    assert_eq!((leased.hold_for, leased.call_wait_max), (Duration::from_millis(100), Duration::from_secs(1)));
    let waits = (local_first.flush_every, local_first.call_wait_max);
    assert_eq!(waits, (Duration::from_millis(100), Duration::from_secs(1)));
}

#[test]
fn a_record_of_rules_has_a_byte_and_fourteen_for_each_beside_its_state() {
    let rule = |(at, (limit, _)): (usize, (RuleLimit, usize))| Rule::new(&format!("rule {at}"), limit).unwrap();
    let mut all = 0;
    for (limit, bytes_of_rule) in limits() {
        let store = Memory::new();
        let rules = RuleSet::new([rule((0, (limit.clone(), 0)))]).unwrap();
        block_on(RuleLimiter::new(store.clone(), "api", rules).unwrap().check("ann", 1)).unwrap();
        assert_eq!(bytes(&store), 1 + bytes_of_rule, "{limit:?}");
        all += bytes_of_rule;
    }
    let store = Memory::new();
    let rules = RuleSet::new(limits().into_iter().enumerate().map(rule)).unwrap();
    block_on(RuleLimiter::new(store.clone(), "api", rules).unwrap().check("ann", 1)).unwrap();
    assert_eq!(bytes(&store), 1 + all);
}

#[test]
fn a_bucket_to_which_something_was_given_back_has_eight_more() {
    let store = Memory::new();
    let rule = Rule::new("rule", TokenBucket::new(rate(), 9).unwrap()).unwrap();
    let partition = tuple::encode(&("api", "ann"));
    let key = Key::lone(RULES, &partition);
    let take = TakeAll::new([(&rule, 5)]);
    let verdict = block_on(store.run(key, &take)).unwrap();
    let give = GiveAll::part_of(&take, &verdict, |_| 2).unwrap();
    assert_eq!(block_on(store.run(key, &give)).unwrap(), 1);
    assert_eq!(bytes(&store), 1 + 45);
}

#[test]
fn a_full_log_has_11_015() {
    let store = Memory::new();
    let rule = Rule::new("rule", SlidingLog::new(rate()).unwrap()).unwrap();
    let limiter = RuleLimiter::new(store.clone(), "api", RuleSet::new([rule]).unwrap()).unwrap();
    let mut admitted = 0;
    while admitted < 1_000 {
        admitted += u32::from(block_on(limiter.check("ann", 1)).unwrap().is_allowed());
    }
    // Requests of one moment are one entry: at most so many.
    assert!(bytes(&store) <= 1 + 11_015, "{}", bytes(&store));
}

/// Of a leased key: a batch in hand, of which `fleet/lease.rs` holds the size together with the lease's, and up to four rests.
#[test]
fn a_batch_is_less_than_a_kilobyte() {
    let batch = size_of::<TakeAll>() + size_of::<JointVerdict>();
    println!("{batch} bytes a batch");
    assert!((500..900).contains(&batch), "{batch}");
}
