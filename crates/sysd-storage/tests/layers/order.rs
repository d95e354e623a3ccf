//! The documented order: what each layer sees of the others.

use std::sync::Arc;
use std::time::Duration;

use futures::executor::block_on;
use sysd_core::{ErrorKind, Key, RetryPolicy, SeededEntropy, Store as _};
use sysd_storage::layer::{
    Batch, Breaker, BreakerConfig, Cache, CacheConfig, Coalesce, LayerExt as _, Limit, LimitConfig, Retry, Timeout,
    TimeoutConfig,
};

use crate::script::{Fault, PLAIN, Script, scripted};

const KEY: Key<'static> = Key::lone(PLAIN, b"k");

#[test]
fn attempts_are_seen_below_the_retry_and_one_call_above_it() {
    let scripted = scripted();
    let clock = scripted.clock.clone();
    let policy = RetryPolicy { wait_base: Duration::ZERO, wait_max: Duration::ZERO, ..RetryPolicy::default() };
    let breaker = BreakerConfig { calls_min: 3, ..BreakerConfig::default() };
    let breaker = Breaker::with_clock(breaker, clock.clone());
    let (attempts, calls) = (Arc::new(Script::default()), Arc::new(Script::default()));
    let store = scripted
        .store
        .clone()
        .layer(Timeout::with_clock(TimeoutConfig::default(), clock.clone()))
        .layer(breaker.clone())
        .layer(Limit::with_clock(LimitConfig { concurrent_max: 1, ..LimitConfig::default() }, clock.clone()))
        .layer(Arc::clone(&attempts))
        .layer(Retry::with_clock(policy, clock.clone(), Arc::new(SeededEntropy::new(1))))
        .layer(Arc::clone(&calls))
        .layer(Batch::default())
        .layer(Coalesce::new())
        .layer(Cache::with_clock(CacheConfig::default(), clock.clone()));
    scripted.script.play([Fault::Refuse(ErrorKind::Unavailable), Fault::Refuse(ErrorKind::Unavailable)]);
    assert_eq!(block_on(store.get(KEY)).unwrap(), None);
    assert_eq!((scripted.script.take_count(), attempts.take_count(), calls.take_count()), (3, 3, 1));
    // A hit reaches none of them.
    assert_eq!(block_on(store.get(KEY)).unwrap(), None);
    assert_eq!(calls.take_count(), 0);
    // The breaker has seen attempts, not calls: two of three failed, and one more opens it.
    assert!(!breaker.is_open());
    clock.advance(Duration::from_secs(2));
    scripted.script.play((0..4).map(|_| Fault::Refuse(ErrorKind::Unavailable)));
    assert_eq!(block_on(store.get(KEY)).unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(breaker.is_open());
    assert_eq!((scripted.script.take_count(), attempts.take_count(), calls.take_count()), (1, 4, 1));
}
