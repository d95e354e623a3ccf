//! Ids: ordered by time, or random.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::entropy::{Entropy, below};
use crate::{Clock, Timestamp};

/// Why no [`Snowflake`] id could be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SnowflakeError {
    /// The node id has more than ten bits.
    #[error("node id {node} is over {}; every process needs its own between 0 and that", Snowflake::NODE_MAX)]
    NodeTooLarge {
        /// What was given.
        node: u16,
    },
    /// The clock stands further behind the last id than [`Snowflake::AHEAD_MAX`]: it was set back, or more than four
    /// million ids a second were asked for over a second.
    #[error("the ids run {ahead:?} ahead of the clock; wait, or mend the clock")]
    Ahead {
        /// How far.
        ahead: Duration,
    },
    /// The clock is before [`Snowflake::EPOCH`] or 69 years after it.
    #[error("the clock says {now}, outside of the 69 years that ids can hold; mend the clock")]
    ClockOutOfRange {
        /// What the clock said.
        now: Timestamp,
    },
}

/// Makes 63-bit ids that rise in time: 41 bits of milliseconds, 10 bits of node, 12 bits of sequence.
///
/// The layout is that of Twitter's Snowflake (2010). Ids of one generator strictly rise, whatever its clock does: when the
/// clock goes back, or 4,096 ids a millisecond are not enough, the generator runs ahead of the clock, by
/// [`Snowflake::AHEAD_MAX`] at most, then refuses.
///
/// # Collisions
/// None within a generator, none between generators with different node ids. Two live generators with one node id collide
/// almost surely under load: give out node ids by a lease. After a restart with a clock set back, ids may repeat unless
/// the process waits until the clock is past its last id ([`Snowflake::resume_after`]).
#[derive(Debug)]
pub struct Snowflake<C> {
    clock: C,
    node: u64,
    /// Milliseconds since the epoch and sequence of the next id, as one number of 53 bits.
    next: AtomicU64,
}

impl<C: Clock> Snowflake<C> {
    /// Milliseconds of ids start at 2020-01-01T00:00:00Z and last until 2089.
    pub const EPOCH: Timestamp = Timestamp::from_micros_saturating(1_577_836_800_000_000);

    /// From its node id, unique among all processes that make ids.
    ///
    /// # Errors
    /// [`SnowflakeError::NodeTooLarge`].
    pub fn new(node: u16, clock: C) -> Result<Self, SnowflakeError> {
        if node > Snowflake::NODE_MAX {
            return Err(SnowflakeError::NodeTooLarge { node });
        }
        Ok(Self { clock, node: u64::from(node), next: AtomicU64::new(0) })
    }

    /// Makes only ids greater than `id` from now on: the last one that an earlier run of this node stored.
    pub fn resume_after(&self, id: u64) {
        let after = (id >> 22 << 12 | id & 0xFFF) + 1;
        self.next.fetch_max(after, Ordering::Relaxed);
    }

    /// The next id.
    ///
    /// # Errors
    /// [`SnowflakeError::Ahead`] or [`SnowflakeError::ClockOutOfRange`].
    pub fn next(&self) -> Result<u64, SnowflakeError> {
        let now = self.clock.now();
        let out_of_range = SnowflakeError::ClockOutOfRange { now };
        let since_us = now.as_micros().checked_sub(Self::EPOCH.as_micros()).ok_or(out_of_range)?;
        let now_ms = since_us / 1_000;
        if now_ms >> 41 != 0 {
            return Err(out_of_range);
        }
        let ahead_max_ms = u64::try_from(Snowflake::AHEAD_MAX.as_millis()).unwrap_or(u64::MAX);
        let take = |next: u64| {
            let slot = next.max(now_ms << 12);
            (slot >> 12 <= now_ms + ahead_max_ms && slot >> 53 == 0).then_some(slot + 1)
        };
        match self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
            Ok(before) => {
                let slot = before.max(now_ms << 12);
                Ok((slot >> 12) << 22 | self.node << 12 | slot & 0xFFF)
            }
            Err(next) => Err(SnowflakeError::Ahead { ahead: Duration::from_millis((next >> 12) - now_ms) }),
        }
    }
}

impl Snowflake<()> {
    /// The greatest node id.
    pub const NODE_MAX: u16 = (1 << 10) - 1;
    /// How far ids may run ahead of the clock.
    pub const AHEAD_MAX: Duration = Duration::from_secs(1);
}

/// When an id was made, to the millisecond (up to [`Snowflake::AHEAD_MAX`] later than the clock said).
pub const fn snowflake_time(id: u64) -> Timestamp {
    Timestamp::from_micros_saturating(1_577_836_800_000_000 + (id >> 22) * 1_000)
}

const BASE62: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A random string of `length` characters of `0-9A-Za-z`, uniform: 5.95 bits each.
///
/// # Collisions
/// Among `n` ids of length `l` the odds of any collision are about `n^2 / (2 * 62^l)` ([`base62_collision_odds`]): a
/// million of length 11 collide with odds of 1 in 10^8; 22 characters hold as much as a random UUID.
pub fn random_base62(length: usize, entropy: &(impl Entropy + ?Sized)) -> String {
    (0..length)
        .map(|_| {
            let digit = usize::try_from(below(entropy, 62)).unwrap_or_default();
            char::from(BASE62[digit])
        })
        .collect()
}

