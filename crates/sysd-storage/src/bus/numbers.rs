//! Numbers of messages: a publisher puts them before each payload, and a subscriber sees what is missing.
//!
//! | bytes | what |
//! |---|---|
//! | 1 | the version of this format: 1 |
//! | 8 | the run, big-endian: which publisher, which of its channels |
//! | 8 | the number in that run, big-endian, from 1 |
//!
//! 17 bytes and a look into a table a message, on each side; a hundred bytes of payload travel as 117.
//!
//! A run is one publisher's messages to one channel, from when it first publishes there until it ends, or forgets: it remembers
//! [`RUNS_MAX`] channels. A publisher that starts again starts new runs, as its numbers died with it. The first message that
//! a subscriber sees of a run tells it nothing: what came before may be from before it listened. So what was lost between the
//! last message of a publisher's life and the first of its next is not seen. Servers lose messages in silence only with the
//! connection, which is told by itself; the numbers are for what else may go wrong.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, MutexGuard};
use sysd_core::Entropy;
use sysd_core::bus::Channel;

pub(crate) const HEADER_BYTES: usize = 17;
const VERSION: u8 = 1;
const SHARDS: usize = 16;
/// How many channels a publisher numbers at once.
const RUNS_MAX: usize = 64 << 10;
/// How many runs of a channel a subscriber remembers.
const SEEN_MAX: usize = 1_024;

/// What stands before a payload.
pub(crate) type Header = [u8; HEADER_BYTES];

/// A publisher's numbers.
pub(crate) struct Numbers {
    next_run: AtomicU64,
    hasher: RandomState,
    shards: [Mutex<HashMap<Channel, Run>>; SHARDS],
}

/// The right to number the next message of a channel: held until the message has its place in the order.
pub(crate) struct Turn<'a> {
    next_run: &'a AtomicU64,
    runs: MutexGuard<'a, HashMap<Channel, Run>>,
}

#[derive(Clone, Copy)]
struct Run {
    id: u64,
    last: u64,
}

impl Numbers {
    pub(crate) fn new(entropy: &impl Entropy) -> Self {
        let next_run = AtomicU64::new(entropy.next_u64());
        Self { next_run, hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }

    /// Takes the turn of a channel.
    pub(crate) fn turn(&self, channel: &Channel) -> Turn<'_> {
        let hash = self.hasher.hash_one(channel);
        let shard = usize::try_from(hash % SHARDS as u64).unwrap_or_default();
        Turn { next_run: &self.next_run, runs: self.shards[shard].lock() }
    }
}

impl Turn<'_> {
    /// The header of the channel's next message.
    pub(crate) fn header(&mut self, channel: &Channel) -> Header {
        if let Some(run) = self.runs.get_mut(channel) {
            run.last += 1;
            return encode(*run);
        }
        if self.runs.len() >= RUNS_MAX / SHARDS {
            // Their next messages begin new runs.
            self.runs.clear();
        }
        let run = Run { id: self.next_run.fetch_add(1, Ordering::Relaxed), last: 1 };
        self.runs.insert(channel.clone(), run);
        encode(run)
    }
}

fn encode(run: Run) -> Header {
    let mut header = [0; HEADER_BYTES];
    header[0] = VERSION;
    header[1..9].copy_from_slice(&run.id.to_be_bytes());
    header[9..].copy_from_slice(&run.last.to_be_bytes());
    header
}

/// Run and number; `None` if it is no message of a version that is known here.
fn decode(bytes: &[u8]) -> Option<(u64, u64)> {
    let (&[VERSION], rest) = bytes.split_first_chunk()? else { return None };
    let (run, rest) = rest.split_first_chunk()?;
    let number = rest.first_chunk()?;
    Some((u64::from_be_bytes(*run), u64::from_be_bytes(*number)))
}

/// What a message's number says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// It is the one that was due, or the first of its run.
    Due,
    /// So many are missing before it.
    Behind(u64),
    /// It comes too late to be handed out in order, and was told to be lost already.
    Late,
    /// As `Late`, but nothing was told of it.
    LateUntold,
    /// It is none of ours, or of a version to come.
    Unreadable,
}

