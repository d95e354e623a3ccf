//! Layers: what goes around the calls of any store.
//!
//! [`LayerExt::layer`] puts a layer around a store; the result is a store again. What is put on later lies further out.
//!
//! ```
//! use sysd_core::{Key, Space, StoreExt};
//! use sysd_storage::Memory;
//! use sysd_storage::layer::{LayerExt, Retry, Timeout, Trace};
//!
//! const USERS: Space = Space::conditional("users");
//!
//! # futures::executor::block_on(async {
//! let store = Memory::new().layer(Timeout::default()).layer(Retry::default()).layer(Trace);
//! store.put(Key::lone(USERS, b"alice"), "hello").await?;
//! # Ok::<(), sysd_core::Error>(())
//! # }).unwrap();
//! ```
//!
//! The order, each only where it is wanted: cache(coalesce(batch(metrics(trace(retry(limit(breaker(timeout(store))))))))).
//! Why, and what each answers when something fails: `docs/layers.md`.

mod answer;
mod batch;
mod breaker;
mod bug;
#[cfg(feature = "cache")]
mod cache;
mod coalesce;
mod layered;
mod limit;
#[cfg(feature = "metrics")]
mod metrics;
mod operation;
mod retry;
mod timeout;
mod trace;

use sysd_core::Store;
pub use sysd_core::breaker::BreakerConfig;

pub use answer::Answer;
pub use batch::{Batch, BatchConfig, Batched};
pub use breaker::Breaker;
#[cfg(feature = "seeded-bugs")]
pub use bug::Bug;
#[cfg(feature = "cache")]
pub use cache::{Cache, CacheConfig, CacheStats, Cached};
pub use coalesce::{Coalesce, Coalesced};
pub use layered::{Interceptor, Layered};
pub use limit::{Limit, LimitConfig};
#[cfg(feature = "metrics")]
pub use metrics::Metrics;
pub use operation::{Method, Operation};
pub use retry::{Retried, Retry};
pub use timeout::{Timeout, TimeoutConfig};
pub use trace::Trace;

/// Makes a store out of a store. Every [`Interceptor`] is one.
pub trait Layer<S: Store> {
    /// The store with the layer around it.
    type Store: Store;

    /// Puts it around `store`.
    fn wrap(self, store: S) -> Self::Store;
}

impl<S: Store, I: Interceptor> Layer<S> for I {
    type Store = Layered<S, I>;

    fn wrap(self, store: S) -> Self::Store {
        Layered::new(store, self)
    }
}

/// Puts layers around stores, implemented for every store.
pub trait LayerExt: Store + Sized {
    /// Puts a layer around this store, and around the layers that it has already.
    fn layer<L: Layer<Self>>(self, layer: L) -> L::Store {
        layer.wrap(self)
    }
}

impl<S: Store> LayerExt for S {}
