//! Shards on their ledgers.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::join_all;
use sysd_core::{Effect, Error, ErrorKind, Replicated, Result, Store};

use super::logic::Call;
use super::logic::crossing::Crossing;
use super::logic::lookup::Lookup;
use super::logic::recovery::in_transit;
use super::logic::split::{Layout, Split, Unsplit, details_of_parts, home, place, split};
use super::logic::within::Within;
use super::recovery::recover_for_ever;
use super::schema::{NOTES, sign, sign_id};
use super::{Recovery, Refusal, ShardId, ShardInconsistency, ShardsBalance, ShardsConfig, ShardsEntry, ShardsReply};
use crate::logic::{Books, Command};
use crate::model::{
    Account, AccountId, AccountUpdate, AccountView, Currency, Date, Details, DetailsError, Reply, Transaction,
    TransactionId,
};
use crate::service::Ledger;

pub(super) struct Inner<L, S> {
    pub(super) ledgers: Vec<Ledger<L, S>>,
    pub(super) config: ShardsConfig,
    pub(super) layout: Layout,
    /// By shard: the number of the last part that recovery has looked at, if there were more than one look ends; else zero.
    pub(super) looked: Vec<AtomicU64>,
    pub(super) last: Mutex<Option<Recovery>>,
}

/// A ledger of many ledgers, each of them a shard. Clones share it.
///
/// An account lies in one shard, and an id is at home in one. A transaction whose accounts lie in one shard costs what it costs there, and
/// one more command if its id is at home elsewhere: see [`Placement`](super::Placement). One across shards is balanced in each of them by accounts in transit, is held in all of them, and is then posted in all of them, or in none.
///
/// ```
/// use sysd_ledger::shards::{Placement, ShardId, Shards, ShardsConfig, ShardsReply};
/// use sysd_ledger::{Account, AccountKind, Books, Currency, JournalConfig, Ledger, Side, Transaction, TransactionId};
/// use sysd_storage::{Memory, Replica, ReplicaConfig};
///
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async {
/// let (store, mut ledgers) = (Memory::new(), Vec::new());
/// for name in ["bank-0", "bank-1"] {
///     let (replica, driver) = Replica::<Books>::open(store.clone(), name, ReplicaConfig::default()).await?;
///     tokio::spawn(driver);
///     // Memory is no place for real books; on a disk it would be `Ledger::new`.
///     let (ledger, writer) = Ledger::that_may_forget(replica, store.clone(), name, JournalConfig::default())?;
///     tokio::spawn(writer);
///     ledgers.push(ledger);
/// }
/// let config = ShardsConfig { placement: Placement::Named, ..ShardsConfig::new("bank") };
/// let (shards, recovery) = Shards::open(ledgers, config).await?;
/// tokio::spawn(recovery);
///
/// let euro = Currency::iso("EUR")?;
/// let (bank, ann) = (ShardId(0).place(1), ShardId(1).place(1));
/// shards.open_account(Account::new(bank, euro, AccountKind::Asset)).await?;
/// shards.open_account(Account::new(ann, euro, AccountKind::Liability).limited()).await?;
///
/// let paid_in = Transaction::transfer(TransactionId(1), euro, 50_00, ann, bank);
/// let reply = shards.transact(paid_in.clone()).await?;
/// assert!(matches!(&reply, ShardsReply::Recorded { in_transit, .. } if in_transit.is_empty()));
/// // The same again is answered as the first time.
/// assert_eq!(shards.transact(paid_in).await?, reply);
///
/// let view = shards.account(ann).await?.ok_or("no account")?;
/// assert_eq!(view.balance.posted(Side::Credit), 50_00);
/// assert_eq!(shards.verify().await??.in_transit[&euro], 0);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// # }).unwrap();
/// ```
///
/// # Guarantees
/// - Each shard is balanced by itself in every currency, posted and held, after every step.
/// - A transaction across shards is posted in all of its shards or in none, whoever crashes and whenever: at once where all goes
///   well, else once recovery has looked. What goes out of an account is held there from the first step on; what comes in counts
///   once it is posted. So nothing is spent twice, and nothing is spent before it is there.
/// - An id means one transaction, whoever asks and however often, wherever its accounts lie: the same again is answered as the first
///   time, and other content is a conflict that shows both. Who writes to a shard's ledger directly is not seen.
///
/// They hold as far as the stores keep what they acknowledged. After a loss in one shard and not in others, accounts in transit no longer add up
/// to zero, and say by how much.
pub struct Shards<L, S> {
    pub(super) inner: Arc<Inner<L, S>>,
}

impl<L, S> Clone for Shards<L, S> {
    fn clone(&self) -> Self {
        Self { inner: Arc::clone(&self.inner) }
    }
}

impl<L, S> fmt::Debug for Shards<L, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shards").field("config", &self.inner.config).finish_non_exhaustive()
    }
}

