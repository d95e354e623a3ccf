//! Windows of the calendar: minutes, hours, days and months in a time zone.

#[cfg(feature = "calendar")]
use std::fmt;
#[cfg(feature = "calendar")]
use std::sync::{Arc, PoisonError, RwLock};

#[cfg(feature = "calendar")]
use jiff::tz::TimeZone;
#[cfg(feature = "calendar")]
use jiff::{ToSpan as _, Unit, ZonedDateTime, ZonedDateTimeRound};
#[cfg(feature = "calendar")]
use sysd_core::{Clock, Timestamp};

#[cfg(feature = "calendar")]
use crate::error::RateLimitError;

/// How many windows are known before the one of now, and after it.
const AROUND: usize = 3;
/// How many bounds those have.
pub(crate) const BOUNDS: usize = 2 * AROUND + 2;

/// What one decision needs to know of a [`CalendarWindow`]: the windows around a moment.
///
/// It serves where the clock that decides is within three windows of that moment. Further off nothing is known of the window,
/// and nothing is admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CalendarSpan {
    limit: u32,
    /// Where one window ends and the next begins, microseconds since 1970.
    bounds_us: [u64; BOUNDS],
}

impl CalendarSpan {
    #[cfg(test)]
    pub(crate) const fn new(limit: u32, bounds_us: [u64; BOUNDS]) -> Self {
        Self { limit, bounds_us }
    }

    /// The most that a window admits.
    pub fn limit(&self) -> u32 {
        self.limit
    }

    /// The same windows with another limit, which may be anything.
    pub(crate) fn with_limit(&self, limit: u32) -> Self {
        Self { limit, ..*self }
    }

    pub(crate) fn bounds_us(&self) -> &[u64; BOUNDS] {
        &self.bounds_us
    }

    /// Begin and end of the window that holds a time, if it is known.
    pub(crate) fn around(&self, at_us: u64) -> Option<(u64, u64)> {
        let next = self.bounds_us.partition_point(|&bound_us| bound_us <= at_us);
        let begin_us = self.bounds_us.get(next.checked_sub(1)?)?;
        Some((*begin_us, *self.bounds_us.get(next)?))
    }

    /// Whether a time lies in the window about which this was made.
    #[cfg(feature = "calendar")]
    fn is_about(&self, at_us: u64) -> bool {
        self.bounds_us[AROUND] <= at_us && at_us < self.bounds_us[AROUND + 1]
    }
}

/// The unit of a calendar's windows.
#[cfg(feature = "calendar")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CalendarUnit {
    /// From full minute to full minute.
    Minute,
    /// From full hour to full hour.
    Hour,
    /// From midnight to midnight: 23 or 25 hours where clocks are changed.
    Day,
    /// From the first of a month to the first of the next.
    Month,
}

/// So many requests in each minute, hour, day or month of a time zone's calendar.
///
/// A [`FixedWindow`](super::FixedWindow) whose windows are those that people know: "1,000 a month" begins anew on the first, at
/// midnight where the customer is. Like it, it admits at most twice the limit over a stretch as long as a window.
///
/// The windows are worked out by the caller, from `clock`, which must be the one by which the store decides, or within three windows of
/// it: beyond, everything is denied. States of one name are shared by windows of every unit and zone: what was taken since the
/// present window began counts.
///
/// ```
/// use sysd_core::SystemClock;
/// use sysd_ratelimit::{CalendarUnit, CalendarWindow, RateLimiter};
/// use sysd_storage::Memory;
///
/// # futures::executor::block_on(async {
/// let monthly = CalendarWindow::new(1_000, CalendarUnit::Month, "Europe/Berlin", SystemClock)?;
/// let limiter = RateLimiter::new(Memory::new(), "quota", monthly);
/// assert_eq!(limiter.check("ann", 1).await?.remaining(), 999);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
#[cfg(feature = "calendar")]
#[derive(Clone)]
pub struct CalendarWindow {
    shared: Arc<Shared>,
}

#[cfg(feature = "calendar")]
struct Shared {
    limit: u32,
    unit: CalendarUnit,
    zone: TimeZone,
    zone_name: String,
    clock: Box<dyn Clock>,
    /// Of the window in which somebody last asked.
    last: RwLock<Option<CalendarSpan>>,
}

#[cfg(feature = "calendar")]
impl fmt::Debug for CalendarWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { limit, unit, zone_name, .. } = &*self.shared;
        write!(f, "CalendarWindow({limit} each {unit:?} in {zone_name})")
    }
}

#[cfg(feature = "calendar")]
impl PartialEq for CalendarWindow {
    /// Whether they are the same limit; the clock does not count.
    fn eq(&self, other: &Self) -> bool {
        let of = |window: &Self| (window.shared.limit, window.shared.unit, window.shared.zone_name.clone());
        of(self) == of(other)
    }
}

