//! The ledger on a store.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::Stream;
use futures::stream::{TryStreamExt as _, iter, try_unfold};
use sysd_core::{Durability, Effect, Error, ErrorKind, Followed, Replicated, Result, Store};

use crate::journal::{
    AsOf, Audit, AuditError, Claim, End, Head, Journal, JournalConfig, JournalWriter, Page, StatementLine,
};
use crate::logic::{Books, Command, Looked, TrialBalance};
use crate::model::{
    Account, AccountId, AccountUpdate, AccountView, Balance, Conflict, Currency, Date, JournalEntry, Reply,
    Transaction, TransactionId,
};
use crate::schema::journal::ChunkHash;

/// A double-entry ledger, whose books are in memory and whose log is on a store. Clones share it.
///
/// ```
/// use sysd_ledger::{
///     Account, AccountId, AccountKind, Books, Currency, JournalConfig, Ledger, Page, Reply, Side, Transaction, TransactionId,
/// };
/// use sysd_storage::{Memory, Replica, ReplicaConfig};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let store = Memory::new();
/// let (replica, driver) = Replica::<Books>::open(store.clone(), "shop", ReplicaConfig::default()).await?;
/// tokio::spawn(driver);
/// // Memory is no place for real books; on a disk it would be `Ledger::new`.
/// let (ledger, writer) = Ledger::that_may_forget(replica, store, "shop", JournalConfig::default())?;
/// tokio::spawn(writer);
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
/// assert!(matches!(ledger.transact(paid_in).await?, Reply::Recorded(receipt) if receipt.number == 1));
/// // More than is there is refused.
/// let refused = ledger.transact(Transaction::transfer(TransactionId(3), euro, 40_00, bank, ann)).await?;
/// assert!(matches!(refused, Reply::Rejected(_)));
///
/// let view = ledger.account(ann).await?.ok_or("no account")?;
/// assert_eq!(view.balance.posted(Side::Credit), 30_00);
/// let statement = ledger.statement(ann, Page::Newest, 10).await?;
/// let balances: Vec<_> = statement.iter().map(|line| line.change.balance.posted(Side::Credit)).collect();
/// assert_eq!(balances, [30_00, 50_00]);
/// // Every line, added up again.
/// assert_eq!(ledger.verify().await?.entries, 2);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - What was answered is in the log, exactly once, and counts for every answer after it: answers are linearizable.
/// - A transaction is recorded whole or not at all, and never twice under one id, whoever asks and however often.
/// - In every currency debits equal credits, posted and held, after every step; see [`Books`].
///
/// - The same id with the same content is given the first answer, for ever; with other content it is a [`Reply::Conflict`].
///
/// They hold as far as the store keeps what it acknowledged, and no further than that.
#[derive(Debug)]
pub struct Ledger<L, S> {
    log: L,
    journal: Arc<Journal<S>>,
    /// Reads see what was answered until so long ago; `None`: everything.
    staleness_max: Option<Duration>,
}

impl<L: Clone, S> Clone for Ledger<L, S> {
    fn clone(&self) -> Self {
        let Self { log, journal, staleness_max } = self;
        Self { log: log.clone(), journal: Arc::clone(journal), staleness_max: *staleness_max }
    }
}

/// So many times a transaction is asked again whose id may have left memory while it was looked up.
pub(crate) const LOOKS_MAX: u32 = 16;
/// So many times a command is asked again before which holds had to end.
const ROUNDS_MAX: u32 = 16;
/// So many entries of a journal are read at once.
const ENTRIES_AT_ONCE: usize = 1_024;

/// So many were recorded while the store was asked that nothing known then is still in memory.
pub(crate) fn ids_leave() -> Error {
    let message = "all ids in memory left it while the store was asked for older ones; keep more of them in memory";
    Error::new(ErrorKind::Contention, Effect::None, message)
}

/// An error behind which others of a batch may be in the books for the first time.
fn begun(replies: &[Reply], error: Error) -> Error {
    let is_recorded = replies.iter().any(|reply| matches!(reply, Reply::Recorded(_)));
    if is_recorded { error.with_effect(Effect::Unknown) } else { error }
}

fn lost() -> Error {
    Error::new(ErrorKind::Internal, Effect::None, "an id has a number, and the journal no entry")
}

/// What is answered to a transaction whose id was recorded before.
fn first_answer(recorded: JournalEntry, asked: Transaction) -> Reply {
    match recorded.receipt() {
        Some(receipt) if recorded.transaction() == Some(&asked) => Reply::Recorded(receipt),
        _ => Reply::Conflict(Box::new(Conflict { recorded, asked })),
    }
}

