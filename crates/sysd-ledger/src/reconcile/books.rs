//! Records out of a ledger's journal.

use super::model::Record;
use crate::model::{AccountId, JournalEntry, Side};

impl Record {
    /// What an entry of the journal posted on one account, such as that of what a provider owes: debits less credits. It is what was
    /// posted, not what was asked: of a hold what its capture took, of [`PostUpTo`](crate::Action::PostUpTo) what was there. The kind is
    /// the memo. `None` if nothing was posted there: by a hold, a void, a hold that ended, or on other accounts.
    ///
    /// `reference` is the id that the provider was given; an application that keeps it with the transaction finds it in the metadata. A
    /// capture is a transaction of its own: if the provider knows it by the payment that was authorised, that is the transaction
    /// which held.
    ///
    /// ```
    /// use sysd_ledger::reconcile::Record;
    /// use sysd_ledger::{Transaction, TransactionId};
    /// # use sysd_ledger::{Account, AccountId, AccountKind, Books, Currency, JournalConfig, Ledger};
    /// # use sysd_storage::{Memory, Replica, ReplicaConfig};
    /// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
    /// # let store = Memory::new();
    /// # let (replica, driver) = Replica::<Books>::open(store.clone(), "shop", ReplicaConfig::default()).await?;
    /// # tokio::spawn(driver);
    /// # let (ledger, _writer) = Ledger::that_may_forget(replica, store, "shop", JournalConfig::default())?;
    /// # let euro = Currency::iso("EUR")?;
    /// # let (provider, sales) = (AccountId(1), AccountId(2));
    /// # ledger.open_account(Account::new(provider, euro, AccountKind::Asset)).await?;
    /// # ledger.open_account(Account::new(sales, euro, AccountKind::Income)).await?;
    /// // A card is authorised, and captured when the goods are sent.
    /// let (authorised, captured) = (TransactionId(1), TransactionId(2));
    /// ledger.transact(Transaction::transfer(authorised, euro, 12_00, sales, provider).held_until(None)).await?;
    /// ledger.transact(Transaction::post_held(captured, authorised)).await?;
    ///
    /// let entry = ledger.transaction(authorised).await?.ok_or("it was never recorded")?;
    /// assert!(Record::of_entry(&entry, provider, "order-9").is_none());
    /// let entry = ledger.transaction(captured).await?.ok_or("it was never recorded")?;
    /// let record = Record::of_entry(&entry, provider, "order-9").ok_or("nothing was posted there")?;
    /// assert_eq!((record.amount, &*record.reference), (12_00, "order-9"));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// # }).unwrap();
    /// ```
    pub fn of_entry(entry: &JournalEntry, account: AccountId, reference: &str) -> Option<Self> {
        // No account is changed twice by an entry.
        let change = entry.changes.iter().find(|change| change.account == account && change.posted > 0)?;
        let amount = i128::try_from(change.posted).ok()?;
        let amount = if change.side == Side::Debit { amount } else { -amount };
        let details = entry.transaction().and_then(|transaction| transaction.details.as_ref());
        let memo = details.map_or("", |details| details.memo());
        let end = (0..=memo.len().min(Self::TEXT_MAX)).rev().find(|end| memo.is_char_boundary(*end)).unwrap_or(0);
        let kind = memo.get(..end).unwrap_or_default();
        Some(Self { kind: kind.into(), ..Self::new(reference, change.currency, amount, entry.effective(), 0) })
    }
}
