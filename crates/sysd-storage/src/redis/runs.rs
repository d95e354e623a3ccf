//! Writes of a batch that go to Redis as one call: rows of one partition that are put, or removed, whatever is there.
//!
//! A call of a script costs Redis as much as several rows. One that writes many adds and removes them with one command each.

use redis::Value;
use sysd_core::{Change, Clock, Expect, Outcome, Result, Write};

use super::call::Call;
use super::codec::{Codec, read_write};

/// How many rows one call writes at most: Lua passes some thousand arguments, and Redis serves nobody else meanwhile.
const ROWS_MAX: usize = 256;

/// Writes of one call: one, or several rows.
pub(super) struct Run<'a, 'k> {
    first: &'a Write<'k>,
    pub(super) all: &'a [Write<'k>],
}

/// Cuts writes into runs.
pub(super) fn cut<'a, 'k, C: Clock>(codec: &Codec<C>, mut writes: &'a [Write<'k>]) -> Vec<Run<'a, 'k>> {
    let mut runs = Vec::new();
    while let Some(first) = writes.first() {
        let mut length = 1;
        if is_plain(codec, first) {
            let others = writes.iter().take(ROWS_MAX).skip(1);
            length += others.take_while(|next| is_like(first, next) && is_plain(codec, next)).count();
        }
        let (all, rest) = writes.split_at(length);
        runs.push(Run { first, all });
        writes = rest;
    }
    runs
}

/// Whether a write is that of a row whatever is there, for ever, and nothing is wrong with it.
fn is_plain<C: Clock>(codec: &Codec<C>, write: &Write<'_>) -> bool {
    let is_for_ever = matches!(write.change, Change::Delete | Change::Put { expires_at: None, .. });
    let is_row = !write.key.is_lone() && !write.key.space().is_keys_only();
    is_row && is_for_ever && write.expect == Expect::Any && codec.limits().check_write(write, <_>::default()).is_ok()
}

fn is_like(one: &Write<'_>, other: &Write<'_>) -> bool {
    std::mem::discriminant(&one.change) == std::mem::discriminant(&other.change)
        && one.key.partition() == other.key.partition()
        && one.key.space() == other.key.space()
}

impl<'a, 'k> Run<'a, 'k> {
    pub(super) fn call<C: Clock>(&self, codec: &Codec<C>) -> Result<Call> {
        if self.all.len() == 1 { codec.write(self.first) } else { Ok(codec.write_rows(self.first, self.all)) }
    }

    /// What became of each write.
    pub(super) fn read(self, answer: Result<Value>) -> impl Iterator<Item = Result<Outcome>> + use<'a, 'k> {
        // A run without conditions has no conflict: what is found is of one write alone.
        let shared = answer.and_then(|answer| read_write(self.first, answer));
        self.all.iter().map(move |write| match &shared {
            Ok(outcome) => Ok(outcome.clone()),
            Err(error) => Err(error.share().with_key(write.key)),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use sysd_core::{Key, Limits, ManualClock, Space, Timestamp, Version};

    const SPACE: Space = Space::conditional("s");

    #[test]
    fn a_run_is_of_one_partition_one_change_and_no_condition() {
        let codec = Codec::new(String::new(), ManualClock::new(Timestamp::UNIX_EPOCH), Limits::PROCESS);
        let put = |sort| Write::put(Key::row(SPACE, b"p", sort), "x");
        let delete = |sort| Write::delete(Key::row(SPACE, b"p", sort));
        let writes = [
            put(b"1"),
            put(b"2"),
            put(b"2"),
            delete(b"1"),
            delete(b"3"),
            put(b"4"),
            put(b"5").expect(Expect::Absent),
            put(b"6").expires_at(Timestamp::MAX),
            put(b"7"),
            Write::put(Key::row(SPACE, b"q", b"8"), "x"),
            Write::put(Key::lone(SPACE, b"p"), "x"),
            Write::put(Key::row(const { Space::keys_only("s2") }, b"p", b"9"), ""),
            delete(b"9").expect(Expect::Is(Version::from_u128(1))),
        ];
        let lengths: Vec<_> = cut(&codec, &writes).iter().map(|run| run.all.len()).collect();
        assert_eq!(lengths, [3, 2, 1, 1, 1, 1, 1, 1, 1, 1]);
        let many = vec![put(b"1"); ROWS_MAX + 1];
        assert_eq!(cut(&codec, &many).iter().map(|run| run.all.len()).collect::<Vec<_>>(), [ROWS_MAX, 1]);
    }

    #[test]
    fn a_write_that_is_refused_is_no_part_of_a_run() {
        let mut limits = Limits::PROCESS;
        limits.value_bytes_max = 2;
        let codec = Codec::new(String::new(), ManualClock::new(Timestamp::UNIX_EPOCH), limits);
        let put = |value: &'static str| Write::put(Key::row(SPACE, b"p", b"1"), value);
        let writes = [put("x"), put("xyz"), put("x"), put("x")];
        let runs = cut(&codec, &writes);
        assert_eq!(runs.iter().map(|run| run.all.len()).collect::<Vec<_>>(), [1, 1, 2]);
        assert!(runs[1].call(&codec).is_err());
    }
}