impl<L: Replicated<Books>, S: Store> Ledger<L, S> {
    /// The ledger of a log: a replica of [`Books`], on a store that is for its journal too, under a name (1 to 256 bytes) that is this
    /// ledger's alone. Spawn the writer.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if the log's store may forget what it acknowledged; [`Invalid`](ErrorKind::Invalid) or
    /// [`TooLarge`](ErrorKind::TooLarge) naming `name` or `write_every`.
    pub fn new(log: L, store: S, name: &str, config: JournalConfig) -> Result<(Self, JournalWriter)> {
        let durability = log.durability().min(store.limits().durability);
        if durability == Durability::Durable {
            return Self::of(log, store, name, config, false);
        }
        let message = format!(
            "the store's durability is {durability:?}, so it may forget postings that were answered; have it sync before it answers, \
             or make the ledger with that_may_forget"
        );
        Err(Error::new(ErrorKind::Config, Effect::None, message))
    }

    /// The same on a store that may forget what it acknowledged, such as memory, or Redis that does not sync before it answers: for
    /// tests, and for those who can lose the last postings. After a loss the books still balance, and who was answered was told of
    /// what is no longer there. What the journal had beyond the loss is written over; rows that find entries by day, metadata or id may
    /// stay, and name entries that are others now.
    ///
    /// # Errors
    /// Those of the name and the configuration: see [`Ledger::new`].
    pub fn that_may_forget(log: L, store: S, name: &str, config: JournalConfig) -> Result<(Self, JournalWriter)> {
        Self::of(log, store, name, config, true)
    }

    fn of(log: L, store: S, name: &str, config: JournalConfig, may_forget: bool) -> Result<(Self, JournalWriter)> {
        let journal = Arc::new(Journal::new(store, name, config, may_forget)?);
        let writer = JournalWriter::new(log.clone(), Arc::clone(&journal));
        Ok((Self { log, journal, staleness_max: None }, writer))
    }

    /// Asks the books. The other methods are this one with a command.
    ///
    /// An id that was recorded before is answered as it was then, if the content is the same, or with [`Reply::Conflict`].
    ///
    /// # Errors
    /// Those of [`Replicated::submit`]: with an effect of `None` nothing was changed; with `Unknown` ask again with the same command,
    /// which is answered as the first time if it was recorded. Those of reading the journal, for an id that was recorded before.
    /// [`Throttled`](ErrorKind::Throttled), without effect, while the store takes old ids slower than new ones come.
    /// [`Invalid`](ErrorKind::Invalid) for what only the ledger itself says: [`Command::Wrote`], [`Command::Forget`],
    /// [`Command::Looked`].
    ///
    /// # Cost
    /// One conditional write for all that is asked while the last one was on its way. While more than 32 MiB of the journal wait for
    /// the store, a transaction waits too, up to [`JournalConfig::call_wait_max`]; when 64 MiB do it is rejected. A read or two of
    /// the store for an id that was recorded before, or that may have been so long ago that it has left memory.
    ///
    /// # Cancel safety
    /// It may be recorded all the same.
    pub async fn ask(&self, command: Command) -> Result<Reply> {
        let asked = match &command {
            Command::Transact(transaction) => Arc::new(vec![transaction.clone()]),
            Command::Group(transactions) => Arc::new(transactions.clone()),
            Command::Batch(transactions) => Arc::clone(transactions),
            // What is not so would be believed: the journal, or an id, would be gone.
            Command::Wrote { .. } | Command::Forget { .. } | Command::Looked(..) => {
                let why = "only the ledger itself says what the store has";
                return Err(Error::invalid("command", why));
            }
            _ => {
                let again = command.clone();
                return self.submit(command, || again.clone()).await;
            }
        };
        self.room().await?;
        match command {
            Command::Group(_) => self.group(&asked, command).await,
            Command::Batch(_) => match self.submit(command, || Command::Batch(Arc::clone(&asked))).await? {
                Reply::Batch(replies) => self.each(&asked, replies).await.map(Reply::Batch),
                reply => Ok(reply),
            },
            _ => {
                let again = || Command::Batch(Arc::clone(&asked));
                let first = match self.submit(command, again).await? {
                    Reply::Batch(mut replies) if replies.len() == 1 => replies.remove(0),
                    reply => reply,
                };
                match first {
                    Reply::LookUp(_) | Reply::Exists { .. } => {
                        let mut replies = self.each(&asked, vec![first]).await?;
                        Ok(replies.remove(0))
                    }
                    reply => Ok(reply),
                }
            }
        }
    }

