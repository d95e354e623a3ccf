//! What shards ask of their ledgers. Each call ends by the deadlines of its log, whose driver has to be polled, and of its journal.

use std::time::Duration;

use futures::future::join_all;
use sysd_core::{Clock as _, Error, Replicated, Result, Store};

use super::logic::crossing::ATTEMPTS_MAX;
use super::logic::lookup::{Found, Lookup, Recorded};
use super::logic::recovery::{OnStore, Unknown, standing};
use super::logic::within::transactions;
use super::logic::{Call, Todo};
use super::schema::is_reserved;
use super::service::Shards;
use super::{ShardId, ShardsReply};
use crate::logic::{Books, Command};
use crate::model::{Action, Reply, TransactionId};
use crate::service::{Ledger, ids_leave};

/// So many ids of one question are looked up on the store: those of all attempts, and some more.
const LOOKS_MAX: usize = 4 * ATTEMPTS_MAX as usize;

impl<L: Replicated<Books>, S: Store> Shards<L, S> {
    pub(super) fn ledger(&self, shard: ShardId) -> Result<&Ledger<L, S>> {
        let missing = || Error::invalid("shard", format!("there is no {shard}"));
        self.inner.ledgers.get(usize::from(shard.0)).ok_or_else(missing)
    }

    /// Whether a shard's books know an id, as they are here: what they know stays known.
    pub(super) fn is_known(&self, shard: ShardId, id: TransactionId) -> bool {
        let known = |books: &Books| books.number(id).is_some();
        self.ledger(shard).is_ok_and(|ledger| ledger.log().read_within(Duration::MAX, known).unwrap_or_default())
    }

    /// The first of the holds that a command posts or voids which is a part of a transaction across shards.
    pub(super) async fn own_hold(&self, shard: ShardId, command: &Command) -> Result<Option<TransactionId>> {
        for transaction in transactions(command) {
            let (Action::PostHeld { hold, .. } | Action::Void { hold }) = transaction.action else { continue };
            let is_own = move |books: &Books| {
                books.hold(hold).map(|hold| hold.postings.iter().any(|posting| is_reserved(posting.account)))
            };
            // What holds does not change, so that one is known here is enough.
            let here = self.ledger(shard)?.log().read_within(Duration::MAX, is_own)?;
            let is_own = match here {
                None => self.read(shard, is_own).await?,
                here => here,
            };
            if is_own == Some(true) {
                return Ok(Some(hold));
            }
        }
        Ok(None)
    }

    /// Asks the books themselves: whether an id is new decides who makes an attempt, so the first answer is not wanted again.
    pub(super) async fn ask(&self, shard: ShardId, command: Command) -> Result<Reply> {
        let ledger = self.ledger(shard)?;
        let again = || command.clone();
        let mut reply = ledger.submit(command.clone(), again).await?;
        for _ in 0..LOOKS_MAX {
            let (Reply::LookUp(known), Command::Transact(transaction)) = (&mut reply, &command) else { break };
            let (known, asked) = (std::mem::take(&mut **known), std::slice::from_ref(transaction));
            reply = Box::pin(ledger.look_up(asked, known, command.clone())).await?;
        }
        if matches!(reply, Reply::LookUp(_)) { Err(ids_leave()) } else { Ok(reply) }
    }

    pub(super) async fn read<R: Send>(&self, shard: ShardId, read: impl FnOnce(&Books) -> R + Send) -> Result<R> {
        self.ledger(shard)?.log().read_latest(read).await
    }

    /// Reads what needs ids that may have left memory.
    pub(super) async fn read_ids<R: Send>(
        &self,
        shard: ShardId,
        decide: impl Fn(&Books, &OnStore) -> Result<R, Unknown> + Send + Sync,
    ) -> Result<R> {
        let mut on_store = OnStore::default();
        for _ in 0..LOOKS_MAX {
            let Unknown { id, forgotten } = match self.read(shard, |books| decide(books, &on_store)).await? {
                Ok(decided) => return Ok(decided),
                Err(unknown) => unknown,
            };
            if on_store.forgotten != forgotten {
                on_store = OnStore { forgotten, ..OnStore::default() };
            }
            let number = Box::pin(self.ledger(shard)?.latest().number(id)).await?;
            on_store.numbers.insert(id, number);
        }
        Err(ids_leave())
    }

    pub(super) async fn recall(&self, shard: ShardId, id: TransactionId) -> Result<Option<Recorded>> {
        let ledger = self.ledger(shard)?.latest();
        let entry = Box::pin(ledger.transaction(id)).await?;
        Ok(entry
            .and_then(|entry| Some(Recorded { receipt: entry.receipt()?, transaction: entry.transaction()?.clone() })))
    }

    async fn recall_all(&self, ids: Vec<(ShardId, TransactionId)>) -> Vec<Result<Option<Recorded>>> {
        if let [(shard, id)] = ids[..] {
            return vec![self.recall(shard, id).await];
        }
        join_all(ids.into_iter().map(|(shard, id)| self.recall(shard, id))).await
    }

    async fn ask_all(&self, mut asks: Vec<(ShardId, Command)>) -> Vec<Result<Reply>> {
        match asks.pop() {
            Some((shard, command)) if asks.is_empty() => vec![self.ask(shard, command).await],
            last => join_all(asks.into_iter().chain(last).map(|(shard, command)| self.ask(shard, command))).await,
        }
    }

    /// What is recorded under an id.
    pub(super) async fn find(&self, mut lookup: Lookup) -> Result<Found> {
        loop {
            if let Some(found) = lookup.recalled(self.recall_all(lookup.recalls()).await)? {
                return Ok(found);
            }
        }
    }

    /// Does what a call says, to its end.
    pub(super) async fn drive(&self, mut call: Call) -> Result<ShardsReply> {
        loop {
            match call.todo() {
                Todo::Done(done) => return done,
                Todo::Ask(asks) => call.told(self.ask_all(asks).await),
                Todo::Tell(shard, command) => {
                    call.told(vec![Box::pin(self.ledger(shard)?.ask(command)).await]);
                }
                Todo::Look(coordinator, id) => {
                    let decide = |books: &Books, on_store: &OnStore| standing(books, on_store, coordinator, id);
                    let look = self.read_ids(coordinator, decide).await;
                    call.looked(self.inner.config.clock.now(), look);
                }
                Todo::Recall(ids) => call.recalled(self.recall_all(ids).await),
            }
        }
    }
}
