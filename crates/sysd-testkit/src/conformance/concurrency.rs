//! What holds while several callers work on one record.

use std::sync::{Mutex, PoisonError};

use futures::future::try_join;
use sysd_core::entropy::{Entropy as _, SeededEntropy, below};
use sysd_core::{Expect, Key, Outcome, Record, Scan, Store as _, StoreExt as _, Version, Write};

use super::TRUTH;
use super::case::{Case, Failure, Verdict, ensure, ensure_eq};
use super::tally::Tally;
use crate::oracle::{History, Specification, check};

const CALLERS: usize = 8;
/// By each of them, two at a time: calls meet though threads may not.
const INCREMENTS: usize = 16;

/// A write whose value and expiry follow from its token.
fn telling<'a>(case: &Case<'_>, key: Key<'a>) -> Write<'a> {
    let version = Version::random();
    let (value, lives_us) = told(version);
    Write::put(key, value).with_version(version).expires_at(case.after(lives_us))
}

fn told(version: Version) -> (Vec<u8>, u64) {
    let bytes = version.to_bytes();
    (bytes.repeat(1 + usize::from(bytes[0]) / 4), 1_000_000 + u64::from(bytes[1]))
}

fn is_whole(case: &Case<'_>, record: &Record) -> bool {
    let (value, lives_us) = told(record.version);
    record.value == value && record.expires_at == Some(case.after(lives_us))
}

pub(super) fn whole(case: &Case<'_>) -> Verdict {
    let places = case.places("whole");
    case.on_threads(4, async |at| {
        for round in 0..60 {
            for place in &places {
                let key = place.as_key();
                let found = match (at, round % 3) {
                    (0 | 1, _) => {
                        let read = async { Ok(case.store.get(key).await?) };
                        let (_, found) = try_join(case.apply(telling(case, key)), read).await?;
                        Vec::from_iter(found)
                    }
                    (_, 0) => Vec::from_iter(case.store.get(key).await?),
                    (_, 1) => case.store.get_many(&[key]).await.into_iter().flatten().flatten().collect(),
                    _ => {
                        let rows = case.rows(Scan::partition(TRUTH, key.partition(), 10)).await?;
                        rows.into_iter().map(|row| row.record).collect()
                    }
                };
                for record in found {
                    ensure!(is_whole(case, &record), "a record of {key} is a mixture: {record:?}");
                }
            }
        }
        Ok(())
    })
}

/// Makes the value one byte longer, whoever is in the way.
async fn increment(case: &Case<'_>, key: Key<'_>) -> Verdict {
    loop {
        let found = case.store.get(key).await?;
        let count = found.as_ref().map_or(0, |record| record.value.len());
        let expect = found.map_or(Expect::Absent, |record| Expect::Is(record.version));
        if case.store.write(Write::put(key, vec![1; count + 1]).expect(expect)).await?.is_applied() {
            return Ok(());
        }
    }
}

pub(super) fn increments(case: &Case<'_>) -> Verdict {
    let pair = case.connect_twice()?;
    for place in &case.places("increments") {
        let key = place.as_key();
        case.on_threads(CALLERS, async |at| {
            let case = &pair[at % 2];
            for _ in 0..INCREMENTS / 2 {
                try_join(increment(case, key), increment(case, key)).await?;
            }
            Ok(())
        })?;
        for case in &pair {
            case.run(async {
                let count = case.store.get(key).await?.map_or(0, |record| record.value.len());
                ensure_eq!(count, CALLERS * INCREMENTS, "increments counted");
                Ok(())
            })?;
        }
    }
    Ok(())
}

pub(super) fn procedures(case: &Case<'_>) -> Verdict {
    let pair = case.connect_twice()?;
    for place in &case.places("procedures") {
        let key = place.as_key();
        let seen = Mutex::new(Vec::new());
        case.on_threads(CALLERS, async |at| {
            let case = &pair[at % 2];
            for _ in 0..INCREMENTS / 2 {
                let (add, other) = (Tally::add(1), Tally::add(1));
                let (seen_by_one, seen_by_other) =
                    try_join(case.store.run(key, &add), case.store.run(key, &other)).await?;
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen.extend([seen_by_one.sum(), seen_by_other.sum()]);
            }
            Ok(())
        })?;
        let mut seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
        seen.sort_unstable();
        let each_once: Vec<u64> = (0..).take(CALLERS * INCREMENTS).collect();
        ensure_eq!(seen, each_once, "what each update saw");
    }
    Ok(())
}

/// A record as a register of tokens: the value says which write or update made it.
struct Register;

type Token = u128;

#[derive(Clone, Copy, Debug)]
enum Condition {
    Any,
    Absent,
    Is(Token),
}

impl Condition {
    fn holds(self, state: Option<Token>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => state.is_none(),
            Self::Is(token) => state == Some(token),
        }
    }
}