    /// Waits while too much of the journal waits for the store.
    pub(crate) async fn room(&self) -> Result<()> {
        self.journal.room().await;
        self.journal.takes_ids()
    }

    async fn group(&self, asked: &[Transaction], command: Command) -> Result<Reply> {
        let mut reply = self.submit(command, || Command::Group(asked.to_vec())).await?;
        let mut looked = Looked::default();
        for _ in 0..LOOKS_MAX {
            let Reply::LookUp(known) = reply else { break };
            looked = self.journal.look_up(asked, *known).await?;
            // What was recorded need not be asked again: with all its numbers it might be more than an entry of the log holds.
            if asked.iter().all(|transaction| looked.number(transaction.id).is_some()) {
                return self.group_again(asked, &looked).await;
            }
            reply = self.ask_looked(&looked.of(asked), Command::Group(asked.to_vec())).await?;
        }
        match reply {
            Reply::Exists { .. } => self.group_again(asked, &looked).await,
            Reply::LookUp(_) => Err(ids_leave()),
            reply => Ok(reply),
        }
    }

    /// Asks the books; `again` is the same command. Lets holds end first if there are so many that nothing can be decided yet.
    ///
    /// # Errors
    /// [`Contention`](ErrorKind::Contention) without effect if again and again holds of others came to their deadline in between,
    /// thousands each time.
    pub(crate) async fn submit(&self, command: Command, again: impl Fn() -> Command + Send) -> Result<Reply> {
        let mut command = Some(command);
        for _ in 0..ROUNDS_MAX {
            let reply = self.log.submit(command.take().unwrap_or_else(&again)).await?;
            if !matches!(reply, Reply::HoldsDue) {
                return Ok(reply);
            }
            // While holds are due nothing is held anew, so each of these leaves fewer.
            loop {
                let ticked = self.log.submit(Command::Tick).await.map_err(|error| error.with_effect(Effect::None))?;
                if !matches!(ticked, Reply::HoldsDue) {
                    break;
                }
            }
        }
        let message =
            "thousands of holds came to their deadline while others ended; ask again, or spread the deadlines";
        Err(Error::new(ErrorKind::Contention, Effect::None, message))
    }

    /// Asks again with what the store says of ids that may have left memory.
    ///
    /// The answer is another look at the store only if ids left meanwhile that were recorded after what is `known` was: more than stay in
    /// memory at least.
    pub(crate) async fn look_up(&self, asked: &[Transaction], known: Looked, command: Command) -> Result<Reply> {
        let looked = self.journal.look_up(asked, known).await?;
        self.ask_looked(&looked, command).await
    }

    async fn ask_looked(&self, looked: &Looked, command: Command) -> Result<Reply> {
        let again = || Command::Looked(looked.clone(), Box::new(command.clone()));
        self.submit(again(), again).await
    }

    /// Answers a group that was recorded before, of which that is known.
    async fn group_again(&self, asked: &[Transaction], looked: &Looked) -> Result<Reply> {
        let ids = || asked.iter().map(|transaction| transaction.id);
        let mut known: HashMap<_, _> = ids().filter_map(|id| Some((id, looked.number(id)?))).collect();
        if known.len() < asked.len() {
            // They are in memory, or have left it since.
            let here = self.latest().read(|books| books.known(asked)).await?;
            known.extend(ids().filter_map(|id| Some((id, here.number(id)?))));
            let rest: Vec<_> = ids().filter(|id| !known.contains_key(id)).collect();
            known.extend(self.journal.numbers_of(rest).await?);
        }
        let numbers = ids().map(|id| known.get(&id).copied().ok_or_else(lost)).collect::<Result<Vec<_>>>()?;
        let recorded = self.recorded(&numbers).await?;
        let mut receipts = Vec::with_capacity(asked.len());
        for (transaction, recorded) in asked.iter().zip(recorded) {
            match first_answer(recorded, transaction.clone()) {
                Reply::Recorded(receipt) => receipts.push(receipt),
                conflict => return Ok(conflict),
            }
        }
        Ok(Reply::GroupRecorded(receipts))
    }

