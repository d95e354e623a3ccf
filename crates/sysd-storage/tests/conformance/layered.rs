//! Any store under all layers.

use std::future::Future;
use std::time::Duration;

use sysd_core::{Key, ManualClock, Result, RetryPolicy, Store, SystemEntropy};
use sysd_storage::layer::{self, LayerExt as _, Retried, Retry, Timeout, TimeoutConfig, Trace};
use sysd_testkit::conformance::Harness;

type Stack<S> = layer::Layered<Retried<layer::Layered<S, Timeout<ManualClock>>, ManualClock>, Trace>;

/// A harness whose store is under all layers, in the documented order.
///
/// Their clock is the suite's: it stands, or is moved by years while a call is under way. So no layer may have to wait, and no
/// deadline is set.
pub(crate) struct Layered<H>(pub(crate) H);

fn stack<S: Store>(store: S, clock: ManualClock) -> Stack<S> {
    let never = Duration::MAX;
    store
        .layer(Timeout::with_clock(
            TimeoutConfig { read_max: never, write_max: never, range_max: never },
            clock.clone(),
        ))
        .layer(Retry::with_clock(RetryPolicy::default(), clock, SystemEntropy))
        .layer(Trace)
}

impl<H: Harness> Harness for Layered<H> {
    type Store = Stack<H::Store>;

    async fn connect(&self, clock: ManualClock) -> Result<Self::Store> {
        Ok(stack(self.0.connect(clock.clone()).await?, clock))
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
