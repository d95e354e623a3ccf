//! A limiter within the process, of fixed memory whatever the keys.

mod set;

use std::hash::{BuildHasher as _, Hasher as _};
use std::sync::Arc;

use parking_lot::Mutex;
use sysd_core::{Clock, FastClock, Timestamp};

use crate::elapsed::steady_us;
use crate::error::RateLimitError;
use crate::model::{Decision, TokenBucket};
use crate::procedure::Take;
use set::{Set, WAYS};

/// The most keys of a [`LocalLimiter`]: 2^31 - 1, for which it takes 46 GB.
pub const LOCAL_KEYS_MAX: usize = (1 << 31) - 1;

/// A token bucket for every key, within the process, in memory that never grows.
///
/// For what one process guards alone: a listener, a login form, a stand-in while the store is away. It waits for nothing and
/// allocates nothing, so it is a plain call. Clones share the buckets.
///
/// ```
/// use sysd_ratelimit::{LocalLimiter, TokenBucket};
///
/// let limiter = LocalLimiter::new(TokenBucket::new("10/s".parse()?, 20)?, 1_000_000)?;
/// assert_eq!(limiter.check("192.0.2.1", 1).remaining(), 19);
/// assert_eq!(limiter.memory_bytes(), 21_333_376);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Guarantees
/// - **A key is never granted more** than its bucket holds and what refills, whatever other keys there are, as a
///   [`RateLimiter`](crate::RateLimiter) on a store would; and while no more than six keys of a set owe something,
///   exactly that.
/// - **Memory is fixed**: 128 bytes for each six keys of `keys_max`, however many keys come.
/// - **A flood of keys** makes a key pay for others only where more keys than there is room for owe something at once. Keys
///   are spread over sets of six; a set that is full lends the place of the key that owes least, and its debt goes with the
///   place. Who had a place before the set was full, and owes more than the least of it, is exact: that is, whoever is near the
///   limit. A key that comes to a
///   full set owes from the start what its place did: at most a sixth of what was taken in the set within a refill time. It
///   has so many tokens fewer until it owes nothing once. Keys that come once, at a cost of one, are on average
///   denied for others when more than `keys_max * (burst - 1)` come within a refill time.
/// - Keys are told apart by 64 bits of a hash whose seed is the process's: two of a million keys share a bucket with a
///   probability of 3 in 10^8. The hash is fast, and no keyed pseudo-random function: who learned the seed could choose keys that share a set,
///   or a bucket, with somebody's, and have that one denied for what they take. Nobody is granted more by that, a decision takes no
///   longer, and no memory grows.
/// - The time is the clock's steady one: setting the wall clock changes nothing.
#[derive(Debug)]
pub struct LocalLimiter<C = FastClock> {
    shared: Arc<Shared<C>>,
}

impl<C> Clone for LocalLimiter<C> {
    fn clone(&self) -> Self {
        Self { shared: Arc::clone(&self.shared) }
    }
}

/// Two cache lines, and no lock beside another one.
#[repr(align(128))]
#[derive(Debug, Default)]
struct Padded(Mutex<Set>);

const _: () = assert!(size_of::<Padded>() == 128);

struct Shared<C> {
    bucket: TokenBucket,
    clock: C,
    hasher: foldhash::quality::RandomState,
    sets: Box<[Padded]>,
}

impl<C> std::fmt::Debug for Shared<C> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Neither the buckets, which are many, nor the seed.
        f.debug_struct("Shared").field("bucket", &self.bucket).field("sets", &self.sets.len()).finish_non_exhaustive()
    }
}

impl LocalLimiter {
    /// With room for `keys_max` keys that owe something at once; those that do not take none.
    ///
    /// # Errors
    /// [`RateLimitError::LocalKeys`] if there is room for none, or for more than [`LOCAL_KEYS_MAX`].
    pub fn new(bucket: TokenBucket, keys_max: usize) -> Result<Self, RateLimitError> {
        Self::with_clock(bucket, keys_max, FastClock::new())
    }
}

impl<C: Clock> LocalLimiter<C> {
    /// The same, by `clock`.
    ///
    /// # Errors
    /// As [`LocalLimiter::new`].
    pub fn with_clock(bucket: TokenBucket, keys_max: usize, clock: C) -> Result<Self, RateLimitError> {
        if keys_max == 0 || keys_max > LOCAL_KEYS_MAX {
            return Err(RateLimitError::LocalKeys { keys_max });
        }
        let sets = (0..keys_max.div_ceil(WAYS)).map(|_| Padded::default()).collect();
        let hasher = foldhash::quality::RandomState::default();
        Ok(Self { shared: Arc::new(Shared { bucket, clock, hasher, sets }) })
    }

    /// What it decides by.
    pub fn bucket(&self) -> &TokenBucket {
        &self.shared.bucket
    }

    /// Takes `cost` for `key`, if there is as much; a cost of zero only looks.
    ///
    /// # Cost
    /// A hash, a lock that is held for a decision, two cache lines.
    #[inline]
    pub fn check(&self, key: impl AsRef<[u8]>, cost: u32) -> Decision {
        let shared = &*self.shared;
        let (hash, set) = shared.place(key.as_ref());
        let now = shared.now();
        let verdict = set.0.lock().take(hash, &shared.bucket, now, cost);
        Take::new(shared.bucket, cost).decision(&verdict)
    }

    /// Fills the bucket of `key`. While its set is full, it may still owe what others do: see the guarantees.
    pub fn reset(&self, key: impl AsRef<[u8]>) {
        let (hash, set) = self.shared.place(key.as_ref());
        set.0.lock().forget(hash);
    }

    /// How many keys owe something: near `keys_max`, more room would make more of them exact.
    ///
    /// # Cost
    /// It looks at all of them.
    pub fn owing(&self) -> usize {
        let now = self.shared.now();
        self.shared.sets.iter().map(|set| set.0.lock().owing(now)).sum()
    }

    /// What the buckets take, in bytes, now and always.
    pub fn memory_bytes(&self) -> usize {
        self.shared.sets.len() * size_of::<Padded>()
    }
}

impl<C: Clock> Shared<C> {
    #[inline]
    fn now(&self) -> Timestamp {
        Timestamp::from_micros_saturating(steady_us(&self.clock))
    }

    #[inline]
    #[allow(clippy::cast_possible_truncation, reason = "a quotient by 2^64 of a product with the number of sets")]
    fn place(&self, key: &[u8]) -> (u64, &Padded) {
        let mut hasher = self.hasher.build_hasher();
        hasher.write(key);
        let hash = hasher.finish();
        let index = (u128::from(hash) * self.sets.len() as u128) >> 64;
        (hash, &self.sets[index as usize])
    }
}
