//! Any store under all layers.

use std::future::Future;
use std::time::Duration;

use sysd_core::{Key, ManualClock, Result, RetryPolicy, Space, Store, SystemEntropy};
use sysd_storage::layer::{
    self, Batch, BatchConfig, Batched, Breaker, BreakerConfig, Cache, CacheConfig, Cached, Coalesce, Coalesced,
    LayerExt as _, Limit, LimitConfig, Metrics, Retried, Retry, Timeout, TimeoutConfig, Trace,
};
use sysd_testkit::conformance::{Harness, SPACES};

/// In the order of docs/layers.md.
type Around<I, S> = layer::Layered<S, I>;
type Bounded<S> = Around<Limit<ManualClock>, Around<Breaker<ManualClock>, Around<Timeout<ManualClock>, S>>>;
type Observed<S> = Around<Metrics<ManualClock>, Around<Trace, Retried<Bounded<S>, ManualClock>>>;
type Stack<S> = Cached<Coalesced<Batched<Observed<S>>>, ManualClock>;

/// A harness whose store is under all layers, and caches all spaces.
///
/// The layers' clock is the suite's: it stands, or is moved by years while a call is under way. So there are no deadlines, and
/// the breaker and the retry's waits have nothing to do unless the store below fails.
pub(crate) struct Layered<H>(pub(crate) H);

fn stack<S: Store>(store: S, clock: ManualClock, conditional_spaces: Vec<Space>) -> Stack<S> {
    let never = Duration::MAX;
    let deadlines = TimeoutConfig { read_max: never, write_max: never, range_max: never };
    // Few places: the suite's concurrent calls have to queue.
    let places = LimitConfig { concurrent_max: 4, queue_max: 1_024, wait_max: never };
    let kept = CacheConfig { conditional_spaces, ..CacheConfig::default() };
    store
        .layer(Timeout::with_clock(deadlines, clock.clone()))
        .layer(Breaker::with_clock(BreakerConfig::default(), clock.clone()))
        .layer(Limit::with_clock(places, clock.clone()))
        .layer(Retry::with_clock(RetryPolicy::default(), clock.clone(), SystemEntropy))
        .layer(Trace)
        .layer(Metrics::with_clock(clock.clone()))
        // One call at a time: concurrent reads gather.
        .layer(Batch::new(BatchConfig { in_flight_max: 1, ..BatchConfig::default() }))
        .layer(Coalesce::new())
        .layer(Cache::with_clock(kept, clock))
}

impl<H: Harness> Harness for Layered<H> {
    type Store = Stack<H::Store>;

    async fn connect(&self, clock: ManualClock) -> Result<Self::Store> {
        Ok(stack(self.0.connect(clock.clone()).await?, clock, SPACES.to_vec()))
    }

    /// Who is not the only process caches no conditional space.
    async fn connect_twice(&self, clock: ManualClock) -> Result<[Self::Store; 2]> {
        let stores = self.0.connect_twice(clock.clone()).await?;
        Ok(stores.map(|store| stack(store, clock.clone(), Vec::new())))
    }

    fn block_on<F: Future<Output: Send> + Send>(&self, future: F) -> F::Output {
        self.0.block_on(future)
    }

    fn keeps_bytes(&self) -> bool {
        self.0.keeps_bytes()
    }

    async fn corrupt(&self, key: Key<'_>) -> Result<()> {
        self.0.corrupt(key).await
    }
}
