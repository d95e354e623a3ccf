//! The storage contract.

use std::future::Future;

use crate::procedure::{ErasedProcedure, OutputBytes};
use crate::{Key, Limits, Outcome, Page, Record, Result, Scan, Trim, Trimmed, Write};

/// A store of records, each atomic by itself.
///
/// What a store must do is said by the numbered clauses of `docs/contract.md`, cited here in brackets; `sysd-testkit`
/// certifies a store against each of them. No method has a default body: authors implement all, wrappers forward all.
/// Convenience for callers is in [`StoreExt`](crate::StoreExt); [`AnyStore`](crate::AnyStore) holds any store behind a pointer.
///
/// # Guarantees
/// - A lone record or row is written whole or not at all, and read whole. \[R1\]
/// - In a [conditional](crate::Discipline::Conditional) space, `get`, `write` and `update` of one record are linearizable. \[R2\]
/// - An expired record is absent for every call, from the very microsecond on. \[E1 to E7\]
/// - A lone record is not a row: `scan` and `trim` pass over it. \[K3\]
/// - Keys and values are bytes, and come back as they were given. \[K1, K2\]
///
/// # Errors
/// Bad arguments are refused before anything is sent: [`Invalid`](crate::ErrorKind::Invalid) or
/// [`TooLarge`](crate::ErrorKind::TooLarge), naming the field. Every error says its [`Effect`](crate::Effect); that of a read
/// is always `None`. Bytes that can't be decoded are [`Corrupt`](crate::ErrorKind::Corrupt) with the key, never absent. \[F1 to F3\]
///
/// # Cancel safety
/// A future that is dropped may have written or not, as if its reply was lost; nothing else is harmed. \[C1 to C3\]
pub trait Store: Send + Sync + 'static {
    /// What this store promises and how much it takes. Never changes.
    fn limits(&self) -> &Limits;

    /// Reads a record; `None` if absent or expired.
    fn get(&self, key: Key<'_>) -> impl Future<Output = Result<Option<Record>>> + Send;

    /// Reads records, one answer each, in the order of the keys; one key's failure is only its own. \[B1\]
    fn get_many(&self, keys: &[Key<'_>]) -> impl Future<Output = Vec<Result<Option<Record>>>> + Send;

    /// Writes a record if its condition holds. \[W1 to W9\]
    ///
    /// A write whose condition fails because the record is already *this* write (same token) answers
    /// [`Outcome::Applied`]. So a put that expects a version may be sent again after a lost reply: it happens once. One that
    /// expects [`Absent`](crate::Expect::Absent) happens again if somebody has removed the record in between: send it again
    /// only where records are not removed. One without a condition may undo what others wrote in between.
    ///
    /// # Errors
    /// With [`Effect::Unknown`](crate::Effect::Unknown) the write may have happened, or may still happen: read, or, where that
    /// is safe (see above), send the same write (same token) again.
    fn write(&self, write: Write<'_>) -> impl Future<Output = Result<Outcome>> + Send;

    /// Writes records independently, pipelined, one answer each, in the order of the writes. \[B1 to B3\]
    ///
    /// Each is atomic, the batch is not; between writes of one record in one batch the order is not defined.
    fn write_many(&self, writes: &[Write<'_>]) -> impl Future<Output = Vec<Result<Outcome>>> + Send;

    /// Reads rows of one partition in order. \[S1 to S6\]
    ///
    /// Rows written, removed or expiring meanwhile may be seen or not; what stays is seen once.
    fn scan(&self, scan: Scan<'_>) -> impl Future<Output = Result<Page>> + Send;

    /// Removes rows beyond the first or last so many: a bounded number a call, not atomic. \[T1 to T3\]
    ///
    /// An error says [`Effect::None`](crate::Effect::None) only where no row was removed, and none will be.
    fn trim(&self, trim: Trim<'_>) -> impl Future<Output = Result<Trimmed>> + Send;

    /// Runs a procedure on a record, atomically; answers its encoded output. \[P1 to P5\]
    ///
    /// Callers use [`StoreExt::run`](crate::StoreExt::run), which decodes it.
    ///
    /// # Errors
    /// [`Contention`](crate::ErrorKind::Contention) where other writers kept winning;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the backend needs a Lua twin and there is none.
    fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure)
    -> impl Future<Output = Result<OutputBytes>> + Send;
}
