//! What a limiter decides by.

use sysd_core::{ArgumentBytes, OutputBytes, Procedure, Script, Space, Step, Timestamp, Undecodable};

#[cfg(feature = "calendar")]
use crate::model::CalendarWindow;
use crate::model::{CalendarSpan, Decision, FixedWindow, LeakyBucket, SlidingLog, SlidingWindow, Span, TokenBucket};
use crate::procedure::{
    CalendarVerdict, FixedVerdict, LoggedVerdict, SlidingVerdict, Take, TakeCalendar, TakeFixed, TakeLogged,
    TakeSliding, Verdict,
};
use crate::schema;

/// An algorithm with its numbers: [`TokenBucket`], [`LeakyBucket`], [`FixedWindow`], [`SlidingWindow`], [`SlidingLog`] or
/// `CalendarWindow` (feature `calendar`); or [`Limit`], which is one of them, chosen at run time.
///
/// It says which procedure decides on a request, and what that procedure's output means. Sealed: their states lie in stores.
pub trait Algorithm: sealed::Sealed + Clone + Send + Sync + 'static {
    /// The decision, as stores run it.
    type Take: Procedure;

    /// Where the states lie.
    fn space(&self) -> Space;

    /// Takes `cost`.
    fn take(&self, cost: u32) -> Self::Take;

    /// What the output of a procedure amounts to.
    ///
    /// # Panics
    /// If a [`Limit`] is given the output of another algorithm's procedure.
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

            #[inline]
            fn space(&self) -> Space {
                $space
            }

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
algorithm!(CalendarSpan, TakeCalendar, schema::CALENDAR_WINDOWS, limit);

#[cfg(feature = "calendar")]
impl sealed::Sealed for CalendarWindow {}

#[cfg(feature = "calendar")]
impl Algorithm for CalendarWindow {
    type Take = TakeCalendar;

    fn space(&self) -> Space {
        schema::CALENDAR_WINDOWS
    }

    fn take(&self, cost: u32) -> TakeCalendar {
        TakeCalendar::new(self.span(), cost)
    }

    fn decision(&self, take: &TakeCalendar, output: &CalendarVerdict) -> Decision {
        take.decision(output)
    }

    fn limit(&self) -> u32 {
        self.limit()
    }
}

impl sealed::Sealed for LeakyBucket {}

/// A token bucket whose debt is the queue.
impl Algorithm for LeakyBucket {
    type Take = Take;

    fn space(&self) -> Space {
        schema::QUEUES
    }

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

/// One of the algorithms, chosen at run time. It shares its states with a limiter that names the algorithm by type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Limit {
    /// See [`TokenBucket`].
    TokenBucket(TokenBucket),
    /// See [`LeakyBucket`].
    LeakyBucket(LeakyBucket),
    /// See [`FixedWindow`].
    FixedWindow(FixedWindow),
    /// See [`SlidingWindow`].
    SlidingWindow(SlidingWindow),
    /// See [`SlidingLog`].
    SlidingLog(SlidingLog),
    /// See [`CalendarSpan`].
    Calendar(CalendarSpan),
}

impl Limit {
    /// The longest state, bytes.
    pub(crate) fn state_bytes_max(&self) -> usize {
        match self {
            // With what was given back to it.
            Self::TokenBucket(_) | Self::LeakyBucket(_) => schema::rules::GIVEN_TO_BYTES,
            Self::FixedWindow(_) | Self::Calendar(_) => schema::fixed_window::STATE_BYTES,
            Self::SlidingWindow(_) => schema::sliding_window::STATE_BYTES,
            Self::SlidingLog(limit) => schema::sliding_log::state_bytes_max(limit.limit()),
        }
    }
}

/// The decision of a [`Limit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TakeAny(Taking);

/// What [`TakeAny`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct AnyVerdict(Found);

