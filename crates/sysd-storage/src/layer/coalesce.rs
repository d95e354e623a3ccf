//! Concurrent reads of one record share a call.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;

use futures::channel::oneshot;
use futures::future::{FutureExt as _, Shared};
use parking_lot::Mutex;
use sysd_core::{
    ErasedProcedure, Error, Key, KeyBuf, Limits, Outcome, OutputBytes, Page, Record, Result, Scan, Store, Trim,
    Trimmed, Write,
};

use super::Layer;
use super::bug::{Bug, Bugs};

/// Lets concurrent `get`s of one record share a call to the store below.
///
/// While one call is under way, those that come meanwhile share the *next*: a call that began before they did may have
/// read what is no longer there. So reads stay linearizable, and expiry stays exact. Of any number of callers of one
/// record two calls are under way or about to be, never more.
///
/// Other methods pass. Clones share calls.
///
/// # Cost
/// A lock and a small table entry a call. A caller that comes second waits for the first call before its own begins: up to
/// twice the time of one. It pays where many callers want the same record and the store is what is short.
///
/// # Cancel safety
/// Dropping a call, also the one that others share, harms no other: one of the others makes it again.
#[derive(Clone, Copy, Debug, Default)]
pub struct Coalesce {
    bugs: Bugs,
}

impl Coalesce {
    /// Shares calls.
    pub fn new() -> Self {
        Self::default()
    }

    #[cfg(feature = "seeded-bugs")]
    #[doc(hidden)]
    #[must_use]
    pub const fn with_bug(mut self, bug: Bug) -> Self {
        self.bugs.bug = Some(bug);
        self
    }
}

impl<S: Store> Layer<S> for Coalesce {
    type Store = Coalesced<S>;

    fn wrap(self, store: S) -> Self::Store {
        Coalesced { inner: store, groups: Arc::new(Groups::default()), bugs: self.bugs }
    }
}

/// A store under [`Coalesce`].
#[derive(Clone, Debug)]
pub struct Coalesced<S> {
    inner: S,
    groups: Arc<Groups>,
    bugs: Bugs,
}

type Shareable = std::result::Result<Option<Record>, Arc<Error>>;
type Awaited = Shared<oneshot::Receiver<Shareable>>;

pub(super) fn share(answer: &Result<Option<Record>>) -> Shareable {
    match answer {
        Ok(record) => Ok(record.clone()),
        Err(error) => Err(Arc::new(error.share())),
    }
}

const SHARDS: usize = 16;

#[derive(Debug, Default)]
struct Groups {
    hasher: RandomState,
    shards: [Mutex<Shard>; SHARDS],
}

#[derive(Debug, Default)]
struct Shard {
    last_id: u64,
    slots: HashMap<KeyBuf, Slot>,
}

/// The calls of one record.
#[derive(Debug)]
struct Slot {
    /// The one under way.
    running: u64,
    next: Option<Next>,
}

/// The one that begins when that ends.
#[derive(Debug)]
struct Next {
    id: u64,
    begin: oneshot::Sender<()>,
    awaited: Awaited,
}

enum Role<'a> {
    /// Call now.
    First(Turn<'a>),
    /// Call when told to, and tell the others.
    Second(Turn<'a>, oneshot::Receiver<()>, oneshot::Sender<Shareable>),
    /// Be told.
    Other(Awaited),
}

/// The right to call, now or next; given up when it is dropped.
struct Turn<'a> {
    groups: &'a Groups,
    key: Key<'a>,
    id: u64,
}

impl Groups {
    fn shard(&self, key: Key<'_>) -> &Mutex<Shard> {
        #[allow(clippy::cast_possible_truncation, reason = "the low bits are what is meant")]
        let at = self.hasher.hash_one(key) as usize % SHARDS;
        &self.shards[at]
    }

    fn join<'a>(&'a self, key: Key<'a>) -> Role<'a> {
        let mut shard = self.shard(key).lock();
        shard.last_id += 1;
        let id = shard.last_id;
        // Made where it is given out only: dropped in here it would want the lock that is held.
        let turn = || Turn { groups: self, key, id };
        match shard.slots.entry(key.to_owned()) {
            Entry::Vacant(vacant) => {
                vacant.insert(Slot { running: id, next: None });
                Role::First(turn())
            }
            Entry::Occupied(mut slot) => {
                if let Some(next) = &slot.get().next {
                    return Role::Other(next.awaited.clone());
                }
                let ((begin, told), (tell, awaited)) = (oneshot::channel(), oneshot::channel());
                slot.get_mut().next = Some(Next { id, begin, awaited: awaited.shared() });
                Role::Second(turn(), told, tell)
            }
        }
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut gone = None;
        let mut begin = None;
        {
            let mut shard = self.groups.shard(self.key).lock();
            let Entry::Occupied(mut slot) = shard.slots.entry(self.key.to_owned()) else { return };
            let next = &mut slot.get_mut().next;
            if next.as_ref().is_some_and(|next| next.id == self.id) {
                gone = next.take();
            } else if slot.get().running == self.id {
                match slot.get_mut().next.take() {
                    Some(next) => {
                        slot.get_mut().running = next.id;
                        begin = Some(next.begin);
                    }
                    None => drop(slot.remove()),
                }
            }
        }
        // Not under the lock: both wake others.
        drop(gone);
        if let Some(begin) = begin {
            let _ = begin.send(());
        }
    }
}

impl<S: Store> Coalesced<S> {
    async fn shared(&self, key: Key<'_>) -> Result<Option<Record>> {
        loop {
            match self.groups.join(key) {
                Role::First(turn) => {
                    let answer = self.inner.get(key).await;
                    drop(turn);
                    return answer;
                }
                Role::Second(turn, told, tell) => {
                    if !self.bugs.has(Bug::BeginAtOnce) {
                        let _ = told.await;
                    }
                    let answer = self.inner.get(key).await;
                    // First the turn: who comes from here on must not share what has been read.
                    drop(turn);
                    let _ = tell.send(share(&answer));
                    return answer;
                }
                Role::Other(awaited) => match awaited.await {
                    Ok(answer) => return answer.map_err(|error| error.share()),
                    Err(oneshot::Canceled) if self.bugs.has(Bug::LoseOthers) => std::future::pending().await,
                    // Its caller was dropped: join again.
                    Err(oneshot::Canceled) => {}
                },
            }
        }
    }
}

impl<S: Store> Store for Coalesced<S> {
    fn limits(&self) -> &Limits {
        self.inner.limits()
    }

    async fn get(&self, key: Key<'_>) -> Result<Option<Record>> {
        self.shared(key).await
    }

    async fn get_many(&self, keys: &[Key<'_>]) -> Vec<Result<Option<Record>>> {
        self.inner.get_many(keys).await
    }

    async fn write(&self, write: Write<'_>) -> Result<Outcome> {
        self.inner.write(write).await
    }

    async fn write_many(&self, writes: &[Write<'_>]) -> Vec<Result<Outcome>> {
        self.inner.write_many(writes).await
    }

    async fn scan(&self, scan: Scan<'_>) -> Result<Page> {
        self.inner.scan(scan).await
    }

    async fn trim(&self, trim: Trim<'_>) -> Result<Trimmed> {
        self.inner.trim(trim).await
    }

    async fn update(&self, key: Key<'_>, procedure: &dyn ErasedProcedure) -> Result<OutputBytes> {
        self.inner.update(key, procedure).await
    }
}
