//! Records out of a ledger's transactions.

use sysd_core::Timestamp;

use super::model::Record;
use crate::model::{AccountId, Date, Side, Transaction};

impl Record {
    /// What a transaction moved on one account, such as that of what a provider owes: debits less credits. The kind is the memo. `None` if it has no
    /// posting there, or did not post at once (a hold moves nothing; what is posted of it may differ).
    ///
    /// `reference` is the id that the provider was given; an application that keeps it with the transaction finds it in the metadata.
    ///
    /// ```
    /// use sysd_core::Timestamp;
    /// use sysd_ledger::reconcile::Record;
    /// use sysd_ledger::{AccountId, Currency, Transaction, TransactionId};
    ///
    /// let (provider, sales) = (AccountId(1), AccountId(2));
    /// let sale = Transaction::transfer(TransactionId(9), Currency::iso("EUR")?, 12_00, sales, provider);
    /// let record = Record::of_transaction(&sale, provider, Timestamp::UNIX_EPOCH, "order-9").ok_or("no posting there")?;
    /// assert_eq!((record.amount, record.day.0), (12_00, 0));
    /// assert!(Record::of_transaction(&sale, AccountId(3), Timestamp::UNIX_EPOCH, "order-9").is_none());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn of_transaction(
        transaction: &Transaction,
        account: AccountId,
        recorded_at: Timestamp,
        reference: &str,
    ) -> Option<Self> {
        if transaction.action != crate::model::Action::Post {
            return None;
        }
        // No account has two postings of a transaction.
        let posting = transaction.postings.iter().find(|posting| posting.account == account)?;
        let amount = i128::try_from(posting.amount).ok()?;
        let amount = if posting.side == Side::Debit { amount } else { -amount };
        let day = transaction.effective.unwrap_or_else(|| Date::of(recorded_at));
        let memo = transaction.details.as_ref().map_or("", |details| details.memo());
        let end = (0..=memo.len().min(Self::TEXT_MAX)).rev().find(|end| memo.is_char_boundary(*end)).unwrap_or(0);
        let kind = memo.get(..end).unwrap_or_default();
        Some(Self { kind: kind.into(), ..Self::new(reference, posting.currency, amount, day, 0) })
    }
}