/// The odds that among `ids` random base62 strings of `length` any two are equal (birthday problem).
pub fn base62_collision_odds(ids: u64, length: usize) -> f64 {
    #![allow(clippy::cast_precision_loss, clippy::cast_possible_wrap, clippy::cast_possible_truncation)]
    let pairs = ids as f64 * (ids as f64 - 1.0).max(0.0) / 2.0;
    -(-pairs * 62_f64.powi(-(length as i32))).exp_m1()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::ManualClock;
    use crate::entropy::SeededEntropy;
    use std::collections::HashSet;

    fn clock_at_ms(ms: u64) -> ManualClock {
        ManualClock::new(Snowflake::<ManualClock>::EPOCH.saturating_add(Duration::from_millis(ms)))
    }

    #[test]
    fn has_the_published_layout() {
        let ids = Snowflake::new(5, clock_at_ms(3)).unwrap();
        assert_eq!([ids.next().unwrap(), ids.next().unwrap()], [3 << 22 | 5 << 12, 3 << 22 | 5 << 12 | 1]);
        assert_eq!(snowflake_time(3 << 22), clock_at_ms(3).now());
    }

    #[test]
    fn rises_though_the_clock_goes_back_and_then_refuses() {
        let clock = clock_at_ms(10_000);
        let ids = Snowflake::new(1, clock.clone()).unwrap();
        let mut last = ids.next().unwrap();
        clock.set(clock_at_ms(9_500).now());
        for _ in 0..10_000 {
            let id = ids.next().unwrap();
            assert!(id > last);
            last = id;
        }
        clock.set(clock_at_ms(8_000).now());
        assert!(matches!(ids.next(), Err(SnowflakeError::Ahead { .. })));
        clock.set(clock_at_ms(10_100).now());
        assert!(ids.next().unwrap() > last);
    }

    #[test]
    fn runs_ahead_by_a_second_and_not_by_a_millisecond_more() {
        let clock = clock_at_ms(10_000);
        let ids = Snowflake::new(1, clock.clone()).unwrap();
        ids.next().unwrap();
        clock.set(clock_at_ms(8_999).now());
        assert_eq!(ids.next(), Err(SnowflakeError::Ahead { ahead: Duration::from_millis(1_001) }));
        clock.set(clock_at_ms(9_000).now());
        assert_eq!(ids.next().unwrap(), 10_000 << 22 | 1 << 12 | 1);
    }

    #[test]
    fn refuses_what_it_cannot_hold() {
        assert_eq!(Snowflake::new(1024, clock_at_ms(0)).err(), Some(SnowflakeError::NodeTooLarge { node: 1024 }));
        let ids = Snowflake::new(1023, ManualClock::new(Timestamp::UNIX_EPOCH)).unwrap();
        assert!(matches!(ids.next(), Err(SnowflakeError::ClockOutOfRange { .. })));
        let ids = Snowflake::new(1023, clock_at_ms((1 << 41) - 1)).unwrap();
        assert_eq!(ids.next().unwrap() >> 63, 0);
    }

    #[test]
    fn resumes_behind_the_last_id() {
        let ids = Snowflake::new(1, clock_at_ms(10)).unwrap();
        let last = 500 << 22 | 1 << 12 | 0xFFF;
        ids.resume_after(last);
        assert_eq!(ids.next().unwrap(), 501 << 22 | 1 << 12);
    }

    #[test]
    fn threads_never_get_one_id_twice() {
        let ids = Snowflake::new(1, clock_at_ms(10)).unwrap();
        let made: Vec<u64> = std::thread::scope(|scope| {
            let threads: Vec<_> =
                (0..4).map(|_| scope.spawn(|| (0..5_000).map(|_| ids.next().unwrap()).collect::<Vec<_>>())).collect();
            threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
        });
        assert_eq!(made.iter().collect::<HashSet<_>>().len(), 20_000);
    }

    #[test]
    fn base62_collides_as_often_as_stated() {
        // 2,000 batches of 30 ids of length 2: the stated odds of a collision in one batch are 0.107.
        let entropy = SeededEntropy::new(7);
        let collided = (0..2_000)
            .filter(|_| (0..30).map(|_| random_base62(2, &entropy)).collect::<HashSet<_>>().len() < 30)
            .count();
        let stated = base62_collision_odds(30, 2);
        assert!((stated - 0.107).abs() < 0.001, "{stated}");
        #[allow(clippy::cast_precision_loss, reason = "small")]
        let seen = collided as f64 / 2_000.0;
        assert!((seen - stated).abs() < 0.03, "{seen}");
        assert!(base62_collision_odds(1_000_000, 11) < 1.1e-8);
        assert_eq!(random_base62(22, &entropy).len(), 22);
    }
}