#[derive(Clone, Debug)]
enum Call {
    Get,
    /// A condition, and the token put (`None`: deletes).
    Write(Condition, Option<Token>),
    /// An update that puts a token and answers the one before.
    Swap(Token),
}

#[derive(Clone, Debug, PartialEq)]
enum Reply {
    Was(Option<Token>),
    Applied,
    Conflict(Option<Token>),
}

impl Specification for Register {
    type State = Option<Token>;
    type Call = Call;
    type Reply = Reply;

    fn initial() -> Self::State {
        None
    }

    fn step(state: &Self::State, call: &Call, reply: Option<&Reply>) -> Option<Self::State> {
        let (expected, next) = match call {
            Call::Get => (Reply::Was(*state), *state),
            Call::Swap(token) => (Reply::Was(*state), Some(*token)),
            Call::Write(condition, token) if condition.holds(*state) => (Reply::Applied, *token),
            Call::Write(..) => (Reply::Conflict(*state), *state),
        };
        reply.is_none_or(|reply| *reply == expected).then_some(next)
    }
}

fn token(record: &Record) -> Verdict<Token> {
    let bytes = record.value.as_ref().try_into();
    bytes.map(Token::from_be_bytes).map_err(|_| Failure::new(format!("a value that nobody put: {record:?}")))
}

fn mint(entropy: &SeededEntropy) -> Token {
    Version::mint(entropy).as_u128()
}

/// One random call, noted in the history before it is sent and when its answer is there.
async fn one_call(
    case: &Case<'_>,
    key: Key<'_>,
    history: &Mutex<History<Register>>,
    entropy: &SeededEntropy,
    held: &mut Option<Record>,
) -> Verdict {
    let history = || history.lock().unwrap_or_else(PoisonError::into_inner);
    let (id, reply) = match below(entropy, 6) {
        0 => {
            let id = history().invoke(Call::Get);
            *held = case.store.get(key).await?;
            (id, Reply::Was(held.as_ref().map(token).transpose()?))
        }
        1 => {
            let next = mint(entropy);
            let id = history().invoke(Call::Swap(next));
            let seen = case.store.run(key, &Tally::set(next.to_be_bytes().to_vec())).await?;
            let was = seen.state.map(|state| state.as_slice().try_into().map(Token::from_be_bytes));
            let was = was.transpose().map_err(|_| Failure::new("a state that nobody put"))?;
            (id, Reply::Was(was))
        }
        kind => {
            let next = (kind != 2).then(|| mint(entropy));
            let (expect, expected) = match (below(entropy, 3), &*held) {
                (0, _) => (Expect::Absent, Condition::Absent),
                (1, Some(held)) => (Expect::Is(held.version), Condition::Is(token(held)?)),
                _ => (Expect::Any, Condition::Any),
            };
            let write = match next {
                Some(next) => Write::put(key, next.to_be_bytes().to_vec()).with_version(Version::from_u128(next)),
                None => Write::delete(key),
            };
            let id = history().invoke(Call::Write(expected, next));
            let reply = match case.store.write(write.expect(expect)).await? {
                Outcome::Applied => Reply::Applied,
                Outcome::Conflict { found } => {
                    *held = found;
                    Reply::Conflict(held.as_ref().map(token).transpose()?)
                }
            };
            (id, reply)
        }
    };
    history().complete(id, reply);
    Ok(())
}

pub(super) fn linearizable(case: &Case<'_>) -> Verdict {
    let pair = case.connect_twice()?;
    for seed in 0..40_u64 {
        let [lone, row] = case.places(&format!("history{seed}"));
        let place = if seed % 2 == 0 { lone } else { row };
        let history = Mutex::new(History::new());
        case.on_threads(3, async |at| {
            let entropy = SeededEntropy::new(seed * 3 + at as u64);
            let mut held = None;
            for _ in 0..7 {
                one_call(&pair[at % 2], place.as_key(), &history, &entropy, &mut held).await?;
                if entropy.next_u64().is_multiple_of(3) {
                    std::thread::yield_now();
                }
            }
            Ok(())
        })?;
        let history = history.into_inner().unwrap_or_else(PoisonError::into_inner);
        check(&history).map_err(|error| Failure::new(format!("history {seed}: {error}")))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_swap_that_misses_a_write_is_not_linearizable() {
        let mut history: History<Register> = History::new();
        let put = history.invoke(Call::Write(Condition::Any, Some(1)));
        history.complete(put, Reply::Applied);
        let swap = history.invoke(Call::Swap(2));
        history.complete(swap, Reply::Was(Some(1)));
        assert!(check(&history).is_ok());
        let stale = history.invoke(Call::Write(Condition::Is(1), Some(3)));
        history.complete(stale, Reply::Applied);
        assert!(check(&history).is_err());
    }
}
