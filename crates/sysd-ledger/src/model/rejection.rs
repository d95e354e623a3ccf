//! Why something can't be written into the books.

use super::account::AccountId;
use super::amount::{Currency, Side};
use super::transaction::{Date, Transaction, TransactionId};

/// Why nothing was changed. An answer, not an error: the books know that it can't be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// There is such an account already, and it is another.
    #[error("account {account} is there already, opened otherwise; open another id")]
    AccountExists {
        /// The account.
        account: AccountId,
    },
    /// There is no such account.
    #[error("account {account} is not open; open it first")]
    UnknownAccount {
        /// The account.
        account: AccountId,
    },
    /// It takes no postings for now.
    #[error("account {account} is frozen; unfreeze it first")]
    Frozen {
        /// The account.
        account: AccountId,
    },
    /// It takes no postings any more.
    #[error("account {account} is closed for ever")]
    Closed {
        /// The account.
        account: AccountId,
    },
    /// Only an empty account is closed.
    #[error("account {account} is not empty; move its balance and settle what is held before closing it")]
    NotEmpty {
        /// The account.
        account: AccountId,
    },
    /// The account counts something else.
    #[error("account {account} is in {expected}, not in {found}")]
    WrongCurrency {
        /// The account.
        account: AccountId,
        /// What the posting said.
        found: Currency,
        /// What the account is in.
        expected: Currency,
    },
    /// Debits and credits differ.
    #[error("debits less credits are not zero: {}", differences.iter().map(|(currency, by)| currency.show(*by)).collect::<Vec<_>>().join(", "))]
    Unbalanced {
        /// Debits less credits, of each currency in which they differ.
        differences: Vec<(Currency, i128)>,
    },
    /// A transaction has postings on both sides.
    #[error("a transaction has 2 to {max} postings, not {count}", max = Transaction::POSTINGS_MAX)]
    PostingCount {
        /// How many there were.
        count: usize,
    },
    /// An amount of zero.
    #[error("the amount for account {account} is zero; leave the posting out")]
    ZeroAmount {
        /// The account.
        account: AccountId,
    },
    /// An amount, or a sum of amounts, that no sum can hold.
    #[error("the sums of account {account} would be beyond i128::MAX minor units")]
    Overflow {
        /// The account.
        account: AccountId,
    },
    /// Two postings for one account.
    #[error("account {account} has two postings; add them up")]
    DuplicateAccount {
        /// The account.
        account: AccountId,
    },
    /// There is not as much to take.
    #[error("account {account} is short of {shortfall} minor units")]
    InsufficientFunds {
        /// The account.
        account: AccountId,
        /// How much more would have been needed.
        shortfall: u128,
    },
    /// It would hold more than it may.
    #[error("account {account} would be {excess} minor units over its balance_max")]
    BalanceMax {
        /// The account.
        account: AccountId,
        /// By how much.
        excess: u128,
    },
    /// What is moved up to must say from where.
    #[error("PostUpTo has two postings, at least one of them taking from an account with limited funds")]
    UpToShape,
    /// No such transaction holds anything, or it ended.
    #[error("{hold} holds nothing: it was posted, voided, has expired or never was")]
    NoHold {
        /// The id.
        hold: TransactionId,
    },
    /// More than is held.
    #[error("only {held} minor units of account {account} are held on the {side} side")]
    ExceedsHold {
        /// The account.
        account: AccountId,
        /// The side.
        side: Side,
        /// What is held there.
        held: u128,
    },
    /// A void has no postings.
    #[error("a void has no postings; to free a part of a hold, post the rest of it with Rest::Release")]
    VoidShape,
    /// A hold that would be over before it began.
    #[error("the hold would end before it began; is the caller's clock right?")]
    ExpiresInPast,
    /// Only what posts can take back.
    #[error("only a transaction that posts at once can reverse another")]
    ReversalShape,
    /// It was taken back before.
    #[error("{reverses} was reversed already, by number {by} of the journal")]
    AlreadyReversed {
        /// The transaction.
        reverses: TransactionId,
        /// The number of its reversal.
        by: u64,
    },
    /// There is nothing to take back.
    #[error("{reverses} was never recorded")]
    UnknownTransaction {
        /// The id.
        reverses: TransactionId,
    },
    /// Its effective day is in a closed period.
    #[error("the books are closed through day {}; post it for a later day", through.0)]
    PeriodClosed {
        /// The last closed day.
        through: Date,
    },
    /// What is closed stays closed, so no day is closed before it has begun somewhere on earth.
    #[error("day {} has not begun yet anywhere, and what is closed stays closed; close through day {} at most", through.0, latest.0)]
    PeriodAhead {
        /// The day that was asked for.
        through: Date,
        /// The last one that can be closed now: tomorrow in UTC.
        latest: Date,
    },
    /// Of a group, this one.
    #[error("number {index} of the group: {cause}")]
    InGroup {
        /// Its place in the group, from 0 on.
        index: usize,
        /// What it would have been answered.
        cause: Box<Rejection>,
    },
    /// A group's transaction that was recorded before, without the rest of the group.
    #[error("{id} was recorded before, as number {number} of the journal")]
    Exists {
        /// The id.
        id: TransactionId,
        /// Its number.
        number: u64,
    },
    /// A group without anything, or with too much.
    #[error("a group has 1 to {max} transactions, not {count}")]
    GroupCount {
        /// How many there were.
        count: usize,
        /// The most.
        max: usize,
    },
    /// More metadata than is kept.
    #[error("account {account} has {bytes} bytes of metadata; at most {max} are kept", max = super::Account::METADATA_MAX)]
    MetadataTooLong {
        /// The account.
        account: AccountId,
        /// How many there were.
        bytes: usize,
    },
    /// The amounts are not those of the rate, or too great to be compared.
    #[error("{given} is not {got} at the rate that the transaction says", given = from.0.show(i128::try_from(from.1).unwrap_or(i128::MAX)), got = to.0.show(i128::try_from(to.1).unwrap_or(i128::MAX)))]
    Rate {
        /// What the postings give.
        from: (Currency, u128),
        /// What they get.
        to: (Currency, u128),
    },
    /// The store does not keep up with the journal.
    #[error("{bytes} bytes of the journal wait for the store; run the journal's writer, or ask for less at once")]
    JournalBehind {
        /// How many wait.
        bytes: usize,
    },
    /// No more accounts or transactions fit.
    #[error("the books are full: 4,294,967,295 accounts, or ids in memory, are the most")]
    Full,
}