/// What a subscriber has seen of a channel's runs.
#[derive(Default)]
pub(crate) struct Gaps {
    runs: HashMap<u64, SeenRun>,
}

struct SeenRun {
    first: u64,
    last: u64,
}

impl Gaps {
    /// Looks at a message as it came, header and all.
    pub(crate) fn see(&mut self, bytes: &[u8]) -> Seen {
        let Some((id, number)) = decode(bytes) else { return Seen::Unreadable };
        let Some(run) = self.runs.get_mut(&id) else {
            if self.runs.len() >= SEEN_MAX {
                // Publishers that are no more; those that live are seen again.
                self.runs.clear();
            }
            self.runs.insert(id, SeenRun { first: number, last: number });
            return Seen::Due;
        };
        if number < run.first {
            run.first = number;
            return Seen::LateUntold;
        }
        if number <= run.last {
            return Seen::Late;
        }
        let missing = number - run.last - 1;
        run.last = number;
        if missing == 0 { Seen::Due } else { Seen::Behind(missing) }
    }

    /// What is missing from here on was told.
    pub(crate) fn forget(&mut self) {
        self.runs.clear();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sysd_core::SeededEntropy;

    fn number(numbers: &Numbers, channel: &Channel) -> Header {
        numbers.turn(channel).header(channel)
    }

    #[test]
    fn the_format_is_pinned() {
        let header = encode(Run { id: 0x0102_0304_0506_0708, last: 9 });
        assert_eq!(header, [1, 1, 2, 3, 4, 5, 6, 7, 8, 0, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(decode(&header), Some((0x0102_0304_0506_0708, 9)));
    }

    #[test]
    fn a_gap_is_counted_and_what_is_late_is_not_handed_out() {
        let numbers = Numbers::new(&SeededEntropy::new(1));
        let channel = Channel::new("a").unwrap();
        let sent: Vec<_> = (0..8).map(|_| number(&numbers, &channel)).collect();
        let mut gaps = Gaps::default();
        let expected = [
            (2, Seen::Due),
            (3, Seen::Due),
            (6, Seen::Behind(2)),
            (5, Seen::Late),
            (6, Seen::Late),
            (0, Seen::LateUntold),
            (0, Seen::Late),
            (7, Seen::Due),
        ];
        for (at, seen) in expected {
            assert_eq!(gaps.see(&sent[at]), seen, "message {at}");
        }
        gaps.forget();
        assert_eq!(gaps.see(&sent[7]), Seen::Due);
    }

    #[test]
    fn channels_and_publishers_have_runs_of_their_own() {
        let (one, other) = (Numbers::new(&SeededEntropy::new(1)), Numbers::new(&SeededEntropy::new(2)));
        let (a, b) = (Channel::new("a").unwrap(), Channel::new("b").unwrap());
        let mut gaps = Gaps::default();
        assert_eq!(gaps.see(&number(&one, &a)), Seen::Due);
        number(&one, &b);
        number(&other, &a);
        assert_eq!(gaps.see(&number(&one, &a)), Seen::Due);
        assert_eq!(gaps.see(&number(&other, &a)), Seen::Due);
    }

    #[test]
    fn what_is_not_ours_is_not_taken_for_a_number() {
        let mut gaps = Gaps::default();
        for bytes in [&b""[..], &[1; 16], &[2; 17], b"{\"json\": true}, of another program"] {
            assert_eq!(gaps.see(bytes), Seen::Unreadable);
        }
    }

    #[test]
    fn both_sides_stay_bounded() {
        let numbers = Numbers::new(&SeededEntropy::new(1));
        for at in 0..2 * RUNS_MAX {
            number(&numbers, &Channel::new(at.to_be_bytes()).unwrap());
        }
        assert!(numbers.shards.iter().all(|shard| shard.lock().len() <= RUNS_MAX / SHARDS));
        let mut gaps = Gaps::default();
        for id in 0..3_000 {
            assert_eq!(gaps.see(&encode(Run { id, last: 1 })), Seen::Due);
        }
        assert!(gaps.runs.len() <= SEEN_MAX);
    }
}
