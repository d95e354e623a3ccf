//! The one adapter of all interceptors.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

use sysd_core::{
    ErasedProcedure, Key, Limits, Outcome, OutputBytes, Page, Record, Result, Scan, Store, Trim, Trimmed, Write,
};

use super::{Answer, Operation};

/// Goes around every call of a store: may refuse it, wait before it, watch it, give it up.
///
/// It gets one call and runs it at most once. It may fail without polling `call` (then nothing happened) or after (then
/// the reply was lost): the error that it makes up must say which, see [`Effect`](sysd_core::Effect). What has to call
/// again, such as [`Retry`](super::Retry), is a store of its own.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use sysd_core::{Key, Space, Store};
/// use sysd_storage::Memory;
/// use sysd_storage::layer::{Answer, Interceptor, LayerExt, Operation};
///
/// /// Counts the answers that were errors.
/// #[derive(Default)]
/// struct CountErrors(AtomicU64);
///
/// impl Interceptor for CountErrors {
///     async fn around<A: Answer, F: Future<Output = A> + Send>(&self, _: Operation, call: F) -> A {
///         let answer = call.await;
///         self.0.fetch_add(answer.errors().count() as u64, Ordering::Relaxed);
///         answer
///     }
/// }
///
/// let store = Memory::new().layer(CountErrors::default());
/// let nowhere = Key::lone(const { Space::conditional("users") }, b"");
/// assert!(futures::executor::block_on(store.get(nowhere)).is_err());
/// assert_eq!(store.interceptor().0.load(Ordering::Relaxed), 1);
/// ```
///
/// # Cancel safety
/// Its future may be dropped at any await: what it holds it must give back when dropped.
pub trait Interceptor: Send + Sync + 'static {
    /// Runs `call`, at most once, and answers in its stead.
    fn around<A: Answer, F: Future<Output = A> + Send>(
        &self,
        operation: Operation,
        call: F,
    ) -> impl Future<Output = A> + Send;
}

/// Nothing, or something: a layer that is switched on by configuration.
impl<I: Interceptor> Interceptor for Option<I> {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, operation: Operation, call: F) -> A {
        match self {
            Some(interceptor) => interceptor.around(operation, call).await,
            None => call.await,
        }
    }
}

impl<I: Interceptor> Interceptor for Arc<I> {
    async fn around<A: Answer, F: Future<Output = A> + Send>(&self, operation: Operation, call: F) -> A {
        (**self).around(operation, call).await
    }
}

/// A store with an interceptor around each of its calls. A batch of nothing goes by it.
#[derive(Clone, Debug)]
pub struct Layered<S, I> {
    inner: S,
    interceptor: I,
}

impl<S, I> Layered<S, I> {
    pub(super) const fn new(inner: S, interceptor: I) -> Self {
        Self { inner, interceptor }
    }

    /// What goes around the calls.
    pub const fn interceptor(&self) -> &I {
        &self.interceptor
    }

    /// The store below.
    pub const fn inner(&self) -> &S {
        &self.inner
    }
}

// The call is pinned here and handed on by reference: moved into `around` it would lie in its future twice, and the future
// of a stack would double with every layer.
impl<S: Store, I: Interceptor> Store for Layered<S, I> {
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        let operation = Operation::get(key);
        let call = pin!(self.inner.get(key));
        self.interceptor.around(operation, call).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        let Some(operation) = Operation::get_many(keys) else { return Vec::new() };
        let call = pin!(self.inner.get_many(keys));
        self.interceptor.around(operation, call).await
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        let operation = Operation::write(&write);
        let call = pin!(self.inner.write(write));
        self.interceptor.around(operation, call).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        let Some(operation) = Operation::write_many(writes) else { return Vec::new() };
        let call = pin!(self.inner.write_many(writes));
        self.interceptor.around(operation, call).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        let operation = Operation::scan(&scan);
        let call = pin!(self.inner.scan(scan));
        self.interceptor.around(operation, call).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        let operation = Operation::trim(&trim);
        let call = pin!(self.inner.trim(trim));
        self.interceptor.around(operation, call).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        let operation = Operation::update(key);
        let call = pin!(self.inner.update(key, procedure));
        self.interceptor.around(operation, call).await
    }
}