fn config_error(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Config, Effect::None, message)
}

impl<L: Replicated<Books>, S: Store> Shards<L, S> {
    /// The shards of these ledgers, always in the same order; and the future that recovers what callers left unfinished, to be spawned.
    /// It ends some time after the last clone was dropped. Each ledger has a log of its own, a name of its own, and its driver and writer running.
    /// Ledgers without accounts become shards of a new set, whose number never changes.
    ///
    /// # Errors
    /// [`Config`](ErrorKind::Config) if a ledger is of another set, in another place, or has accounts from a time without shards;
    /// [`Invalid`](ErrorKind::Invalid) for a configuration that can't be; those of the ledgers.
    ///
    /// # Cancel safety
    /// Some of the ledgers may have become shards of the set; opening it again goes on.
    pub async fn open(
        ledgers: Vec<Ledger<L, S>>,
        config: ShardsConfig,
    ) -> Result<(Self, impl Future<Output = ()> + Send + 'static)> {
        let count = config.check(ledgers.len())?;
        let notes = Currency::custom(NOTES, 0).map_err(|error| config_error(error.to_string()))?;
        let layout = Layout { count, accounts: config.placement, ids: config.ids, notes };
        let looked = ledgers.iter().map(|_| AtomicU64::new(0)).collect();
        let this = Self { inner: Arc::new(Inner { ledgers, config, layout, looked, last: Mutex::new(None) }) };
        // All are looked at before any is signed.
        let mut unsigned = Vec::new();
        for shard in this.shards() {
            let expected = this.sign_of(shard);
            let look = move |books: &Books| (books.account(sign_id(notes)), books.accounts_len());
            match this.read(shard, look).await? {
                (Some(view), _) if view.account == expected => {}
                (Some(_), _) => {
                    return Err(config_error(format!(
                        "{shard} is the ledger of another set, of another place in it, or the set has another number of \
                         shards or another placement"
                    )));
                }
                (None, 0) => unsigned.push((shard, expected)),
                (None, _) => {
                    return Err(config_error(format!(
                        "{shard} has accounts of a ledger without shards; begin shards with new ledgers"
                    )));
                }
            }
        }
        for (shard, sign) in unsigned {
            match this.ask(shard, Command::Open(Box::new(sign))).await? {
                Reply::Done => {}
                _ => return Err(config_error(format!("somebody made {shard} a shard of another set"))),
            }
        }
        let recovery = recover_for_ever(Arc::downgrade(&this.inner));
        Ok((this, recovery))
    }

    fn shards(&self) -> impl Iterator<Item = ShardId> + use<L, S> {
        (0..self.inner.layout.count).map(ShardId)
    }

    fn sign_of(&self, shard: ShardId) -> Account {
        sign(self.inner.layout, &self.inner.config.name, shard)
    }

    /// In which shard an account lies.
    ///
    /// # Errors
    /// [`Refusal::Reserved`], [`Refusal::NoShard`].
    pub fn shard_of(&self, account: AccountId) -> Result<ShardId, Refusal> {
        place(self.inner.layout, account)
    }

