#![allow(clippy::unwrap_used, clippy::panic)]
use std::sync::Arc;

use sysd_core::StateMachine as _;

use super::*;
use crate::logic::{BLOCK_IDS, Command, KEPT_MAX};
use crate::model::{Account, AccountId, AccountKind, Currency, Reply, Transaction};

fn now() -> Timestamp {
    Timestamp::from_micros(1_800_000_000_000_000).unwrap()
}

/// By a clock so many milliseconds ahead.
fn minted(ahead_ms: u64, rest: u64) -> Transaction {
    let ms = u128::from(now().as_micros() / 1_000 + ahead_ms);
    let id = TransactionId(ms << 80 | 7 << 76 | 0b10 << 62 | u128::from(rest));
    Transaction::transfer(id, Currency::iso("EUR").unwrap(), 1, AccountId(0), AccountId(1))
}

fn bytes(books: &Books) -> Vec<u8> {
    let mut bytes = Vec::new();
    books.encode_snapshot(&mut bytes);
    bytes
}

/// More of them left than are kept; whoever reads a snapshot takes none of them for new, and asks the store for no others.
#[test]
fn ids_of_the_far_future_that_left_are_not_new_behind_a_snapshot() {
    let mut books = Books::default();
    let mut ask = |command: Command| books.apply(now(), &command);
    for id in 0..2 {
        let account = Account::new(AccountId(id), Currency::iso("EUR").unwrap(), AccountKind::Liability);
        assert_eq!(ask(Command::Open(Box::new(account))), Reply::Done);
    }
    let count = KEPT_MAX as u64 + 4 * BLOCK_IDS;
    // A clock that is a day ahead, and one that is a century ahead.
    let (day, century) = (86_400_000, 3_155_760_000_000);
    let recorded = |rest: u64| minted(if rest.is_multiple_of(100) { century } else { day } + rest, rest);
    for from in (0..count).step_by(8_192) {
        let Reply::Batch(replies) = ask(Command::Batch(Arc::new((from..from + 8_192).map(recorded).collect()))) else {
            panic!()
        };
        assert!(replies.iter().all(|reply| matches!(reply, Reply::Recorded(_))));
    }
    let last = books.tail().full.back().unwrap().last;
    books.apply(now(), &Command::Wrote { through: last, hash: ChunkHash::default() });
    books.apply(now(), &Command::Forget { through: last });
    assert!(books.ids_forgotten() > KEPT_MAX as u64);

    let stored = bytes(&books);
    let mut restored = Books::decode_snapshot(Books::FORMAT, &stored).unwrap();
    assert!(bytes(&restored) == stored, "it is not what was stored");
    let mut left = 0;
    // Every seventh, of both clocks.
    for rest in (0..count).step_by(7) {
        match restored.apply(now(), &Command::Transact(recorded(rest))) {
            Reply::Exists { number, .. } => assert_eq!(number, rest + 1),
            Reply::LookUp(_) => left += 1,
            other => panic!("{rest} was recorded: {other:?}"),
        }
    }
    assert!(left >= KEPT_MAX / 20, "{left}");
    for ahead_ms in [1, day - 1, day + count + 1, century - 1, century + count] {
        let reply = restored.apply(now(), &Command::Transact(minted(ahead_ms, 1 << 40)));
        assert!(matches!(reply, Reply::Recorded(_)), "{ahead_ms}: {reply:?}");
    }
}

#[test]
fn times_that_make_no_sense_are_refused() {
    let written = |intervals: &[(u64, u64)]| {
        let mut books = bytes(&Books::default());
        // No accounts, nothing forgotten, no horizon, nothing kept; then the intervals.
        assert_eq!(books[..5], [0; 5]);
        let mut some = Vec::new();
        put_small(intervals.len() as u64, &mut some);
        for (first, last) in intervals {
            put_small(*first, &mut some);
            put_small(*last, &mut some);
        }
        books.splice(4..5, some);
        Books::decode_snapshot(Books::FORMAT, &books).map(|books| books.numbers().kept().unkept.intervals().to_vec())
    };
    assert_eq!(written(&[(5, 6), (8, 8)]).unwrap(), [(5, 6), (8, 8)]);
    let beyond = Timestamp::MAX.as_micros() + 1;
    for wrong in [&[(6, 5)][..], &[(5, 6), (6, 8)], &[(8, 8), (5, 6)], &[(0, 0)], &[(5, beyond)]] {
        assert!(written(wrong).is_err(), "{wrong:?}");
    }
    let many = |count: u64| (1..=count).map(|at| (2 * at, 2 * at)).collect::<Vec<_>>();
    assert!(written(&many(64)).is_ok() && written(&many(65)).is_err());
}
