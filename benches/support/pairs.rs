//! Two things measured in turns: on a machine whose speed changes from second to second only their ratio means something.

use std::time::Duration;

const ROUNDS: usize = 21;
/// How long a turn lasts, about.
const TURN: Duration = Duration::from_millis(100);

/// A column's least and median.
fn summary(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
    (at(0), at(values.len() / 2), at(values.len().saturating_sub(1)))
}

/// How long this thread has run on a processor: what a call costs its caller, whatever else the machine does.
#[allow(dead_code, reason = "only where all of a client runs on one thread")]
pub(crate) fn on_cpu() -> Option<Duration> {
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    stat.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

/// As [`compare`], and prints what processor time a call of each takes on this thread.
#[allow(dead_code, reason = "as above")]
pub(crate) fn compare_on_one_thread(
    name: &str,
    mut ours: impl FnMut(u64) -> Duration,
    mut other: impl FnMut(u64) -> Duration,
) {
    fn counted(spent: &mut (Duration, u64), calls: u64, run: impl FnOnce(u64) -> Duration) -> Duration {
        let before = on_cpu().unwrap_or_default();
        let time = run(calls);
        spent.0 += on_cpu().unwrap_or_default().saturating_sub(before);
        spent.1 += calls;
        time
    }
    let (mut our_spent, mut other_spent) = Default::default();
    compare(
        name,
        |calls| counted(&mut our_spent, calls, &mut ours),
        |calls| counted(&mut other_spent, calls, &mut other),
    );
    #[allow(clippy::cast_precision_loss, reason = "counts of calls are small")]
    let each = |(time, calls): (Duration, u64)| time.as_secs_f64() * 1e9 / calls as f64;
    let (ours, other) = (each(our_spent), each(other_spent));
    println!("{:<28} on its processor ours {ours:>8.0} ns; beside it {other:>8.0} ns; {:.2}x", "", other / ours);
}

/// Prints what a call of each takes, and how many times as fast ours is as the other: above 1 is faster.
///
/// Each is told how many calls to make, and answers how long they took.
pub(crate) fn compare(name: &str, mut ours: impl FnMut(u64) -> Duration, mut other: impl FnMut(u64) -> Duration) {
    // Wide strides at first, for the caches; then as many calls as a turn has time for.
    let mut calls = 64;
    while ours(calls) < TURN {
        calls *= 2;
    }
    other(calls);
    let (mut our_times, mut other_times, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        #[allow(clippy::cast_precision_loss, reason = "counts of calls are small")]
        let each = |time: Duration| time.as_secs_f64() * 1e9 / calls as f64;
        let (a, b) = (each(ours(calls)), each(other(calls)));
        our_times.push(a);
        other_times.push(b);
        ratios.push(b / a);
    }
    let (ours, other, ratio) = (summary(our_times), summary(other_times), summary(ratios));
    println!(
        "{name:<28} ours min {:>8.0} median {:>8.0} ns; beside it min {:>8.0} median {:>8.0} ns; {:.2}x ({:.2} to {:.2})",
        ours.0, ours.1, other.0, other.1, ratio.1, ratio.0, ratio.2
    );
}
