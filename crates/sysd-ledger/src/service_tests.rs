#![allow(clippy::unwrap_used)]
use sysd_storage::{Memory, Replica, ReplicaConfig};

use super::*;
use crate::model::AccountKind;

/// The journal's tests say when that is; here it is that whoever asks is told, and what needs no id is done.
#[tokio::test]
async fn who_asks_is_held_back_while_ids_wait_to_leave_memory() {
    let store = Memory::new();
    let (replica, driver) = Replica::<Books>::open(store.clone(), "books", ReplicaConfig::default()).await.unwrap();
    tokio::spawn(driver);
    let (ledger, _writer) = Ledger::that_may_forget(replica, store, "books", JournalConfig::default()).unwrap();
    let euro = Currency::iso("EUR").unwrap();
    let transfer = |id| Transaction::transfer(TransactionId(id), euro, 1, AccountId(1), AccountId(2));
    ledger.journal.ids_wait(u64::MAX);
    for id in [1, 2] {
        let account = Account::new(AccountId(id), euro, AccountKind::Asset);
        assert_eq!(ledger.open_account(account).await.unwrap(), Reply::Done);
    }
    let asked = [
        Command::Transact(transfer(1)),
        Command::Group(vec![transfer(2), transfer(3)]),
        Command::Batch(Arc::new(vec![transfer(4)])),
    ];
    for command in asked.clone() {
        let error = ledger.ask(command).await.unwrap_err();
        assert_eq!((error.kind(), error.effect()), (ErrorKind::Throttled, Effect::None), "{error}");
    }
    assert_eq!(ledger.read(Books::journal_len).await.unwrap(), 0);
    ledger.journal.ids_wait(0);
    for command in asked {
        assert!(!matches!(ledger.ask(command).await.unwrap(), Reply::Rejected(_)));
    }
    assert_eq!(ledger.read(Books::journal_len).await.unwrap(), 4);
}