#[cfg(feature = "calendar")]
impl Eq for CalendarWindow {}

#[cfg(feature = "calendar")]
impl CalendarWindow {
    /// `limit` in each `unit` of the calendar in `zone`: a name of the IANA database (`Europe/Berlin`), or `UTC`.
    ///
    /// # Errors
    /// [`RateLimitError::ZeroRate`] for a limit of zero, [`RateLimitError::UnknownZone`].
    pub fn new(limit: u32, unit: CalendarUnit, zone: &str, clock: impl Clock) -> Result<Self, RateLimitError> {
        if limit == 0 {
            return Err(RateLimitError::ZeroRate);
        }
        let unknown = |_| RateLimitError::UnknownZone { name: zone.chars().take(40).collect() };
        let found = if zone == "UTC" { TimeZone::UTC } else { TimeZone::get(zone).map_err(unknown)? };
        let shared = Shared {
            limit,
            unit,
            zone: found,
            zone_name: zone.to_owned(),
            clock: Box::new(clock),
            last: RwLock::default(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The most that a window admits.
    pub fn limit(&self) -> u32 {
        self.shared.limit
    }

    /// The unit of its windows.
    pub fn unit(&self) -> CalendarUnit {
        self.shared.unit
    }

    /// The time zone's name.
    pub fn zone(&self) -> &str {
        &self.shared.zone_name
    }

    /// The windows around now.
    pub fn span(&self) -> CalendarSpan {
        let now_us = self.shared.clock.now().as_micros();
        let last = *self.shared.last.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(span) = last.filter(|span| span.is_about(now_us)) {
            return span;
        }
        let span = CalendarSpan { limit: self.shared.limit, bounds_us: self.bounds(now_us) };
        *self.shared.last.write().unwrap_or_else(PoisonError::into_inner) = Some(span);
        span
    }

    fn bounds(&self, now_us: u64) -> [u64; BOUNDS] {
        let last_us = Timestamp::MAX.as_micros();
        let micros = |zoned: &ZonedDateTime| {
            let micros = u64::try_from(zoned.timestamp().as_microsecond()).unwrap_or(0);
            micros.min(last_us)
        };
        let timestamp =
            i64::try_from(now_us.min(last_us)).ok().and_then(|us| jiff::Timestamp::from_microsecond(us).ok());
        // All times of ours are in the calendar's range.
        let now = timestamp.unwrap_or(jiff::Timestamp::UNIX_EPOCH).to_zoned_datetime(self.shared.zone.clone());
        let mut bounds_us = [0; BOUNDS];
        let mut begin = self.begin(&now);
        bounds_us[AROUND] = micros(&begin).min(now_us);
        for at in (0..AROUND).rev() {
            // A moment before the window begins lies in the one before.
            let before =
                begin.checked_sub(1.microsecond()).map_or_else(|_| begin.clone(), |before| self.begin(&before));
            bounds_us[at] = micros(&before).min(bounds_us[at + 1]);
            begin = before;
        }
        let mut begin = self.begin(&now);
        for at in AROUND + 1..BOUNDS {
            begin = self.next(&begin);
            bounds_us[at] = micros(&begin).max(bounds_us[at - 1]);
        }
        bounds_us
    }

    /// Where the window begins that holds a time.
    fn begin(&self, at: &ZonedDateTime) -> ZonedDateTime {
        let truncated = |unit| at.round(ZonedDateTimeRound::new().smallest(unit).mode(jiff::RoundMode::Trunc));
        let begin = match self.shared.unit {
            CalendarUnit::Minute => truncated(Unit::Minute),
            CalendarUnit::Hour => truncated(Unit::Hour),
            CalendarUnit::Day => at.start_of_day(),
            CalendarUnit::Month => at.first_of_month().and_then(|first| first.start_of_day()),
        };
        begin.unwrap_or_else(|_| at.clone())
    }

    /// Where the window after the one that begins there begins.
    fn next(&self, begin: &ZonedDateTime) -> ZonedDateTime {
        let steps = |count: i64| match self.shared.unit {
            CalendarUnit::Minute => count.minutes(),
            CalendarUnit::Hour => count.hours(),
            CalendarUnit::Day => count.days(),
            CalendarUnit::Month => count.months(),
        };
        // A day can begin later than at midnight, and the day after at midnight again. An hour of which a half is repeated is
        // longer than one: a step further lies in it still.
        let after = (1..=2).find_map(|count| {
            let after = self.begin(&begin.checked_add(steps(count)).ok()?);
            (after > *begin).then_some(after)
        });
        after.unwrap_or_else(|| begin.checked_add(1.hour()).unwrap_or_else(|_| begin.clone()))
    }
}

#[cfg(all(test, feature = "calendar"))]
#[path = "calendar_tests.rs"]
mod tests;
