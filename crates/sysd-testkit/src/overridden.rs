//! A store of which some calls are made otherwise.

use std::future::Future;

use sysd_core::{
    ErasedProcedure, Key, Limits, Outcome, OutputBytes, Page, Record, Result, Scan, Store, Trim, Trimmed, Write,
};

/// What an [`Overridden`] store does in the place of the calls of the store below; by default, the same.
pub trait Overrides<S: Store>: Send + Sync + 'static {
    /// In the place of [`Store::limits`].
    fn limits<'a>(&'a self, store: &'a S) -> &'a Limits {
        store.limits()
    }

    /// In the place of [`Store::get`].
    fn get(&self, store: &S, key: Key<'_>) -> impl Future<Output = Result<Option<Record>>> + Send {
        store.get(key)
    }

    /// In the place of [`Store::write`].
    fn write(&self, store: &S, write: Write<'_>) -> impl Future<Output = Result<Outcome>> + Send {
        store.write(write)
    }

    /// In the place of [`Store::write_many`].
    fn write_many(&self, store: &S, writes: &[Write<'_>]) -> impl Future<Output = Vec<Result<Outcome>>> + Send {
        store.write_many(writes)
    }

    /// In the place of [`Store::scan`].
    fn scan(&self, store: &S, scan: Scan<'_>) -> impl Future<Output = Result<Page>> + Send {
        store.scan(scan)
    }

    /// In the place of [`Store::update`].
    fn update(
        &self,
        store: &S,
        key: Key<'_>,
        procedure: &dyn ErasedProcedure,
    ) -> impl Future<Output = Result<OutputBytes>> + Send {
        store.update(key, procedure)
    }
}

/// A store of which some calls are made otherwise, as its [`Overrides`] say: to break it on purpose, or to stop it at a certain
/// record. Unlike an interceptor, these see the record, and may call more than once.
///
/// ```
/// use sysd_core::{Effect, ErasedProcedure, Error, ErrorKind, Key, OutputBytes, Result};
/// use sysd_storage::Memory;
/// use sysd_testkit::{Overridden, Overrides};
///
/// /// No procedure runs.
/// struct NoUpdates;
///
/// impl Overrides<Memory> for NoUpdates {
///     async fn update(&self, _: &Memory, _: Key<'_>, _: &dyn ErasedProcedure) -> Result<OutputBytes> {
///         Err(Error::new(ErrorKind::Unavailable, Effect::None, "away"))
///     }
/// }
///
/// let store = Overridden(Memory::new(), NoUpdates);
/// # let _ = store;
/// ```
#[derive(Clone, Debug)]
pub struct Overridden<S, O>(pub S, pub O);

impl<S: Store, O: Overrides<S>> Store for Overridden<S, O> {
    fn limits(&self) -> &Limits {
        self.1.limits(&self.0)
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.1.get(&self.0, key).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        self.0.get_many(keys).await
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.1.write(&self.0, write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        self.1.write_many(&self.0, writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.1.scan(&self.0, scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.0.trim(trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.1.update(&self.0, key, procedure).await
    }
}
