//! Days in the calendar.

use jiff::civil;
use sysd_core::Timestamp;

use crate::model::Date;

/// The years that all three programs read.
const YEARS: std::ops::RangeInclusive<i16> = 1400..=9999;

/// `None` outside the years that can be written.
pub(super) fn show(day: Date) -> Option<String> {
    let found = civil::Date::constant(1970, 1, 1).checked_add(jiff::Span::new().try_days(day.0).ok()?).ok()?;
    YEARS.contains(&found.year()).then(|| found.to_string())
}

/// RFC 3339, in UTC, with microseconds.
pub(super) fn show_time(time: Timestamp) -> Option<String> {
    jiff::Timestamp::from_microsecond(i64::try_from(time.as_micros()).ok()?).ok().map(|time| time.to_string())
}

/// `YYYY-MM-DD`, and with `/` or `.` instead, and months and days of one digit.
pub(super) fn parse(text: &str) -> Option<Date> {
    let separator = text.chars().find(|char| !char.is_ascii_digit())?;
    let mut parts = text.split(separator);
    let mut number = |digits: &[usize]| {
        let part = parts.next()?;
        let is_number = digits.contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { part.parse::<i16>().ok() } else { None }
    };
    let (year, month, day) = (number(&[4])?, number(&[1, 2])?, number(&[1, 2])?);
    if parts.next().is_some() || !['-', '/', '.'].contains(&separator) || !YEARS.contains(&year) {
        return None;
    }
    let found = civil::Date::new(year, i8::try_from(month).ok()?, i8::try_from(day).ok()?).ok()?;
    let days = civil::Date::constant(1970, 1, 1).until(found).ok()?.get_days();
    Some(Date(days))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (day, text) in [(0, "1970-01-01"), (-1, "1969-12-31"), (20_785, "2026-11-28"), (11_016, "2000-02-29")] {
            assert_eq!(show(Date(day)).as_deref(), Some(text));
            assert_eq!(parse(text), Some(Date(day)));
        }
        assert_eq!(parse("2004/5/1"), parse("2004-05-01"));
        assert_eq!(parse("2004.05.01"), parse("2004-05-01"));
        for text in ["", "2001-02-29", "2004-05", "2004-05/01", "04-05-01", "2004-05-01-02", "2004x05x01", "1399-01-01"]
        {
            assert_eq!(parse(text), None, "{text}");
        }
        assert_eq!((show(Date(i32::MIN)), show(Date(i32::MAX))), (None, None));
    }
}
