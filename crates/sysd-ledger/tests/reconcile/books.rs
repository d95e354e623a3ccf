//! Our side out of a ledger's journal: all that was posted, and nothing that was only held.

use futures::TryStreamExt as _;
use sysd_core::{Clock as _, SystemClock};
use sysd_ledger::reconcile::{Record, Rules};
use sysd_ledger::{
    Account, AccountId, AccountKind, Action, Books, Date, Details, JournalConfig, Ledger, Reply, Rest, Side,
    Transaction, TransactionId,
};
use sysd_storage::{Memory, Replica, ReplicaConfig};

use super::support::{euro, record, run};

pub(crate) const PROVIDER: AccountId = AccountId(1);
pub(crate) const ANN: AccountId = AccountId(2);

pub(crate) type OnMemory = Ledger<Replica<Books>, Memory>;

/// A ledger of what a provider owes and what is owed to Ann.
pub(crate) async fn ledger() -> OnMemory {
    let store = Memory::new();
    let (replica, driver) = Replica::open(store.clone(), "books", ReplicaConfig::default()).await.unwrap();
    tokio::spawn(driver);
    let (ledger, writer) = Ledger::that_may_forget(replica, store, "books", JournalConfig::default()).unwrap();
    tokio::spawn(writer);
    ledger.open_account(Account::new(PROVIDER, euro(), AccountKind::Asset)).await.unwrap();
    ledger.open_account(Account::new(ANN, euro(), AccountKind::Liability).limited()).await.unwrap();
    ledger
}

pub(crate) async fn record_it(ledger: &OnMemory, transaction: Transaction) {
    let reply = ledger.transact(transaction).await.unwrap();
    assert!(matches!(reply, Reply::Recorded(_)), "{reply:?}");
}

pub(crate) fn pays_in(id: u128, amount: u128) -> Transaction {
    Transaction::transfer(TransactionId(id), euro(), amount, ANN, PROVIDER)
}

fn part(id: u128, hold: u128, amount: u128, rest: Rest) -> Transaction {
    Transaction { action: Action::PostHeld { hold: TransactionId(hold), rest }, ..pays_in(id, amount) }
}

/// All actions, by the amounts that they posted at the provider's; `None`: nothing.
fn all() -> Vec<(Transaction, Option<i128>)> {
    let with_memo = |transaction| Transaction {
        details: Some(Box::new(Details::new("card", Vec::new()).unwrap())),
        effective: Some(Date(20_000)),
        ..transaction
    };
    let up_to = Transaction {
        action: Action::PostUpTo,
        ..Transaction::transfer(TransactionId(9), euro(), 1_000, PROVIDER, ANN)
    };
    let hold = |id, amount| pays_in(id, amount).held_until(None);
    vec![
        (pays_in(1, 100), Some(100)),
        // Captured in parts.
        (hold(2, 60), None),
        (with_memo(part(3, 2, 25, Rest::Keep)), Some(25)),
        (part(4, 2, 10, Rest::Release), Some(10)),
        // Captured whole.
        (hold(5, 30), None),
        (Transaction::post_held(TransactionId(6), TransactionId(5)), Some(30)),
        // Never captured.
        (hold(7, 5), None),
        (Transaction::void(TransactionId(8), TransactionId(7)), None),
        // Asked for more than there was.
        (up_to, Some(-165)),
    ]
}

#[tokio::test]
async fn records_are_what_was_posted_at_once_or_captured_later() {
    let ledger = ledger().await;
    let all = all();
    for (transaction, _) in &all {
        record_it(&ledger, transaction.clone()).await;
    }
    let entries: Vec<_> = ledger.journal(0).try_collect().await.unwrap();
    assert_eq!(entries.len(), all.len());
    for (entry, (_, posted)) in entries.iter().zip(&all) {
        let of = |account| Record::of_entry(entry, account, "it");
        assert_eq!(of(PROVIDER).map(|record| record.amount), *posted, "{entry:?}");
        assert_eq!(of(ANN).map(|record| record.amount), posted.map(|amount| -amount), "{entry:?}");
        assert_eq!(of(AccountId(3)), None);
    }
    // Together they are the balance.
    let amounts = |account| entries.iter().filter_map(move |one| Record::of_entry(one, account, ""));
    for account in [PROVIDER, ANN] {
        let view = ledger.account(account).await.unwrap().unwrap();
        let sum: i128 = amounts(account).map(|record| record.amount).sum();
        assert_eq!(view.balance.posted(Side::Debit), sum);
    }
    let capture = Record::of_entry(&entries[2], PROVIDER, "order-2").unwrap();
    let wanted = Record { kind: "card".into(), ..record("order-2", 25, 20_000) };
    assert_eq!(capture, wanted);
}

/// Captures were not among our records: a settlement file that has them had each of them missing here.
#[tokio::test]
async fn a_settlement_file_with_captures_matches() {
    let ledger = ledger().await;
    for (transaction, _) in all() {
        record_it(&ledger, transaction).await;
    }
    let reference = |id: u128| format!("payment-{id}");
    let entries: Vec<_> = ledger.journal(0).try_collect().await.unwrap();
    let ours: Vec<_> = entries
        .iter()
        .filter_map(|entry| {
            let transaction = entry.transaction()?;
            let id = match transaction.action {
                Action::PostHeld { hold, .. } => hold,
                _ => transaction.id,
            };
            Record::of_entry(entry, PROVIDER, &reference(id.0))
        })
        .collect();
    let today = Date::of(SystemClock.now()).0;
    let theirs = [(1, 100, today), (2, 25, 20_000), (2, 10, today), (5, 30, today), (9, -165, today)]
        .map(|(id, amount, day)| record(&reference(id), amount, day));
    let (_, summary) = run(&Rules::default(), &ours, &theirs).unwrap();
    assert_eq!(summary.differences_len(), 0, "{summary:?}");
}