    /// In which shard all meets that is asked under an id.
    ///
    /// # Errors
    /// [`Refusal::NoHome`].
    pub fn home_of(&self, id: TransactionId) -> Result<ShardId, Refusal> {
        home(self.inner.layout, id)
    }

    /// The ledgers, by their shards: for statements, audits, closing what is not here. Who writes to one directly must leave alone the
    /// shards' own accounts and ids.
    pub fn ledgers(&self) -> &[Ledger<L, S>] {
        &self.inner.ledgers
    }

    /// Opens an account in its shard; one that was opened just so is [`Reply::Done`] too.
    ///
    /// # Errors
    /// As [`Shards::transact`].
    ///
    /// # Cancel safety
    /// It may be opened all the same.
    pub async fn open_account(&self, account: Account) -> Result<ShardsReply> {
        match self.shard_of(account.id) {
            Ok(shard) => self.within(shard, Command::Open(Box::new(account))).await,
            Err(refusal) => Ok(refusal.into()),
        }
    }

    /// Freezes, unfreezes or closes an account.
    ///
    /// # Errors
    /// As [`Shards::transact`].
    ///
    /// # Cancel safety
    /// It may be done all the same.
    pub async fn update_account(&self, id: AccountId, update: AccountUpdate) -> Result<ShardsReply> {
        match self.shard_of(id) {
            Ok(shard) => self.within(shard, Command::Update(id, update)).await,
            Err(refusal) => Ok(refusal.into()),
        }
    }

    /// Records a transaction: in one shard as it is, whatever its action; across shards if it is posted at once and reverses nothing.
    /// Its id is then taken everywhere.
    ///
    /// # Errors
    /// Those of the ledgers. With an effect of `None` it is not recorded, and never will be by this call, though parts of it may be held for
    /// [`hold_for`](ShardsConfig::hold_for) and until recovery has looked. With `Unknown` ask again under the same id: it is
    /// recorded then, or answered as the first time, or is [`Contention`](ErrorKind::Contention) as long as that other call
    /// may still come to an end. [`TooLarge`](ErrorKind::TooLarge) naming `details`, without effect, if across shards they have no room for
    /// the rate of an exchange, which stands in their metadata there.
    ///
    /// # Cost
    /// In one shard, that of [`Replicated::submit`], and once more before if the id is at home elsewhere; a read or two of journals if it
    /// reverses something. Across shards four of them, one
    /// after the other: the coordinator's hold, the others' holds together, the coordinator's post, the others' posts together; two more the
    /// first time that two shards meet in a currency. Once ids have left the memory of its shards the holds are asked, looked up on the
    /// store, and asked again, for the time that derived ids say is chance. Asked again: three reads of journals, and what is left of it;
    /// before them one command and a read of the coordinator's books, if it was recorded by another process just now; all of its shards
    /// must answer, or it is an error of unknown effect.
    ///
    /// # Cancel safety
    /// It is recorded in all shards or in none; recovery ends what was begun.
    pub async fn transact(&self, mut transaction: Transaction) -> Result<ShardsReply> {
        match split(self.inner.layout, &transaction) {
            Ok(Split::Within(shard)) => self.within(shard, Command::Transact(transaction)).await,
            Ok(Split::Across(parts)) => {
                let Inner { config, .. } = &*self.inner;
                if let Some(details) = &mut transaction.details {
                    let too_large = |error: DetailsError| Error::too_large("details", error.bytes, Details::BYTES_MAX);
                    **details = details_of_parts(details).map_err(too_large)?;
                }
                // Only before it is begun: what is begun comes to an end.
                self.rooms(parts.iter().map(|part| part.shard).collect()).await?;
                let is_known = parts.first().is_some_and(|first| self.is_known(first.shard, transaction.id));
                let hold_us = u64::try_from(config.hold_for.as_micros()).unwrap_or(u64::MAX);
                let crossing = Crossing::new(&transaction, parts, is_known, config.clock.now(), hold_us, config.bug());
                Box::pin(self.drive(Call::Across(Box::new(crossing)))).await
            }
            Err(Unsplit::Refused(refusal)) => Ok(refusal.into()),
            Err(Unsplit::Rejected(rejection)) => Ok(ShardsReply::Rejected(Box::new(rejection))),
        }
    }

