//! A decision in process: our token bucket on the memory store, `governor` keyed, `limitador` in memory.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "../../support/report.rs"]
mod report;

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, SystemTime};

use criterion::Criterion;
use sysd_core::FastClock;
use sysd_ratelimit::{Rate, RateLimiter, TokenBucket};
use sysd_storage::Memory;

/// The memory store's futures are ready at once.
fn now<T>(future: impl Future<Output = T>) -> T {
    match std::pin::pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("the memory store never waits"),
    }
}

/// Pseudo-random names, so that no prefetcher sees a pattern.
fn names(count: usize) -> Vec<String> {
    let mix = |index: usize| (index as u128 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15_F39C_C060_5CED_C835) >> 64;
    (0..count).map(|index| format!("{:016x}", mix(index))).collect()
}

/// Visits all names before it repeats.
struct Walk<'a>(&'a [String], usize);

impl<'a> Walk<'a> {
    fn next(&mut self) -> &'a str {
        self.1 = (self.1 + 611_953) % self.0.len();
        &self.0[self.1]
    }
}

fn decisions(criterion: &mut Criterion) {
    for (group, count) in [("decide_1", 1), ("decide_100k", 100_000), ("decide_1m", 1_000_000)] {
        let names = names(count);
        let mut group = criterion.benchmark_group(group);
        {
            let limiter = governor::RateLimiter::keyed(governor::Quota::per_second(NonZeroU32::MAX));
            names.iter().for_each(|name| drop(limiter.check_key(name)));
            let mut at = 0;
            group.bench_function("governor", |bench| {
                bench.iter(|| {
                    at = (at + 611_953) % count;
                    limiter.check_key(&names[at]).is_ok()
                });
            });
        }
        {
            let limiter = limitador::RateLimiter::new(2 * count as u64);
            let variables = vec!["user".try_into().unwrap()];
            let _ = limiter.add_limit(limitador::limit::Limit::new("api", u64::MAX, 3_600, vec![], variables));
            let namespace = "api".into();
            let decide = |name: &str| {
                let context = HashMap::from([("user".to_owned(), name.to_owned())]).into();
                limiter.check_rate_limited_and_update(&namespace, &context, 1).unwrap().limited
            };
            names.iter().for_each(|name| assert!(!decide(name)));
            let mut walk = Walk(&names, 0);
            group.bench_function("limitador", |bench| bench.iter(|| decide(walk.next())));
        }
        let bucket = TokenBucket::new(Rate::per_second(1_000_000).unwrap(), 1_000_000).unwrap();
        let limiter = RateLimiter::new(Memory::with_clock(FastClock::new()), "api", bucket);
        names.iter().for_each(|name| assert!(now(limiter.check(name, 1)).unwrap().is_allowed()));
        let mut walk = Walk(&names, 0);
        group.bench_function("sysd", |bench| bench.iter(|| now(limiter.check(walk.next(), 1)).unwrap().is_allowed()));
        group.finish();
    }
}

fn main() {
    let start = SystemTime::now();
    let mut criterion = Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(2))
        .sample_size(20)
        .configure_from_args();
    decisions(&mut criterion);
    criterion.final_summary();
    report::print(start);
}
