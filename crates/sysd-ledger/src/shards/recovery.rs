//! The shell of recovery: `logic/recovery` decides.

use std::sync::atomic::Ordering;
use std::sync::{PoisonError, Weak};

use futures::future::join_all;
use sysd_core::{Clock as _, Effect, Error, ErrorKind, Replicated, Result, Store};

use super::logic::lookup::not_shown;
use super::logic::recovery::{Fate, OnStore, OpenPart, fate, open_parts};
use super::service::{Inner, Shards};
use super::{Recovery, ShardId, ShardsConfig};
use crate::logic::{Books, Command};
use crate::model::{Action, Date, Details, Rejection, Reply, TransactionId};

/// How often a part is asked for again whose day was closed meanwhile.
const TRIES_MAX: u8 = 3;
/// So many parts are looked at and settled at once.
const PARTS_AT_ONCE: usize = 64;

impl<L: Replicated<Books>, S: Store> Shards<L, S> {
    pub(super) async fn recover_shard(&self, shard: ShardId) -> Recovery {
        let mut done = Recovery::default();
        let parts_max = self.inner.config.recover_parts_max;
        let looked = self.inner.looked.get(usize::from(shard.0));
        let after = looked.map_or(0, |looked| looked.load(Ordering::Relaxed));
        let found = match self.read(shard, move |books| open_parts(books, shard, after, parts_max)).await {
            Ok(found) => found,
            Err(error) => {
                done.errors.push((shard, error));
                return done;
            }
        };
        let now = self.inner.config.clock.now();
        if found.first_deadline.is_some_and(|at| at <= now)
            && let Err(error) = self.ask(shard, Command::Tick).await
        {
            done.errors.push((shard, error));
        }
        let mut parts = found.parts;
        if let Some(looked) = looked {
            // So that the oldest, which may be blocked for long, don't keep the others from being looked at.
            let last = parts.last().filter(|_| parts.len() == parts_max).map_or(0, |part| part.number);
            looked.store(last, Ordering::Relaxed);
        }
        parts.sort_by_key(|part| part.coordinator);
        for of_one in parts.chunk_by(|a, b| a.coordinator == b.coordinator) {
            for some in of_one.chunks(PARTS_AT_ONCE) {
                let errors = done.errors.len();
                self.recover_parts(shard, some, &mut done).await;
                let is_lost = |(_, error): &&(ShardId, Error)| error.kind() != ErrorKind::Corrupt;
                let lost = || done.errors.iter().skip(errors).filter(is_lost);
                if lost().filter(|(at, _)| *at == shard).count() >= some.len() {
                    // It does not answer: its parts are for a later look, and so, below, are those of a coordinator that does not.
                    return done;
                }
                if lost().count() >= some.len() {
                    break;
                }
            }
        }
        done
    }

    /// Of one coordinator. What can't be told of one of them keeps no others.
    async fn recover_parts(&self, shard: ShardId, parts: &[OpenPart], done: &mut Recovery) {
        let Some(coordinator) = parts.first().map(|part| part.coordinator) else { return };
        let fates = async || join_all(parts.iter().map(|part| self.fate_of(shard, *part))).await;
        let mut found = fates().await;
        let now = self.inner.config.clock.now();
        let is_over = |fate: &Result<Fate>| matches!(fate, Ok(Fate::Wait { until: Some(at) }) if *at <= now);
        if found.iter().any(is_over) {
            match self.ask(coordinator, Command::Tick).await {
                Ok(_) => found = fates().await,
                // Those that are not over are settled all the same.
                Err(error) => done.errors.push((coordinator, error)),
            }
        }
        let settle = async |part: &OpenPart, fate: Result<Fate>| match fate {
            Ok(fate) => (Some(fate), self.settle(shard, *part, fate).await.map_err(|error| (shard, error))),
            Err(error) => (None, Err((coordinator, error))),
        };
        for settled in join_all(parts.iter().zip(found).map(|(part, fate)| settle(part, fate))).await {
            match settled {
                (_, Err(error)) => done.errors.push(error),
                (_, Ok(Some(rejection))) => done.blocked.push((shard, rejection)),
                (Some(Fate::Post { .. }), Ok(None)) => done.posted += 1,
                (Some(Fate::Void { .. }), Ok(None)) => done.voided += 1,
                (Some(Fate::Wait { .. } | Fate::Taken { .. }) | None, Ok(None)) => done.waiting += 1,
            }
        }
    }

