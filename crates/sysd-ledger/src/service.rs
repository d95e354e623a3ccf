//! The ledger on a store.

use std::time::Duration;

use sysd_core::{Durability, Effect, Error, ErrorKind, Replicated, Result};

use crate::logic::{Books, Command};
use crate::model::{Account, AccountId, AccountUpdate, AccountView, Date, Reply, Transaction};

/// A double-entry ledger, whose books are in memory and whose log is on a store. Clones share it.
///
/// ```
/// use sysd_ledger::{Account, AccountId, AccountKind, Books, Currency, Ledger, Reply, Side, Transaction, TransactionId};
/// use sysd_storage::{Memory, Replica, ReplicaConfig};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (replica, driver) = Replica::<Books>::open(Memory::new(), "shop", ReplicaConfig::default()).await?;
/// tokio::spawn(driver);
/// // Memory is no place for real books; on a disk it would be `Ledger::new(replica)?`.
/// let ledger = Ledger::that_may_forget(replica);
///
/// let euro = Currency::iso("EUR")?;
/// let (bank, ann) = (AccountId(1), AccountId(2));
/// ledger.open_account(Account::new(bank, euro, AccountKind::Asset)).await?;
/// ledger.open_account(Account::new(ann, euro, AccountKind::Liability).limited()).await?;
///
/// // Ann pays in 50.00 and spends 20.00.
/// let paid_in = Transaction::transfer(TransactionId(1), euro, 50_00, ann, bank);
/// ledger.transact(paid_in.clone()).await?;
/// ledger.transact(Transaction::transfer(TransactionId(2), euro, 20_00, bank, ann)).await?;
/// // The same again is the same.
/// assert!(matches!(ledger.transact(paid_in).await?, Reply::Exists { number: 1, .. }));
/// // More than is there is refused.
/// let refused = ledger.transact(Transaction::transfer(TransactionId(3), euro, 40_00, bank, ann)).await?;
/// assert!(matches!(refused, Reply::Rejected(_)));
///
/// let view = ledger.account(ann).await?.ok_or("no account")?;
/// assert_eq!(view.balance.posted(Side::Credit), 30_00);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - What was answered is in the log, exactly once, and counts for every answer after it: answers are linearizable.
/// - A transaction is recorded whole or not at all, and never twice under one id, whoever asks and however often.
/// - In every currency debits equal credits, posted and held, after every step; see [`Books`].
///
/// They hold as far as the store keeps what it acknowledged, and no further than that.
#[derive(Clone, Debug)]
pub struct Ledger<L> {
    log: L,
}

impl<L: Replicated<Books>> Ledger<L> {
    /// The ledger of a log: a replica of [`Books`].
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the log's store may forget what it acknowledged.
    pub fn new(log: L) -> Result<Self> {
        let durability = log.durability();
        if durability == Durability::Durable {
            return Ok(Self { log });
        }
        let message = format!(
            "the store's durability is {durability:?}, so it may forget postings that were answered; have it sync before it answers, \
             or make the ledger with that_may_forget"
        );
        Err(Error::new(ErrorKind::Config, Effect::None, message))
    }

    /// The same on a store that may forget what it acknowledged, such as memory, or Redis that does not sync before it answers: for
    /// tests, and for those who can lose the last postings. After a loss the books still balance, and who was answered was told of
    /// what is no longer there.
    pub fn that_may_forget(log: L) -> Self {
        Self { log }
    }

    /// Asks the books. The other methods are this one with a command.
    ///
    /// # Errors
    /// Those of [`Replicated::submit`]: with an effect of `None` nothing was changed; with `Unknown` ask again with the same command,
    /// which is answered [`Reply::Exists`] if it was recorded.
    ///
    /// # Cost
    /// One conditional write for all that is asked while the last one was on its way.
    ///
    /// # Cancel safety
    /// It may be recorded all the same.
    pub async fn ask(&self, command: Command) -> Result<Reply> {
        self.log.submit(command).await
    }

    /// Opens an account; one that was opened just so is [`Reply::Done`] too.
    ///
    /// # Errors
    /// As [`Ledger::ask`].
    pub async fn open_account(&self, account: Account) -> Result<Reply> {
        self.ask(Command::Open(Box::new(account))).await
    }

    /// Freezes, unfreezes or closes an account.
    ///
    /// # Errors
    /// As [`Ledger::ask`].
    pub async fn update_account(&self, id: AccountId, update: AccountUpdate) -> Result<Reply> {
        self.ask(Command::Update(id, update)).await
    }

    /// Records a transaction.
    ///
    /// # Errors
    /// As [`Ledger::ask`].
    pub async fn transact(&self, transaction: Transaction) -> Result<Reply> {
        self.ask(Command::Transact(transaction)).await
    }

    /// Records all of these transactions, each seeing those before it, or none.
    ///
    /// # Errors
    /// As [`Ledger::ask`].
    pub async fn transact_all(&self, transactions: Vec<Transaction>) -> Result<Reply> {
        self.ask(Command::Group(transactions)).await
    }

    /// Closes the books through a day: nothing is effective then any more.
    ///
    /// # Errors
    /// As [`Ledger::ask`].
    pub async fn close_period(&self, through: Date) -> Result<Reply> {
        self.ask(Command::ClosePeriod(through)).await
    }

    /// An account as it stands, everything counted that was answered anywhere before this was called.
    ///
    /// # Errors
    /// Those of reading the store.
    ///
    /// # Cost
    /// One `get` if nothing is being appended; calls at the same time share it.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn account(&self, id: AccountId) -> Result<Option<AccountView>> {
        self.log.read_latest(|books| books.account(id)).await
    }

    /// Reads the books, everything counted that was answered anywhere before this was called. Nothing is recorded while `read` runs.
    ///
    /// # Errors
    /// As [`Ledger::account`].
    pub async fn read_latest<R>(&self, read: impl FnOnce(&Books) -> R + Send) -> Result<R>
    where
        R: Send,
    {
        self.log.read_latest(read).await
    }

    /// Reads the books as they are here, if they were seen to their end within `staleness_max`.
    ///
    /// # Errors
    /// [`Unavailable`](ErrorKind::Unavailable) if they were not, saying how long ago it was.
    pub fn read_within<R>(&self, staleness_max: Duration, read: impl FnOnce(&Books) -> R) -> Result<R> {
        self.log.read_within(staleness_max, read)
    }

    /// Where the books are kept: for snapshots, fencing and the like.
    pub fn log(&self) -> &L {
        &self.log
    }
}
