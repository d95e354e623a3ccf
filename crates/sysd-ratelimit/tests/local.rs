//! The limiter within the process, flooded with keys.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::time::Duration;

use sysd_core::{Clock as _, Entropy as _, ManualClock, Procedure as _, SeededEntropy, StateChange, Timestamp};
use sysd_ratelimit::{LocalLimiter, RateLimitError, Take, TokenBucket};

mod common;

use common::clock;

/// A bucket of its own, by the decision that stores run.
struct Exact(Option<Vec<u8>>);

impl Exact {
    fn take(&mut self, bucket: TokenBucket, now: Timestamp) -> bool {
        let take = Take::new(bucket, 1);
        let step = take.apply(self.0.as_deref(), now).unwrap();
        if let StateChange::Put { state, .. } = step.change {
            self.0 = Some(state.to_vec());
        }
        take.decision(&step.output).is_allowed()
    }
}

#[test]
fn ten_million_keys_take_no_more_memory_and_hot_keys_stay_exact() {
    let (bucket, clock) = (TokenBucket::new("10/s".parse().unwrap(), 50).unwrap(), clock());
    let limiter = LocalLimiter::with_clock(bucket, 200_000, clock.clone()).unwrap();
    assert_eq!(limiter.memory_bytes(), 4_266_752, "128 bytes for each six keys");
    let hot: Vec<String> = (0..100).map(|index| format!("hot {index}")).collect();
    let mut exact: Vec<_> = hot.iter().map(|_| Exact(None)).collect();
    let entropy = SeededEntropy::new(1);
    let (mut denied, mut hot_denied) = (0, 0);
    for step in 0..10_000 {
        if step % 10 == 0 {
            // Ten times what they are allowed.
            for (key, exact) in hot.iter().zip(&mut exact) {
                let is_allowed = limiter.check(key, 1).is_allowed();
                assert_eq!(is_allowed, exact.take(bucket, clock.now()), "{key} in step {step}");
                hot_denied += u32::from(!is_allowed);
            }
        }
        for _ in 0..1_000 {
            // Each comes once. Within a refill time of 5 s these are 5 million: below 200,000 times 49, so none is denied.
            denied += u32::from(!limiter.check(entropy.next_u64().to_be_bytes(), 1).is_allowed());
        }
        clock.advance(Duration::from_millis(1));
    }
    assert_eq!(denied, 0, "of ten million that came once");
    assert!(hot_denied > 80_000, "only {hot_denied} of 100,000");
    assert_eq!(limiter.memory_bytes(), 4_266_752);
}

#[test]
fn a_flood_beyond_the_room_denies_and_never_grants_more() {
    let (bucket, clock) = (TokenBucket::new("1/s".parse().unwrap(), 5).unwrap(), clock());
    let limiter = LocalLimiter::with_clock(bucket, 600, clock.clone()).unwrap();
    let mut allowed = 0_u32;
    for index in 0..100_000_u32 {
        allowed += u32::from(limiter.check(index.to_be_bytes(), 1).is_allowed());
    }
    // All the room there is: 600 keys with five tokens each.
    assert_eq!(allowed, 3_000);
    assert_eq!(limiter.owing(), 600);
    clock.advance(Duration::from_secs(5));
    assert_eq!(limiter.owing(), 0);
    assert!(limiter.check("ann", 5).is_allowed());
}

#[test]
fn threads_share_a_key_exactly() {
    let (bucket, clock) = (TokenBucket::new("1/s".parse().unwrap(), 10_000).unwrap(), clock());
    let limiter = LocalLimiter::with_clock(bucket, 100, clock.clone()).unwrap();
    let count =
        |limiter: &LocalLimiter<ManualClock>| (0..5_000).filter(|_| limiter.check("ann", 1).is_allowed()).count();
    let allowed: usize = std::thread::scope(|scope| {
        let handles = [(); 4].map(|()| scope.spawn(|| count(&limiter)));
        handles.into_iter().map(|handle| handle.join().unwrap()).sum()
    });
    assert_eq!(allowed, 10_000);
    assert_eq!(limiter.check("ann", 1).retry_after(), Some(Duration::from_secs(1)));
    limiter.reset("ann");
    assert_eq!(limiter.check("ann", 0).remaining(), 10_000);
}

#[test]
fn setting_the_wall_clock_gives_nothing_and_takes_nothing() {
    let (bucket, clock) = (TokenBucket::new("1/s".parse().unwrap(), 1).unwrap(), clock());
    let limiter = LocalLimiter::with_clock(bucket, 100, clock.clone()).unwrap();
    assert!(limiter.check("ann", 1).is_allowed());
    clock.set(Timestamp::from_micros(clock.now().as_micros() - 3_600_000_000).unwrap());
    assert_eq!(limiter.check("ann", 1).retry_after(), Some(Duration::from_secs(1)));
    clock.advance(Duration::from_secs(1));
    assert!(limiter.check("ann", 1).is_allowed());
}

#[test]
fn room_for_no_key_or_too_many_is_refused() {
    let bucket = TokenBucket::new("1/s".parse().unwrap(), 1).unwrap();
    for keys_max in [0, 1 << 31, usize::MAX] {
        let refused = LocalLimiter::with_clock(bucket, keys_max, clock()).unwrap_err();
        assert_eq!(refused, RateLimitError::LocalKeys { keys_max });
    }
}
