//! Where random bits come from, so that a simulation can seed them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rand::Rng as _;

/// A source of random bits.
pub trait Entropy: Send + Sync + 'static {
    /// 64 uniform bits.
    fn next_u64(&self) -> u64;
}

impl<E: Entropy + ?Sized> Entropy for Arc<E> {
    fn next_u64(&self) -> u64 {
        (**self).next_u64()
    }
}

/// A cryptographic generator per thread, seeded by the operating system.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemEntropy;

impl Entropy for SystemEntropy {
    #[expect(clippy::disallowed_methods, reason = "the one place where a library asks the system for randomness")]
    fn next_u64(&self) -> u64 {
        rand::rng().next_u64()
    }
}

/// A seeded generator for simulations and tests: the same seed gives the same bits. Not for secrets.
///
/// SplitMix64 (Steele, Lea, Flood: "Fast Splittable Pseudorandom Number Generators", OOPSLA 2014).
#[derive(Debug)]
pub struct SeededEntropy(AtomicU64);

impl SeededEntropy {
    /// From a seed.
    pub const fn new(seed: u64) -> Self {
        Self(AtomicU64::new(seed))
    }
}

impl Entropy for SeededEntropy {
    fn next_u64(&self) -> u64 {
        const GAMMA: u64 = 0x9E37_79B9_7F4A_7C15;
        let mut z = self.0.fetch_add(GAMMA, Ordering::Relaxed).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
}

/// A number below `bound`, which is at least 1, without bias (Lemire: "Fast Random Integer Generation in an Interval",
/// 2019).
pub fn below(entropy: &(impl Entropy + ?Sized), bound: u64) -> u64 {
    let bound = bound.max(1);
    let threshold = bound.wrapping_neg() % bound;
    loop {
        let product = u128::from(entropy.next_u64()) * u128::from(bound);
        #[allow(clippy::cast_possible_truncation, reason = "the low half is what is meant")]
        if product as u64 >= threshold {
            return (product >> 64) as u64;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_published_sequence() {
        // The first outputs of SplitMix64 for the seed 1234567.
        let entropy = SeededEntropy::new(1_234_567);
        assert_eq!([entropy.next_u64(), entropy.next_u64()], [6_457_827_717_110_365_317, 3_203_168_211_198_807_973]);
    }

    #[test]
    fn below_covers_its_range_and_no_more() {
        let entropy = SeededEntropy::new(1);
        let mut seen = [0u32; 5];
        for _ in 0..5_000 {
            seen[usize::try_from(below(&entropy, 5)).unwrap_or(usize::MAX)] += 1;
        }
        assert!(seen.iter().all(|&count| (850..1_150).contains(&count)), "{seen:?}");
        assert_eq!(below(&entropy, 1), 0);
    }
    /// Gives what it was told, then ones.
    struct Told(AtomicU64);

    impl Entropy for Told {
        fn next_u64(&self) -> u64 {
            self.0.swap(u64::MAX, Ordering::Relaxed)
        }
    }

    #[test]
    fn below_draws_again_where_a_number_would_come_up_too_often() {
        // Of 2^64 draws, three numbers get a third each but for one draw: the first.
        assert_eq!(below(&Told(AtomicU64::new(0)), 3), 2);
        assert_eq!(below(&Told(AtomicU64::new(1)), 3), 0);
        // A power of two divides them evenly.
        assert_eq!(below(&Told(AtomicU64::new(0)), 4), 0);
    }

    #[test]
    fn below_is_even_where_the_bound_is_nearly_all_there_is() {
        // Without drawing again, half of these were multiples of three.
        let (entropy, bound) = (SeededEntropy::new(1), 3 << 62);
        let multiples = (0..10_000).filter(|_| below(&entropy, bound) % 3 == 0).count();
        assert!((3_100..3_570).contains(&multiples), "{multiples}");
    }
}