/// Writes out what is the same for all of them.
macro_rules! each {
    ($($code:literal $name:ident: $limit:ident $take:ident $verdict:ident;)+) => {
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        enum Taking {
            $($name($take),)+
        }

        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        enum Found {
            $($name($verdict),)+
        }

        impl Limit {
            /// Which algorithm, in what is stored.
            pub(crate) const fn code(&self) -> u8 {
                match self {
                    $(Self::$name(_) => $code,)+
                }
            }
        }

        impl AnyVerdict {
            pub(crate) const fn skew_us(&self) -> u64 {
                match &self.0 {
                    $(Found::$name(found) => found.skew_us,)+
                }
            }

            pub(crate) const fn is_allowed(&self) -> bool {
                match &self.0 {
                    $(Found::$name(found) => found.allowed,)+
                }
            }
        }

        $(impl From<$limit> for Limit {
            fn from(limit: $limit) -> Self {
                Self::$name(limit)
            }
        })+

        impl sealed::Sealed for Limit {}

        impl Algorithm for Limit {
            type Take = TakeAny;

            fn space(&self) -> Space {
                match self {
                    $(Self::$name(limit) => limit.space(),)+
                }
            }

            fn take(&self, cost: u32) -> TakeAny {
                TakeAny(match self {
                    $(Self::$name(limit) => Taking::$name(limit.take(cost)),)+
                })
            }

            fn decision(&self, take: &TakeAny, output: &AnyVerdict) -> Decision {
                match (self, &take.0, &output.0) {
                    $((Self::$name(limit), Taking::$name(take), Found::$name(found)) => limit.decision(take, found),)+
                    _ => unreachable!("a verdict is given to the limit that asked for it"),
                }
            }

            fn limit(&self) -> u32 {
                match self {
                    $(Self::$name(limit) => Algorithm::limit(limit),)+
                }
            }
        }

        impl Procedure for TakeAny {
            type Output = AnyVerdict;

            fn name(&self) -> &'static str {
                match &self.0 {
                    $(Taking::$name(take) => Procedure::name(take),)+
                }
            }

            fn apply(&self, state: Option<&[u8]>, now: Timestamp) -> Result<Step<AnyVerdict>, Undecodable> {
                match &self.0 {
                    $(Taking::$name(take) => {
                        let Step { change, output } = take.apply(state, now)?;
                        Ok(Step { change, output: AnyVerdict(Found::$name(output)) })
                    })+
                }
            }

            fn encode_output(&self, output: &AnyVerdict, out: &mut OutputBytes) {
                match (&self.0, &output.0) {
                    $((Taking::$name(take), Found::$name(found)) => take.encode_output(found, out),)+
                    _ => unreachable!("a verdict is encoded by the procedure that gave it"),
                }
            }

            fn decode_output(&self, bytes: &[u8]) -> Result<AnyVerdict, Undecodable> {
                match &self.0 {
                    $(Taking::$name(take) => Ok(AnyVerdict(Found::$name(take.decode_output(bytes)?))),)+
                }
            }

            fn script(&self) -> Option<&'static Script> {
                match &self.0 {
                    $(Taking::$name(take) => take.script(),)+
                }
            }

            fn encode_arguments(&self, out: &mut ArgumentBytes) {
                match &self.0 {
                    $(Taking::$name(take) => take.encode_arguments(out),)+
                }
            }
        }
    };
}

impl Limit {
    /// The same windows without a limit; of buckets, which have no such thing, the same.
    pub(crate) fn unlimited(&self) -> Self {
        match self {
            Self::FixedWindow(limit) => Self::FixedWindow(limit.with_limit(u32::MAX)),
            Self::SlidingWindow(limit) => Self::SlidingWindow(limit.with_limit(u32::MAX)),
            Self::SlidingLog(limit) => Self::SlidingLog(limit.with_limit(u32::MAX)),
            Self::Calendar(span) => Self::Calendar(span.with_limit(u32::MAX)),
            Self::TokenBucket(_) | Self::LeakyBucket(_) => *self,
        }
    }

    /// How long a window is; of a calendar's and of buckets nothing.
    pub(crate) fn window_us(&self) -> u64 {
        match self {
            Self::FixedWindow(limit) => limit.window_us(),
            Self::SlidingWindow(limit) => limit.window_us(),
            Self::SlidingLog(limit) => limit.window_us(),
            Self::Calendar(_) | Self::TokenBucket(_) | Self::LeakyBucket(_) => 0,
        }
    }

    pub(crate) const fn as_bucket(&self) -> Option<&TokenBucket> {
        match self {
            Self::TokenBucket(bucket) => Some(bucket),
            Self::LeakyBucket(queue) => Some(queue.bucket()),
            _ => None,
        }
    }
}

impl AnyVerdict {
    /// How long after the time of its state that state still says something; of a bucket or a log nothing.
    pub(crate) fn left_us(&self, limit: &Limit) -> u64 {
        match (&self.0, limit) {
            (Found::FixedWindow(found), Limit::FixedWindow(limit)) => limit.window_us() - found.into_us,
            (Found::SlidingWindow(found), Limit::SlidingWindow(limit)) => 2 * limit.window_us() - found.into_us,
            (Found::Calendar(found), _) => found.left_us,
            _ => 0,
        }
    }

    /// What is counted in windows, all in all.
    pub(crate) fn counted(&self) -> u32 {
        match &self.0 {
            Found::FixedWindow(found) => found.count,
            Found::SlidingWindow(found) => found.current.saturating_add(found.previous),
            Found::SlidingLog(found) => found.count,
            Found::Calendar(found) => found.count,
            Found::TokenBucket(_) | Found::LeakyBucket(_) => 0,
        }
    }

    /// What a bucket is short of full, after the decision; of other algorithms nothing.
    pub(crate) const fn debt(&self) -> Span {
        match &self.0 {
            Found::TokenBucket(found) | Found::LeakyBucket(found) => found.debt,
            _ => Span::ZERO,
        }
    }
}

each! {
    1 TokenBucket: TokenBucket Take Verdict;
    2 LeakyBucket: LeakyBucket Take Verdict;
    3 FixedWindow: FixedWindow TakeFixed FixedVerdict;
    4 SlidingWindow: SlidingWindow TakeSliding SlidingVerdict;
    5 SlidingLog: SlidingLog TakeLogged LoggedVerdict;
    6 Calendar: CalendarSpan TakeCalendar CalendarVerdict;
}
