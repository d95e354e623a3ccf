#![allow(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;
use crate::model::{AccountId, Date, TransactionId};
use crate::shards::logic::recovery::open_parts;
use crate::shards::schema::NOTES;
use crate::{Books, Command, Reply};
use sysd_core::Timestamp;

fn layout(count: u16) -> Layout {
    let notes = Currency::custom(NOTES, 0).unwrap();
    Layout { count, accounts: Placement::Named, ids: Placement::Named, notes }
}

fn currency(at: u8) -> Currency {
    Currency::iso(["EUR", "USD", "JPY"][usize::from(at) % 3]).unwrap()
}

/// Amounts of accounts in shards; the last shard's account of each currency makes it balance.
fn transactions() -> impl Strategy<Value = Transaction> {
    let leg = (0_u16..4, 1_u128..6, 0_u8..3, 1_u128..1_000, any::<bool>());
    let transaction = (prop::collection::vec(leg, 1..12), prop::option::of(-9_i32..9), 0_u16..4, 0_u16..4);
    transaction.prop_map(|(legs, day, last, home)| {
        let mut by_account = BTreeMap::<(u16, u128), Posting>::new();
        for (shard, id, at, amount, is_debit) in legs {
            // An account has one currency.
            let id = id * 3 + u128::from(at);
            let side = if is_debit { Side::Debit } else { Side::Credit };
            let account = ShardId(shard).place(id);
            by_account.insert((shard, id), Posting { account, amount, currency: currency(at), side });
        }
        let mut postings: Vec<_> = by_account.into_values().collect();
        for (currency, sum) in differences(&postings).unwrap() {
            let side = if sum > 0 { Side::Credit } else { Side::Debit };
            let account = ShardId(last).place(100 + u128::from(currency.code().as_bytes()[0]));
            postings.push(Posting { account, amount: sum.unsigned_abs(), currency, side });
        }
        Transaction { effective: day.map(Date), ..Transaction::new(ShardId(home).place_id(0), postings) }
    })
}

proptest! {
    #[test]
    fn each_part_is_balanced_and_pairs_mirror_each_other(transaction in transactions()) {
        let parts = match split(layout(4), &transaction).unwrap() {
            Split::Within(shard) => {
                prop_assert!(transaction.postings.iter().all(|posting| posting.account.0 >> 112 == u128::from(shard.0)));
                return Ok(());
            }
            Split::Across(parts) => parts,
        };
        let mut theirs = Vec::new();
        let mut pairs = BTreeMap::<(ShardId, ShardId, Currency), i128>::new();
        for (at, part) in parts.iter().enumerate() {
            prop_assert!(at == 0 || part.shard != parts[0].shard);
            prop_assert!(at < 2 || part.shard > parts[at - 1].shard);
            prop_assert_eq!(differences(&part.postings).unwrap(), BTreeMap::new());
            for posting in &part.postings {
                match Own::of(posting.account) {
                    None => theirs.push(*posting),
                    Some(Own::InTransit { shard, peer, currency }) => {
                        prop_assert_eq!(shard, part.shard);
                        prop_assert!(at == 0 || peer == parts[0].shard);
                        let signed = i128::try_from(posting.amount).unwrap();
                        let signed = if posting.side == Side::Debit { signed } else { -signed };
                        *pairs.entry((shard.min(peer), shard.max(peer), currency)).or_default() += signed;
                    }
                    Some(Own::Note { shard, peer, .. }) => {
                        prop_assert_eq!(shard, part.shard);
                        prop_assert!(at == 0 || peer == parts[0].shard);
                    }
                }
            }
        }
        prop_assert!(pairs.values().all(|sum| *sum == 0));
        prop_assert_eq!(Ok(parts[0].shard), home(layout(4), transaction.id));
        let others: BTreeSet<_> = parts[1..].iter().map(|part| part.shard).collect();
        prop_assert_eq!(Part::others(&parts[0].postings, parts[0].shard), others, "the coordinator's names all");
        let mut asked = transaction.postings.to_vec();
        asked.sort_by_key(|posting| posting.account);
        theirs.sort_by_key(|posting| posting.account);
        prop_assert_eq!(theirs, asked);
    }

    /// What a shard holds says whose it is and for which day.
    #[test]
    fn a_held_part_is_found_again(transaction in transactions()) {
        let Ok(Split::Across(parts)) = split(layout(4), &transaction) else { return Ok(()) };
        for part in &parts {
            let mut books = Books::default();
            let now = Timestamp::UNIX_EPOCH;
            for posting in &part.postings {
                let own = Own::of(posting.account).map(Own::account);
                let theirs = || crate::Account::new(posting.account, posting.currency, crate::AccountKind::Asset);
                books.apply(now, &Command::Open(Box::new(own.unwrap_or_else(theirs))));
            }
            let deadline = (part.shard == parts[0].shard).then(|| Timestamp::from_micros_saturating(9));
            let hold = Transaction::new(TransactionId(5), part.postings.iter().copied()).held_until(deadline);
            let reply = books.apply(now, &Command::Transact(Transaction { effective: transaction.effective, ..hold }));
            prop_assert!(matches!(reply, Reply::Recorded(_)), "{reply:?}");
            let found = open_parts(&books, part.shard, 0, 10);
            if let Some(at) = deadline {
                prop_assert_eq!((found.parts.len(), found.first_deadline), (0, Some(at)));
            } else {
                prop_assert_eq!(found.parts.len(), 1);
                prop_assert_eq!(found.parts[0].coordinator, parts[0].shard);
                prop_assert_eq!(found.parts[0].hold, TransactionId(5));
                prop_assert_eq!(found.parts[0].effective, transaction.effective);
            }
        }
    }
}

#[test]
fn what_shards_do_not_do_is_refused() {
    let euro = currency(0);
    let (here, there) = (ShardId(0).place(1), ShardId(1).place(1));
    let across = Transaction::transfer(TransactionId(1), euro, 1, here, there);
    let refused = |transaction: Transaction| match split(layout(2), &transaction) {
        Err(Unsplit::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(across.clone().held_until(None)), Refusal::Action);
    assert_eq!(refused(Transaction { action: Action::PostUpTo, ..across.clone() }), Refusal::Action);
    assert_eq!(refused(Transaction { reverses: Some(TransactionId(9)), ..across }), Refusal::Reversal);
    let nowhere = TransactionId(2);
    assert_eq!(refused(Transaction::transfer(nowhere, euro, 1, here, there)), Refusal::NoHome { id: nowhere });
    let account = ShardId(2).place(1);
    assert_eq!(refused(Transaction::transfer(TransactionId(1), euro, 1, here, account)), Refusal::NoShard { account });
    let account = Own::InTransit { shard: ShardId(0), peer: ShardId(1), currency: euro }.id();
    assert_eq!(refused(Transaction::transfer(TransactionId(1), euro, 1, here, account)), Refusal::Reserved { account });
    assert_eq!(refused(Transaction::void(TransactionId(1), TransactionId(2))), Refusal::ShardUnknown);
    let nothing = split(layout(2), &Transaction::new(TransactionId(1), []));
    assert_eq!(nothing, Err(Unsplit::Rejected(Rejection::PostingCount { count: 0 })));
    let beyond = Transaction::transfer(ShardId(0).place_id(0), euro, u128::MAX, here, there);
    let account = there;
    assert_eq!(split(layout(2), &beyond), Err(Unsplit::Rejected(Rejection::Overflow { account })));
    assert_eq!(AccountId(there.0), there);
}