    /// The entries of these numbers, each of which was recorded.
    async fn recorded(&self, numbers: &[u64]) -> Result<Vec<JournalEntry>> {
        let end = self.latest().read(End::of).await?;
        let found = self.journal.entries_of(end, numbers.iter().copied().collect()).await?;
        numbers.iter().map(|number| found.get(number).cloned().ok_or_else(lost)).collect()
    }

    /// What was recorded is there for who reads the latest.
    pub(crate) fn latest(&self) -> Self {
        Self { staleness_max: None, ..self.clone() }
    }

    /// Looks up what the books did not know, and what was recorded before.
    async fn each(&self, asked: &[Transaction], mut replies: Vec<Reply>) -> Result<Vec<Reply>> {
        for looks in 0..=LOOKS_MAX {
            let (mut known, mut places, mut some) = (Vec::new(), Vec::new(), Vec::new());
            for (at, (reply, transaction)) in replies.iter_mut().zip(asked).enumerate() {
                if let Reply::LookUp(of) = reply {
                    known.push(std::mem::take(&mut **of));
                    places.push(at);
                    some.push(transaction.clone());
                }
            }
            if some.is_empty() {
                break;
            }
            if looks == LOOKS_MAX {
                return Err(begun(&replies, ids_leave()));
            }
            let looked = self.journal.look_up(&some, Looked::all(known)).await;
            let looked = looked.map_err(|error| begun(&replies, error))?;
            self.each_looked(&looked, &places, &some, &mut replies).await.map_err(|error| begun(&replies, error))?;
        }
        let known = |(at, reply): (usize, &Reply)| match reply {
            Reply::Exists { number, .. } => Some((at, *number)),
            _ => None,
        };
        let (places, numbers): (Vec<_>, Vec<_>) = replies.iter().enumerate().filter_map(known).unzip();
        if !numbers.is_empty() {
            let recorded = self.recorded(&numbers).await.map_err(|error| begun(&replies, error))?;
            for (at, recorded) in places.into_iter().zip(recorded) {
                replies[at] = first_answer(recorded, asked[at].clone());
            }
        }
        Ok(replies)
    }

    /// Asks again for transactions whose replies lie at these places, with what the store said: those that were not recorded, which may be
    /// as many as one command holds, so what is known is sent only of what they reverse; in parts if that is still too much.
    async fn each_looked(
        &self,
        looked: &Looked,
        places: &[usize],
        asked: &[Transaction],
        replies: &mut [Reply],
    ) -> Result<()> {
        let (mut new, mut new_places) = (Vec::with_capacity(asked.len()), Vec::with_capacity(asked.len()));
        for (&at, transaction) in places.iter().zip(asked) {
            if let Some(number) = looked.number(transaction.id) {
                replies[at] = Reply::Exists { id: transaction.id, number };
            } else {
                new.push(transaction.clone());
                new_places.push(at);
            }
        }
        let (mut begin, mut size) = (0, new.len());
        while begin < new.len() {
            let end = new.len().min(begin + size);
            let part = &new[begin..end];
            match self.ask_looked(&looked.of(part), Command::Batch(Arc::new(part.to_vec()))).await {
                Ok(Reply::Batch(found)) => {
                    for (at, reply) in new_places[begin..end].iter().zip(found) {
                        replies[*at] = reply;
                    }
                    begin = end;
                }
                Ok(_) => {
                    let message = "the books did not answer a batch one by one";
                    return Err(Error::new(ErrorKind::Internal, Effect::Unknown, message));
                }
                Err(error) if error.kind() == ErrorKind::TooLarge && part.len() > 1 => size = part.len().div_ceil(2),
                Err(error) => return Err(error),
            }
        }
        Ok(())
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
    /// As [`Ledger::ask`]. They are one command of the log, of 1,000 transactions at most: [`TooLarge`](ErrorKind::TooLarge), without
    /// effect, if that is more than an entry holds, 1 MiB unless the log is configured otherwise. If ids may have left memory, what is
    /// known of them is part of it: 17 to 26 bytes for each id that was recorded, of the group or reversed by it, and as many again for
    /// each that was reversed before; so 26 KB at most for a group that is new. A group that was recorded whole needs none of that.
    pub async fn transact_all(&self, transactions: Vec<Transaction>) -> Result<Reply> {
        self.ask(Command::Group(transactions)).await
    }

    /// Records these transactions, each for itself, in order, and answers each: the fastest way for many. Those whose ids may have left
    /// memory are recorded after the others, in order among themselves.
    ///
    /// # Errors
    /// As [`Ledger::ask`], for all of them. They are one command of the log: [`TooLarge`](ErrorKind::TooLarge) if that is more than an
    /// entry holds. A transfer is about 60 bytes.
    pub async fn transact_each(&self, transactions: Vec<Transaction>) -> Result<Vec<Reply>> {
        match self.ask(Command::Batch(Arc::new(transactions))).await? {
            Reply::Batch(replies) => Ok(replies),
            reply => Ok(vec![reply]),
        }
    }

    /// Closes the books through a day, for ever: nothing is effective then any more. Tomorrow in UTC is the last day that can be closed,
    /// which is today in the east; a later one is rejected.
    ///
    /// # Errors
    /// As [`Ledger::ask`].
    pub async fn close_period(&self, through: Date) -> Result<Reply> {
        self.ask(Command::ClosePeriod(through)).await
    }

    /// Writes everything of the journal to the store that can be, now, instead of waiting for the writer: full chunks, and ids that
    /// are to leave memory.
    ///
    /// # Errors
    /// Those of writing to the store; nothing is lost by any.
    ///
    /// # Cancel safety
    /// What was begun is done again by the writer.
    pub async fn write_journal(&self) -> Result<()> {
        self.journal.write_all(&self.log).await
    }
}

impl<L: Followed<Books>, S: Store> Ledger<L, S> {
    /// A ledger that is only read: of a follower of its log.
    ///
    /// # Errors
    /// Those of the name and the configuration: see [`Ledger::new`].
    pub fn follow(log: L, store: S, name: &str, config: JournalConfig) -> Result<Self> {
        Ok(Self { log, journal: Arc::new(Journal::new(store, name, config, true)?), staleness_max: None })
    }

