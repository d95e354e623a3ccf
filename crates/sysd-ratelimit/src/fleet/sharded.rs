//! Sharded: one key's bucket cut into several, for a key that is hotter than one record bears.

use std::time::Duration;

use futures::future::join_all;
use sysd_core::tuple::{self, Element as _, KeyBytes};
use sysd_core::{Entropy, Key, Result, Store, StoreExt as _, SystemEntropy};

use super::micros;
use crate::error::RateLimitError;
use crate::model::{Decision, Outcome, Rate, Span, TokenBucket};
use crate::procedure::Take;
use crate::schema;
use crate::service::partition;

/// The most shards of a [`ShardedLimiter`].
pub const SHARDS_MAX: u32 = 64;

/// A token bucket a key, cut into shards that lie in records, and so on nodes, of their own.
///
/// A request takes from one shard, chosen at random; where that has too little, it looks at all others and takes from
/// the fullest. So a key is decided as fast as all nodes together are, and nobody is denied while some shard has enough.
///
/// ```
/// use sysd_ratelimit::{ShardedLimiter, TokenBucket};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let bucket = TokenBucket::new("100000/s".parse()?, 1_000)?;
/// let limiter = ShardedLimiter::new(Memory::new(), "everybody", bucket, 8)?;
/// assert_eq!(limiter.limit(), 125);
/// assert!(limiter.check("all", 1).await?.is_allowed());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - **Never more**: bursts and rates of the shards add up to those of the bucket, exactly, so all processes together are
///   granted what the bucket grants, and no more.
/// - **Seldom less**: nothing is moved between shards. One that is full gains nothing while others are not, and a request is denied
///   when no shard alone has its cost, though all together might.
/// - The number of shards is a part of the key: with another number the key begins anew.
#[derive(Debug, Clone)]
pub struct ShardedLimiter<S, E = SystemEntropy> {
    store: S,
    entropy: E,
    prefix: KeyBytes,
    bucket: TokenBucket,
    shards: Vec<TokenBucket>,
}

impl<S: Store> ShardedLimiter<S> {
    /// The limiter `name` on `store`.
    ///
    /// # Errors
    /// [`RateLimitError::Shards`] for no shards, more than [`SHARDS_MAX`], or more than the burst;
    /// [`RateLimitError::BurstTooLarge`] if a shard would need longer than [`MAX_REFILL`](crate::MAX_REFILL) to fill,
    /// [`RateLimitError::RatePeriod`] if it would need as long for one token.
    pub fn new(store: S, name: &str, bucket: TokenBucket, shards: u32) -> Result<Self, RateLimitError> {
        Self::with_entropy(store, name, bucket, shards, SystemEntropy)
    }
}

impl<S: Store, E: Entropy> ShardedLimiter<S, E> {
    /// The same, choosing shards by `entropy`.
    ///
    /// # Errors
    /// As [`ShardedLimiter::new`].
    pub fn with_entropy(
        store: S,
        name: &str,
        bucket: TokenBucket,
        shards: u32,
        entropy: E,
    ) -> Result<Self, RateLimitError> {
        let shards = cut(&bucket, shards)?;
        // The number of shards tells the keys of one cut from those of another.
        let prefix = tuple::encode(&(name, shards.len() as u64));
        Ok(Self { store, entropy, prefix, bucket, shards })
    }

    /// The bucket that the shards make together.
    pub fn bucket(&self) -> &TokenBucket {
        &self.bucket
    }

    /// The most that can be taken at once: what every shard can hold.
    pub fn limit(&self) -> u32 {
        self.shards.last().map_or(0, TokenBucket::burst)
    }