    async fn fate_of(&self, shard: ShardId, part: OpenPart) -> Result<Fate> {
        let Inner { config, layout, .. } = &*self.inner;
        let (coordinator, layout, bug) = (part.coordinator, *layout, config.bug());
        let decide = move |books: &Books, on_store: &OnStore| fate(books, on_store, layout, shard, part, bug);
        let found = self.read_ids(coordinator, decide).await?;
        let Fate::Taken { id, .. } = found else { return Ok(found) };
        let recorded = self.recall(coordinator, id).await?.ok_or_else(not_shown)?;
        Ok(found.resolved(coordinator, &recorded.transaction, bug))
    }

    /// What the caller's post would carry: its hold does too.
    async fn details_of(&self, shard: ShardId, part: OpenPart) -> Result<Option<Box<Details>>> {
        let entry = Box::pin(self.ledger(shard)?.latest().entry(part.number)).await?;
        let details = entry.ok_or_else(not_shown)?.transaction().and_then(|held| held.details.clone());
        Ok(details.map(|details| Box::new(details.without_rate())))
    }

    /// Answers why it can't be settled for now.
    async fn settle(&self, shard: ShardId, part: OpenPart, fate: Fate) -> Result<Option<Rejection>> {
        let details = match fate {
            Fate::Post { .. } => self.details_of(shard, part).await?,
            Fate::Void { .. } | Fate::Wait { .. } | Fate::Taken { .. } => None,
        };
        let (mut day, mut rejected) = (None, None);
        for _ in 0..TRIES_MAX {
            let Some(command) = fate.command(shard, part, day, details.clone()) else { return Ok(None) };
            match self.ask(shard, command).await? {
                Reply::Rejected(rejection) => match *rejection {
                    // Somebody else was faster.
                    Rejection::NoHold { .. } => return Ok(None),
                    Rejection::PeriodClosed { through } if through.0 < i32::MAX => {
                        day = Some(Date(through.0 + 1));
                        rejected = Some(*rejection);
                    }
                    rejection => return Ok(Some(rejection)),
                },
                Reply::Exists { id, .. } => return self.settled_before(shard, part, id).await.map(|()| None),
                _ => return Ok(None),
            }
        }
        Ok(rejected)
    }

    /// Somebody else was faster, or has gone past the shards.
    async fn settled_before(&self, shard: ShardId, part: OpenPart, id: TransactionId) -> Result<()> {
        let recorded = self.recall(shard, id).await?.ok_or_else(not_shown)?.transaction;
        match recorded.action {
            Action::PostHeld { hold, .. } | Action::Void { hold } if hold == part.hold => Ok(()),
            _ => {
                let message = format!(
                    "{shard} has something else under {id}, which is decided across shards; who wrote that went past the \
                     shards, and what is held there has to be posted under another id"
                );
                Err(Error::new(ErrorKind::Config, Effect::None, message))
            }
        }
    }
}

pub(super) async fn recover_for_ever<L: Replicated<Books>, S: Store>(inner: Weak<Inner<L, S>>) {
    loop {
        let Some(alive) = inner.upgrade() else { return };
        let shards = Shards { inner: alive };
        let found = shards.recover().await;
        *shards.inner.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(found);
        let ShardsConfig { clock, recover_every, .. } = &shards.inner.config;
        let sleep = clock.sleep_until(clock.now().saturating_add(*recover_every));
        drop(shards);
        sleep.await;
    }
}
