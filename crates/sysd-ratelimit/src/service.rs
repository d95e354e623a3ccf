//! The limiter on a store.

use sysd_core::tuple::{self, Element, KeyBytes};
use sysd_core::{Key, Result, Store, StoreExt};

use crate::model::{Decision, TokenBucket};
use crate::procedure::Take;
use crate::schema::BUCKETS;

/// A token bucket for every key, kept in a store.
///
/// Limiters with different names share a store without sharing buckets; those with the same name, in
/// any process, share them. The time is the store's: its clock, or its server's.
///
/// # Guarantees
/// - Over any stretch of time `t`, a key is granted at most `burst + rate * t` tokens, by all
///   processes together.
/// - Nothing is lost to rounding: a client that waits out its `retry_after` is admitted, if nobody
///   else took the tokens meanwhile, and a microsecond earlier it is not.
/// - A refusal takes nothing and writes nothing.
/// - A clock that goes back gives nothing: the bucket stands still until the clock has caught up.
///
/// These hold as far as the store keeps what it acknowledged: where `limits().durability` is less
/// than durable, a crash may forget a bucket, which is then full.
#[derive(Debug, Clone)]
pub struct RateLimiter<S> {
    store: S,
    prefix: KeyBytes,
    bucket: TokenBucket,
}

impl<S: Store> RateLimiter<S> {
    /// The limiter `name` on `store`.
    pub fn new(store: S, name: &str, bucket: TokenBucket) -> Self {
        Self { store, prefix: tuple::encode(&(name,)), bucket }
    }

    /// The limit.
    pub fn bucket(&self) -> &TokenBucket {
        &self.bucket
    }

    /// Takes `cost` tokens from the bucket of `key`, if it has as many; a cost of zero only looks.
    ///
    /// A refusal is an answer, not an error: see [`Decision`].
    ///
    /// # Errors
    /// As [`Store::update`]: the question could not be answered, and whether to let the request pass
    /// is the caller's to choose. A key longer than the store's limit is
    /// [`TooLarge`](sysd_core::ErrorKind::TooLarge) naming `partition`; stored bytes that are no
    /// bucket are [`Corrupt`](sysd_core::ErrorKind::Corrupt). With
    /// [`Effect::Unknown`](sysd_core::Effect::Unknown) the tokens may have been taken.
    ///
    /// # Cost
    /// One update: a lock on memory, a round trip on Redis.
    ///
    /// # Cancel safety
    /// A future that is dropped has taken the tokens or not; never a part of them.
    pub async fn check(&self, key: impl AsRef<[u8]> + Send, cost: u32) -> Result<Decision> {
        let mut partition = self.prefix.clone();
        key.as_ref().encode_to(&mut partition);
        drop(key);
        let take = Take::new(self.bucket, cost);
        let verdict = self.store.run(Key::lone(BUCKETS, &partition), &take).await?;
        Ok(take.decision(&verdict))
    }
}
