//! The limiter on a store.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::future::Future;
use std::time::Duration;

use futures::FutureExt as _;
use futures::executor::block_on;
use proptest::prelude::*;
use sysd_core::{AnyStore, Clock as _, ErrorKind, Key, ManualClock, Procedure as _, Store, StoreExt as _, tuple};
use sysd_ratelimit::schema::BUCKETS;
use sysd_ratelimit::{
    Algorithm, FixedWindow, LeakyBucket, Outcome, RateLimiter, SlidingLog, SlidingWindow, TokenBucket,
};
use sysd_storage::Memory;

mod common;

fn bucket(rate: &str, burst: u32) -> TokenBucket {
    TokenBucket::new(rate.parse().unwrap(), burst).unwrap()
}

fn on_memory(name: &str, bucket: TokenBucket) -> (RateLimiter<Memory<ManualClock>>, Memory<ManualClock>, ManualClock) {
    let clock = common::clock();
    let store = Memory::with_clock(clock.clone());
    (RateLimiter::new(store.clone(), name, bucket), store, clock)
}

#[test]
fn a_client_is_limited_and_comes_back_in_time() {
    let (limiter, _, clock) = on_memory("api", bucket("3/s", 2));
    let check = || block_on(limiter.check("ann", 1)).unwrap();
    let first = check();
    assert_eq!((first.outcome(), first.limit(), first.remaining()), (Outcome::Allowed, 2, 1));
    assert_eq!(first.reset_after(), Duration::from_micros(333_334));
    assert!(check().is_allowed());
    let denied = check();
    assert_eq!((denied.retry_after(), denied.remaining()), (Some(Duration::from_micros(333_334)), 0));
    clock.advance(Duration::from_micros(333_333));
    assert!(!check().is_allowed());
    clock.advance(Duration::from_micros(1));
    assert!(check().is_allowed());
    assert!(block_on(limiter.check("bob", 2)).unwrap().is_allowed());
}

#[test]
fn names_and_keys_make_buckets() {
    let (limiter, store, _) = on_memory("a", bucket("1/h", 1));
    let other = RateLimiter::new(store.clone(), "a\0", bucket("1/h", 1));
    let same = RateLimiter::new(store, "a", bucket("1/h", 1));
    assert!(block_on(limiter.check("b", 1)).unwrap().is_allowed());
    assert!(!block_on(same.check("b", 1)).unwrap().is_allowed());
    assert!(block_on(other.check("b", 1)).unwrap().is_allowed());
    for key in [&b""[..], b"\0", b"\xFF\0b"] {
        assert!(block_on(limiter.check(key, 1)).unwrap().is_allowed());
        assert!(!block_on(limiter.check(key, 1)).unwrap().is_allowed());
    }
}

#[test]
fn a_full_bucket_leaves_no_record() {
    let (limiter, store, clock) = on_memory("api", bucket("1/s", 5));
    block_on(limiter.check("ann", 5)).unwrap();
    let partition = tuple::encode(&("api", "ann"));
    let key = Key::lone(BUCKETS, &partition);
    let record = block_on(store.get(key)).unwrap().unwrap();
    assert_eq!(record.expires_at, clock.now().checked_add(Duration::from_secs(5)));
    clock.advance(Duration::from_secs(5));
    assert_eq!(block_on(store.get(key)).unwrap(), None);
    // Nor does one that was only looked at, or asked for too much.
    block_on(limiter.check("ann", 0)).unwrap();
    assert_eq!(block_on(limiter.check("ann", 6)).unwrap().outcome(), Outcome::NeverAllowed);
    assert_eq!(block_on(store.get(key)).unwrap(), None);
}

#[test]
fn what_can_not_be_answered_is_an_error_that_names_what() {
    let (limiter, store, _) = on_memory("api", bucket("1/s", 5));
    let too_long = block_on(limiter.check("x".repeat(3_000), 1)).unwrap_err();
    assert_eq!((too_long.kind(), too_long.field()), (ErrorKind::TooLarge, Some("partition")));
    let partition = tuple::encode(&("api", "ann"));
    let key = Key::lone(BUCKETS, &partition);
    block_on(store.put(key, "not a bucket")).unwrap();
    assert_eq!(block_on(limiter.check("ann", 1)).unwrap_err().kind(), ErrorKind::Corrupt);
    assert_eq!(block_on(store.get(key)).unwrap().unwrap().value, "not a bucket");
}

#[test]
fn a_check_that_is_dropped_before_it_began_takes_nothing() {
    let (limiter, _, _) = on_memory("api", bucket("1/h", 1));
    drop(limiter.check("ann", 1));
    assert!(limiter.check("ann", 1).now_or_never().unwrap().unwrap().is_allowed());
}

/// A key borrowed or owned, on any store: the future can be spawned.
#[test]
fn checks_can_be_sent_to_other_threads() {
    fn sent<T: Send>(_: impl Future<Output = T> + Send) {}
    let (limiter, store, _) = on_memory("api", bucket("1/h", 1));
    let erased = RateLimiter::new(AnyStore::new(store), "api", bucket("1/h", 1));
    sent(limiter.check("ann", 1));
    sent(erased.check("ann".to_owned(), 1));
    sent(erased.check(&b"ann"[..], 1));
}

fn reads(algorithm: &impl Algorithm, bytes: &[u8]) {
    let take = algorithm.take(1);
    if let Ok(output) = take.decode_output(bytes) {
        let _ = algorithm.decision(&take, &output);
    }
}

proptest! {
    /// A server that lies is told so, and nobody panics: a time beyond the window's end did that.
    #[test]
    fn any_bytes_are_an_output_that_can_be_read_or_none(
        bytes in proptest::collection::vec(prop_oneof![4 => Just(0_u8), 1 => any::<u8>()], 29),
    ) {
        let rate = || "3/7us".parse().unwrap();
        reads(&bucket("3/7us", 5), &bytes[..21]);
        reads(&LeakyBucket::new(rate(), 4).unwrap(), &bytes[..21]);
        reads(&FixedWindow::new(rate()), &bytes[..20]);
        reads(&SlidingWindow::new(rate()), &bytes[..24]);
        reads(&SlidingLog::new(rate()).unwrap(), &bytes);
    }
}
