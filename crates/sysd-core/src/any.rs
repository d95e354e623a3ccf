//! One type for every store.

use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;

use crate::procedure::{ErasedProcedure, OutputBytes};
use crate::{Key, Limits, Outcome, Page, Record, Result, Scan, Store, Trim, Trimmed, Write};

/// The object-safe twin of [`Store`], implemented for every store. One allocation a call.
#[async_trait]
pub trait ErasedStore: Send + Sync + 'static {
    /// As [`Store::limits`].
    fn limits(&self) -> &Limits;
    /// As [`Store::get`].
    async fn get(&self, key: Key<'_>) -> Result<Option<Record>>;
    /// As [`Store::get_many`].
    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>>;
    /// As [`Store::write`].
    async fn write(&self, write: Write<'_>) -> Result<Outcome>;
    /// As [`Store::write_many`].
    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>>;
    /// As [`Store::scan`].
    async fn scan(&self, scan: Scan<'_>) -> Result<Page>;
    /// As [`Store::trim`].
    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed>;
    /// As [`Store::update`].
    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes>;
}

#[async_trait]
impl<S: Store> ErasedStore for S {
    fn limits(&self) -> &Limits {
        Store::limits(self)
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        Store::get(self, key).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        Store::get_many(self, keys).await
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        Store::write(self, write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        Store::write_many(self, writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        Store::scan(self, scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        Store::trim(self, trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        Store::update(self, key, procedure).await
    }
}

/// Any store, chosen at run time; cheap to clone. It is a [`Store`] again.
#[derive(Clone)]
pub struct AnyStore(Arc<dyn ErasedStore>);

impl AnyStore {
    /// Erases a store.
    pub fn new(store: impl Store) -> Self {
        Self(Arc::new(store))
    }
}

impl fmt::Debug for AnyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AnyStore").finish_non_exhaustive()
    }
}

impl Store for AnyStore {
    fn limits(&self) -> &Limits {
        self.0.limits()
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.0.get(key).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        self.0.get_many(keys).await
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.0.write(write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        self.0.write_many(writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.0.scan(scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.0.trim(trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.0.update(key, procedure).await
    }
}

/// Sharing a store changes nothing about it.
impl<S: Store> Store for Arc<S> {
    fn limits(&self) -> &Limits {
        Store::limits(&**self)
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        Store::get(&**self, key).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        Store::get_many(&**self, keys).await
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        Store::write(&**self, write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        Store::write_many(&**self, writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        Store::scan(&**self, scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        Store::trim(&**self, trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        Store::update(&**self, key, procedure).await
    }
}