    /// The same ledger, whose reads see the books as they are here, if everything is in them that was answered until `staleness_max`
    /// ago, and without a look at the log. Its reads fail with [`Unavailable`](ErrorKind::Unavailable) if not, saying how long ago it was.
    #[must_use]
    pub fn within(&self, staleness_max: Duration) -> Self {
        Self { staleness_max: Some(staleness_max), ..self.clone() }
    }

    /// Reads the books: with everything in them that was answered anywhere before this was called, or as [`within`](Self::within)
    /// says. Nothing is recorded while `read` runs.
    ///
    /// # Errors
    /// Those of reading the store.
    ///
    /// # Cost
    /// One `get` if nothing is being appended, which calls at the same time share; none within a staleness.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing. So with all reads.
    pub async fn read<R>(&self, read: impl FnOnce(&Books) -> R + Send) -> Result<R>
    where
        R: Send,
    {
        match self.staleness_max {
            None => self.log.read_latest(read).await,
            Some(staleness_max) => self.log.read_within(staleness_max, read),
        }
    }

    /// An account as it stands.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    pub async fn account(&self, id: AccountId) -> Result<Option<AccountView>> {
        self.read(|books| books.account(id)).await
    }

    /// The sums of all accounts by currency. In each debits equal credits.
    ///
    /// # Errors
    /// As [`Ledger::read`].
    ///
    /// # Cost
    /// Looks at every account.
    pub async fn trial_balance(&self) -> Result<BTreeMap<Currency, TrialBalance>> {
        self.read(Books::trial_balance).await
    }

    /// The sums of an account as they were; `None` if there is no such account.
    ///
    /// # Errors
    /// As [`Ledger::read`]; [`Corrupt`](ErrorKind::Corrupt) with the key of what can't be read of the journal.
    ///
    /// # Cost
    /// As of a recorded time: reads of chunks of the journal, in the logarithm of how often the account was changed since. As of a day: also
    /// what was posted in the account for other days than those on which it was recorded, all of it.
    pub async fn balance(&self, id: AccountId, as_of: AsOf) -> Result<Option<Balance>> {
        let Some(head) = self.read(|books| Head::of(books, id)).await? else { return Ok(None) };
        let balance = match as_of {
            AsOf::Recorded(at) => self.journal.balance_recorded(id, head, at).await?,
            AsOf::Effective(day) => self.journal.balance_effective(id, head, day).await?,
        };
        Ok(Some(balance))
    }

    /// Changes of an account, with the balance after each, as many as `limit`; none if there is no such account.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    ///
    /// # Cost
    /// A read for each chunk of the journal that the lines are in.
    pub async fn statement(&self, id: AccountId, page: Page, limit: usize) -> Result<Vec<StatementLine>> {
        match self.read(|books| Head::of(books, id)).await? {
            Some(head) => self.journal.statement(id, head, page, limit).await,
            None => Ok(Vec::new()),
        }
    }

