#![allow(clippy::unwrap_used, reason = "tests")]
use super::*;
use crate::model::{FixedWindow, LeakyBucket, Outcome, TokenBucket};

const MS: Duration = Duration::from_millis(1);

fn rule(name: &str, limit: impl Into<Limit>) -> Rule {
    Rule::new(name, limit.into()).unwrap()
}

fn bucket(rate: &str, burst: u32) -> Limit {
    TokenBucket::new(rate.parse().unwrap(), burst).unwrap().into()
}

fn shown(style: FieldStyle, told: &[(&Rule, Decision)]) -> Vec<String> {
    let told: Vec<_> = told.iter().map(|(rule, decision)| Told { rule, decision }).collect();
    let fields = fields_of(style, &told);
    fields.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect()
}

#[test]
fn an_allowed_request_is_told_what_is_left() {
    let (burst, daily) =
        (rule("burst", bucket("10/s", 20)), rule("a day", FixedWindow::new("1000/d".parse().unwrap())));
    let told = [
        (&burst, Decision::new(Outcome::Allowed, 20, 5, 1_500_000)),
        (&daily, Decision::new(Outcome::Allowed, 1_000, 900, 3_600_000_001)),
    ];
    let x = ["x-ratelimit-limit: 20", "x-ratelimit-remaining: 5", "x-ratelimit-reset: 2"];
    assert_eq!(shown(FieldStyle::XRateLimit, &told), x);
    let ietf = [
        r#"ratelimit-policy: "burst";q=20;w=2, "a day";q=1000;w=86400"#,
        r#"ratelimit: "burst";r=5;t=2, "a day";r=900;t=3601"#,
    ];
    assert_eq!(shown(FieldStyle::RateLimit, &told), ietf);
    assert!(shown(FieldStyle::None, &told).is_empty());
    assert!(shown(FieldStyle::RateLimit, &[]).is_empty());
}

#[test]
fn a_denied_request_is_told_when_to_come_back() {
    let burst = rule("burst", bucket("1/250ms", 4));
    let denied = Decision::new(Outcome::Denied { retry_after: 1_001 * MS }, 4, 0, 9_000_000);
    assert_eq!(
        shown(FieldStyle::XRateLimit, &[(&burst, denied)]),
        ["x-ratelimit-limit: 4", "x-ratelimit-remaining: 0", "x-ratelimit-reset: 9", "retry-after: 2"]
    );
    // The end of the window is not after the time to come back.
    let ietf = [r#"ratelimit-policy: "burst";q=4;w=1"#, r#"ratelimit: "burst";r=0;t=2"#, "retry-after: 2"];
    assert_eq!(shown(FieldStyle::RateLimit, &[(&burst, denied)]), ietf);
    let never = Decision::new(Outcome::NeverAllowed, 4, 4, 0);
    let ietf = [r#"ratelimit-policy: "burst";q=4;w=1"#, r#"ratelimit: "burst";r=4"#];
    assert_eq!(shown(FieldStyle::RateLimit, &[(&burst, never)]), ietf);
}

#[test]
fn windows_are_whole_seconds_and_a_calendars_are_not_told() {
    let seconds = |limit: Limit| window_seconds(&limit);
    assert_eq!(seconds(bucket("10/s", 5)), Some(1));
    assert_eq!(seconds(LeakyBucket::new("2/s".parse().unwrap(), 9).unwrap().into()), Some(5));
    assert_eq!(seconds(FixedWindow::new("3/1500ms".parse().unwrap()).into()), Some(2));
    assert_eq!(seconds(crate::model::CalendarSpan::new(9, [0; 8]).into()), None);
}

/// Strings of RFC 9651 (section 3.3.3), and numbers of at most 15 digits: any rule's item is one.
#[test]
fn names_with_every_character_are_strings_as_they_are() {
    let name: String = (b' '..=b'~').map(char::from).filter(|c| !matches!(c, '"' | '\\')).collect();
    for name in [&name[..64], &name[name.len() - 64..]] {
        let rule = rule(name, bucket("4294967295/s", u32::MAX));
        let told = [(&rule, Decision::new(Outcome::Allowed, u32::MAX, u32::MAX, 3_155_760_000_000_000))];
        let lines = shown(FieldStyle::RateLimit, &told);
        assert_eq!(lines[1], format!("ratelimit: \"{name}\";r=4294967295;t=3155760000"));
    }
}

#[test]
fn seconds_are_rounded_up() {
    for (duration, seconds) in [(Duration::ZERO, 0), (Duration::from_nanos(1), 1), (1_000 * MS, 1), (1_001 * MS, 2)] {
        assert_eq!(ceil_seconds(duration), seconds);
    }
}
