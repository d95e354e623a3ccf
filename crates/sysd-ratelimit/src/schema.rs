//! The only place where keys and stored formats are built. All numbers are big-endian; each state begins with its version.

pub(crate) mod fixed_window;
pub(crate) mod holds;
#[cfg(feature = "policy")]
pub(crate) mod policy;
pub(crate) mod rules;
pub(crate) mod sliding_log;
pub(crate) mod sliding_window;
pub(crate) mod slots;
pub(crate) mod taken;
pub(crate) mod token_bucket;

use sysd_core::Space;

/// Where token buckets lie: a lone record each, the partition being the limiter's name and the key. So in all spaces here.
pub const BUCKETS: Space = Space::conditional("ratelimit");
/// Where leaky buckets lie, in the format of token buckets.
pub const QUEUES: Space = Space::conditional("ratelimit_queue");
/// Where fixed windows lie.
pub const FIXED_WINDOWS: Space = Space::conditional("ratelimit_fixed");
/// Where windows of the calendar lie, in the format of fixed windows.
pub const CALENDAR_WINDOWS: Space = Space::conditional("ratelimit_calendar");
/// Where the counters of sliding windows lie.
pub const SLIDING_WINDOWS: Space = Space::conditional("ratelimit_sliding");
/// Where sliding logs lie.
pub const SLIDING_LOGS: Space = Space::conditional("ratelimit_log");
/// Where the states of several rules of one key lie.
pub const RULES: Space = Space::conditional("ratelimit_rules");
/// Where the shards of token buckets lie, each as the only rule of a record.
pub const SHARDS: Space = Space::conditional("ratelimit_shards");

/// Where the states of several rules of one key lie, with what is held of them.
pub const HOLDS: Space = Space::conditional("ratelimit_holds");
/// Where the holders of slots lie.
pub const SLOTS: Space = Space::conditional("ratelimit_slots");

const SEVEN_BYTES: u64 = (1 << 56) - 1;

#[inline]
fn u64_at(bytes: &[u8], start: usize) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.get(start..)?.first_chunk()?))
}

/// Of the seven bytes from `start` on, which is not the first of all.
#[inline]
fn u56_at(bytes: &[u8], start: usize) -> Option<u64> {
    Some(u64_at(bytes, start.checked_sub(1)?)? & SEVEN_BYTES)
}

#[inline]
fn u32_at(bytes: &[u8], start: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(start..)?.first_chunk()?))
}

/// The seven low bytes: times and lengths of time have no more.
#[inline]
fn seven(number: u64) -> [u8; 7] {
    let [_, rest @ ..] = number.to_be_bytes();
    rest
}

#[inline]
fn flag(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}
