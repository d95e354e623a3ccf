//! Windows of the calendar: minutes, hours, days and months in a time zone.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};

use jiff::tz::TimeZone;
use jiff::{ToSpan as _, Unit, ZonedDateTime, ZonedDateTimeRound};
use sysd_core::{Clock, Timestamp};

use super::calendar_span::{AROUND, BOUNDS, CalendarSpan};
use crate::error::RateLimitError;

/// The unit of a calendar's windows.
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
#[derive(Clone)]
pub struct CalendarWindow {
    shared: Arc<Shared>,
}

struct Shared {
    limit: u32,
    unit: CalendarUnit,
    zone: TimeZone,
    zone_name: String,
    clock: Box<dyn Clock>,
    /// Of the window in which somebody last asked.
    last: RwLock<Option<CalendarSpan>>,
}

impl fmt::Debug for CalendarWindow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { limit, unit, zone_name, .. } = &*self.shared;
        write!(f, "CalendarWindow({limit} each {unit:?} in {zone_name})")
    }
}

impl PartialEq for CalendarWindow {
    /// Whether they are the same limit; the clock does not count.
    fn eq(&self, other: &Self) -> bool {
        let of = |window: &Self| (window.shared.limit, window.shared.unit, window.shared.zone_name.clone());
        of(self) == of(other)
    }
}

impl Eq for CalendarWindow {}

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

    /// The same windows, worked out from another clock.
    #[must_use]
    pub fn by_clock(&self, clock: impl Clock) -> Self {
        let Shared { limit, unit, zone, zone_name, .. } = &*self.shared;
        let (zone, zone_name, clock) = (zone.clone(), zone_name.clone(), Box::new(clock));
        let shared = Shared { limit: *limit, unit: *unit, zone, zone_name, clock, last: RwLock::default() };
        Self { shared: Arc::new(shared) }
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
        let is_about_now = |span: &CalendarSpan| {
            let bounds_us = span.bounds_us();
            bounds_us[AROUND] <= now_us && now_us < bounds_us[AROUND + 1]
        };
        if let Some(span) = last.filter(is_about_now) {
            return span;
        }
        let span = CalendarSpan::new(self.shared.limit, self.bounds(now_us));
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

#[cfg(test)]
#[path = "calendar_window_tests.rs"]
mod tests;
