//! How many bytes records and what lies in the process have, as the docs say.
#![allow(clippy::unwrap_used, reason = "tests")]

use futures::executor::block_on;
use sysd_core::{Key, Store as _, StoreExt as _, tuple};
use sysd_ratelimit::schema::RULES;
use sysd_ratelimit::{
    FixedWindow, GiveAll, JointVerdict, LeakyBucket, Rate, Rule, RuleLimit, RuleLimiter, RuleSet, SlidingLog,
    SlidingWindow, TakeAll, TokenBucket,
};
use sysd_storage::Memory;

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