    /// Takes `cost` for `key` from one of its shards; a cost of zero looks at all.
    ///
    /// A cost above [`limit`](Self::limit) is never allowed, which needs no store: then `remaining` is zero. `remaining` is what the shard has that was taken from; of a denial, and
    /// of a look, what the fullest has. `retry_after` is when the first of the shards has enough.
    ///
    /// # Errors
    /// As [`RateLimiter::check`](crate::RateLimiter::check).
    ///
    /// # Cost
    /// An update; where that shard has too little, one more of each, in one round trip, and another of a shard that has enough. So a
    /// request that is denied asks all shards.
    ///
    /// # Cancel safety
    /// A future that is dropped has taken the cost or not; never a part of it.
    pub async fn check(&self, key: impl AsRef<[u8]> + Send, cost: u32) -> Result<Decision> {
        let prefix = partition(&self.prefix, key);
        if cost > self.limit() {
            return Ok(self.unknown());
        }
        let mut denied: Option<(usize, Decision)> = None;
        if cost > 0 {
            #[allow(clippy::cast_possible_truncation, reason = "fewer than 64 shards")]
            let at = (self.entropy.next_u64() % self.shards.len() as u64) as usize;
            let decision = self.take(&prefix, at, cost).await?;
            if decision.is_allowed() {
                return Ok(self.told(decision));
            }
            denied = Some((at, decision));
        }
        let fullest = self.fullest(&prefix, denied).await?;
        for &(at, decision) in &fullest {
            if cost == 0 {
                return Ok(self.told(decision));
            }
            if decision.remaining() < cost {
                break;
            }
            // Others may have been faster.
            let decision = self.take(&prefix, at, cost).await?;
            if decision.is_allowed() {
                return Ok(self.told(decision));
            }
        }
        Ok(self.denied(&fullest, cost))
    }

    async fn take(&self, prefix: &KeyBytes, at: usize, cost: u32) -> Result<Decision> {
        let mut partition = KeyBytes::from_slice(prefix);
        (at as u64).encode_to(&mut partition);
        let take = Take::new(self.shards[at], cost);
        let verdict = self.store.run(Key::lone(schema::BUCKETS, &partition), &take).await?;
        Ok(take.decision(&verdict))
    }

    /// Looks at all shards but the one that is known; the fullest first.
    async fn fullest(&self, prefix: &KeyBytes, known: Option<(usize, Decision)>) -> Result<Vec<(usize, Decision)>> {
        let others = (0..self.shards.len()).filter(|at| known.is_none_or(|(known, _)| known != *at));
        let looks = join_all(others.map(async |at| Ok((at, self.take(prefix, at, 0).await?)))).await;
        let (mut found, mut error) = (Vec::new(), None);
        for look in looks {
            match look {
                Ok(look) => found.push(look),
                Err(failed) => error = Some(failed),
            }
        }
        // It was denied: what it has is too little.
        found.extend(known);
        // Those that answered decide.
        if let (Some(error), true) = (error, found.is_empty()) {
            return Err(error);
        }
        found.sort_by_key(|(_, decision)| std::cmp::Reverse(decision.remaining()));
        Ok(found)
    }

    /// Of one shard, told as the key's.
    fn told(&self, decision: Decision) -> Decision {
        Decision::new(decision.outcome(), self.limit(), decision.remaining(), micros(decision.reset_after()))
    }

    fn denied(&self, found: &[(usize, Decision)], cost: u32) -> Decision {
        // A shard has enough once it owes no more than its capacity less the price; what it owes is when it is full.
        let wait_us = |&(at, decision): &(usize, Decision)| {
            let shard = &self.shards[at];
            let price_us = shard.price(cost).map_or(0, Span::ceil_us);
            let wait_us = micros(decision.reset_after()).saturating_add(price_us).saturating_sub(shard.capacity().us);
            wait_us.max(1)
        };
        let retry_after = Duration::from_micros(found.iter().map(wait_us).min().unwrap_or(1));
        let fullest = found.first().map_or(self.unknown(), |(_, decision)| *decision);
        let reset_us = found.iter().map(|(_, decision)| micros(decision.reset_after())).max().unwrap_or(0);
        Decision::new(Outcome::Denied { retry_after }, self.limit(), fullest.remaining(), reset_us)
    }

    fn unknown(&self) -> Decision {
        Decision::new(Outcome::NeverAllowed, self.limit(), 0, 0)
    }
}

/// Bursts and rates that add up to the bucket's; the last shard is the smallest.
fn cut(bucket: &TokenBucket, shards: u32) -> Result<Vec<TokenBucket>, RateLimitError> {
    let burst = bucket.burst();
    if shards == 0 || shards > SHARDS_MAX || shards > burst {
        return Err(RateLimitError::Shards { shards, burst });
    }
    let rate = Rate::new(bucket.rate().count(), bucket.rate().period().saturating_mul(shards))?;
    let shard = |at| TokenBucket::new(rate, burst / shards + u32::from(at < burst % shards));
    (0..shards).map(shard).collect()
}