    async fn within(&self, shard: ShardId, command: Command) -> Result<ShardsReply> {
        let Inner { config, layout, .. } = &*self.inner;
        if let Some(hold) = self.own_hold(shard, &command).await? {
            return Ok(Refusal::OwnHold { hold }.into());
        }
        let is_known = |home, id| self.is_known(home, id);
        match Within::new(*layout, shard, command, is_known, config.bug()) {
            Ok(within) => {
                let homes: BTreeSet<_> = within.homes().collect();
                if !homes.is_empty() {
                    self.rooms(homes).await?;
                }
                self.drive(Call::Within(within)).await
            }
            Err(refusal) => Ok(refusal.into()),
        }
    }

    /// Waits where too much of a journal waits for its store.
    async fn rooms(&self, shards: BTreeSet<ShardId>) -> Result<()> {
        let rooms = shards.into_iter().map(|shard| async move { self.ledger(shard)?.room().await });
        join_all(rooms).await.into_iter().collect()
    }

    /// Records a transaction in a shard: for what has no postings that would say in which, such as to post all of a hold, or to void it.
    ///
    /// # Errors
    /// As [`Shards::transact`]; [`Invalid`](ErrorKind::Invalid) if there is no such shard, or an account lies in another.
    ///
    /// # Cancel safety
    /// It may be recorded all the same.
    pub async fn transact_in(&self, shard: ShardId, transaction: Transaction) -> Result<ShardsReply> {
        self.ledger(shard)?;
        for posting in &transaction.postings {
            match self.shard_of(posting.account) {
                Ok(found) if found == shard => {}
                Ok(found) => {
                    let message = format!("account {} lies in {found}, not in {shard}", posting.account);
                    return Err(Error::invalid("shard", message));
                }
                Err(refusal) => return Ok(refusal.into()),
            }
        }
        self.within(shard, Command::Transact(transaction)).await
    }

    /// Records all of these transactions or none, if their accounts all lie in one shard.
    ///
    /// # Errors
    /// As [`Shards::transact`].
    ///
    /// # Cancel safety
    /// All may be recorded all the same, or none.
    pub async fn transact_all(&self, transactions: Vec<Transaction>) -> Result<ShardsReply> {
        let mut found = None;
        for posting in transactions.iter().flat_map(|transaction| &transaction.postings) {
            match self.shard_of(posting.account) {
                Ok(shard) if found.is_none_or(|found| found == shard) => found = Some(shard),
                Ok(_) => return Ok(Refusal::Group.into()),
                Err(refusal) => return Ok(refusal.into()),
            }
        }
        match found {
            Some(shard) => self.within(shard, Command::Group(transactions)).await,
            None => Ok(Refusal::ShardUnknown.into()),
        }
    }

    /// Closes the books through a day, one shard after the other. What was decided across shards before and not posted everywhere
    /// is posted for the first open day where its own is closed.
    ///
    /// # Errors
    /// As [`Shards::transact`]; [`Invalid`](ErrorKind::Invalid) naming `through` if for a shard's log that day has not begun yet
    /// anywhere. With an effect of `None` no shard has closed it; with `Unknown` some may have, and closing it again goes on.
    ///
    /// # Cancel safety
    /// As after an error.
    pub async fn close_period(&self, through: Date) -> Result<()> {
        let mut is_begun = false;
        for shard in self.shards() {
            let reply = self.ask(shard, Command::ClosePeriod(through)).await;
            let error = match reply {
                Ok(Reply::Rejected(rejection)) => Error::invalid("through", rejection.to_string()),
                Ok(_) => {
                    is_begun = true;
                    continue;
                }
                Err(error) => error,
            };
            return Err(error.after_part(is_begun));
        }
        Ok(())
    }

