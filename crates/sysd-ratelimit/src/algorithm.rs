//! What a limiter decides by.

use sysd_core::{Procedure, Space};

use crate::model::{Decision, FixedWindow, LeakyBucket, SlidingLog, SlidingWindow, TokenBucket};
use crate::procedure::{Take, TakeFixed, TakeLogged, TakeSliding};
use crate::schema;

/// An algorithm with its numbers: [`TokenBucket`], [`LeakyBucket`], [`FixedWindow`], [`SlidingWindow`] or [`SlidingLog`].
///
/// It says which procedure decides on a request, and what that procedure's output means. Sealed: their states lie in stores.
pub trait Algorithm: sealed::Sealed + Clone + Send + Sync + 'static {
    /// The decision, as stores run it.
    type Take: Procedure;

    /// Where the states lie.
    const SPACE: Space;

    /// Takes `cost`.
    fn take(&self, cost: u32) -> Self::Take;

    /// What the output of a procedure amounts to.
    fn decision(&self, take: &Self::Take, output: &<Self::Take as Procedure>::Output) -> Decision;

    /// The most that can be taken at once.
    fn limit(&self) -> u32;
}

mod sealed {
    pub trait Sealed {}
}

/// The algorithms differ in their types alone.
macro_rules! algorithm {
    ($limit:ty, $take:ty, $space:expr, $most:ident) => {
        impl sealed::Sealed for $limit {}

        impl Algorithm for $limit {
            type Take = $take;
            const SPACE: Space = $space;

            #[inline]
            fn take(&self, cost: u32) -> $take {
                <$take>::new(*self, cost)
            }

            #[inline]
            fn decision(&self, take: &$take, output: &<$take as Procedure>::Output) -> Decision {
                take.decision(output)
            }

            fn limit(&self) -> u32 {
                self.$most()
            }
        }
    };
}

algorithm!(TokenBucket, Take, schema::BUCKETS, burst);
algorithm!(FixedWindow, TakeFixed, schema::FIXED_WINDOWS, limit);
algorithm!(SlidingWindow, TakeSliding, schema::SLIDING_WINDOWS, limit);
algorithm!(SlidingLog, TakeLogged, schema::SLIDING_LOGS, limit);

impl sealed::Sealed for LeakyBucket {}

/// A token bucket whose debt is the queue.
impl Algorithm for LeakyBucket {
    type Take = Take;
    const SPACE: Space = schema::QUEUES;

    fn take(&self, cost: u32) -> Take {
        Take::new(*self.bucket(), cost)
    }

    fn decision(&self, take: &Take, output: &<Take as Procedure>::Output) -> Decision {
        take.decision(output).after_us(take.queued_us(output))
    }

    fn limit(&self) -> u32 {
        self.bucket().burst()
    }
}