    /// The number under which a transaction was recorded.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    pub async fn number(&self, id: TransactionId) -> Result<Option<u64>> {
        let (number, forgotten) = self.read(|books| (books.number(id), books.ids_forgotten())).await?;
        match number {
            None if forgotten > 0 => self.journal.number_on_store(id).await,
            number => Ok(number),
        }
    }

    /// What was recorded under an id.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    pub async fn transaction(&self, id: TransactionId) -> Result<Option<JournalEntry>> {
        match self.number(id).await? {
            Some(number) => self.entry(number).await,
            None => Ok(None),
        }
    }

    /// The number of what took a transaction back; `None` if nothing did.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    pub async fn reversed_by(&self, id: TransactionId) -> Result<Option<u64>> {
        let (by, forgotten) = self.read(|books| (books.reversed_by(id), books.ids_forgotten())).await?;
        match by {
            None if forgotten > 0 => self.journal.reversed_on_store(id).await,
            by => Ok(by),
        }
    }

    /// The entry of a number.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    pub async fn entry(&self, number: u64) -> Result<Option<JournalEntry>> {
        let end = self.read(End::of).await?;
        self.journal.entry(end, number).await
    }

    /// Transactions whose details have that key with that value, by their numbers, after one of them, as many as `limit`.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    pub async fn find_by_metadata(
        &self,
        key: &str,
        value: &str,
        after: u64,
        limit: usize,
    ) -> Result<Vec<JournalEntry>> {
        let end = self.read(End::of).await?;
        self.journal.find_by_metadata(end, key, value, after, limit).await
    }

    /// Entries after a number, as many as `limit`; fewer if there are no more yet.
    ///
    /// # Errors
    /// As [`Ledger::balance`].
    pub async fn entries(&self, after: u64, limit: usize) -> Result<Vec<JournalEntry>> {
        let end = self.read(End::of).await?;
        self.journal.entries(end, after, limit).await
    }

    /// All entries after a number, to the end as it is when that is reached. After one, go on behind it at any time.
    ///
    /// # Errors
    /// As [`Ledger::balance`]; the stream ends after one.
    pub fn journal(&self, after: u64) -> impl Stream<Item = Result<JournalEntry>> + Send {
        let pages = try_unfold((self.clone(), after), |(ledger, after)| async move {
            let entries = ledger.entries(after, ENTRIES_AT_ONCE).await?;
            let last = entries.last().map(|entry| entry.number);
            Ok::<_, Error>(last.map(|last| (iter(entries.into_iter().map(Ok)), (ledger, last))))
        });
        pages.try_flatten()
    }

    /// Reads the whole journal, adds everything up again, and compares it with the books: every entry balances in every currency,
    /// follows the one before it, changed what was asked (of a hold, what was held by then), keeps the rate that it names, and leaves its
    /// accounts as it says, none beyond its limits; nothing was reversed twice, or before it was there; every chunk's hash is that of what is in it and before
    /// it; every entry is found by its day, its metadata and its id; and all of it comes to what the books say.
    ///
    /// Not looked at is what the journal does not say: which transactions were a group, which periods were closed when an entry was
    /// recorded, and which accounts were frozen or closed then. Nor are rows that nothing should have written.
    ///
    /// # Errors
    /// [`AuditError`]: the first entry that is wrong.
    ///
    /// # Cost
    /// All of the journal once, in parts, and the rows that lead to its entries; memory for each account, each hold, each reversal, and
    /// for the ids that leave memory together. While accounts and holds are copied, at the beginning, nothing is recorded.
    pub async fn verify(&self) -> Result<Audit, AuditError> {
        self.verify_since(&[]).await
    }

    /// The same, and that the journal still has the hashes that earlier audits [sealed](Audit::sealed) and somebody kept elsewhere:
    /// so also who could write to the log and the journal has changed nothing that was sealed.
    ///
    /// # Errors
    /// As [`Ledger::verify`].
    pub async fn verify_since(&self, sealed: &[(u64, ChunkHash)]) -> Result<Audit, AuditError> {
        let claim = self.read(Claim::of).await?;
        self.journal.verify(&self.log, claim, sealed).await
    }

    /// Where the books are kept: for snapshots, fencing and the like.
    pub const fn log(&self) -> &L {
        &self.log
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