    /// An account as it stands, with all that was answered anywhere before this was called; `None` if there is none, or it is none of the
    /// application's.
    ///
    /// # Errors
    /// Those of reading the log.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn account(&self, id: AccountId) -> Result<Option<AccountView>> {
        match self.shard_of(id) {
            Ok(shard) => self.read(shard, move |books| books.account(id)).await,
            Err(_) => Ok(None),
        }
    }

    /// What was recorded under an id, whether it lies in one shard or in several; `None`: nothing, or it is not decided yet.
    ///
    /// # Errors
    /// Those of reading the journals of its shards, without effect.
    ///
    /// # Cost
    /// A read of the journal of the id's home; of one that lies in another shard, one there; of one across shards, one more of the home and
    /// two of each other shard.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn transaction(&self, id: TransactionId) -> Result<Option<ShardsEntry>> {
        match self.home_of(id) {
            Ok(home) => Ok(self.find(Lookup::new(id, home, None)).await?.entry(id)),
            Err(_) => Ok(None),
        }
    }

    /// Whether each shard agrees with itself, and the sums of all. The shards are read one after the other: what is on its way meanwhile
    /// may be seen in one and not in another, in which case [`in_transit`](ShardsBalance::in_transit) is not zero.
    ///
    /// # Errors
    /// Those of reading the ledgers; inside, the first [`ShardInconsistency`].
    ///
    /// # Cost
    /// Looks at every account and every hold.
    ///
    /// # Cancel safety
    /// Dropping it changes nothing.
    pub async fn verify(&self) -> Result<Result<ShardsBalance, ShardInconsistency>> {
        let mut balance = ShardsBalance::default();
        for shard in self.shards() {
            let (sums, moving) = self.read(shard, |books| (books.verify(), in_transit(books))).await?;
            let sums = match sums {
                Ok(sums) => sums,
                Err(cause) => return Ok(Err(ShardInconsistency { shard, cause })),
            };
            for (currency, more) in sums {
                let sum = balance.sums.entry(currency).or_default();
                sum.accounts += more.accounts;
                sum.total.debits_posted = sum.total.debits_posted.saturating_add(more.total.debits_posted);
                sum.total.credits_posted = sum.total.credits_posted.saturating_add(more.total.credits_posted);
                sum.total.debits_held = sum.total.debits_held.saturating_add(more.total.debits_held);
                sum.total.credits_held = sum.total.credits_held.saturating_add(more.total.credits_held);
            }
            for (currency, more) in moving {
                let sum = balance.in_transit.entry(currency).or_default();
                *sum = sum.saturating_add(more);
            }
        }
        Ok(Ok(balance))
    }

    /// Ends what callers left unfinished, as far as it can be ended now: parts whose coordinator posted are posted, those whose
    /// coordinator never will are voided. Any process may do so, at any time, and several at once. The future of [`Shards::open`] does.
    ///
    /// # Cost
    /// A read of every shard and a look at all of its holds; for what is found, up to
    /// [`recover_parts_max`](ShardsConfig::recover_parts_max) of each shard and 64 at once, a read of its coordinator, one of the
    /// coordinator's journal if the id is recorded there, one of what was held if it is to be posted, and a command.
    ///
    /// # Cancel safety
    /// What it did stays; the next one goes on.
    pub async fn recover(&self) -> Recovery {
        let mut all = Recovery::default();
        for one in join_all(self.shards().map(|shard| self.recover_shard(shard))).await {
            all.posted += one.posted;
            all.voided += one.voided;
            all.waiting += one.waiting;
            all.blocked.extend(one.blocked);
            all.errors.extend(one.errors);
        }
        all
    }

    /// What the last look of the recovery future found, if there was one.
    pub fn last_recovery(&self) -> Option<Recovery> {
        self.inner.last.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(Recovery::share)
    }
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
